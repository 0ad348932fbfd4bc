"""The report: one self-contained HTML file, written from a run folder."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from markupsafe import Markup

import nas
from nas.files import write_atomic
from nas.report import findings
from nas.report.plotted import PlottedArchitecture, architectures, as_json
from nas.report.sections import clips, cost, results, search, table
from nas.report.templating import printable, render
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
"""Names on the page for the parts of `RunFolder.missing`."""

NO_DATA = {
    "slots": [],
    "colors": {},
    "short": {},
    "latency_ms": {},
    "longest_ms": None,
    "budget": {},
    "architectures": [],
}
"""The data of page.js if the run's architectures cannot be read."""

T = TypeVar("T")


@dataclass(frozen=True)
class Section:
    """A section of the page; `content` is None if it cannot be shown, and `error` says why."""

    id: str
    link: str
    title: str
    content: Markup | None
    error: str


def write(run: str | Path) -> Path:
    """Write `report.html` into the run folder and return its path.

    The page is self-contained: styles, script, charts and clips are embedded, nothing is fetched, and its content security
    policy forbids the browser to fetch anything. For an unfinished run, the page says which parts are missing.

    Raises:
        ConfigError: there is no such folder.
    """
    folder = RunFolder.read(run)
    return write_atomic(folder.path / "report.html", render_page(folder))


def render_page(run: RunFolder) -> str:
    """The page as text."""
    plotted = _try(lambda: architectures(run), "architectures", run, [])
    script = _asset("page.js")
    page = render(
        "page",
        title=f"{run.record.name} \N{MIDDLE DOT} nas report",
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        css=Markup(_asset("page.css")),
        script=Markup(script),
        subtitle=_subtitle(run),
        name=run.record.name,
        clips=_try(lambda: clips.hero(run), "clips", run, Markup()),
        sentence=_try(lambda: findings.one_sentence_summary(run), "summary", run, ""),
        warnings=_try(lambda: findings.warnings(run), "warnings", run, []),
        data=_try(lambda: _data(run, plotted), "architectures", run, NO_DATA),
        sections=_sections(run, plotted),
        missing=_missing(run),
    )
    return printable(page)


def _try(make: Callable[[], T], part: str, run: RunFolder, otherwise: T) -> T:
    """`make()`, or `otherwise` if it raises; the reason is added to `run.missing`.

    Each file is validated when it is read, but files may contradict each other or hold numbers that no axis can show.
    Such a part must not prevent the others from being shown.
    """
    try:
        return make()
    except Exception as error:
        run.missing[part] = f"cannot be shown: {one_line(error)}"
        return otherwise


def _sections(run: RunFolder, plotted: list[PlottedArchitecture]) -> list[Section]:
    # 'nas evaluate' is not a part of a run.
    suites = (("evaluation", "Evaluation", "The evaluation suites", lambda: results.evaluation(run)),)
    sections = (
        ("front", "Front", "The Pareto front", lambda: search.front(run, plotted)),
        ("architecture", "Architecture", "The architecture", lambda: search.architecture(run, plotted)),
        ("candidates", "Candidates", "The best candidates", lambda: search.candidates(run, plotted)),
        ("costs", "Costs", "What it costs", lambda: cost.costs(run)),
        ("previews", "Clips", "Clips, stage by stage", lambda: clips.previews(run)),
        ("quality", "Quality", "How good the clips are", lambda: results.quality(run)),
        *(suites if run.evaluations else ()),
        ("training", "Training", "Training, stage by stage", lambda: results.training(run)),
        ("table", "Table", "The lookup table", lambda: table.lookup_table(run)),
        ("export", "Export", "Exported", lambda: results.exported(run)),
        ("provenance", "Provenance", "Provenance", lambda: results.provenance(run)),
    )
    rendered = []
    for id, link, title, make in sections:
        part = f"section '{title}'"
        content = _try(make, part, run, None)
        rendered.append(Section(id, link, title, content, run.missing.get(part, "")))
    return rendered


def _subtitle(run: RunFolder) -> str:
    """Search space, device, runtime and time of the report."""
    meta = run.table.meta if run.table else {}
    device = [str(meta[key]) for key in ("device", "runtime") if meta.get(key)]
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    space = run.space.name if run.space else run.record.space or "no space yet"
    return " \N{MIDDLE DOT} ".join([space, *device, now])


def _missing(run: RunFolder) -> list[str]:
    """The parts of the run that are missing, with reasons; histories are named in their own section."""
    missing = [
        f"{PARTS.get(part, part)}: {why}" for part, why in run.missing.items() if not part.startswith("history ")
    ]
    record = run.record
    for result, title in (
        (record.measured, "the whole model's cost"),
        (record.previews, "preview clips"),
        (record.quality or run.no_classifier, "quality of the clips"),
        (record.exported, "exported packages"),
    ):
        if not result:
            missing.append(f"{title}: that step has not run")
    return missing


def _data(run: RunFolder, plotted: list[PlottedArchitecture]) -> dict[str, Any]:
    """The data that page.js draws any of the architectures from."""
    latencies = run.slot_latencies_ms
    data = {
        "slots": run.slots,
        "colors": run.colors,
        "short": {choice: short_label(choice) for choice in run.colors},
        "latency_ms": latencies,
        "longest_ms": longest_latency_ms(latencies, [arch.choices for arch in plotted]),
        "budget": run.record.budget,
        "architectures": [as_json(arch, run.slots) for arch in plotted],
        "version": nas.__version__,
    }
    json.dumps(data, allow_nan=False)  # raises for NaN, which JSON does not have
    return data


def _asset(name: str) -> str:
    return resources.files("nas.report").joinpath("static", name).read_text(encoding="utf-8")
