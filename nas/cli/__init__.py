"""The command line: parse, call, print. No logic of its own.

Commands are click commands in the modules of this package, imported when they are used; what a command needs is imported
inside its function, so that `nas --help` loads nothing heavy.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys

from nas.cli.interrupts import Interrupts

with Interrupts() as _loading:
    import click

    from nas import __version__
    from nas.cli.command import Group, usage_message
    from nas.cli.ending import FAILED, STOPPED, close_output, discard_output, explained

COMPLETE = "_NAS_COMPLETE"
"""The environment variable through which a shell's completion script asks for completions."""

COMMANDS = {
    "run": "nas.cli.job",
    "report": "nas.cli.job",
    "dashboard": "nas.cli.job",
    "space": "nas.cli.space",
    "profile": "nas.cli.profiling",
    "transfer": "nas.cli.profiling",
    "calibrate": "nas.cli.profiling",
    "doctor": "nas.cli.profiling",
    "bundle": "nas.cli.bundle",
    "table": "nas.cli.table",
    "cost": "nas.cli.search",
    "search": "nas.cli.search",
    "optimum": "nas.cli.searching.optimum",
    "sweep": "nas.cli.searching.optimum",
    "prepare": "nas.cli.data",
    "prune": "nas.cli.models",
    "train": "nas.cli.training",
    "generate": "nas.cli.training",
    "evaluate": "nas.cli.training",
    "export": "nas.cli.export",
    "serve": "nas.cli.export",
    "web": "nas.cli.export",
    "completion": "nas.cli.completion",
}
"""The module of each command, in the order of `nas --help`."""

RENAMED = {"pack": "nas bundle create", "measure": "nas bundle measure", "collect": "nas bundle collect"}


@click.group(
    "nas",
    cls=Group,
    help="Hardware-aware architecture search for mobile video diffusion. Every command's --help has an example.",
    example="nas run configs/demo.yaml",
    modules=COMMANDS,
    renamed=RENAMED,
)
@click.version_option(__version__, message="nas %(version)s")
def program() -> None:
    pass


def main(argv: list[str] | None = None) -> int:
    """Run a command; errors that a person causes are one line on stderr and exit status 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot show must not fail the command
            stream.reconfigure(errors="backslashreplace")
    context: click.Context | None = None
    with Interrupts() as interrupts:
        try:
            if _loading.seen:
                raise KeyboardInterrupt
            if argv is None and COMPLETE in os.environ:
                return _complete(os.environ[COMPLETE])
            try:
                context = program.make_context("nas", list(sys.argv[1:] if argv is None else argv))
                status = program.invoke(context)
            except click.exceptions.Exit as done:  # of --help and --version
                status = done.exit_code
            close_output()
            return status or 0
        except BaseException as error:
            running = context.meta.get("nas.command") if context else None
            name = running.command_path if running else "nas"
            if interrupts.seen or _loading.seen or isinstance(error, KeyboardInterrupt):
                resumable = running and running.command.resumable
                status, line = STOPPED, f"stopped{'; run the same command again to resume' if resumable else ''}"
            elif isinstance(error, click.UsageError):
                name = error.ctx.command_path if error.ctx else name
                status, line = FAILED, usage_message(error)
            else:
                status, line = explained(error, running.params.get("out") if running else None)
            with contextlib.suppress(OSError):
                close_output()
            if isinstance(error, OSError):
                discard_output()
    if argv is None and status == STOPPED:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C pressed again while Python exits
    if line:
        with contextlib.suppress(OSError):
            print(f"{name}: {' '.join(line.split())}", file=sys.stderr)
    return status


def _complete(instruction: str) -> int:
    from click.shell_completion import shell_complete

    return shell_complete(program, {}, "nas", COMPLETE, instruction)
