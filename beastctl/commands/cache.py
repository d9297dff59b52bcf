"""`beast cache`: KV of prompts that is kept for when they come again."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from beastctl import daemon, render
from beastctl.complete import cached_names

LIMIT_S = 60.0
HEADER = ("MODEL", "VARIANT", "PREFIXES", "TOKENS", "DISK", "MEMORY", "USED")


def cache() -> None:
    """Show or clear what Beast keeps of prompts, so that their beginnings need not be computed again."""


def ls(as_json: Annotated[bool, typer.Option("--json", help="Print data for machines.")] = False) -> None:
    """Show what is kept of each model, in its worker's memory and on disk.

    What a loaded model holds in its own cache is not counted: it comes here when that needs the room, or when the
    model is unloaded. TOKENS are those on disk.
    """
    kept = daemon.ensure_running(daemon.current_paths(), render.say).get("/api/cache", timeout_s=LIMIT_S)
    if as_json:
        render.print_json(kept)
    else:
        print(render.visible(_described(kept)))


def clear(
    model: Annotated[str, typer.Argument(help="Only this model's.", autocompletion=cached_names)] = "",
) -> None:
    """Forget what is kept, on disk and in memory; answers under way go on."""
    client = daemon.ensure_running(daemon.current_paths(), render.say)
    reply = client.delete("/api/cache", {"model": model} if model else None, timeout_s=LIMIT_S)
    places = (("on disk", reply["bytes"]), ("in memory", reply["memory_bytes"]))
    freed = [f"{render.size(n_bytes)} {place}" for place, n_bytes in places if n_bytes]
    render.say(f"freed {' and '.join(freed)}" if freed else "nothing was kept")


def _described(kept: dict[str, Any]) -> str:
    rows = [_row(it) for it in kept["models"]]
    limit = kept["disk_limit_bytes"]
    total = f"{render.size(kept['disk_bytes'])} of at most {render.size(limit)}" if limit else "nothing is kept"
    return f"{render.table(HEADER, rows)}\n\non disk: {total}, in {kept['folder']}"


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    return (
        model["name"] or "(damaged)",
        model["variant"],
        str(model["n_disk"] + model["n_memory"]),
        str(model["disk_tokens"]),
        render.size(model["disk_bytes"]) if model["disk_bytes"] else "-",
        render.size(model["memory_bytes"]) if model["memory_bytes"] else "-",
        render.when(model["used_at"]) if model["used_at"] else "-",
    )


SUBCOMMANDS = {"ls": ls, "clear": clear}
