"""Five seconds on an iPhone 16 Pro Max, by estimate: the placements of `snapgen_v` that a roofline table allows.

    python benchmarks/five_seconds.py --out docs/benchmarks/five_seconds.md

For bounds on the generation time of the space's clip, the exact solver finds the placement with a layer in as many slots
as possible, and among these one with the most parameters, up to 0.65B; and the fastest placement that has at least 0.5B.
Without a trained supernet there is no quality to search for, so these stand for it: the page is about time. It takes
seconds, and writes the picture beside the page.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot as plt

import nas
from nas.costs.clip_summary import clip_summary
from nas.errors import BudgetError
from nas.report import plots
from nas.search import optimum
from nas.search.problem import Scores
from nas.spaces import NONE, Architecture

SPACE, TABLE = "snapgen_v", "snapgen_v.roofline.iphone_16_pro_max"
FEWEST, MOST = 500e6, 650e6
MEMORY = "memory<=3GB"
"""What an application may use of 8 GB without an entitlement (see the table's .meta.json)."""
BOUNDS_S = (5.0, 4.0, 3.5, 3.25, 3.0)
PAPER_S, PAPER_DECODER_S = 4.12, 0.54
"""SnapGen-V (arXiv 2412.10494): seconds per clip on the phone, and of it the decoder (temporal 0.21, spatial 0.33)."""


@dataclass(frozen=True)
class Placement:
    """An architecture, and whether the solver proved it the best within its budget."""

    architecture: Architecture
    params: int
    seconds: float
    proved: bool


class Search:
    """The solver on the space and the table."""

    def __init__(self) -> None:
        self.space = nas.SearchSpace.load(SPACE)
        self.cost = nas.CostModel(self.space, nas.LookupTable.load(TABLE))
        slots = zip(self.space.slots.items(), self.cost.terms().params)
        self.params = {slot: dict(zip(choices, params.tolist())) for (slot, choices), params in slots}
        self.layers = {  # a layer counts more than all parameters together
            slot: {choice: (choice != NONE) + count / 1e9 for choice, count in counts.items()}
            for slot, counts in self.params.items()
        }

    def best(self, scores: Scores, seconds: float) -> Placement | None:
        """The placement with the greatest score within a generation time; None if no placement is."""
        budget = nas.Budget.parse(f"generation<={seconds:.6f}s, {MEMORY}, params<={MOST:.0f}")
        try:
            found = optimum(self.space, self.cost, scores, self.cost.resolve_budget(budget))
        except BudgetError:
            return None
        cost = self.cost.predict(found.architecture)
        return Placement(found.architecture, cost.params, cost.generation_s, found.proved)

    def fastest(self) -> Placement:
        """The fastest placement with `FEWEST` parameters, to a millisecond: by bisection of the bound."""
        low, high = 0.0, BOUNDS_S[0]
        best = self.best(self.params, high)
        assert best is not None and best.params >= FEWEST
        while high - low > 1e-3:
            middle = (low + high) / 2
            found = self.best(self.params, middle)
            if found is not None and found.params >= FEWEST:
                best, high = found, middle
            else:
                low = middle
        return best


def parts(search: Search, placement: Placement) -> dict[str, float]:
    """Seconds by part of the clip."""
    cost = search.cost.predict(placement.architecture)
    frame = search.cost.generation().parts(cost.latency_ms, "estimated")
    return dict(zip(frame["part"], frame["seconds"]))


def page(search: Search, fronts: list[tuple[float, Placement | None]], fastest: Placement) -> str:
    largest = fronts[0][1]
    assert largest is not None
    rows = "\n".join(front_row(bound, placement) for bound, placement in fronts)
    of_fastest, of_largest = parts(search, fastest), parts(search, largest)
    part_rows = "\n".join(
        f"| {part} | {of_fastest[part]:.2f} s | {of_largest[part]:.2f} s | {paper} |"
        for part, paper in (
            ("text encoder", "in the rest"),
            ("denoiser", f"{PAPER_S - PAPER_DECODER_S:.2f} s, with the text encoder"),
            ("decoder", f"{PAPER_DECODER_S} s"),
        )
    )
    denoiser = of_fastest["denoiser"]
    ratio = (PAPER_S - PAPER_DECODER_S) / denoiser
    slow = fastest.seconds - denoiser + PAPER_S - PAPER_DECODER_S
    decoder_ratio = of_fastest["decoder"] / PAPER_DECODER_S
    met = "is met" if largest.seconds <= BOUNDS_S[0] else f"is missed by {largest.seconds - BOUNDS_S[0]:.2f} s"
    return f"""# Five seconds on an iPhone 16 Pro Max, by estimate

`python benchmarks/five_seconds.py --out docs/benchmarks/five_seconds.md`. **Nothing on this page was measured on a phone.** The
latencies are the shipped roofline table's, computed from the phone's peak figures (`nas table show {TABLE}`);
the space is `{SPACE}`, which makes a {search.space.clip}.

The paper makes a five-second clip in {PAPER_S} s on this phone, with 0.6B parameters and four steps. Is a placement of
0.5-0.65B within five seconds by our own estimate? By it, the bound {met}:

> {clip_summary(search.cost, largest.architecture)}

That is the placement with a layer in as many slots as possible and then the most parameters, up to {MOST / 1e6:.0f}M and 3 GB of
memory: {largest.params / 1e6:.1f}M parameters; {tally(largest.architecture)}.
The bars of the picture are milliseconds of a step.

![The placement](../images/five_seconds.svg)

The same by other bounds, each {"proved the best" if all(p.proved for _, p in fronts if p) else "as far as it was proved"} by the exact solver:

| budget | parameters | clip | proved | layers |
| --- | --- | --- | --- | --- |
{rows}

The fastest placement with at least {FEWEST / 1e6:.0f}M parameters, found by bisection of the bound, takes {fastest.seconds:.2f} s: {fastest.params / 1e6:.1f}M;
{tally(fastest.architecture)}.

Layers and parameters stand in for quality here: without a trained supernet there is none to search for. With one, the same
budget is `nas search --budget "generation<=5s, {MEMORY}, params<=650M"`.

## The parts of the time, beside the paper's

| part | fastest, {fastest.params / 1e6:.0f}M | largest, {largest.params / 1e6:.0f}M | the paper |
| --- | --- | --- | --- |
{part_rows}
| clip | {fastest.seconds:.2f} s | {largest.seconds:.2f} s | {PAPER_S} s |

## Where the estimate is likely wrong

- **Denoising is too fast.** The paper's takes {ratio:.1f} times as long as our fastest. A roofline assumes the peak of half the
  35 trillion operations a second that Apple states, and perfect overlap; layers of a UNet reach a part of it, and the
  shapes of the paper's latents are not public. If our denoiser took as long as the paper's, the clip would take
  {slow:.1f} s{", over the bound" if slow > BOUNDS_S[0] else ", still within the bound"}.
- **The decoder is too slow or too large.** It takes {decoder_ratio:.1f} times the paper's. By the roofline it is bound by memory
  traffic at 512x512: every activation is taken to travel to memory and back, which a compiler that fuses avoids. The
  paper's decoder is not public; ours has the widths in the space's file, which are an assumption, like the compression.
- **Attention over all tokens does not fit.** `SelfAttention3D` at 64x64 and 32x32 and `CrossAttention3D` at 64x64 would hold
  their scores in memory; the table has them as infeasible. A runtime with a fused attention would make them slow and not impossible.
- Heat, other applications, and the first run's compilation are in no figure here.

A table measured on the phone replaces all of this: [profile a phone](../jobs/profile_a_phone.md).
"""


def front_row(bound: float, placement: Placement | None) -> str:
    if placement is None:
        return f"| {bound:g} s | none | | | |"
    proved = "yes" if placement.proved else "no"
    size = f"{placement.params / 1e6:.1f}M"
    return f"| {bound:g} s | {size} | {placement.seconds:.2f} s | {proved} | {tally(placement.architecture)} |"


def tally(architecture: Architecture) -> str:
    """How many slots hold each choice: `13 Conv3D, 4 Conv1D`."""
    choices = Counter(architecture.choices.values())
    return ", ".join(f"{count} {choice}" for choice, count in choices.most_common())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the page; the picture goes to ../images")
    args = parser.parse_args()
    search = Search()
    fastest = search.fastest()
    fronts = [(bound, search.best(search.layers, bound)) for bound in BOUNDS_S]
    args.out.write_text(page(search, fronts, fastest))
    plt.rcParams["svg.hashsalt"] = "nas"
    shown = fronts[0][1]
    assert shown is not None
    ax = plots.plot_architecture(search.space, shown.architecture, search.cost.predict(shown.architecture))
    ax.figure.savefig(args.out.parent.parent / "images" / "five_seconds.svg", metadata={"Date": None})
    print(args.out.read_text())


if __name__ == "__main__":
    main()
