"""`beast cp`: give a model a second name."""

from __future__ import annotations

from typing import Annotated

import typer

from beastctl import daemon, render
from beastctl.complete import base_names

COPY_LIMIT_S = 60.0


def cp(
    source: Annotated[str, typer.Argument(help="The model's name.", autocompletion=base_names)],
    destination: Annotated[str, typer.Argument(help="The second name.", autocompletion=base_names)],
) -> None:
    """Copy a model: both names share its files, and each has settings of its own."""
    client = daemon.ensure_running(daemon.current_paths(), render.say)
    client.post("/api/copy", {"source": source, "destination": destination}, timeout_s=COPY_LIMIT_S)
    render.say(f"copied {source} to {destination}")
