"""`beast du`: what models take on the disk."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from beastctl import daemon, render

USAGE_LIMIT_S = 60.0


def du(as_json: Annotated[bool, typer.Option("--json", help="Print data for machines.")] = False) -> None:
    """Show the space that models take on the disk.

    OWN goes with the model; SHARED is used by others too; OUTSIDE are files registered where they are.
    """
    client = daemon.ensure_running(daemon.current_paths(), render.say)
    usage = client.get("/api/du", timeout_s=USAGE_LIMIT_S)
    if as_json:
        render.print_json(usage)
    else:
        print(describe(usage))


def describe(usage: dict[str, Any]) -> str:
    """What /api/du answered, for people: models by what removing them would give back, then the sums."""
    models = sorted(usage["models"], key=lambda it: (-it["own_bytes"], it["name"]))
    rows = [
        (it["name"], *(_size(it[field]) for field in ("own_bytes", "shared_bytes", "outside_bytes"))) for it in models
    ]
    sums = [
        ("store", f"{render.size(usage['blob_bytes'])} in {usage['folder']}"),
        ("unused", _removable(usage["unused_bytes"], "beast prune")),
        ("unfinished", _removable(usage["partial_bytes"], "beast prune --unfinished")),
        ("free", render.size(usage["free_bytes"])),
    ]
    table = render.table(("NAME", "OWN", "SHARED", "OUTSIDE"), rows)
    return "\n".join([table, "", *(f"{name + ':':12}{value}" for name, value in sums if value)])


def _size(n_bytes: int) -> str:
    return render.size(n_bytes) if n_bytes else "-"


def _removable(n_bytes: int, command: str) -> str:
    return f"{render.size(n_bytes)} (`{command}` removes it)" if n_bytes else ""
