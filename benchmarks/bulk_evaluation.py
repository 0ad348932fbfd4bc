"""How many architectures per second a supernet scores: in batches that run shared layers once, and one by one.

    python benchmarks/bulk_evaluation.py [--space demo] [--clips 16] [--device cpu] [--out docs/benchmarks/bulk_evaluation.csv]

What a batch gains depends on how much its architectures have in common, so there are several kinds: random ones, the
children of 20 parents as an evolutionary search makes them, the proposals of the default sampler in the order in which it
made them, and all architectures that differ from one in a single slot. Scores are compared bit for bit; the weights are
random, since times do not depend on them. Both ways alternate, batch by batch, so that drift affects both.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import torch

from nas import distributed
from nas.costs import Budget, CostModel, LookupTable
from nas.diffusion.losses import validation_loss, validation_losses
from nas.files import write_atomic
from nas.models import Supernet
from nas.search import run
from nas.search.samplers.evolution import MOVES, mutate
from nas.spaces import NONE, Architecture, SearchSpace

COLUMNS = ("space", "device", "clips", "kind", "batch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="demo")
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--count", type=int, default=96, help="architectures of each kind")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--device", help="cpu, cuda, cuda:1 or mps; by default a GPU if there is one")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cpu-time", action="store_true", help="CPU time instead of wall time, for a busy machine")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/bulk_evaluation.csv"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with distributed.use_device(options.device):
        device = distributed.device()
    space, rng = SearchSpace.load(options.space), np.random.default_rng(0)
    model, latents, contexts = inputs(space, options.clips, device)
    clock = time.process_time if options.cpu_time else time.perf_counter
    rows = []
    for kind in options.kinds:
        archs = KINDS[kind](space, options.count, rng)
        for batch in options.batches:
            rates = compare(model, latents, contexts, archs, batch, clock)
            rows.append(dict(zip(COLUMNS, (space.name, device.type, options.clips, kind, batch))) | rates)
            print(rows[-1], flush=True)
    keep(options.out, pd.DataFrame(rows))
    print(f"\n{options.threads} thread(s), torch {torch.__version__}, {'CPU' if options.cpu_time else 'wall'} time\n")
    print(table(pd.DataFrame(rows)))


def inputs(space: SearchSpace, clips: int, device: torch.device) -> tuple[Supernet, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = Supernet(space).eval()
    for parameter in model.temporal.parameters():  # zero outputs would make all scores equal
        parameter.data += 0.02 * torch.randn_like(parameter)
    latents = torch.randn(clips, *space.input_shape()[1:])
    contexts = torch.randn(clips, *space.context_shape()[1:])
    return model.to(device), latents.to(device), contexts.to(device)


def compare(model: Supernet, latents, contexts, archs: list[Architecture], batch: int, clock: Callable) -> dict:
    """Evaluations per second both ways, and the share of single scores that a batch gives bit for bit."""
    seconds, equal, worst, done = {"alone": 0.0, "together": 0.0}, 0, 0.0, 0
    validation_loss(model, latents, contexts, archs[0])  # warm up
    for first in range(0, len(archs), batch):
        part, start = archs[first : first + batch], clock()
        alone = [validation_loss(model, latents, contexts, arch) for arch in part]
        middle = clock()
        together = validation_losses(model, latents, contexts, part)
        seconds["alone"] += middle - start
        seconds["together"] += clock() - middle
        equal += sum(a == b for a, b in zip(alone, together))
        worst = max([worst, *(abs(a / b - 1) for a, b in zip(alone, together))])
        done += len(part)
    rates = {f"{name}_per_s": round(done / spent, 3) for name, spent in seconds.items()}
    ratio = round(seconds["alone"] / seconds["together"], 2)
    return {"architectures": done, **rates, "ratio": ratio, "equal": equal / done, "largest_difference": worst}


# -- kinds of batches ---------------------------------------------------------------------------------------------------


def at_random(space: SearchSpace, count: int, rng: np.random.Generator) -> list[Architecture]:
    return [space.random(rng) for _ in range(count)]


def children(space: SearchSpace, count: int, rng: np.random.Generator) -> list[Architecture]:
    """Of 20 parents that are each a few mutations from one architecture, as after some generations."""
    first = space.encode(space.random(rng))
    parents = [mutated(space, first, 4, rng) for _ in range(20)]
    return [space.decode(mutated(space, parents[rng.integers(20)], int(rng.geometric(0.5)), rng)) for _ in range(count)]


def mutated(space: SearchSpace, codes: np.ndarray, moves: int, rng: np.random.Generator) -> np.ndarray:
    for _ in range(moves):
        codes = space.encode(space.decode(mutate(space, codes, str(rng.choice(MOVES)), rng)))
    return codes


def proposals(space: SearchSpace, count: int, rng: np.random.Generator) -> list[Architecture]:
    """Of the default sampler: scores add up, and every layer costs the same; half of the slots may hold one."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    plain = SearchSpace(name="costs", slots=space.slots, links=space.links)
    frame = pd.DataFrame({"workload": plain.workloads(), "latency_ms": 1.0, "memory_mb": 0.0, "weights_mb": 0.0})
    cost = CostModel(plain, LookupTable.from_frame(frame.assign(params=0)))
    worth = {slot: dict(zip(choices, rng.gamma(2.0, size=len(choices)))) for slot, choices in space.slots.items()}

    def score(arch: Architecture) -> float:
        return sum(worth[slot][choice] for slot, choice in arch.items if choice != NONE)

    result = run(plain, cost, score, Budget(latency_ms=len(space.slots) / 2), trials=count)
    return [space.architecture(trial.params) for trial in result.study.trials]


def one_slot_changes(space: SearchSpace, count: int, rng: np.random.Generator) -> list[Architecture]:
    """All of them, slot by slot: what a table of single layers' worths takes."""
    base = space.random(rng)
    changes = [(slot, choice) for slot, choices in space.slots.items() for choice in choices]
    archs = [space.architecture({**base.choices, slot: choice}) for slot, choice in changes]
    return list(dict.fromkeys(archs))[:count]


KINDS = {
    "random": at_random,
    "children in an evolution": children,
    "proposals of the sampler": proposals,
    "one slot changed": one_slot_changes,
}

# -- results ------------------------------------------------------------------------------------------------------------


def keep(path: Path, rows: pd.DataFrame) -> None:
    """Add rows to a CSV; those of the same case are replaced."""
    if path.exists():
        known = pd.read_csv(path)
        same = known[list(COLUMNS)].apply(tuple, axis=1).isin(rows[list(COLUMNS)].apply(tuple, axis=1))
        rows = pd.concat([known[~same], rows])
    write_atomic(path, rows.to_csv(index=False))


def table(rows: pd.DataFrame) -> str:
    lines = ["| space | batches of | architectures | one by one, per s | together, per s | ratio |", "| --- " * 6 + "|"]
    lines += [
        f"| {row.space} | {row.kind} | {row.batch} | {row.alone_per_s:.2f} | {row.together_per_s:.2f} | {row.ratio:.2f} |"
        for row in rows.itertuples()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
