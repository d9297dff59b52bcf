"""`beast shutdown`: stop the daemon."""

from __future__ import annotations

from typing import Annotated

import typer

from beastctl import daemon, render


def shutdown(
    timeout: Annotated[float, typer.Option(help="Seconds to wait for answers under way and the end.", min=0)] = 60.0,
) -> None:
    """Stop the daemon; answers under way may end first."""
    pid = daemon.shutdown(daemon.current_paths(), timeout, render.say)
    render.say("beastd is not running" if pid is None else f"beastd (pid {pid}) has stopped")
