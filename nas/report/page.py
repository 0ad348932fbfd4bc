"""The report: one HTML file that needs nothing else, made from a run folder."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from string import Template
from typing import TypeVar

import nas
from nas.files import write_atomic
from nas.report import findings
from nas.report.formatting import plural
from nas.report.markup import Markup, escape, join, json_island, tag
from nas.report.plotted import Shown, architectures, as_json
from nas.report.sections import clips, cost, results, search, table
from nas.report.unet_layout import longest_latency_ms
from nas.runs.folder import RunFolder, one_line
from nas.spaces.colors import short_label

PARTS = {
    "record": "the run's record",
    "space": "the search space",
    "table": "the lookup table",
    "cost_model": "predicted costs",
    "front": "the Pareto front",
    "architecture": "the chosen architecture",
    "training": "training curves",
}


def write(run: str | Path) -> Path:
    """Write `report.html` into the run folder and return its path.

    The page is self-contained: styles, script, pictures and clips are inside, nothing is fetched, and its own content
    policy forbids the browser to. A run that is not finished gives a page that says which parts are not there yet.

    Raises:
        ConfigError: there is no such folder.
    """
    folder = RunFolder.read(run)
    return write_atomic(folder.path / "report.html", render(folder))


def render(run: RunFolder) -> str:
    """The page as text."""
    shown = _try(lambda: architectures(run), "architectures", run, [])
    script = _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    data = _try(lambda: json_island(_data(run, shown), "data"), "architectures", run, None)
    body = _body(run, shown)
    return Template(_asset("page.html")).substitute(
        title=escape(f"{run.record.name} \N{MIDDLE DOT} nas report"),
        script_hash=digest,
        css=_asset("page.css"),
        body=body,
        data=data or json_island(NOTHING, "data"),
        js=script,
    )


NOTHING = {
    "slots": [],
    "colors": {},
    "short": {},
    "latency_ms": {},
    "full_ms": None,
    "budget": {},
    "architectures": [],
}
"""What page.js gets when the run's architectures cannot be read."""

T = TypeVar("T")


def _try(make: Callable[[], T], part: str, run: RunFolder, otherwise: T) -> T:
    """`make()`, or `otherwise` where the run's files hold something that it cannot show; `run.missing` names it.

    Files are checked as they are read, but each by itself: a record may still contradict the space, or hold a number
    that no axis can have. No such part may take the others with it.
    """
    try:
        return make()
    except Exception as error:
        run.missing[part] = f"cannot be shown: {one_line(error)}"
        return otherwise


def _body(run: RunFolder, shown: list[Shown]) -> Markup:
    sections = [
        ("front", "Front", "The Pareto front", lambda: search.front(run, shown)),
        ("architecture", "Architecture", "The architecture", lambda: search.architecture(run, shown)),
        ("candidates", "Candidates", "The best candidates", lambda: search.candidates(run, shown)),
        ("costs", "Costs", "What it costs", lambda: cost.costs(run)),
        ("previews", "Clips", "Clips, stage by stage", lambda: clips.previews(run)),
        ("quality", "Quality", "How good the clips are", lambda: results.quality(run)),
        ("training", "Training", "Training, stage by stage", lambda: results.training(run)),
        ("table", "Table", "The lookup table", lambda: table.lookup_table(run)),
        ("export", "Export", "Exported", lambda: results.exported(run)),
        ("provenance", "Provenance", "Provenance", lambda: results.provenance(run)),
    ]
    links = [tag("a", short, href=f"#{name}") for name, short, _, _ in sections]
    body = []
    for name, _, title, make in sections:
        content = _try(make, f"section '{title}'", run, None)
        if content is None:
            why = run.missing[f"section '{title}'"]
            content = tag("p", f"This part {why}. A file of the run folder is damaged.", class_="absent")
        body.append(tag("section", tag("h2", title), content, id=name))
    return join([_head(run), tag("nav", links, aria_label="Sections"), *body])


def _head(run: RunFolder) -> Markup:
    """What people came for: the clips, and one sentence with the numbers."""
    table = run.table.meta if run.table else {}
    where = [str(table[key]) for key in ("device", "runtime") if table.get(key)]
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    facts_line = " \N{MIDDLE DOT} ".join(
        [run.space.name if run.space else run.record.space or "no space yet", *where, made]
    )
    nothing = Markup()
    sentence = _try(lambda: findings.in_one_sentence(run), "summary", run, "")
    clips = _try(lambda: clips.hero(run), "clips", run, nothing)
    cautions = _try(lambda: search.cautions(run), "warnings", run, nothing)
    return tag(
        "header",
        tag("p", facts_line, class_="where"),
        tag("h1", run.record.name),
        tag("div", clips, tag("p", sentence, class_="lead") if sentence else "", class_="top"),
        cautions,
        _unfinished(run),
    )


def _unfinished(run: RunFolder) -> Markup:
    """Which parts of the run are not there yet, and why."""
    missing = [f"{PARTS.get(part, part)}: {why}" for part, why in run.missing.items() if _is_told(part)]
    record = run.record
    for there, words in (
        (record.measured, "the whole model's cost"),
        (record.previews, "sample clips"),
        (record.quality or run.no_classifier, "quality of the clips"),
        (record.exported, "exported packages"),
    ):
        if not there:
            missing.append(f"{words}: that step has not run")
    if not missing:
        return Markup()
    return tag(
        "details",
        tag("summary", "This run is not finished: ", _not_there(len(missing))),
        tag("ul", [tag("li", words) for words in missing]),
        class_="unfinished",
        open=True,
    )


def _is_told(part: str) -> bool:
    """Whether the box at the top names a missing part: histories are named in their own section."""
    return not part.startswith("history ")


def _not_there(parts: int) -> str:
    return f"{plural(parts, 'part')} {'is' if parts == 1 else 'are'} not there yet"


def _data(run: RunFolder, shown: list[Shown]) -> dict:
    """What page.js needs to draw any of the architectures."""
    latencies = run.slot_latencies_ms
    return {
        "slots": run.slots,
        "colors": run.colors,
        "short": {choice: short_label(choice) for choice in run.colors},
        "latency_ms": latencies,
        "full_ms": longest_latency_ms(latencies, [a.choices for a in shown]),
        "budget": run.record.budget,
        "architectures": [as_json(a, run.slots) for a in shown],
        "version": nas.__version__,
    }


def _asset(name: str) -> str:
    return resources.files("nas.report").joinpath(name).read_text(encoding="utf-8")
