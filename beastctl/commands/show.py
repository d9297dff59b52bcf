"""`beast show`: all about one model."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from beastctl import daemon, render
from beastctl.complete import model_names

PARTS = ("info", "parameters", "system", "template", "license")


def show(
    model: Annotated[str, typer.Argument(help="The model's name.", autocompletion=model_names)],
    *,
    parameters: Annotated[bool, typer.Option("--parameters", help="Only its parameters.")] = False,
    system: Annotated[bool, typer.Option("--system", help="Only its system message.")] = False,
    template: Annotated[bool, typer.Option("--template", help="Only its chat template.")] = False,
    license_: Annotated[bool, typer.Option("--license", help="Only its license.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print data for machines.")] = False,
) -> None:
    """Tell about one model."""
    chosen = {"parameters": parameters, "system": system, "template": template, "license": license_}
    parts = [name for name, is_wanted in chosen.items() if is_wanted]
    if len(parts) > 1:
        raise typer.BadParameter("only one of --parameters, --system, --template and --license at a time")
    reply = daemon.ensure_running(daemon.current_paths(), render.say).post("/api/show", {"model": model})
    if as_json:
        render.print_json(reply)
    else:
        print(describe(reply, parts[0] if parts else "info"))


def describe(reply: dict[str, Any], part: str) -> str:
    """One of ``PARTS`` of what /api/show answered, as text for people."""
    if part != "info":
        return render.visible(str(reply.get(part) or f"no {part}").strip())
    details, info = reply.get("details") or {}, reply.get("model_info") or {}
    architecture = info.get("general.architecture") or details.get("family")
    rows = {
        "architecture": architecture,
        "parameters": details.get("parameter_size"),
        "context length": info.get(f"{architecture}.context_length"),
        "embedding length": info.get(f"{architecture}.embedding_length"),
        "quantization": details.get("quantization_level"),
        "capabilities": ", ".join(reply.get("capabilities") or []),
        "variants": ", ".join(variant["name"] for variant in reply.get("variants") or []),
        "adapters": ", ".join(reply.get("adapters") or []),
    }
    text = _section("Model", "\n".join(f"{name:18}{value}" for name, value in rows.items() if value))
    for part_name in ("parameters", "system"):
        if reply.get(part_name):
            text += "\n\n" + _section(part_name.capitalize(), str(reply[part_name]).strip())
    if reply.get("license"):
        text += "\n\n" + _section("License", "\n".join(str(reply["license"]).strip().splitlines()[:2]))
    return render.visible(text)


def _section(title: str, body: str) -> str:
    return "\n".join([title, *("  " + line for line in body.splitlines())])
