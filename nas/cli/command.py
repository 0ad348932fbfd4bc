"""The click classes of `nas` commands, and the parameters that several commands share."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from nas.errors import ConfigError, SpaceError, suggestion

WIDTH = 110
"""Columns of a help page on a wide terminal."""


class _Documented(click.Command):
    """A command whose `--help` page ends with an example.

    Args:
        example: a call of the command, as a person types it.
        also: other calls that differ much from it.
        resumable: whether running a stopped command again continues where it stopped.
    """

    def __init__(
        self, *args: Any, example: str = "", also: tuple[str, ...] = (), resumable: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(*args, **{"context_settings": {"max_content_width": WIDTH}, **kwargs})
        self.example, self.also, self.resumable = example, also, resumable

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        text = (self.help or "").strip()
        formatter.write_paragraph()
        formatter.write_text(text[:1].upper() + text[1:] + ("" if text.endswith(".") else "."))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write(f"\nExample:\n  {self.example}\n")
        formatter.write("".join(f"  {call}\n" for call in self.also))

    def get_short_help_str(self, limit: int = 45) -> str:
        return self.help or ""


class Command(_Documented):
    """A command that accepts each option once, unless the option may be repeated."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        args = _repeat_option_names(self, args)
        if not ctx.resilient_parsing:
            try:
                _, _, order = self.make_parser(ctx).parse_args(list(args))
            except click.UsageError as error:
                error.ctx = ctx
                raise
            given = Counter(map(id, order))
            for parameter in self.params:
                once = isinstance(parameter, click.Option) and not (parameter.multiple or parameter.is_flag)
                if once and given[id(parameter)] > 1:
                    raise click.UsageError(f"{parameter.opts[-1]}: given twice; give it once", ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        ctx.meta["nas.command"] = ctx
        return super().invoke(ctx)


class Group(_Documented, click.Group):
    """Commands that are imported when they are used.

    Args:
        modules: the module of each command, which defines it under the command's name.
        renamed: for names of earlier versions, what replaces them.
    """

    def __init__(
        self,
        *args: Any,
        modules: Mapping[str, str] | None = None,
        renamed: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, no_args_is_help=False, subcommand_metavar="COMMAND ...", **kwargs)
        self.modules, self.renamed = modules or {}, renamed or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.modules, *self.commands]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in self.modules:
            return getattr(importlib.import_module(self.modules[name]), name)
        return super().get_command(ctx, name)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not (args or ctx.resilient_parsing):
            raise click.UsageError("missing COMMAND", ctx)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, known = args[0], self.list_commands(ctx)
        if not (ctx.resilient_parsing or name in known):
            if name in self.renamed:
                raise click.UsageError(f"'{ctx.command_path} {name}' is now '{self.renamed[name]}'", ctx)
            raise click.UsageError(f"unknown command '{name}'{suggestion(name, known)}", ctx)
        return super().resolve_command(ctx, args)


class RepeatableOption(click.Option):
    """An option that takes one or several values each time it is given: `--prompt a b --prompt c`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, multiple=True, **kwargs)


def _repeat_option_names(command: click.Command, args: list[str]) -> list[str]:
    """`--prompt a b` as `--prompt a --prompt b`, which is what click parses."""
    names = {name for option in command.params if isinstance(option, RepeatableOption) for name in option.opts}
    repeated: list[str] = []
    current, expects_value = "", False
    for word in args:
        name, equals, _ = word.partition("=")
        if name in names:
            current, expects_value = name, not equals
        elif expects_value:
            expects_value = False
        elif word.startswith("-"):
            current = ""
        elif current:
            repeated.append(current)
        repeated.append(word)
    return repeated


def usage_message(error: click.UsageError) -> str:
    """What is wrong with a call, in one line that names the parameter and where to read about it."""
    text = error.message
    if isinstance(error, click.MissingParameter) and error.param is not None:
        text = f"missing {error.param.param_type_name} {_name(error)}"
    elif isinstance(error, click.BadParameter) and error.param is not None:
        text = f"{_name(error)}: {error.message}"
    elif isinstance(error, click.NoSuchOption):
        options = [name for parameter in error.cmd.params for name in parameter.opts] if error.cmd else []
        known = [*(name for name in options if name.startswith("-")), "--help"]
        text = f"unknown option '{error.option_name}'{suggestion(error.option_name, known)}"
    elif isinstance(error, click.BadOptionUsage):
        text = f"{error.option_name}: needs a value"
    if error.ctx is None:
        return text
    text = text.removeprefix("Got ").rstrip(".")
    return f"{text}{'' if text.endswith('?') else ';'} see '{error.ctx.command_path} --help'"


def _name(error: click.BadParameter) -> str:
    if isinstance(error.param, click.Option):
        return error.param.opts[-1]
    return error.param.human_readable_name if error.param else ""


# -- types -------------------------------------------------------------------------------------------------------------


class _Count(click.IntRange):
    """An integer of at least 1."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        number = click.INT.convert(value, param, ctx)
        if number < 1:
            self.fail(f"must be at least 1, not {number}", param, ctx)
        return number


class _Text(click.ParamType):
    """Words for a model, not a path: they must be valid Unicode."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return os.fsencode(value).decode("utf-8")
        except UnicodeError:
            self.fail("is not valid UTF-8 text", param, ctx)


class _Space(click.Path):
    """A search space: the name of a shipped one, or a path; the shell completes both."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        from nas.spaces.load import shipped_spaces

        names = [CompletionItem(name) for name in shipped_spaces() if name.startswith(incomplete)]
        return names or super().shell_complete(ctx, param, incomplete)


COUNT, TEXT, SPACE = _Count(min=1), _Text(), _Space(readable=False)
PATH = click.Path(readable=False)
"""A path that the shell completes. Whether it can be used is checked where it is opened."""

# -- decorators --------------------------------------------------------------------------------------------------------


def option(*names: str, **attributes: Any) -> Callable:
    """`click.option` that shows defaults."""
    return click.option(*names, **{"show_default": True, **attributes})


space_option = option("--space", required=True, metavar="S", type=SPACE, help="a shipped search space, or a YAML file")
device_option = option(
    "--device", metavar="D", help="cpu, cuda, cuda:1 or mps  [default: a CUDA GPU if there is one, otherwise the CPU]"
)
pipeline_option = option(
    "--pipeline", is_flag=True, help="also the text encoder and the decoder, for the generation time of a clip"
)
json_option = click.option("--json", "as_json", is_flag=True, help="print JSON for scripts")


def page_options(function: Callable) -> Callable:
    """`--port`, `--https` and `--browser` of the web runtime; see `given_options`."""
    decorators = [
        option(
            "--port", type=click.IntRange(0, 65535), metavar="N", help="web: of the page's address  [default: free]"
        ),
        option(
            "--https", is_flag=True, help="web: over https, so that the page keeps the screen on; browsers warn once"
        ),
        option("--browser", metavar="PROGRAM", help="web: measure in this Chromium on this machine, not on a phone"),
    ]
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


def runtime_options(function: Callable) -> Callable:
    """`--runtime`, `--device` and the settings of runtimes; see `given_options`."""
    runtimes = "what runs the workloads: eager, litert, coreml, web or roofline"
    decorators = [
        option("--runtime", default="eager", metavar="R", help=runtimes),
        option(
            "--device",
            default="local",
            metavar="D",
            help="where they run; local is this machine. web: the phone's name",
        ),
        option("--threads", type=COUNT, metavar="N", help="CPU threads of each workload  [default: 1]"),
        option("--precision", metavar="P", help="litert: weights in float32, float16 or int8  [default: float32]"),
        option("--compute-unit", metavar="U", help="coreml: all, cpu, cpu+gpu or cpu+ne  [default: all]"),
        option("--target", metavar="OS", help="coreml: iOS17 or iOS18  [default: iOS17]"),
        page_options,
    ]
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


def given_options(**options: Any) -> dict[str, Any]:
    """The options that were given: neither None nor a flag that is off."""
    return {name: value for name, value in options.items() if value is not None and value is not False}


def cost_options(function: Callable) -> Callable:
    """`--space`, `--table` and how to read the tables: the arguments of `cost_model`."""
    decorators = [
        space_option,
        option(
            "--table",
            "tables",
            required=True,
            multiple=True,
            metavar="T.csv",
            type=PATH,
            help="a lookup table, or a shipped table's name; NAME=T.csv for each of several devices",
        ),
        option("--estimates", is_flag=True, help="accept a table that mixes measured and estimated rows"),
        option("--interpolate", is_flag=True, help="interpolate operators that the table lacks, with an interval"),
        option("--steps", type=COUNT, default=4, metavar="N", help="denoising steps of a clip"),
        option("--guidance", is_flag=True, help="use classifier-free guidance: two denoiser calls per step"),
    ]
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


# -- what several commands do ------------------------------------------------------------------------------------------


def print_json(value: object) -> None:
    """Print JSON; NaN and infinity, which JSON lacks, become null."""
    text = json.dumps(value, default=lambda x: dataclasses.asdict(x) if dataclasses.is_dataclass(x) else str(x))
    print(json.dumps(json.loads(text, parse_constant=lambda _: None), indent=2))


def load_architecture(path: str, space: str) -> Any:
    """The architecture in a file, checked against a search space."""
    from nas.spaces import Architecture, SearchSpace

    try:
        return SearchSpace.load(space).check(Architecture.load(path))
    except SpaceError as error:
        prefix = "" if str(error).startswith(space) else f"{path}: "
        raise SpaceError(f"{prefix}{error}") from None


def cost_model(space: str, tables: Sequence[str], **options: Any) -> Any:
    """The costs of `--space` and `--table`, of one device or of several; the options are those of `nas.CostModel`."""
    from nas.costs import CostModel, DeviceCosts, LookupTable
    from nas.spaces import SearchSpace

    named = _named_tables(tables)
    loaded = SearchSpace.load(space)
    models = {name: CostModel(loaded, LookupTable.load(path), **options) for name, path in named.items()}
    return models[""] if "" in models else DeviceCosts(models)


def check_outputs(outputs: Mapping[str, object], tables: Sequence[str], *others: str) -> None:
    """Refuse to write a file that is read, or one for two options.

    Args:
        outputs: the files to write, by option; None for options that were not given.
        tables: as of `--table`.
        others: what else is read, whether these are files or not.

    Raises:
        ConfigError: as said.
    """
    from pathlib import Path

    taken = {Path(path).resolve(): "a file that is read" for path in (*_named_tables(tables).values(), *others)}
    for name, path in outputs.items():
        if path is None:
            continue
        resolved = Path(str(path)).resolve()
        if resolved in taken:
            raise ConfigError(f"{name} {path}: is {taken[resolved]}; give another file")
        taken[resolved] = f"the file of {name}"


def _named_tables(tables: Sequence[str]) -> dict[str, str]:
    """The paths of `--table NAME=T.csv` by name; a single one may have none."""
    from pathlib import Path

    from nas.costs.budget import DEVICE_NAME

    named: dict[str, str] = {}
    for text in tables:
        name, sign, path = text.partition("=")
        if not sign or not DEVICE_NAME.fullmatch(name) or Path(text).exists():
            name, path = "", text
        if not name and len(tables) > 1:
            raise ConfigError(f"--table {text}: several tables need names of their devices: --table iphone={text}")
        if not path:
            raise ConfigError(f"--table {text}: needs a table: --table {name}=T.csv")
        if name in named:
            raise ConfigError(f"--table {text}: '{name}' has a table already; give each device one name and one table")
        named[name] = path
    return named
