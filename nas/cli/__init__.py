"""The command line: parse, call, print. No logic of its own.

Each command is a function `NAME(args)` with its arguments declared beside it; imports are inside, so that `nas --help`
loads nothing heavy.
"""

from __future__ import annotations

import argparse
import sys

from nas import __version__

from nas.cli import job, profiling, search, training, export  # noqa: F401  # isort: skip  (each registers its commands; --help keeps this order)
from nas.cli.command import COMMANDS
from nas.errors import NasError


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
