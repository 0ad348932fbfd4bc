"""Renders the Jinja2 templates of the page; autoescape is on, so that no text of a run becomes markup."""

from __future__ import annotations

import functools
import json
import math
import re
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from nas.report import formatting
from nas.spaces.colors import short_label

if TYPE_CHECKING:
    from jinja2 import Environment

FILTERS = (
    formatting.count,
    formatting.duration,
    formatting.format_number,
    formatting.megabytes,
    formatting.milliseconds,
    formatting.percent,
    formatting.percent_with_interval,
    formatting.plural,
    formatting.plus_minus,
    short_label,
)


def render(template: str, **values: Any) -> Markup:
    """Render `nas/report/templates/TEMPLATE.html`; undefined names are errors."""
    return Markup(_environment().get_template(f"{template}.html").render(values))


@functools.cache
def _environment() -> Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nas.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {function.__name__: function for function in FILTERS}
    environment.filters |= {"bar_width": _bar_width, "json_island": _json_island}
    environment.globals |= {"MISSING": formatting.MISSING}
    return environment


def _bar_width(share: float) -> str:
    """A share as the CSS width of a bar, between 0% and 100%; 0% for NaN."""
    return f"{0.0 if math.isnan(share) else min(max(share, 0.0), 1.0):.2%}"


def _json_island(value: Any) -> Markup:
    """`value` as JSON for a `<script>` element, which no text in it can close."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def printable(text: str) -> str:
    """`text` with control characters and lone surrogates, which HTML cannot contain, replaced by U+FFFD."""
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "\ufffd", text)
