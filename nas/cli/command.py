"""What a command is, and the arguments that commands share."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Command:
    """A subcommand: what it does in a line, an example, how to declare its arguments, and what runs.

    `run` returns an exit status where that says something (`nas table check`).
    """

    help: str
    example: str
    declare: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]


COMMANDS: dict[str, Command] = {}


def command(name: str, help: str, example: str, declare: Callable[[argparse.ArgumentParser], None]) -> Callable:
    def register(run: Callable[[argparse.Namespace], int | None]) -> Callable[[argparse.Namespace], int | None]:
        COMMANDS[name] = Command(help, example, declare, run)
        return run

    return register


def add(subparsers: Any, name: str, help: str, example: str) -> argparse.ArgumentParser:
    """A command's parser, or that of one of its actions; `--help` has an example of it."""
    return subparsers.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def space(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--space", required=True, metavar="S", help="a shipped search space's name, or a .yaml path")


def space_and_table(parser: argparse.ArgumentParser) -> None:
    space(parser)
    parser.add_argument(
        "--table",
        required=True,
        metavar="T.csv",
        help="the lookup table: a file, or a shipped table's name (snapgen_v.litert)",
    )
    parser.add_argument(
        "--estimates", action="store_true", help="accept a table that mixes measured and estimated rows"
    )
    parser.add_argument(
        "--interpolate", action="store_true", help="interpolate operators that the table lacks, with an interval"
    )
    parser.add_argument(
        "--steps", type=at_least_one, default=4, metavar="N", help="denoising steps of a whole clip (default: 4)"
    )
    parser.add_argument(
        "--guidance", action="store_true", help="with classifier-free guidance, which runs the denoiser twice a step"
    )


def at_least_one(text: str) -> int:
    """The type of an argument that counts something."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def text(value: str) -> str:
    """The type of an argument that is words for a model, not a path."""
    try:
        return os.fsencode(value).decode("utf-8")
    except UnicodeError:
        raise argparse.ArgumentTypeError("is not valid UTF-8 text") from None


class Joined(argparse.Action):
    """An option that may be given several times; the values are joined by commas."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, values if before is None else f"{before}, {values}")


def as_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON for scripts")


def print_json(value: object) -> None:
    """NaN and infinity, which JSON does not have, as null."""
    text = json.dumps(value, default=lambda x: dataclasses.asdict(x) if dataclasses.is_dataclass(x) else str(x))
    print(json.dumps(json.loads(text, parse_constant=lambda _: None), indent=2))


def architecture(args: argparse.Namespace) -> Any:
    """The architecture of `--arch`, checked against `--space`."""
    from nas.errors import SpaceError
    from nas.spaces import Architecture, SearchSpace

    try:
        return SearchSpace.load(args.space).check(Architecture.load(args.arch))
    except SpaceError as error:
        where = "" if str(error).startswith(args.space) else f"{args.arch}: "
        raise SpaceError(f"{where}{error}") from None


def cost_model(args: argparse.Namespace) -> Any:
    from nas.costs import CostModel, LookupTable
    from nas.spaces import SearchSpace

    options = {name: getattr(args, name) for name in ("estimates", "interpolate", "steps", "guidance")}
    return CostModel(SearchSpace.load(args.space), LookupTable.load(args.table), **options)
