"""`beast stop`: unload a model."""

from __future__ import annotations

from typing import Annotated

import typer

from beastctl import daemon, render
from beastctl.client import NotRunning
from beastctl.complete import loaded_names

STOP_LIMIT_S = 60.0


def stop(model: Annotated[str, typer.Argument(help="The model's name.", autocompletion=loaded_names)]) -> None:
    """Unload a model; answers under way end first."""
    try:
        client = daemon.running(daemon.current_paths())
    except NotRunning:
        render.say("beastd is not running, so no model is loaded")
        return
    client.post("/api/generate", {"model": model, "keep_alive": 0, "stream": False}, timeout_s=STOP_LIMIT_S)
