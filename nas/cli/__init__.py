"""The command line: parse, call, print. No logic of its own.

Each command is a function `NAME(args)` with its arguments declared beside it; imports are inside, so that `nas --help`
loads nothing heavy.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from typing import NoReturn

from nas import __version__

from nas.cli import job, profiling, phones, table, search, data, models, training, export, completion  # noqa: F401  # isort: skip  (each registers its commands; --help keeps this order)
from nas.cli.command import COMMANDS, add
from nas.errors import FIXES, NasError, suggestion


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with a call in one line, as every other error here does."""

    def error(self, message: str) -> NoReturn:
        choice = re.fullmatch(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", message)
        if choice:
            name, given, known = choice.groups()
            message = f"{name}: nothing called '{given}'{suggestion(given, re.findall(r'[^, ]+', known.replace(chr(39), '')))}"
        self.exit(2, f"{self.prog}: {message}; see '{self.prog} --help'\n")


class _Help(argparse.HelpFormatter):
    """argparse forgets that subcommands are indented, and breaks the line after the longest names."""

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):
            self._action_max_length += self._indent_increment


# -- the program -------------------------------------------------------------------------------------------------------


PATHS = ("A.json", "C.yaml", "DIR", "J", "T.csv", "V.mp4", "config", "run")
"""Placeholders and names of the arguments that a shell completes with files."""


def parser() -> argparse.ArgumentParser:
    top = _Parser(
        prog="nas",
        description="Hardware-aware architecture search for mobile video diffusion.",
        epilog="'nas COMMAND --help' has an example of each.",
        formatter_class=_Help,
    )
    top.add_argument("--version", action="version", version=f"nas {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, this in COMMANDS.items():
        sub = add(commands, name, this.help, this.example)
        this.declare(sub)
        for action in sub._actions:
            if action.metavar in PATHS or action.dest in PATHS:
                action.complete = {"bash": "_shtab_compgen_files", "zsh": "_files", "fish": "__fish_complete_path"}
        sub.set_defaults(run_command=this.run, parser=sub)
    return top


def main(argv: list[str] | None = None) -> int:
    """Run a command; errors that a person causes are one line on stderr and exit status 2."""
    args, unknown = parser().parse_known_args(argv)
    if unknown:
        options = [option for action in args.parser._actions for option in action.option_strings]
        args.parser.error(f"no argument '{unknown[0]}'{suggestion(unknown[0], options)}")
    try:
        status = args.run_command(args)
    except NasError as error:
        return _failed(args, str(error))
    except BrokenPipeError:  # what reads our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        return _failed(args, f"{error.filename}: {error.strerror}; {FIXES.get(error.errno, 'give another path')}")
    except KeyboardInterrupt:
        print(f"nas {args.command}: stopped; run the same command again and it goes on", file=sys.stderr)
        return 130
    return status or 0


def _failed(args: argparse.Namespace, message: str) -> int:
    print(f"nas {args.command}: {' '.join(message.split())}", file=sys.stderr)
    return 2
