"""`beast status`: how the daemon is."""

from __future__ import annotations

from typing import Annotated

import typer

from beastctl import daemon, render
from beastctl.client import NotRunning


def status(as_json: Annotated[bool, typer.Option("--json", help="Print data for machines.")] = False) -> None:
    """Tell how the daemon is; exit status 1 when it does not run."""
    paths = daemon.current_paths()
    try:
        health = daemon.running(paths).get("/healthz")
    except NotRunning:
        if as_json:
            render.print_json({"status": "not running", "socket": str(paths.socket)})
        else:
            render.say(f"beastd is not running (socket {paths.socket}); `beast run` or `beast serve` starts it")
        raise typer.Exit(1) from None
    if as_json:
        render.print_json(health)
        return
    used, budget = (render.size(health[key]) for key in ("memory_used_bytes", "memory_budget_bytes"))
    rows = (
        ("beastd", f"{health['version']}, pid {health['pid']}, up {render.span(health['uptime_s'])}"),
        ("socket", health["socket"]),
        ("tcp", ", ".join(health["tcp"]) or "off"),
        ("workers", str(health["n_workers"])),
        ("memory", f"{used} of {budget}"),
        ("config", str(paths.config_file) + ("" if paths.config_file.exists() else " (none yet)")),
        ("models", ", ".join(health["models"])),
        ("log", str(paths.logs_dir / daemon.LOG_NAME)),
    )
    print("\n".join(f"{name + ':':9}{value}" for name, value in rows))
