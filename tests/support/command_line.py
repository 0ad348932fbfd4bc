"""Looking at the command line without running a command."""

from __future__ import annotations

from collections.abc import Iterator

import click

from nas.cli import program


def commands(group: click.Group = program, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command and group with its words after `nas`: `("table show", ...)`."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield f"{prefix}{name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")


def parse(words: list[str]) -> click.Context:
    """The context of a call: its command and parameters.

    Raises:
        click.UsageError: the call is wrong.
    """
    command, name, words = program, "nas", list(words)
    while isinstance(command, click.Group):
        context = command.make_context(name, list(words))
        name, command, words = command.resolve_command(context, words)
    return command.make_context(name, words)
