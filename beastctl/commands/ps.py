"""`beast ps`: the models that are loaded."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from beastctl import daemon, render
from beastctl.client import NotRunning


def ps(as_json: Annotated[bool, typer.Option("--json", help="Print data for machines.")] = False) -> None:
    """Show the models that are loaded, and until when."""
    try:
        reply = daemon.running(daemon.current_paths()).get("/api/ps")
    except NotRunning:
        render.say("beastd is not running, so no model is loaded")
        reply = {"models": []}
    if as_json:
        render.print_json(reply)
        return
    header = ("NAME", "VARIANT", "ID", "SIZE", "PROCESSOR", "CONTEXT", "STATE", "REQUESTS", "UNTIL")
    print(render.table(header, [_row(model) for model in reply["models"]]))


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    n_leases, n_parallel = model.get("n_leases", 0), model.get("n_parallel", 0)
    return (
        model["name"],
        model.get("variant", ""),
        model.get("digest", "")[:12],
        render.size(model["size"]),
        _processor(model["size"], model.get("size_vram", 0)),
        str(model.get("context_length", "")),
        model.get("state", ""),
        f"{n_leases} of {n_parallel}" if n_parallel else str(n_leases),
        render.when(model["expires_at"]) if model.get("expires_at") else "never",
    )


def _processor(size_bytes: int, gpu_bytes: int) -> str:
    if not gpu_bytes or not size_bytes:
        return "100% CPU"
    share = round(100 * min(gpu_bytes / size_bytes, 1.0))
    return "100% GPU" if share == 100 else f"{100 - share}%/{share}% CPU/GPU"
