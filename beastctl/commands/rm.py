"""`beast rm`: remove models."""

from __future__ import annotations

from typing import Annotated

import typer

from beastctl import daemon, render
from beastctl.client import NotRunning
from beastctl.complete import model_names
from beastd.errors import BeastError

REMOVE_LIMIT_S = 120.0
"""Answers under way may end first."""


def rm(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Names of models; with @VARIANT or +ADAPTER, only that is removed.",
            autocompletion=model_names,
        ),
    ],
) -> None:
    """Remove models, and files of the store that no other model uses.

    Files that were registered where they are stay there. Nothing is asked; exit status 1 if any could not be removed.
    """
    client = daemon.ensure_running(daemon.current_paths(), render.say)
    n_failed = 0
    for model in models:
        try:
            reply = client.delete("/api/delete", {"model": model}, timeout_s=REMOVE_LIMIT_S)
        except NotRunning:
            raise
        except BeastError as error:
            render.say(error.message)
            n_failed += 1
        else:
            freed = f", {render.size(reply['bytes'])} are free again" if reply.get("bytes") else ""
            render.say(f"removed {model}{freed}")
    if n_failed:
        raise typer.Exit(1)
