"""`beast mv`: move the models folder."""

from __future__ import annotations

from typing import Annotated

import typer

from beastctl import daemon, jobs, local, render

END_LIMIT_S = 60.0
"""Answers under way may end first."""


def mv(folder: Annotated[str, typer.Argument(help="The new place: a folder that is empty or not there yet.")]) -> None:
    """Move the whole models folder to another place, and remember it in the configuration.

    The daemon ends after it; the next command starts one that finds the models in their new place.
    """
    paths = daemon.current_paths()
    client = daemon.ensure_running(paths, render.say)
    pid = daemon.try_lock_holder(paths.lock_file)
    result = jobs.run(client, jobs.Work("moving the models", "/api/move", {"folder": local.absolute(folder)}))
    render.say(f"the models are in {result['folder']} now ({render.size(result['size'])})")
    if result.get("restarts") and pid is not None:
        daemon.await_end(paths, pid, END_LIMIT_S, render.say)
        render.say(f"beastd (pid {pid}) has stopped; the next command starts it with the new folder")
