"""`beast ps`: the models that are loaded."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from beastctl import daemon, render
from beastctl.client import NotRunning

HEADER = ("NAME", "VARIANT", "ID", "SIZE", "PROCESSOR", "CONTEXT", "STATE", "REQUESTS", "UNTIL")
WHY_HEADER = ("NAME", "HOLDS", "EXPECTED", "A RELOAD TAKES", "IDLE FOR", "MAY LEAVE")
SPARE, WHY_SPARE = (2, 4, 5, 7), (4, 2)
"""Columns that a narrow terminal can do without, the least needed first."""
WAITING_HEADER = ("WAITING", "REQUESTS", "NEEDS", "FOR")
N_DECISIONS = 12
"""The latest are shown."""


def ps(
    *,
    why: Annotated[bool, typer.Option("--why", help="Tell why they are loaded, and what was decided of late.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print data for machines.")] = False,
) -> None:
    """Show the models that are loaded, who waits and for what; --why tells how memory is shared out."""
    reply = _asked("/api/fleet" if why else "/api/ps")
    if as_json:
        render.print_json(reply)
    elif why:
        print("\n\n".join(_explained(reply)))
    else:
        rows = [_row(model) for model in reply["models"]]
        print(render.table(HEADER, rows, spare=SPARE, elastic=(0,), width=render.terminal_width(sys.stdout)))
        if reply.get("waiting"):
            print("\n" + _waiting(reply["waiting"]))


def _asked(path: str) -> dict[str, Any]:
    try:
        return daemon.running(daemon.current_paths()).get(path)
    except NotRunning:
        render.say("beastd is not running, so no model is loaded")
        if path == "/api/ps":
            return {"models": [], "waiting": []}
        return {"workers": [], "line": [], "resting": [], "decisions": []}


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    n_leases, n_parallel = model.get("n_leases", 0), model.get("n_parallel", 0)
    n_waiting = model.get("n_waiting", 0)
    requests = f"{min(n_leases, n_parallel)} of {n_parallel}" if n_parallel else str(n_leases)
    return (
        model["name"],
        _variant(model),
        model.get("digest", "")[:12],
        render.size(model["size"]),
        _processor(model["size"], model.get("size_vram", 0)),
        str(model.get("context_length", "")),
        _state(model),
        f"{requests}, {n_waiting} wait" if n_waiting else requests,
        "pinned" if model.get("is_pinned") else render.when(model["expires_at"]),
    )


def _variant(model: dict[str, Any]) -> str:
    """The quantization that runs, and the one that would, were there room."""
    variant, best = model.get("variant", ""), model.get("best_variant", "")
    return f"{variant} (of {best})" if best and best != variant else variant


def _state(model: dict[str, Any]) -> str:
    state, becomes = model.get("state", ""), model.get("becomes", "")
    return f"{state} to {becomes}" if becomes else state


def _processor(size_bytes: int, gpu_bytes: int) -> str:
    if not gpu_bytes or not size_bytes:
        return "100% CPU"
    share = round(100 * min(gpu_bytes / size_bytes, 1.0))
    return "100% GPU" if share == 100 else f"{100 - share}%/{share}% CPU/GPU"


def _waiting(claims: list[dict[str, Any]]) -> str:
    rows = [
        (
            f"{it['name']} ({', '.join(it['variants'])})",
            str(it["n_requests"]),
            render.size(it["need_bytes"]),
            it["waits_for"],
        )
        for it in claims
    ]
    return render.prose_table(WAITING_HEADER, rows, width=render.terminal_width(sys.stdout))


def _explained(fleet: dict[str, Any]) -> list[str]:
    """The parts of what --why prints."""
    parts = [_budget(fleet)] if fleet.get("budget_bytes") else []
    workers = [_why_row(worker) for worker in fleet["workers"]]
    width = render.terminal_width(sys.stdout)
    parts.append(render.table(WHY_HEADER, workers, spare=WHY_SPARE, elastic=(0,), width=width))
    if fleet["line"]:
        parts.append(_waiting(fleet["line"]))
    parts += [f"{it['key'].partition('#')[0]} rests for {it['for_s']:.0f} s: {it['error']}" for it in fleet["resting"]]
    if fleet["decisions"]:
        rows = [(_ago(it["at"]), it["act"], it["subject"], it["why"]) for it in fleet["decisions"][-N_DECISIONS:]]
        header = ("WHEN", "WHAT", "MODEL", "WHY")
        parts.append(render.prose_table(header, rows, width=width))
    return [render.visible(part) for part in parts]


def _budget(fleet: dict[str, Any]) -> str:
    used = fleet["used_bytes"]
    shares = [f"{render.size(used.get(it, 0))} of {render.size(n)} {it}" for it, n in fleet["budget_bytes"].items()]
    return f"Models hold {', '.join(shares)} (what other programs need is taken off)."


def _why_row(worker: dict[str, Any]) -> tuple[str, ...]:
    return (
        f"{worker['name']} ({worker['variant']})",
        render.size(worker["n_bytes"]),
        f"{worker['rate'] * 3600:.1f} times an hour",
        f"{worker['reload_s']:.1f} s",
        render.span(worker["idle_s"]) if worker["idle_s"] else "in use",
        _turn(worker),
    )


def _turn(worker: dict[str, Any]) -> str:
    """When it would have to go, were there no room."""
    place = worker["leaves_after"]
    if place is None:
        return "no: pinned" if worker["is_pinned"] else "not now: in use"
    return f"after {place} other{'s' * (place > 1)}" if place else "first"


def _ago(stamp: str) -> str:
    seconds = (datetime.now(UTC) - datetime.fromisoformat(stamp)).total_seconds()
    return f"{render.span(seconds)} ago"
