"""`beast pin`: load a model and keep it loaded."""

from __future__ import annotations

from typing import Annotated

import typer

from beastctl import daemon, render
from beastctl.commands.load import load_now
from beastctl.complete import model_names


def pin(model: Annotated[str, typer.Argument(help="The model's name.", autocompletion=model_names)]) -> None:
    """Load a model and keep it loaded: it is not evicted, does not expire, and is remembered by later daemons.

    With a variant (model@q8_0) that variant stays; without, memory pressure may still put the model to sleep, or into
    a smaller variant where its quality is adaptive.
    """
    client = daemon.ensure_running(daemon.current_paths(), render.say)
    load_now(client, model)
    name = client.post("/api/pin", {"model": model, "pinned": True})["model"]
    render.say(f"{name} is pinned")
