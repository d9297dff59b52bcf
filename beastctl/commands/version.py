"""`beast version`: the versions of both programs."""

from __future__ import annotations

from typing import Annotated

import typer

from beastctl import daemon, render
from beastctl.client import NotRunning
from beastd import __version__


def version(as_json: Annotated[bool, typer.Option("--json", help="Print data for machines.")] = False) -> None:
    """Show the version of beast, and of the beastd that runs."""
    try:
        served = daemon.running(daemon.current_paths()).get("/api/version")["version"]
    except NotRunning:
        served = None
    if as_json:
        render.print_json({"beast": __version__, "beastd": served})
        return
    print(f"beast {__version__}")
    print(f"beastd {served}" if served else "beastd is not running")
    if served and served != __version__:
        render.say("another version of beastd is running; `beast shutdown` lets the next command start this one")
