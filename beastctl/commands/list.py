"""`beast list`: the models there are."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from beastctl import daemon, render

HEADER = ("NAME", "DEFAULT", "SIZE", "VARIANTS", "ADAPTERS", "MODIFIED")


def list_(
    prefix: Annotated[str, typer.Argument(help="Only names that begin with this.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print data for machines.")] = False,
) -> None:
    """Show the models there are, with their variants and adapters; SIZE is the default variant's."""
    reply = daemon.ensure_running(daemon.current_paths(), render.say).get("/api/tags")
    models = [model for model in reply["models"] if model["name"].lower().startswith(prefix.lower())]
    for problem in reply.get("problems", []):
        render.say(f"{problem['path']}: {problem['error']}")
    for model in models:
        for problem in problems_of(model):
            render.say(f"{model['name']}: {problem}")
    if as_json:
        render.print_json({**reply, "models": models})
        return
    rows = [_row(model) for model in models]
    print(render.table(HEADER, rows, elastic=(3, 4), width=render.terminal_width(sys.stdout)))


def problems_of(model: dict[str, Any]) -> list[str]:
    """What is wrong with a model and its variants, a line each, every one once."""
    variants = model.get("variants") or []
    broken = [f"@{it['name']}: {it['problem']}" for it in variants if it.get("problem")]
    known = {it["problem"] for it in variants if it.get("problem")}
    return [*(text for text in model.get("problems") or [] if text not in known), *broken]


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    variants = model.get("variants") or []
    return (
        model["name"],
        next((it["name"] for it in variants if it["is_default"]), ""),
        render.size(model["size"]),
        " ".join(it["name"] for it in variants),
        " ".join(it["name"] for it in model.get("adapters") or []),
        "built in" if model.get("builtin") else render.when(model["modified_at"]),
    )
