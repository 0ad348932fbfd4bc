"""Hooks of mkdocs: links that leave docs/ become plain text, and the API reference gets a link."""

from __future__ import annotations

import posixpath
import re
from typing import Any

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s]+)(#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Keep only links to pages of the site; what else a link names is in the repository."""
    folder = posixpath.dirname(page.file.src_uri)

    def replace(match: re.Match[str]) -> str:
        target = match.group(2)
        outside = "://" not in target and posixpath.normpath(posixpath.join(folder, target)).startswith("..")
        return match.group(1) if outside else match.group(0)

    return LINK.sub(replace, markdown)


def on_nav(nav: Any, **_: Any) -> Any:
    """Add the API reference, which pdoc writes after mkdocs is done."""
    from mkdocs.structure.nav import Link

    nav.items.append(Link("API reference", "/api/index.html"))
    return nav
