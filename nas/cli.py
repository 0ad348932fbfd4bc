"""The command line: parse, call, print. No logic of its own.

Each command is a function `NAME(args)` with its arguments declared beside it; imports are inside, so that `nas --help`
loads nothing heavy.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas import __version__
from nas.errors import ConfigError, NasError


@dataclass(frozen=True)
class Command:
    """A subcommand: what it does in a line, an example, how to declare its arguments, and what runs."""

    help: str
    example: str
    declare: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


COMMANDS: dict[str, Command] = {}


def command(name: str, help: str, example: str, declare: Callable[[argparse.ArgumentParser], None]) -> Callable:
    def register(run: Callable[[argparse.Namespace], None]) -> Callable[[argparse.Namespace], None]:
        COMMANDS[name] = Command(help, example, declare, run)
        return run

    return register


# -- the arguments that commands share ---------------------------------------------------------------------------------


def _space(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--space", required=True, metavar="S", help="a shipped search space's name, or a .yaml path")


def _space_and_table(parser: argparse.ArgumentParser) -> None:
    _space(parser)
    parser.add_argument("--table", required=True, metavar="T.csv", help="the lookup table")
    parser.add_argument(
        "--estimates", action="store_true", help="accept a table that mixes measured and estimated rows"
    )


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON for scripts")


def _cost_model(args: argparse.Namespace) -> Any:
    from nas.costs import CostModel, LookupTable
    from nas.spaces import SearchSpace

    return CostModel(SearchSpace.load(args.space), LookupTable.load(args.table), estimates=args.estimates)


# -- the whole job -----------------------------------------------------------------------------------------------------


def _declare_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="what to do, as YAML (configs/demo.yaml is an example)")
    parser.add_argument("--out", metavar="DIR", help="the run folder; default: runs/NAME")


@command("run", "the whole job: profile, search, train, export, report", "nas run configs/demo.yaml", _declare_run)
def run(args: argparse.Namespace) -> None:
    from nas.job import run_job
    from nas.report.summary import summary

    print(summary(run_job(args.config, args.out)))


# -- profiling ---------------------------------------------------------------------------------------------------------


def _declare_profile(parser: argparse.ArgumentParser) -> None:
    _space(parser)
    parser.add_argument("--runtime", default="eager", metavar="R", help="what compiles and runs them (default: eager)")
    parser.add_argument("--device", default="local", metavar="D", help="where it runs (default: this machine)")
    parser.add_argument("--out", required=True, metavar="T.csv", help="the lookup table; goes on where it stopped")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads of each workload (default: 1)")


@command(
    "profile",
    "measure a search space's workloads into a lookup table",
    "nas profile --space demo --runtime eager --out table.csv",
    _declare_profile,
)
def profile(args: argparse.Namespace) -> None:
    from nas.profiling import profile as measure
    from nas.spaces import SearchSpace

    options = {"threads": args.threads} if args.threads else {}
    table = measure(SearchSpace.load(args.space), args.runtime, args.device, args.out, **options)
    infeasible = int((table.frame["status"] != "ok").sum())
    print(f"{args.out}: {len(table.frame)} workloads, {infeasible} infeasible, {_sources(table.frame['source'])}")


def _sources(column: Any) -> str:
    return ", ".join(f"{count} {source}" for source, count in column.value_counts().items())


def _declare_calibrate(parser: argparse.ArgumentParser) -> None:
    _space(parser)
    parser.add_argument(
        "--table", required=True, metavar="T.csv", help="the lookup table; the correction goes beside it"
    )
    parser.add_argument("--models", type=int, default=8, metavar="N", help="whole models to measure (default: 8)")


@command(
    "calibrate",
    "measure a few whole models and fit the cost model's correction",
    "nas calibrate --space demo --table table.csv",
    _declare_calibrate,
)
def calibrate(args: argparse.Namespace) -> None:
    from nas.costs import LookupTable
    from nas.profiling import calibrate as fit
    from nas.spaces import SearchSpace

    found = fit(SearchSpace.load(args.space), LookupTable.load(args.table), count=args.models)
    print(found.models.to_string(index=False, float_format="{:.3f}".format))
    scale, offset_ms = found.calibration.scale, found.calibration.offset_ms
    print(f"\nlatency = {scale:.4f} x sum + {offset_ms:.4f} ms, kept beside {args.table}")
    print(f"mean error {found.error_before:.2%} before, {found.error_after:.2%} after on models left out of the fit")


# -- costs and search --------------------------------------------------------------------------------------------------


def _declare_cost(parser: argparse.ArgumentParser) -> None:
    _space_and_table(parser)
    parser.add_argument(
        "--arch", required=True, metavar="A.json", help="an architecture, as 'nas search --out' writes it"
    )
    _json(parser)


@command(
    "cost",
    "latency, memory and parameters of an architecture",
    "nas cost --space demo --table table.csv --arch architecture.json",
    _declare_cost,
)
def cost(args: argparse.Namespace) -> None:
    from nas.spaces import Architecture

    model = _cost_model(args)
    found = model.predict(Architecture.load(args.arch))
    if args.json:
        numbers = {"latency_ms": found.latency_ms, "memory_mb": found.memory_mb, "params": found.params}
        print(json.dumps({**numbers, "sources": model.sources, "slots": found.breakdown.to_dict("records")}, indent=2))
        return
    shown = found.breakdown.assign(params=found.breakdown["params"].map("{:,}".format)).rename(columns={"slot": ""})
    print(shown.to_string(index=False, float_format="{:.3f}".format))
    print(f"\nlatency  {found.latency_ms:10.3f} ms   ({' and '.join(model.sources)})")
    print(f"memory   {found.memory_mb:10.3f} MB   at its peak, weights included\nparams   {found.params:10,}")


def _declare_search(parser: argparse.ArgumentParser) -> None:
    _space_and_table(parser)
    parser.add_argument(
        "--budget", required=True, metavar="B", help="such as 'latency<=80ms, memory<=1.2GB, params<=600M'"
    )
    parser.add_argument(
        "--evaluator", required=True, metavar="E", help="a score table (.json/.csv) or a command with {arch}"
    )
    parser.add_argument("--out", required=True, metavar="A.json", help="where the best architecture goes")
    parser.add_argument("--trials", type=int, default=200, help="finished evaluations (default: 200)")
    parser.add_argument(
        "--sampler", default="budget", help="budget, evolution, or one of Optuna's: tpe, nsga2, gp, ..."
    )
    parser.add_argument("--storage", metavar="J", help="the study's journal or database URL; default: beside --out")
    parser.add_argument("--workers", type=int, default=1, help="evaluations at once (default: 1)")
    parser.add_argument("--seed", type=int, default=0)


@command(
    "search",
    "the best architecture inside a budget",
    "nas search --space demo --table table.csv --budget 'latency<=8ms' --evaluator scores.json --out best.json",
    _declare_search,
)
def search(args: argparse.Namespace) -> None:
    from nas.costs import Budget
    from nas.search import evaluator
    from nas.search import run as run_search

    model = _cost_model(args)
    budget = Budget.parse(args.budget, model.largest())
    storage = args.storage or str(Path(args.out).with_suffix(".journal"))
    result = run_search(
        model.space,
        model,
        evaluator(args.evaluator),
        budget,
        trials=args.trials,
        sampler=args.sampler,
        storage=storage,
        workers=args.workers,
        seed=args.seed,
    )
    result.best.save(args.out)
    found = model.predict(result.best)
    print(
        f"{args.out}: score {result.study.best_value:.4g}, {found.latency_ms:.3f} ms, {found.memory_mb:.3f} MB, {found.params:,} params"
    )
    print(f"{storage}: the study; open it with optuna-dashboard")


# -- using what was trained --------------------------------------------------------------------------------------------


def _declare_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stage", help="decoder, distill, supernet, finetune or adversarial")
    parser.add_argument(
        "--config", required=True, metavar="C.yaml", help="a recipe, as 'nas export --format recipe' writes it"
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="holds a folder per stage; goes on where it stopped"
    )


@command("train", "one stage of training", "nas train finetune --config recipe.yaml --out run", _declare_train)
def train(args: argparse.Namespace) -> None:
    from nas.training.recipe import train as train_stage

    result = train_stage(args.stage, args.config, args.out)
    print(f"{result.folder}: {json.dumps(result.metrics)}")


def _declare_generate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a finished stage's folder")
    parser.add_argument("--prompt", required=True, metavar="P")
    parser.add_argument("--out", required=True, metavar="V.mp4", help="a .mp4 or .gif file, or a folder for PNG frames")
    parser.add_argument("--steps", type=int, help="denoising steps (default: what the checkpoint was trained for)")
    parser.add_argument("--guidance", type=float, help="classifier-free guidance scale")
    parser.add_argument("--frames", type=int, help="length of the clip (default: as trained)")
    parser.add_argument("--seed", type=int, default=0)


@command(
    "generate",
    "text to video",
    "nas generate --checkpoint runs/demo/checkpoints/adversarial --prompt 'the digit three moves left' --out three.gif",
    _declare_generate,
)
def generate(args: argparse.Namespace) -> None:
    from nas.pipeline import Pipeline

    clips = Pipeline.from_pretrained(args.checkpoint)(
        args.prompt, steps=args.steps, guidance=args.guidance, frames=args.frames, seed=args.seed
    )
    print(clips.save(args.out))


def _declare_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a finished stage's folder")
    parser.add_argument("--format", required=True, metavar="F", help="coreml, litert or recipe")
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.add_argument("--table", metavar="T.csv", help="a lookup table, for the predicted latency in the manifest")
    parser.add_argument("--target", help="coreml: iOS17 or iOS18 (default: iOS17)")
    parser.add_argument("--bits", type=int, choices=(6, 8), help="coreml: palettise the weights")


@command(
    "export",
    "write a trained denoiser for a device or a training cluster",
    "nas export --checkpoint runs/demo/checkpoints/adversarial --format coreml --out export",
    _declare_export,
)
def export(args: argparse.Namespace) -> None:
    from nas.export import FORMATS

    if args.format not in FORMATS:
        from nas.errors import suggestion

        raise ConfigError(f"--format: nothing called '{args.format}'{suggestion(args.format, FORMATS)}")
    options = {name: getattr(args, name) for name in ("table", "target", "bits") if getattr(args, name) is not None}
    if args.format != "coreml" and {"target", "bits"} & set(options):
        raise ConfigError(f"--target and --bits are of the format coreml, not of '{args.format}'")
    if args.table:
        from nas.costs import LookupTable

        options["table"] = LookupTable.load(args.table)
    for path in FORMATS[args.format](Path(args.checkpoint), Path(args.out), **options):
        print(path)


@command(
    "report",
    "one self-contained HTML page of a run",
    "nas report runs/demo",
    lambda parser: parser.add_argument("run", help="a run folder"),
)
def report(args: argparse.Namespace) -> None:
    from nas.report import write

    print(write(Path(args.run)))


@command("doctor", "what works on this machine, and how to get what is missing", "nas doctor", _json)
def doctor(args: argparse.Namespace) -> None:
    from nas.profiling.doctor import examine

    checks = examine()
    if args.json:
        print(json.dumps([vars(check) for check in checks], indent=2))
        return
    for check in checks:
        print(f"{'ok     ' if check.works else 'missing'} {check.name:<22} {check.detail}")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with a call in one line, as every other error here does."""

    def error(self, message: str) -> None:
        self.exit(2, f"{self.prog}: {message}; see '{self.prog} --help'\n")


# -- the program -------------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    top = _Parser(
        prog="nas",
        description="Hardware-aware architecture search for mobile video diffusion.",
        epilog="'nas COMMAND --help' has an example of each.",
    )
    top.add_argument("--version", action="version", version=f"nas {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, this in COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=this.help,
            description=this.help[0].upper() + this.help[1:] + ".",
            epilog=f"example:\n  {this.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        this.declare(sub)
        sub.set_defaults(run_command=this.run)
    return top


def main(argv: list[str] | None = None) -> int:
    """Run a command; errors that a person causes are one line on stderr and exit status 2."""
    args = parser().parse_args(argv)
    try:
        args.run_command(args)
    except NasError as error:
        print(f"nas {args.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"nas {args.command}: stopped; run the same command again and it goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
