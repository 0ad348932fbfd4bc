"""Tables and the picture of `placement.py`'s results.

    python benchmarks/placement_report.py --results docs/benchmarks/placement.csv [--convolutions-in "mid.*" "up.0.*"]

For each measure the difference between the found architecture and the median of the random ones at equal latency, paired
by seed, with two 95% intervals. One is for these random architectures: Student's t with the standard deviation of a single
training, which is pooled over all architectures after their means and those of the seeds are taken out, since few seeds
say little about the spread of one difference. The other is for random architectures like these: a bootstrap that resamples
them and the seeds. The bar is met where both exclude zero. Kendall's tau between the supernet's losses and each measure
after training alone, with a bootstrap over architectures and seeds, beside the tau between two seeds of training alone,
which no ranking can be expected to exceed. With `--convolutions-in`, all trainings by the number of convolutions in these
slots. Prints Markdown, and writes the picture beside the results.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pandas as pd
from placement import FOUND, NEAR, PATTERN, RANDOM
from scipy.stats import kendalltau
from scipy.stats import t as student

from nas.files import read_json

RESAMPLES, RANK_RESAMPLES = 10_000, 1000


@dataclass(frozen=True)
class Measure:
    """A column of the results: its title in tables, whether higher is better, and its decimals."""

    column: str
    title: str
    higher: bool
    decimals: int


MEASURES = (
    Measure("scene_accuracy", "multi-object accuracy", True, 3),
    Measure("object_accuracy", "object (class and color)", True, 3),
    Measure("direction_accuracy", "direction", True, 3),
    Measure("frechet", "Frechet video distance", False, 2),
    Measure("loss", "held-out loss", False, 4),
)
SHOWN = ("direction_accuracy", "loss")
"""Measures in the picture."""
CLOSE = 0.15
"""Points are close to each other in the picture within this share of its width and height."""


@dataclass(frozen=True)
class Difference:
    """Found minus the median random architecture: the mean over seeds, and its two intervals (the module's docstring)."""

    mean: float
    pooled: tuple[float, float]
    bootstrap: tuple[float, float]

    def verdict(self, higher: bool) -> str:
        """`better` or `worse` if both intervals exclude zero, otherwise `open`."""
        intervals = (self.pooled, self.bootstrap)
        if all(low > 0 for low, _ in intervals):
            return "better" if higher else "worse"
        if all(high < 0 for _, high in intervals):
            return "worse" if higher else "better"
        return "open"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("docs/benchmarks/placement.csv"))
    parser.add_argument("--convolutions-in", nargs="+", metavar="SLOTS", help='patterns of slots, such as "up.0.*"')
    args = parser.parse_args()
    results = pd.read_csv(args.results)
    rows, compared = whole_seeds(results), whole_seeds(results[results["group"] != PATTERN])
    print(architecture_table(rows), difference_table(compared, results), ranking_table(rows), sep="\n\n")
    if args.convolutions_in:
        shared = read_json(args.results.with_suffix(".json"), "what the trainings share", dict)
        print("", convolution_table(results, list(shared["candidates"][0]["choices"]), args.convolutions_in), sep="\n")
    draw(rows, args.results.with_suffix(".svg"))


def whole_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the seeds with which every architecture among them was trained."""
    counts = rows.groupby("seed")["architecture"].nunique()
    return rows[rows["seed"].isin(counts[counts == rows["architecture"].nunique()].index)]


def by_seed(rows: pd.DataFrame, group: str, column: str) -> pd.DataFrame:
    """A measure of a group: one row per seed, one column per architecture."""
    return rows[rows["group"] == group].pivot(index="seed", columns="architecture", values=column)


def difference(rows: pd.DataFrame, column: str, trainings: pd.DataFrame) -> Difference:
    """The found architecture against the median random one, see the module's docstring.

    Args:
        rows: of seeds with which all of these were trained.
        trainings: all results, for the noise of a training.
    """
    found, randoms = by_seed(rows, FOUND, column).to_numpy()[:, 0], by_seed(rows, RANDOM, column).to_numpy()
    mean = float((found - np.median(randoms, axis=1)).mean())
    deviation, freedom = noise(trainings, column)
    # a median of several has at most the noise of the mean of the two in the middle
    half = student.ppf(0.975, freedom) * deviation * np.sqrt(1.5 / len(found)) if freedom else float("nan")
    rng = np.random.default_rng(0)
    seeds, archs = (rng.integers(count, size=(RESAMPLES, count)) for count in randoms.shape)
    medians = np.median(randoms[seeds[:, :, None], archs[:, None, :]], axis=2)
    low, high = np.quantile((found[seeds] - medians).mean(axis=1), (0.025, 0.975))
    return Difference(mean, (mean - half, mean + half), (float(low), float(high)))


def noise(rows: pd.DataFrame, column: str) -> tuple[float, int]:
    """Standard deviation of a single training, from the architectures trained with every seed, and its degrees of freedom.

    NaN and 0 if that cannot be known, as from one seed.
    """
    values = rows.pivot(index="seed", columns="architecture", values=column).dropna(axis=1).to_numpy()
    residuals = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    freedom = max(0, (values.shape[0] - 1) * (values.shape[1] - 1))
    return (float(np.sqrt((residuals**2).sum() / freedom)) if freedom else float("nan")), freedom


def beaten(rows: pd.DataFrame, measure: Measure) -> float:
    """How many of the random architectures the found one beats, mean over the seeds; half of those that it equals."""
    found = by_seed(rows, FOUND, measure.column).to_numpy()
    gap = (found - by_seed(rows, RANDOM, measure.column).to_numpy()) * (1 if measure.higher else -1)
    return float(((gap > 0) + 0.5 * (gap == 0)).sum(axis=1).mean())


def ranking(rows: pd.DataFrame, measure: Measure) -> tuple[float, tuple[float, float], float]:
    """Kendall's tau of the supernet's loss with a measure (1: the same order), its interval, and the tau of two seeds."""
    each = rows.pivot(index="architecture", columns="seed", values=measure.column).to_numpy()
    each = each * (-1 if measure.higher else 1)
    shared = rows.groupby("architecture")["supernet_loss"].first().to_numpy()
    rng, resampled = np.random.default_rng(0), []
    for _ in range(RANK_RESAMPLES):
        archs, seeds = (rng.integers(count, size=count) for count in each.shape)
        resampled.append(kendalltau(shared[archs], each[np.ix_(archs, seeds)].mean(axis=1)).statistic)
    low, high = np.nanquantile(resampled, (0.025, 0.975))
    pairs = itertools.combinations(range(each.shape[1]), 2)
    between = [kendalltau(each[:, one], each[:, other]).statistic for one, other in pairs]
    tau = kendalltau(shared, each.mean(axis=1)).statistic
    return float(tau), (float(low), float(high)), float(np.mean(between)) if between else float("nan")


def architecture_table(rows: pd.DataFrame) -> str:
    lines = [
        "| architecture | latency, ms | params | supernet loss | " + " | ".join(m.title for m in MEASURES) + " |",
        "| --- " * (4 + len(MEASURES)) + "|",
    ]
    means = rows.groupby("architecture")[[m.column for m in MEASURES]].agg(["mean", "std"])
    about = rows.groupby("architecture").first().loc[means.index].sort_values("latency_ms")
    for name, row in about.iterrows():
        cells = [mean_and_deviation(*means.loc[name, m.column][["mean", "std"]], m.decimals) for m in MEASURES]
        shown = f"**{name}**" if row["group"] == FOUND else str(name)
        lines.append(
            f"| {shown} | {row['latency_ms']:.2f} | {row['params'] / 1e6:.2f}M | {row['supernet_loss']:.4f} | "
            f"{' | '.join(cells)} |"
        )
    return "\n".join(lines)


def mean_and_deviation(mean: float, deviation: float, decimals: int) -> str:
    """`0.51 +- 0.02`; of one seed, which has no deviation, the mean alone."""
    spread = "" if np.isnan(deviation) else f" +- {deviation:.{decimals}f}"
    return f"{mean:.{decimals}f}{spread}"


def between(low: float, high: float, decimals: int) -> str:
    """An interval with signs, or that it is not known."""
    return "not known" if np.isnan(low) else f"{low:+.{decimals}f} to {high:+.{decimals}f}"


def difference_table(rows: pd.DataFrame, trainings: pd.DataFrame) -> str:
    count, seeds = rows.loc[rows["group"] == RANDOM, "architecture"].nunique(), rows["seed"].nunique()
    lines = [
        f"Found against {count} random ones at equal latency, {seeds} seed{'s' if seeds > 1 else ''}:",
        "",
        "| measure | better is | found | median random | difference | for these random ones | for ones like these | "
        "beaten | found is |",
        "| --- " * 9 + "|",
    ]
    for m in MEASURES:
        found = by_seed(rows, FOUND, m.column).to_numpy().mean()
        median = np.median(by_seed(rows, RANDOM, m.column).to_numpy(), axis=1).mean()
        one, d = difference(rows, m.column, trainings), m.decimals
        intervals = [between(low, high, d) for low, high in (one.pooled, one.bootstrap)]
        lines.append(
            f"| {m.title} | {'higher' if m.higher else 'lower'} | {found:.{d}f} | {median:.{d}f} | {one.mean:+.{d}f} | "
            f"{intervals[0]} | {intervals[1]} | {beaten(rows, m):.1f} of {count} | {one.verdict(m.higher)} |"
        )
    return "\n".join(lines)


def ranking_table(rows: pd.DataFrame) -> str:
    lines = [
        "| the supernet's loss against | tau, all architectures | interval | between two seeds | tau, random ones | interval |",
        "| --- " * 6 + "|",
    ]
    for m in MEASURES:
        tau, (low, high), two_seeds = ranking(rows, m)
        shown = "not known" if np.isnan(two_seeds) else f"{two_seeds:.2f}"
        alike, (low_alike, high_alike), _ = ranking(rows[rows["group"] == RANDOM], m)
        lines.append(
            f"| {m.title} | {tau:.2f} | {low:.2f} to {high:.2f} | {shown} | {alike:.2f} | "
            f"{low_alike:.2f} to {high_alike:.2f} |"
        )
    return "\n".join(lines)


def convolution_table(trainings: pd.DataFrame, slots: list[str], patterns: list[str]) -> str:
    """Direction and loss of all trainings by the number of `Conv1D` and `Conv3D` in the slots that match a pattern.

    Args:
        slots: of the search space, in the order of the column `choices`.
    """
    chosen = [any(fnmatch(slot, pattern) for pattern in patterns) for slot in slots]
    counts = trainings["choices"].map(
        lambda text: sum(use and kind.startswith("Conv") for use, kind in zip(chosen, text.split(), strict=True))
    )
    lines = [
        "| convolutions there | placements | trainings | direction, lowest to highest | held-out loss, lowest to highest |",
        "| --- " * 5 + "|",
    ]
    for count, group in trainings.groupby(counts):
        direction, loss = group["direction_accuracy"], group["loss"]
        lines.append(
            f"| {count} | {group['architecture'].nunique()} | {len(group)} | {direction.min():.2f} to {direction.max():.2f} | "
            f"{loss.min():.3f} to {loss.max():.3f} |"
        )
    return "\n".join(lines)


def under_another(stats: pd.DataFrame, latency: float, mean: float) -> bool:
    """Whether a named point of the picture is close to this one and higher, so that a name above this one would meet its name."""
    named = stats[stats.index.get_level_values("group") != RANDOM]
    x, y = named.index.get_level_values("latency_ms").to_numpy(), named["mean"].to_numpy()
    near = (abs(x - latency) < CLOSE * np.ptp(x)) & (abs(y - mean) < CLOSE * np.ptp(y))
    return bool((near & (y > mean)).any())


def draw(rows: pd.DataFrame, path: Path) -> None:
    """Latency against the measures in `SHOWN`: a point for each architecture, the mean over its seeds and their range."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    from nas.report.palette import INK, MARK, QUIET, WARN

    plt.rcParams.update({"svg.hashsalt": "nas", "font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    styles = {RANDOM: ("o", QUIET), PATTERN: ("s", INK), FOUND: ("*", MARK)}
    figure, axes = plt.subplots(1, len(SHOWN), figsize=(8.4, 3.4), layout="constrained")
    for ax, measure in zip(axes, (m for m in MEASURES if m.column in SHOWN)):
        stats = rows.groupby(["architecture", "group", "latency_ms"])[measure.column].agg(["mean", "min", "max"])
        for (name, group, latency), (mean, low, high) in stats.iterrows():
            marker, color = styles[group]
            ax.errorbar(latency, mean, [[mean - low], [high - mean]], color=color, lw=0.8, fmt="none", alpha=0.6)
            ax.plot(latency, mean, marker, color=color, ms=12 if group == FOUND else 5, zorder=3, mew=0)
            if group != RANDOM:
                offset = (7, -12) if under_another(stats, latency, mean) else (7, 5)
                ax.annotate(name, (latency, mean), xytext=offset, textcoords="offset points", color=color)
        found = float(rows.loc[rows["group"] == FOUND, "latency_ms"].iloc[0])
        budget = float(rows["budget_ms"].iloc[0])
        ax.axvspan(found * (1 - NEAR), min(found * (1 + NEAR), budget), color=MARK, alpha=0.07, lw=0)
        ax.axvline(budget, color=WARN, lw=0.8, ls="--")
        ax.annotate("budget", (budget, 0.02), xycoords=("data", "axes fraction"), xytext=(3, 0),
                    textcoords="offset points", color=WARN)  # fmt: skip
        ax.set_xlabel("latency of a denoising step by the lookup table, ms")
        ax.set_ylabel(f"{measure.title} ({'higher' if measure.higher else 'lower'} is better)")
        ax.margins(x=0.12)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
