"""`beast adapter`: LoRA adapters of models."""

from __future__ import annotations

from math import isfinite
from typing import Annotated, Any

import typer

from beastctl import daemon, hub, jobs, local, render
from beastctl.commands.rm import REMOVE_LIMIT_S
from beastctl.complete import base_names, catalog_names


def adapter() -> None:
    """Add LoRA adapters to models, list and remove them; MODEL+ADAPTER*SCALE then runs one."""


def _finite(scale: float) -> float:
    if not isfinite(scale):
        raise typer.BadParameter(f"{scale} is no strength: give a finite number, such as 0.5")
    return scale


def add(
    name: Annotated[str, typer.Argument(help="The adapter's name.")],
    source: Annotated[
        str, typer.Argument(help="A GGUF file, or what `beast pull` takes.", autocompletion=catalog_names)
    ],
    *,
    base: Annotated[str, typer.Option(metavar="MODEL", help="The model it is for.", autocompletion=base_names)],
    scale: Annotated[float, typer.Option(help="Its strength, unless a name says otherwise.", callback=_finite)] = 1.0,
    applied: Annotated[bool, typer.Option("--applied", help="On whenever a name asks for no adapter.")] = False,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the file, instead of using it where it is.")] = False,
) -> None:
    """Add an adapter to a model, after checking that it fits."""
    request: dict[str, Any] = {"name": name, "source": local.path_of(source) or source, "base": base, "scale": scale}
    request |= {field: True for field, is_on in {"applied": applied, "copy": copy}.items() if is_on}
    client = daemon.ensure_running(daemon.current_paths(), render.say)
    result = jobs.run(client, jobs.Work(f"adding {name}", "/api/adapters", hub.with_token(request), is_resumable=True))
    for warning in result.get("warnings", []):
        render.say(warning)
    print(result["model"])


def list_(
    model: Annotated[str, typer.Argument(help="Only this model's.", autocompletion=base_names)] = "",
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print data for machines.")] = False,
) -> None:
    """List adapters."""
    client = daemon.ensure_running(daemon.current_paths(), render.say)
    if model:
        client.post("/api/show", {"model": model})  # an unknown name is refused, with the nearest ones
    models = client.get("/api/tags")["models"]
    wanted = _full(model)
    found = [
        {"model": entry["name"], **it}
        for entry in models
        for it in entry.get("adapters") or []
        if not model or _full(entry["name"]) == wanted
    ]
    if as_json:
        render.print_json({"adapters": found})
        return
    rows = [
        (f"{it['model'].removesuffix(':latest')}+{it['name']}", f"{it['scale']:g}", "yes" if it["applied"] else "no")
        for it in found
    ]
    print(render.table(("ADAPTER", "SCALE", "APPLIED"), rows))


def rm(
    name: Annotated[str, typer.Argument(help="The adapter's name.")],
    *,
    base: Annotated[str, typer.Option(metavar="MODEL", help="The model it belongs to.", autocompletion=base_names)],
) -> None:
    """Remove an adapter; a file that was registered where it is stays there."""
    client = daemon.ensure_running(daemon.current_paths(), render.say)
    client.delete("/api/delete", {"model": f"{base}+{name}"}, timeout_s=REMOVE_LIMIT_S)
    render.say(f"removed {base}+{name}")


def _full(name: str) -> str:
    base = name.lower().partition("+")[0].partition("@")[0]
    return base if ":" in base.rpartition("/")[2] else f"{base}:latest"


SUBCOMMANDS = {"add": add, "list": list_, "rm": rm}
