"""The `beast` program: a table of commands, each loaded only when it runs, and the wall where errors become words."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from beastd import __version__
from beastd.errors import BeastError

COMMANDS: Mapping[str, str] = {
    "run": "Answer a prompt, or chat when there is none.",
    "list": "Show the models there are.",
    "ps": "Show the models that are loaded.",
    "show": "Tell about one model.",
    "stop": "Unload a model.",
    "bench": "Measure the speed of a model, here or on any server.",
    "serve": "Run the daemon in the foreground.",
    "status": "Tell how the daemon is.",
    "shutdown": "Stop the daemon.",
    "version": "Show the versions of beast and beastd.",
}
"""Name → one line of help; the function of that name is in ``beastctl.commands.<name>``, with `list` as `list_`."""
ALIASES: Mapping[str, str] = {"ls": "list", "start": "serve"}


class SectionedCommand(TyperCommand):
    """A command whose help groups its options by their panel; typer does so only with rich, which is slow to load."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each panel, in the order the options are declared in."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            title = "Arguments" if param.param_type_name == "argument" else "Options"
            if (record := param.get_help_record(ctx)) is not None:
                sections.setdefault(getattr(param, "rich_help_panel", None) or title, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


class _Loader(dict[str, Any]):
    """Names of the table → commands, imported when asked for."""

    def __init__(self) -> None:
        super().__init__(dict.fromkeys(COMMANDS))

    def get(self, key: str, default: Any = None) -> Any:
        name = ALIASES.get(key, key)
        return load(name) if name in COMMANDS else default


class LazyCommands(TyperGroup):
    """The group of all commands. Their modules are imported when one runs, not to list them."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _Loader()

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Names in the table's order."""
        return list(COMMANDS)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """The table, without importing any of it."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def load(name: str) -> Any:
    """The command of that name in the table, ready to be invoked."""
    module = import_module(f"beastctl.commands.{name}")
    function: Callable[..., None] = getattr(module, "list_" if name == "list" else name)
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name, cls=SectionedCommand, context_settings=dict(_HELP))(function)
    return typer.main.get_command(app)


_HELP: Mapping[str, list[str]] = {"help_option_names": ["-h", "--help"]}


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(f"beast {__version__}")
        raise typer.Exit


def root(
    version: Annotated[
        bool, typer.Option("--version", "-v", help="Show the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Run language models on your own machine.

    `beast run` starts a chat with the built-in model. Exit status: 0 done, 1 failed, 2 wrong usage,
    3 the answer was cut off by the end of the context, 130 stopped by Ctrl-C.
    """


def program() -> typer.Typer:
    """The whole command line."""
    app = typer.Typer(
        cls=LazyCommands,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        context_settings=dict(_HELP),
    )
    app.callback()(root)
    return app


def main() -> None:
    """Console entry point: errors are a line or two on standard error and a status, never a traceback."""
    try:
        program()(prog_name="beast")
    except BeastError as error:
        _fail(error.message)
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        _fail(f"internal error: {type(error).__name__}: {error} (PYTHONDEVMODE=1 shows where; please report it)")


def _fail(message: str) -> None:
    print(f"beast: {message}", file=sys.stderr)
    sys.exit(1)
