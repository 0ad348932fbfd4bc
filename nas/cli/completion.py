"""The command that prints a shell's completion script."""

from __future__ import annotations

import click

from nas.cli.command import Command

SHELLS = ("bash", "zsh", "fish")


@click.command(
    cls=Command,
    help="print a script that completes nas commands, options and paths in a shell",
    example="nas completion bash > ~/.local/share/bash-completion/completions/nas",
)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    from click.shell_completion import get_completion_class

    from nas.cli import COMPLETE, program

    print(get_completion_class(shell)(program, {}, "nas", COMPLETE).source())
