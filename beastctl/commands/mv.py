"""`beast mv`: move the models folder."""

from __future__ import annotations

from typing import Annotated

import typer

from beastctl import daemon, jobs, local, render


def mv(folder: Annotated[str, typer.Argument(help="The new place: a folder that is empty or not there yet.")]) -> None:
    """Move the whole models folder to another place, and remember it in the configuration."""
    client = daemon.ensure_running(daemon.current_paths(), render.say)
    result = jobs.run(client, jobs.Work("moving the models", "/api/move", {"folder": local.absolute(folder)}))
    render.say(f"the models are in {result['folder']} now ({render.size(result['size'])})")
