"""The command line: parse, call, print. No logic of its own.

Each command is a function `NAME(args)` with its arguments declared beside it; imports are inside, so that `nas --help`
loads nothing heavy.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import signal
import sys
from typing import Any, NoReturn

from nas.cli.interrupts import Interrupts

with Interrupts() as _loading:
    from nas import __version__
    from nas.cli import job, space, profiling, phones, table, search, data, models, training, export, completion  # noqa: F401  # isort: skip  (each registers its commands; --help keeps this order)
    from nas.cli.command import COMMANDS, add
    from nas.cli.ending import STOPPED, close_output, discard_output, explained
    from nas.errors import suggestion

RESUMABLE = ("run", "profile", "measure", "search", "train", "prepare")
"""Commands that keep what they have done when they are stopped."""


class _Once(argparse._StoreAction):
    """Refuses an option that is given twice; argparse would forget the first."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        if option is not None:
            given = vars(namespace).setdefault("_given", set())
            if self.dest in given:
                parser.error(f"{option}: given twice; give it once")
            given.add(self.dest)
        super().__call__(parser, namespace, values, option)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with a call in one line, as every other error here does."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in (None, "store"):
            self.register("action", name, _Once)

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
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot show is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    words = sys.argv[1:] if argv is None else argv
    name, out = "nas", None
    with Interrupts() as interrupts:
        try:
            if _loading.seen:
                raise KeyboardInterrupt
            args = _parse(words)
            name, out = f"nas {args.command}", getattr(args, "out", None)
            status = args.run_command(args)
            close_output()
            return status or 0
        except SystemExit as stop:  # argparse has said all
            with contextlib.suppress(OSError):
                close_output()
                raise
            discard_output()
            return stop.code or 1
        except BaseException as error:
            if interrupts.seen or _loading.seen or isinstance(error, KeyboardInterrupt):
                kept = "; run the same command again and it goes on" if name.removeprefix("nas ") in RESUMABLE else ""
                status, line = STOPPED, f"stopped{kept}"
            else:
                status, line = explained(error, out)
            with contextlib.suppress(OSError):
                close_output()
            if isinstance(error, OSError):
                discard_output()
    if argv is None and status == STOPPED:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # whoever presses it again while Python ends
    if line:
        with contextlib.suppress(OSError):
            print(f"{name}: {' '.join(line.split())}", file=sys.stderr)
    return status


def _parse(words: list[str]) -> argparse.Namespace:
    args, unknown = parser().parse_known_args(words)
    if unknown:
        options = [option for action in args.parser._actions for option in action.option_strings]
        args.parser.error(f"no argument '{unknown[0]}'{suggestion(unknown[0], options)}")
    return args
