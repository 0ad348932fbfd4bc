"""The sections of the report page: each function collects what one template shows and renders it."""

from __future__ import annotations

from markupsafe import Markup

from nas.report.templating import render
from nas.runs.folder import RunFolder


def absent(run: RunFolder, *parts: str) -> Markup:
    """The text of a section whose parts are missing, with the reasons."""
    reasons = [run.missing[part] for part in parts if part in run.missing] or ["it is not there yet"]
    return absent_text("; ".join(reasons))


def absent_text(reason: str) -> Markup:
    """The text of a section that is missing for one reason."""
    return render("absent", reason=reason)
