"""`beast fit`: whether a model fits this machine."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

from beastctl import daemon, hub, local, render
from beastctl.complete import fitting_names
from beastctl.screen import Progress

EXIT_NO = 1
EXIT_SMALLER = 4
FIT_LIMIT_S = 300.0
"""The header of a model that is not here comes over the network."""
SPARE = (7, 8, 2, 3)
"""Columns left out where the terminal is narrow, the first of them first."""
HEADER = ("", "CONTEXT", "PARALLEL", "KV", "DEVICE", "WEIGHTS", "KV CACHE", "COMPUTE", "PROCESS", "TOTAL", "FITS")


class KvType(StrEnum):
    """Types of the KV cache."""

    f16 = "f16"
    q8_0 = "q8_0"
    q4_0 = "q4_0"


def fit(
    model: Annotated[
        str,
        typer.Argument(
            help="A model that is here, or anything `beast pull` takes.",
            autocompletion=fitting_names,
        ),
    ],
    *,
    ctx: Annotated[int | None, typer.Option(help="Tokens of context.", min=1, show_default=False)] = None,
    parallel: Annotated[int | None, typer.Option(help="Requests at once.", min=1, max=256, show_default=False)] = None,
    kv_type: Annotated[KvType | None, typer.Option(help="Type of the KV cache.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print data for machines.")] = False,
) -> None:
    """Tell whether a model fits this machine, before it is loaded or even downloaded.

    Exit status: 0 it fits as asked, 4 only a smaller variant or context does, 1 nothing of it does.
    """
    path = local.path_of(model)
    asked = {"num_ctx": ctx, "num_parallel": parallel, "kv_type": kv_type}
    request = {"model": f"file:{path}" if path else model} | {key: it for key, it in asked.items() if it is not None}
    client = daemon.ensure_running(daemon.current_paths(), render.say)
    progress = Progress(sys.stderr)
    progress.wait_for(f"looking at {model}")
    try:
        reply = client.post("/api/fit", hub.with_token(request), timeout_s=FIT_LIMIT_S, on_tick=progress.wait)
    finally:
        progress.clear()
    if as_json:
        render.print_json(reply)
    else:
        print(describe(reply))
    status = {"fits": 0, "smaller": EXIT_SMALLER}.get(reply["answer"], EXIT_NO)
    if status:
        raise typer.Exit(status)


def describe(reply: dict[str, Any]) -> str:
    """What /api/fit answered, for people."""
    options = [("asked", reply["asked"]), *(("instead", it) for it in reply["instead"])]
    rows = [row for what, option in options for row in _rows(what, option)]
    parts = [
        render.visible(reply["sentence"]),
        render.table(HEADER, rows, spare=SPARE, width=render.terminal_width(sys.stdout)),
        _machine(reply["machine"]),
    ]
    if download := reply.get("download"):
        parts.append(_download(download))
    notes = [f"note: {it}" for it in reply["warnings"]] + [f"next: {it}" for it in reply["next"]]
    return "\n\n".join([*parts, render.visible("\n".join(notes))])


def _rows(what: str, option: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row for each device; only the first tells what the option is."""
    how = (
        f"{what}: {option['variant']}",
        str(option["num_ctx"]),
        str(option["num_parallel"]),
        option["kv_type"],
    )
    parts = ("weights_bytes", "kv_bytes", "compute_bytes", "process_bytes", "total_bytes")
    return [
        (
            *(how if i == 0 else ("", "", "", "")),
            device["device"],
            *(render.size(device[part]) for part in parts),
            ("yes" if option["fits"] else "no") if i == 0 else "",
        )
        for i, device in enumerate(option["devices"])
    ]


def _machine(devices: list[dict[str, Any]]) -> str:
    sizes = ("total_bytes", "budget_bytes", "free_bytes")
    rows = [(it["device"], *(render.size(it[size]) for size in sizes), it["description"]) for it in devices]
    return render.table(("MACHINE", "TOTAL", "FOR MODELS", "FREE NOW", ""), rows)


def _download(download: dict[str, Any]) -> str:
    missing, size = download["missing_bytes"], download["size_bytes"]
    here = f", {render.size(size - missing)} of it here already" if missing < size else ""
    room = "which has room" if download["has_room"] else "which has no room"
    file, free = render.visible(download["file"]), render.size(download["disk_free_bytes"])
    return f"download: {file}, {render.size(size)}{here}; {free} free on the disk, {room}"
