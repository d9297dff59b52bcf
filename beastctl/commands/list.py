"""`beast list`: the models there are."""

from __future__ import annotations

import sys
from pathlib import PurePath
from typing import Annotated, Any

import typer

from beastctl import daemon, render

HEADER = ("NAME", "DEFAULT", "SIZE", "VARIANTS", "ADAPTERS", "MODIFIED")


def list_(
    prefix: Annotated[str, typer.Argument(help="Only names that begin with this.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print data for machines.")] = False,
) -> None:
    """Show the models there are, with their variants and adapters; SIZE is the default variant's."""
    client = daemon.ensure_running(daemon.current_paths(), render.say)
    reply = client.get("/api/tags")
    models = [model for model in reply["models"] if model["name"].lower().startswith(prefix.lower())]
    folders = client.get("/healthz")["models"] if prefix and reply["problems"] else []
    for problem in [*_of_no_model(reply, prefix, folders), *_of_models(models)]:
        render.say(problem)
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


def size(variant: dict[str, Any]) -> str:
    """A variant's size, or that it has none to run."""
    return "unusable" if variant.get("problem") else render.size(variant["size"])


def _of_models(models: list[dict[str, Any]]) -> list[str]:
    return [f"{model['name']}: {problem}" for model in models for problem in problems_of(model)]


def _of_no_model(reply: dict[str, Any], prefix: str, folders: list[str]) -> list[str]:
    """Problems of files that describe no model of the reply, which could be one whose name begins with ``prefix``."""
    of_models = {text for model in reply["models"] for text in model.get("problems") or []}
    found = [it for it in reply["problems"] if it["error"] not in of_models and _may_begin(it["path"], prefix, folders)]
    return [it["error"] if it["path"] in it["error"] else f"{it['path']}: {it['error']}" for it in found]


def _may_begin(path: str, prefix: str, folders: list[str]) -> bool:
    """Whether the model that a file describes has a name that begins with ``prefix``; a folder may hold any."""
    file = PurePath(path)
    folder = next((it for it in folders if file.is_relative_to(it)), None)
    if folder is None or file.suffix != ".yaml":
        return True
    *parts, last = file.relative_to(folder).with_suffix("").parts
    name = f"{'/'.join(parts)}:{last}" if parts else f"{last}:latest"
    return name.lower().startswith(prefix.lower())


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    variants = model.get("variants") or []
    return (
        model["name"],
        next((it["name"] for it in variants if it["is_default"]), ""),
        next((size(it) for it in variants if it["is_default"]), render.size(model["size"])),
        " ".join(it["name"] for it in variants),
        " ".join(it["name"] for it in model.get("adapters") or []),
        "built in" if model.get("builtin") else render.when(model["modified_at"]),
    )
