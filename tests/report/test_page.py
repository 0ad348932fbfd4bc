"""The page: what it says, that it stands alone, that nobody's words become markup, that half a run gives a page."""

import base64
import dataclasses
import functools
import json
import os
import re
import shutil
from html.parser import HTMLParser

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nas.costs import LookupTable, Provenance
from nas.errors import ConfigError
from nas.report import RunRecord, palette, write
from nas.report.page import render_page
from nas.report.summary import summary
from nas.runs.folder import RunFolder
from nas.runs.record import DenoiserCost, Preview, StageQuality
from nas.spaces import SearchSpace
from tests.support import report_folders

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """A parsed page: elements in order, attributes, and the text that is shown. Fails where tags do not match."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def all(self, attribute: str) -> list[str]:
        return [attrs[attribute] for _, attrs in self.elements if attribute in attrs]

    def data(self, html: str) -> dict:
        return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)[1])


def page_of(run) -> Page:
    return Page(write(run).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def finished_html(finished_run) -> str:
    """The page of the finished run, which takes a second to write."""
    return write(finished_run).read_text(encoding="utf-8")


def change(run, **fields) -> None:
    dataclasses.replace(RunRecord.load(run), **fields).save(run)


def test_a_finished_run_is_shown_whole(finished_run, finished_html):
    page, record = Page(finished_html), RunRecord.load(finished_run)
    space, table = SearchSpace.load(finished_run / "space.yaml"), LookupTable.load(finished_run / "table.csv")
    front = pd.read_csv(finished_run / "front.csv")
    assert set(page.all("data-slot")) == set(space.slots)
    assert len(set(page.all("data-point"))) == len(front)
    for workload in table.rows():
        assert workload in page.words
    for caption in record.previews[0].captions:
        assert caption in page.words
    embedded = [base64.b64decode(src.split(",")[1]) for src in page.all("src")]
    assert sorted(embedded) == sorted((finished_run / preview.gif).read_bytes() for preview in record.previews)
    for part in ("architecture", "front", "candidates", "costs", "table", "previews", "quality", "training", "export"):
        assert part in page.all("id")
    assert "Not in this run yet" not in page.words and "not finished" not in page.words
    for word in ("val_loss", "heads_loss", "held-out real clips", "control", "x86-64", space.hash, "d83080a"):
        assert word in page.words


def test_the_summary_says_the_measured_numbers(run):
    measured = DenoiserCost(latency_ms=12.345, memory_mb=4.567, params=1_234_567)
    budget = {"latency_ms": 20.0, "memory_mb": 5.0, "params": 2e6}
    change(run, predicted=DenoiserCost(12.1, 4.6, 1_234_567), measured=measured, budget=budget)
    words = page_of(run).words
    assert (
        "measured on the whole model, is 12.3 ms, within the budget of 20.0 ms; the prediction was 12.1 ms (2% less)"
        in words
    )
    assert "It has 1.23M parameters, within the budget of 2.00M" in words
    assert "Over budget" not in words


def test_a_broken_budget_and_a_bad_prediction_are_said_first(run):
    change(run, predicted=DenoiserCost(8.0, 1.0, 10), measured=DenoiserCost(10.0, 1.0, 10), budget={"latency_ms": 9.0})
    words = page_of(run).words
    assert "Over budget: the latency of a step, measured whole, is 10.0 ms against at most 9.00 ms." in words
    assert "20% below the one measured on the whole model, more than 10% off" in words
    assert words.index("Over budget") < words.index("The search tried")


def test_the_clips_come_first_then_one_sentence_with_the_numbers(finished_run, finished_html):
    page = Page(finished_html)
    for first, then in (
        (report_folders.CAPTIONS[0], "A denoising step takes"),
        ("A denoising step takes", "The Pareto front"),
        ("The Pareto front", "The architecture"),
        ("The architecture", "The search tried"),
    ):
        assert page.words.index(first) < page.words.rindex(then)
    tiles = [a for _, a in page.elements if a.get("role") == "img" and a["aria-label"].startswith("Generated clip")]
    assert [a["aria-label"].split(": ")[1] for a in tiles] == list(report_folders.CAPTIONS)
    clip = base64.b64encode((finished_run / "samples/adversarial/4.gif").read_bytes()).decode()
    assert f'--strip:url("data:image/gif;base64,{clip}")' in finished_html
    lead = re.search(r'<p class="lead">(.*?)</p>', finished_html)[1]
    assert "93% (85\N{EN DASH}97%) of 80 clips move" in lead and "\N{PLUS-MINUS SIGN} 0.0011 against" in lead
    assert lead.count(". ") == 0  # one sentence


def test_random_architectures_and_the_scores_noise_are_drawn(run):
    page = page_of(run)
    kinds = page.all("class")
    assert kinds.count("random") == 3 and kinds.count("deviation") >= 3
    assert "8 random architectures within the budget" in page.words
    assert "minus the supernet's validation loss" in page.words
    change(run, random_scores=(), candidates=())
    page = page_of(run)
    assert "random" not in page.all("class") and "random architecture" not in page.words


def test_retrainings_are_told_apart(finished_run, finished_html):
    page, record = Page(finished_html), RunRecord.load(finished_run)
    lines = [attrs for _, attrs in page.elements if "data-line" in attrs]
    assert [attrs["data-line"] for attrs in lines] == ["retrain-0", "retrain-1"]
    assert len({attrs["style"] for attrs in lines}) == 2
    for i, candidate in enumerate(record.candidates[:2], start=1):
        assert f"Candidate {i}" in page.words and f"validation loss {candidate.retrained_loss:.4f}" in page.words


def test_data_that_no_classifier_judges_is_no_unfinished_run(run):
    report_folders.without_classifier(run)
    page = page_of(run)
    assert "not finished" not in page.words and "that step has not run" not in page.words
    assert "No classifier for this data" in page.words and "FVD" in page.words
    for number in ("0.8100", "24.30", "0.2118"):
        assert number in page.words


def test_charts_take_their_colors_from_the_style_sheet(finished_html):
    """So that they can be read in light and in dark."""
    charts = re.findall(r"<svg.*?</svg>", finished_html, re.S)
    assert len(charts) > 10
    for color in (palette.INK, palette.QUIET, palette.RULE, palette.FAINT, palette.WARN, palette.PAPER, palette.BLOCK):
        assert not [chart for chart in charts if color in chart]
    assert all("var(--quiet)" in chart and "font-family" not in chart for chart in charts)


def test_names_that_look_like_math_are_drawn_as_they_are(tmp_path):
    space = SearchSpace(name="money", slots={f"$s_{i}$": ["none", "$a^2$", "b"] for i in range(2)})
    page = page_of(report_folders.finished(tmp_path / "run", space))
    assert page.words.count("$s_0$") > 3 and "$a^2$" in page.words


def test_a_latency_is_never_shown_below_zero(run):
    table = LookupTable.load(run / "table.csv")
    frame = table.frame.copy()
    frame["latency_p10_ms"], frame["latency_ci_ms"] = -0.119, 0.042
    dataclasses.replace(table, frame=frame).save(run / "table.csv")
    words = page_of(run).words
    assert "-0.119" not in words and "\N{PLUS-MINUS SIGN}0.0420" in words


def test_the_page_fetches_nothing(finished_html):
    page = Page(finished_html)
    for attribute in ("src", "href", "data", "poster", "action", "srcset"):
        assert all(value.startswith(("#", "data:")) for value in page.all(attribute))
    assert not [tag for tag, _ in page.elements if tag in ("link", "iframe", "object", "base", "form")]
    assert "default-src 'none'" in page.all("content")[0]
    assert "@import" not in finished_html and not re.findall(r"""url\((?!#|"data:)""", finished_html)


def test_every_architecture_is_given_to_the_script_with_its_costs(finished_run, finished_html):
    data, front = (
        Page(finished_html).data(finished_html),
        pd.read_csv(finished_run / "front.csv").sort_values("latency_ms"),
    )
    slots = list(SearchSpace.load(finished_run / "space.yaml").slots)
    assert data["slots"] == slots
    for shown, (_, row) in zip(data["architectures"], front.iterrows()):
        assert shown["choices"] == list(row[slots])
        assert shown["latency_ms"] == pytest.approx(row["latency_ms"])
    assert [shown["choices"] for shown in data["architectures"] if shown["chosen"]] == [
        list(RunRecord.load(finished_run).choices.values())
    ]


def test_a_winner_beside_the_front_is_shown_too(run):
    space = SearchSpace.load(run / "space.yaml")
    nothing = space.architecture({})
    nothing.save(run / "architecture.json")
    change(run, choices=nothing.choices, predicted=DenoiserCost(1.0, 0.1, 640))
    html = write(run).read_text(encoding="utf-8")
    chosen = [shown for shown in Page(html).data(html)["architectures"] if shown["chosen"]]
    assert len(chosen) == 1 and set(chosen[0]["choices"]) == {"none"} and chosen[0]["score"] is None
    assert "none at all" in Page(html).words


# -- half of a run -----------------------------------------------------------------------------------------------------

FILES = ("record.json", "space.yaml", "table.csv", "table.meta.json", "front.csv", "architecture.json", "config.yaml")
PARTS = (*FILES, "checkpoints", "samples", "checkpoints/finetune/history.csv")


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """A finished run of a space without a backbone: a page of it is made quickly."""
    run = tmp_path_factory.mktemp("small") / "run"
    report_folders.finished(run, SearchSpace(name="small", slots={f"s{i}": ["none", "a", "b"] for i in range(3)}))
    report_folders.without_classifier(run)
    return report_folders.with_few_charts(run)


@pytest.fixture
def small_copy(small_run, tmp_path):
    """A copy of it to break."""
    return shutil.copytree(small_run, tmp_path / "small")


def test_an_empty_folder_gives_a_page_that_says_what_is_missing(tmp_path):
    words = page_of(tmp_path).words
    assert "This run is not finished" in words
    for part in ("space.yaml", "table.csv", "front.csv", "architecture.json", "record.json"):
        assert f"{part} is not there yet" in words


def test_no_folder_is_an_error_of_one_line(tmp_path):
    with pytest.raises(ConfigError, match="no such run folder"):
        write(tmp_path / "nowhere")


@pytest.mark.parametrize("part", PARTS)
def test_without_one_part_the_rest_is_shown(run, part):
    path = run / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    words = page_of(run).words
    if part in ("record.json", "space.yaml", "table.csv", "front.csv"):
        assert f"{part} is not there yet" in words
    if part == "samples":
        assert "finetune/25.gif is missing" in words
    if part != "record.json":
        assert "After the adversarial stage, at 4 steps" in words


TORN = [(part, 0.7) for part in (*FILES, "checkpoints/finetune/history.csv", "samples/finetune/25.gif")]
EMPTY = [(part, 0.0) for part in ("record.json", "space.yaml", "table.csv", "front.csv", "samples/finetune/25.gif")]


@pytest.mark.parametrize(("part", "keep"), TORN + EMPTY)
def test_a_torn_file_never_stops_the_page(small_copy, part, keep):
    data = (small_copy / part).read_bytes()
    (small_copy / part).write_bytes(data[: int(len(data) * keep)])
    page_of(small_copy)


JUNK = {"csv": (b"\xff\xfe\x00", b"a,b\n1,2\n"), "json": (b"\xff\xfe\x00", b"[]", b"{}")}
JUNK["yaml"] = JUNK["json"]


@pytest.mark.parametrize(
    ("part", "junk"), [(f, junk) for f in FILES if f != "config.yaml" for junk in JUNK[f.rsplit(".")[-1]]]
)
def test_junk_never_stops_the_page(small_copy, part, junk):
    (small_copy / part).write_bytes(junk)
    page_of(small_copy)


def test_a_space_that_changed_under_the_run_is_said(run):
    space = report_folders.SearchSpace.load("snapgen_v")
    space.save(run / "space.yaml")
    words = page_of(run).words
    assert (
        "does not fit the search space" in words and "has no row for" in words and "not what the run recorded" in words
    )


def test_infeasible_and_estimated_rows_are_told_apart(run):
    table = LookupTable.load(run / "table.csv")
    frame = table.frame.copy()
    rows = frame.index[frame["workload"].str.startswith("SelfAttention3D")]
    frame.loc[rows[0], ["status", "reason", "latency_ms"]] = ["infeasible", "out of memory: 9 GB", float("inf")]
    rows = frame.index[frame["workload"].str.startswith("Conv3D")]
    frame.loc[rows[0], "source"] = "estimated"
    dataclasses.replace(table, frame=frame).save(run / "table.csv")
    page = page_of(run)
    assert "cannot run" in page.words and "1 cannot run on the device" in page.words
    assert any("out of memory: 9 GB" in title for title in page.all("title"))
    assert "1 estimated" in page.words and "not everything in it was measured" in page.words


def test_histories_with_odd_columns_are_drawn(run):
    folder = run / "checkpoints" / "adversarial"
    text = (
        "step,loss,note,empty,constant,huge\n"
        + "".join(f"{i},0.5,warm,,3,{10**i}\n" for i in range(1, 60))
        + "60,0.4,co"
    )
    (folder / "history.csv").write_text(text)
    words = page_of(run).words
    assert "constant" not in words and "huge" in words and "59 steps" in words


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 0.0])
def test_numbers_that_went_wrong_are_shown_as_such(run, number):
    record = RunRecord.load(run)
    costs = DenoiserCost(number, number, 0)
    change(
        run,
        predicted=costs,
        measured=costs,
        candidates=tuple(dataclasses.replace(c, score=number, retrained_loss=number, predicted=costs) for c in record.candidates),
        quality=tuple(dataclasses.replace(q, frechet=number, direction_accuracy=number) for q in record.quality),
    )  # fmt: skip
    table = LookupTable.load(run / "table.csv")
    frame = table.frame.assign(status="infeasible", latency_ms=float("inf"), memory_mb=float("nan"))
    dataclasses.replace(table, frame=frame).save(run / "table.csv")
    page = page_of(run)
    for attribute in ("style", "d", "x", "y", "width", "height", "cx", "cy", "viewbox"):
        assert not [value for value in page.all(attribute) if "nan" in value or "inf" in value]


def test_clips_outside_the_run_folder_are_not_embedded(run, tmp_path):
    secret = tmp_path / "secret.gif"
    secret.write_bytes((run / "samples" / "finetune" / "4.gif").read_bytes())
    change(run, previews=(Preview("finetune", 4, ("a",), "../secret.gif", str(secret)),))
    page = page_of(run)
    assert not page.all("src") and "is missing" in page.words


def test_clips_of_any_arrangement_have_their_captions(run):
    words = page_of(run).words
    assert words.count(report_folders.CAPTIONS[0]) == 4  # at the top, and above each number of steps
    report_folders.gif(run / "samples" / "grid.gif", seed=0, rows=2, columns=3)
    preview = Preview("finetune", 4, report_folders.CAPTIONS, "samples/grid.gif", "")
    change(run, previews=(preview,))
    assert page_of(run).words.count(report_folders.CAPTIONS[0]) == 2
    change(run, previews=(preview, dataclasses.replace(preview, model="adversarial", captions=("another",))))
    words = page_of(run).words
    assert report_folders.CAPTIONS[0] in words and "another" in words


def test_stages_are_shown_in_the_order_of_training(finished_run):
    stages = list(RunFolder.read(finished_run).histories)
    assert stages == ["decoder", "distill", "supernet", "retrain-0", "retrain-1", "finetune", "control", "adversarial"]


def test_a_clip_too_large_to_embed_gives_way_to_its_mp4(run, monkeypatch):
    monkeypatch.setattr("nas.report.sections.clips.CLIP_BYTES", 2000)
    (run / "small.mp4").write_bytes(b"\0" * 100)
    change(run, previews=(Preview("finetune", 4, ("a",), "samples/finetune/4.gif", "small.mp4"),))
    assert page_of(run).all("src")[0].startswith("data:video/mp4")
    change(run, previews=(Preview("finetune", 4, ("a",), "samples/finetune/4.gif", ""),))
    assert "too large to embed" in page_of(run).words


def test_a_space_without_a_backbone_has_slots_instead_of_a_unet(tmp_path):
    space = SearchSpace(name="mine", slots={f"s{i}": ["none", "a", "b", "c"] for i in range(5)})
    page = page_of(report_folders.finished(tmp_path / "mine", space))
    assert set(page.all("data-slot")) == set(space.slots) and "no backbone" in page.words


DAMAGE = {
    "list": "[]",
    "text": '"words"',
    "deep": "[" * 5000 + "]" * 5000,
    "huge number": "9" * 6000,
    "long field": "step,loss\n1," + "x" * 200_000 + "\n2,3\n",
    "null bytes": "\0" * 100,
    "wrong kinds": '{"name": 1, "space": [], "space_hash": {}, "metrics": [], "scale": null}',
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_damaged_in_any_way_is_named_and_the_page_is_written(small_copy, damage):
    run = small_copy
    files = ["record.json", "table.csv", "front.csv", "architecture.json", "space.yaml"]
    files += ["checkpoints/finetune/history.csv", "checkpoints/decoder/result.json"]
    for file in files:
        (run / file).write_text(DAMAGE[damage])
    words = page_of(run).words
    for file in files:
        assert f"{file} cannot be read" in words, file
    assert summary(run)


@pytest.mark.parametrize(
    "fields",
    [
        {"choices": {"no such slot": "a"}},
        {"budget": {"latency_ms": 0.0, "nonsense": -1.0}},
        {"step_seconds": {"": -1e308}},
        {"trials": -5, "infeasible_trials": 10**30},
        {"provenance": {"a": {"b": [None, {"c": "\ud800"}]}}},
        {"predicted": {"latency_ms": float("inf"), "memory_mb": float("nan"), "params": -1}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_record_that_contradicts_the_other_files_gives_a_page(small_copy, fields):
    run = small_copy
    record = json.loads((run / "record.json").read_text())
    (run / "record.json").write_text(json.dumps(record | fields))
    page_of(run)
    assert summary(run)


def test_a_part_that_cannot_be_shown_does_not_take_the_others_with_it(small_copy, monkeypatch):
    run = small_copy
    monkeypatch.setattr("nas.report.sections.search.candidates", lambda *_: 1 / 0)
    words = page_of(run).words
    assert "section 'The best candidates': cannot be shown: ZeroDivisionError" in words
    assert "What it costs" in words and "This run is not finished" in words


def test_a_pipe_in_place_of_a_file_is_not_waited_for(small_copy):
    run = small_copy
    for file in ("record.json", "table.csv", "config.yaml", "checkpoints/finetune/history.csv"):
        (run / file).unlink()
        os.mkfifo(run / file)
    assert "record.json cannot be read: it is not a regular file" in page_of(run).words


# -- escaping ----------------------------------------------------------------------------------------------------------

NASTY = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"'><b>bold</b>",
    "a && b <!-- c --> ]]>",
    "\u2028\u2029\x00\x1b[31m\ud800",
    "x" * 300,
    "${title} $js",
]


def named(text: str, run):
    """A run in which a person typed `text` wherever a person can type."""
    folder = RunFolder.read(run)
    record = folder.record
    previews = tuple(dataclasses.replace(s, captions=(text, "plain")) for s in record.previews[:1])
    folder.record = dataclasses.replace(
        record,
        name=text,
        space=text,
        provenance={"note": text, text or "empty": 1},
        step_seconds={text: 1.0},
        previews=previews,
        quality=(StageQuality(text, 25, 31.0, 0.7, 0.8, 80),),
        exported=tuple(dataclasses.replace(e, path=text, format=text) for e in record.exported),
    )
    folder.table.provenance = Provenance(device=text, other={"notes": {text or "empty": [text]}})
    column = text.encode(errors="replace").decode()  # a file has no lone surrogates
    folder.histories = {text: folder.histories["finetune"].rename(columns={"loss": column})}
    folder.missing["cost_model"] = text
    return folder


@functools.cache
def plain_page(run) -> Page:
    return Page(render_page(named("word", run)))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.one_of(st.sampled_from(NASTY), st.text(alphabet=st.characters(codec=None), min_size=1, max_size=40)))
def test_words_never_become_markup(text, small_run):
    plain = plain_page(small_run)
    html = render_page(named(text, small_run))
    page = Page(html)
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert [set(attrs) for _, attrs in page.elements] == [set(attrs) for _, attrs in plain.elements]
    html.encode("utf-8")
    shown = re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\s]+", "", text)
    assert shown in re.sub(r"[\ufffd\s]+", "", page.words) or "\ufffd" in text


@pytest.mark.parametrize("text", NASTY[:4])
def test_choices_with_nasty_names(text, tmp_path):
    space = SearchSpace(name=text, slots={f"{text}{i}": ["none", text, f"{text}2"] for i in range(3)})
    html = write(report_folders.finished(tmp_path / "run", space)).read_text(encoding="utf-8")
    page = Page(html)
    assert f"{text}2" in page.data(html)["colors"]
    assert {tag for tag, _ in page.elements} <= {*["html", "head", "meta", "title", "style", "body", "main", "header", "p", "h1", "h2", "h3", "dl", "dt", "dd", "div"],
        *["section", "nav", "a", "table", "thead", "tbody", "tr", "th", "td", "i", "b", "em", "svg", "defs", "marker", "path", "rect", "text", "g", "circle", "details", "summary", "ul", "li", "ol"],
        *["img", "small", "span", "figure", "figcaption", "button", "script", "pre", "use", "clippath"]}  # fmt: skip
    assert html.count("<script") == 2
