"""Plots: what is drawn is what was given."""

import dataclasses
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from matplotlib.text import Text

from nas.costs import Budget, Cost, LookupTable
from nas.errors import ConfigError
from nas.report import palette, plots
from nas.runs.folder import RunFolder
from nas.spaces import SearchSpace, operator_kinds


@pytest.fixture(scope="module")
def folder(finished_run):
    return RunFolder.read(finished_run)


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def artist(ax, gid):
    """The only artist with this gid."""
    (only,) = ax.findobj(lambda artist: artist.get_gid() == gid)
    return only


def written(ax) -> set[str]:
    return {text.get_text() for text in [*ax.texts, *ax.get_yticklabels(), *ax.get_xticklabels()]}


def test_the_front_has_every_point_on_its_side_of_the_budget(folder):
    budget = Budget(latency_ms=float(folder.front["latency_ms"].median()))
    ax = plots.plot_front(folder.front, budget=budget, chosen=folder.space.architecture(folder.choices))
    for i, row in folder.front.iterrows():
        point = artist(ax, f"point-{i}")
        assert point.get_offsets().tolist() == [[row["latency_ms"], row["score"]]]
        assert (to_hex(point.get_facecolor()[0]) == palette.PAPER) == (row["latency_ms"] > budget.latency_ms)
    assert artist(ax, "ring").get_offsets()[0, 0] == pytest.approx(folder.predicted_cost.latency_ms)
    stairs = next(line for line in ax.lines if line.get_drawstyle() == "steps-post").get_ydata()
    assert (np.diff(stairs) >= 0).all() and stairs.max() == folder.front["score"].max()


def test_a_winner_that_is_not_on_the_front_is_marked_at_its_own_score(folder):
    off = dataclasses.replace(folder.record.candidates[-1], score=float(folder.front["score"].min()) - 1)
    for against in ("latency_ms", "params"):
        _, factor = plots.cost_unit(folder.front, against)
        ax = plots.plot_front(folder.front, against, chosen=off)
        ring, dot = (artist(ax, gid).get_offsets().tolist() for gid in ("ring", "chosen"))
        assert ring == dot == [[getattr(off.predicted, against) * factor, off.score]]


def test_the_chosen_candidate_of_a_run_is_the_winner(folder):
    assert folder.chosen is not None and folder.space.architecture(folder.chosen.choices).choices == folder.choices


def test_the_breakdown_has_a_bar_as_long_as_each_cost(folder):
    ax = plots.plot_breakdown(folder.predicted_cost)
    frame = folder.predicted_cost.breakdown.iloc[::-1]
    assert [bar.get_width() for bar in ax.patches] == pytest.approx(list(frame["latency_ms"]))
    for bar, choice in zip(ax.patches, frame["choice"]):
        if choice in operator_kinds():
            assert to_hex(bar.get_facecolor()) == operator_kinds()[choice].color


def test_the_table_has_every_median_and_says_what_cannot_run(folder):
    table = folder.table
    frame = table.frame.copy()
    rows = frame.index[frame["workload"].str.startswith("SelfAttention3D")]
    frame.loc[rows[0], ["status", "latency_ms"]] = ["infeasible", float("inf")]
    ax = plots.plot_table(folder.space, type(table)(frame))
    operators = frame[~frame["workload"].str.startswith(("Backbone", "TextEncoder", "Decoder"))]
    assert len(ax.texts) == len(operators)
    assert sum(text.get_text() == "cannot\nrun" for text in ax.texts) == 1
    for ms in operators["latency_ms"][operators["status"] == "ok"]:
        assert plots.format_number(ms) in written(ax)


def test_losses_of_all_stages_share_an_axis(folder):
    ax = plots.plot_losses(folder.histories)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(folder.histories)
    one = pd.DataFrame({"step": [1, 2, 3], "loss": [3.0, np.nan, 1.0]})
    assert list(plots.plot_losses(one).lines[0].get_ydata()) == [3.0, 1.0]


def test_the_architecture_stands_on_the_unet(folder):
    arch = folder.space.architecture(folder.choices)
    ax = plots.plot_architecture(folder.space, arch, folder.predicted_cost)
    assert set(folder.space.sites) <= written(ax)
    filled = {to_hex(patch.get_facecolor()) for patch in ax.patches}
    assert {folder.colors[choice] for choice in arch.choices.values() if choice != "none"} <= filled
    plots.plot_architecture(folder.space, arch)  # without costs too


def test_plots_draw_on_the_axes_they_are_given(folder, tmp_path):
    figure, axes = plt.subplots(1, 2)
    assert plots.plot_front(folder.front, "params", ax=axes[0]) is axes[0]
    assert plots.plot_breakdown(folder.predicted_cost, "memory_mb", ax=axes[1]) is axes[1]
    figure.savefig(tmp_path / "figure.pdf")
    assert (tmp_path / "figure.pdf").stat().st_size > 5000


def test_a_wrong_name_is_said_with_the_nearest_right_one(folder):
    for wrong in (
        lambda: plots.plot_front(folder.front, "latency"),
        lambda: plots.plot_breakdown(folder.predicted_cost, "latency"),
        lambda: plots.plot_table(folder.space, folder.table, "latency"),
    ):
        with pytest.raises(ConfigError, match="did you mean 'latency_ms'"):
            wrong()
    with pytest.raises(ConfigError, match="no column 'score'"):
        plots.plot_front(folder.front.drop(columns="score"))
    with pytest.raises(ConfigError, match="no column 'los'"):
        plots.plot_losses(folder.histories, "los")


def test_costs_without_numbers_are_drawn(folder):
    frame = folder.predicted_cost.breakdown.assign(latency_ms=float("inf"))
    plots.plot_breakdown(Cost(float("inf"), 1.0, 1, frame)).figure.canvas.draw()


def test_names_with_dollar_signs_are_not_parsed_as_math(folder):
    name = "$\\no_math{$"
    frame = folder.predicted_cost.breakdown.assign(slot=name, choice=name)
    history = pd.DataFrame({"step": [1, 2], "loss": [2.0, 1.0]})
    space = SearchSpace("money", {name: ["none", name]})
    table = LookupTable.from_frame(
        pd.DataFrame(
            {
                "workload": [f"{name}/{name}"],
                "latency_ms": [1.0],
                "memory_mb": [1.0],
                "weights_mb": [1.0],
                "params": [1],
            }
        )
    )
    for ax in (
        plots.plot_breakdown(Cost(1.0, 1.0, 1, frame)),
        plots.plot_losses({name: history, "b": history}),
        plots.plot_table(space, table),
        plots.plot_architecture(space, space.architecture({name: name})),
    ):
        ax.figure.canvas.draw()
        assert any(name in text for text in (*written(ax), *(t.get_text() for t in ax.findobj(Text))))


def test_importing_the_plots_imports_no_matplotlib():
    code = "import sys, nas.report.plots, nas.report.summary\nassert not {'matplotlib', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
