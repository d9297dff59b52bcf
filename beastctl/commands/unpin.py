"""`beast unpin`: let a pinned model leave memory again."""

from __future__ import annotations

from typing import Annotated

import typer

from beastctl import daemon, render
from beastctl.complete import model_names


def unpin(model: Annotated[str, typer.Argument(help="The model's name.", autocompletion=model_names)]) -> None:
    """Let a pinned model leave memory again, when others need the room or nobody comes for it."""
    client = daemon.ensure_running(daemon.current_paths(), render.say)
    name = client.post("/api/pin", {"model": model, "pinned": False})["model"]
    render.say(f"{name} is not pinned any more")
