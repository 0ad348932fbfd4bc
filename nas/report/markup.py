"""HTML and SVG by function calls that escape whatever is not already markup, so that nothing a person typed gets in."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Sequence
from typing import Any


class Markup(str):
    """Text that is markup already. Everything else is escaped when it enters a tag."""

    __slots__ = ()


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


def table(heads: Sequence[str], rows: Sequence[Markup], class_: str, words: Sequence[str] = ()) -> Markup:
    """A table with a head; the heads in `words` stand above words, which are set to the left, not above numbers."""
    cells = [tag("th", head, scope="col", class_="name" if head in words else None) for head in heads]
    return tag("table", tag("thead", tag("tr", cells)), tag("tbody", rows), class_=class_)


def bar(share: float, *marks: Any, color: str | None = None, over: bool = False, cut: bool = False) -> Markup:
    """A bar as long as `share` of its track; `marks` stand on it."""
    share = 0.0 if math.isnan(share) else min(max(share, 0.0), 1.0)
    style = f"width:{share:.2%}" + (f";background:{color}" if color else "")
    filled = tag("i", class_="bar" + " over" * over + " cut" * cut, style=style)
    return tag("div", filled, marks, class_="bullet")


def json_island(value: Any, id: str) -> Markup:
    """A `<script>` that holds `value` as JSON and cannot be left by anything inside it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return tag("script", Markup(text), type="application/json", id=id)


def _printable(text: str) -> str:
    """Without control characters and lone surrogates, which no HTML file can hold."""
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "\ufffd", text)
