"""The `beast` program: a table of commands, each loaded only when it runs, and the wall where errors become words."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from inspect import signature
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from beastd import __version__
from beastd.errors import BeastError

SECTIONS: Mapping[str, Mapping[str, str]] = {
    "Run models": {
        "run": "Answer a prompt, or chat when there is none.",
        "ps": "Show the models that are loaded, who waits, and why.",
        "load": "Load a model, so that its next answer begins at once.",
        "fit": "Tell whether a model fits this machine.",
        "stop": "Unload a model.",
        "pin": "Load a model and keep it loaded.",
        "unpin": "Let a pinned model leave memory again.",
        "bench": "Measure the speed of a model, here or on any server.",
    },
    "Get and make models": {
        "list": "Show the models there are.",
        "show": "Tell about one model.",
        "search": "Look for models in the catalog.",
        "pull": "Get models.",
        "create": "Make a model of a modelfile, of another model, or of a GGUF file.",
        "edit": "Edit a model's modelfile.",
        "cp": "Copy a model: both names share its files.",
        "rm": "Remove models.",
    },
    "Variants and adapters": {
        "quantize": "Quantize a model: make smaller variants of it.",
        "perplexity": "Measure models' perplexity of a text.",
        "adapter": "Add LoRA adapters to models, list and remove them.",
    },
    "Models on this disk": {
        "import": "Import models that are on this machine already.",
        "export": "Write a model with all its files into one file.",
        "du": "Show the space that models take on the disk.",
        "prune": "Remove what no model uses.",
        "cache": "Show or clear what is kept of prompts for when they come again.",
        "mv": "Move the whole models folder to another place.",
    },
    "The daemon": {
        "serve": "Run the daemon in the foreground.",
        "status": "Tell how the daemon is.",
        "jobs": "List long work under way; watch it or cancel it.",
        "shutdown": "Stop the daemon.",
        "logs": "Show the daemon's log, or a worker's.",
        "service": "Let systemd or launchd run the daemon.",
        "version": "Show the versions of beast and beastd.",
    },
}
"""Title → name → one line of help. The function of that name is in ``beastctl.commands.<name>``; Python's own words
get an underscore. A module with ``SUBCOMMANDS`` is a group of them."""
COMMANDS: Mapping[str, str] = {name: text for section in SECTIONS.values() for name, text in section.items()}
EXIT_UNREAD = 141
"""As a shell tells of a program that SIGPIPE ended."""
ALIASES: Mapping[str, str] = {"ls": "list", "start": "serve"}
_FUNCTIONS: Mapping[str, str] = {"list": "list_", "import": "import_"}


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


@contextmanager
def _ending_unread() -> Iterator[None]:
    """Where nobody reads what is written, as with ``| head``, the program ends without a word."""
    try:
        yield
    except BrokenPipeError:
        raise typer.Exit(EXIT_UNREAD) from None


class LazyCommands(TyperGroup):
    """The group of all commands. Their modules are imported when one runs, not to list them."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _Loader()

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        with _ending_unread():
            return super().invoke(ctx)

    def make_context(self, *words: Any, **attributes: Any) -> Any:
        """Read the command line, which may ask for help."""
        with _ending_unread():
            return super().make_context(*words, **attributes)

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Names in the table's order."""
        return list(COMMANDS)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """The table, without importing any of it."""
        width = max(map(len, COMMANDS))
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, text in section.items()])


def load(name: str) -> Any:
    """The command of that name in the table, ready to be invoked."""
    module = import_module(f"beastctl.commands.{'import_' if name == 'import' else name}")
    function: Callable[..., None] = getattr(module, _FUNCTIONS.get(name, name))
    subcommands: Mapping[str, Callable[..., None]] = getattr(module, "SUBCOMMANDS", {})
    app = typer.Typer(name=name, add_completion=False, rich_markup_mode=None)
    if not subcommands:
        app.command(name, cls=SectionedCommand, context_settings=dict(_HELP))(function)
        return typer.main.get_command(app)
    does_something_alone = bool(signature(function).parameters)
    app.callback(
        invoke_without_command=does_something_alone,
        no_args_is_help=not does_something_alone,
        context_settings=dict(_HELP),
    )(function)
    for subname, subfunction in subcommands.items():
        app.command(subname, cls=SectionedCommand, context_settings=dict(_HELP))(subfunction)
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
        _run()
    finally:
        _flush()


def _run() -> None:
    try:
        program()(prog_name="beast")
    except BeastError as error:
        _fail(error.message)
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        _fail(f"internal error: {type(error).__name__}: {error} (PYTHONDEVMODE=1 shows where; please report it)")


def _flush() -> None:
    """Write what is left now: when the interpreter ends, a failure would be a traceback."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # the rest goes nowhere
            if not isinstance(error, BrokenPipeError):
                _fail(f"cannot write: {error.strerror}")
            sys.exit(EXIT_UNREAD)


def _fail(message: str) -> None:
    print(f"beast: {message}", file=sys.stderr)
    sys.exit(1)
