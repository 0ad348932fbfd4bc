"""HTML and SVG by function calls that escape whatever is not already markup, so that nothing a person typed gets in."""

from __future__ import annotations

import html
import re
from typing import Any

from markupsafe import Markup

VOID = frozenset({"br", "img", "meta", "link", "source"})


def escape(value: Any) -> Markup:
    """`value` as text inside a tag or an attribute; `Markup` passes as it is, `None` is nothing."""
    if isinstance(value, Markup):
        return value
    return Markup("" if value is None else html.escape(_printable(str(value))))


def tag(name: str, *children: Any, **attributes: Any) -> Markup:
    """One element: `tag("p", "a < b", class_="note")` is `<p class="note">a &lt; b</p>`.

    Children are texts, numbers, `Markup`, or iterables of them. `class_` stands for `class`, other underscores for
    hyphens; an attribute that is None or False is left out, one that is True has no value.
    """
    parts = [f"<{name}"]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        parts.append(f" {key}" if value is True else f' {key}="{escape(value)}"')
    parts.append(">")
    if name not in VOID:
        parts += [join(children), f"</{name}>"]
    return Markup("".join(parts))


def join(children: Any) -> Markup:
    """Children one after the other, each escaped."""
    if isinstance(children, str) or not hasattr(children, "__iter__"):
        return escape(children)
    return Markup("".join(join(child) for child in children))


def _printable(text: str) -> str:
    """Without control characters and lone surrogates, which no HTML file can hold."""
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "\ufffd", text)
