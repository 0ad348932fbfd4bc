"""Completing commands, options and paths in the shell."""

from __future__ import annotations

import argparse

from nas.cli.command import command

SHELLS = ("bash", "zsh", "fish")


@command(
    "completion",
    "print what makes a shell complete nas commands",
    "nas completion bash > ~/.local/share/bash-completion/completions/nas",
    lambda parser: parser.add_argument("shell", choices=SHELLS, help=", ".join(SHELLS)),
)
def completion(args: argparse.Namespace) -> None:
    import shtab

    from nas.cli import parser

    print(shtab.complete(parser(), shell=args.shell))
