"""`beast serve`: the daemon in the foreground."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer


def serve(
    tcp: Annotated[
        list[str] | None, typer.Option(help="Also listen on HOST:PORT, e.g. 127.0.0.1:11434. May be repeated.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any setting of config.yaml, for this run. May be repeated."),
    ] = None,
) -> None:
    """Run the daemon in the foreground until Ctrl-C; its log goes to standard error."""
    arguments = [word for address in tcp or [] for word in ("--tcp", address)]
    arguments += [word for pair in set_ or [] for word in ("--set", pair)]
    os.execv(sys.executable, [sys.executable, "-m", "beastd", *arguments])  # noqa: S606
