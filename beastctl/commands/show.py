"""`beast show`: all about one model."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from beastctl import daemon, render
from beastctl.commands.list import problems_of, size
from beastctl.complete import model_names

PARTS = ("info", "modelfile", "parameters", "template", "system", "license", "metadata")
"""Of every reply of /api/show; one that was asked to be verbose has ``tensors`` besides."""


def show(
    model: Annotated[str, typer.Argument(help="The model's name.", autocompletion=model_names)],
    *,
    modelfile: Annotated[bool, typer.Option("--modelfile", help="Only its modelfile.")] = False,
    parameters: Annotated[bool, typer.Option("--parameters", help="Only its parameters.")] = False,
    template: Annotated[bool, typer.Option("--template", help="Only its chat template.")] = False,
    system: Annotated[bool, typer.Option("--system", help="Only its system message.")] = False,
    license_: Annotated[bool, typer.Option("--license", help="Only its license.")] = False,
    metadata: Annotated[bool, typer.Option("--metadata", help="Only the metadata of its GGUF file.")] = False,
    tensors: Annotated[bool, typer.Option("--tensors", help="Only its tensors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print data for machines.")] = False,
) -> None:
    """Tell about one model."""
    are_wanted = (modelfile, parameters, template, system, license_, metadata, tensors)
    parts = [name for name, is_wanted in zip((*PARTS[1:], "tensors"), are_wanted, strict=True) if is_wanted]
    if len(parts) > 1:
        raise typer.BadParameter(f"only one of --{' and --'.join(parts)} at a time")
    request = {"model": model, "verbose": tensors}
    reply = daemon.ensure_running(daemon.current_paths(), render.say).post("/api/show", request)
    if as_json:
        render.print_json(reply)
    else:
        print(describe(reply, parts[0] if parts else "info"))


def describe(reply: dict[str, Any], part: str) -> str:
    """One of ``PARTS``, or ``tensors``, of what /api/show answered, as text for people."""
    if part == "info":
        return render.visible("\n\n".join(filter(None, _overview(reply))))
    if part == "metadata":
        return _metadata(reply.get("model_info") or {})
    if part == "tensors":
        return _tensors(reply.get("tensors") or [])
    return render.visible(str(reply.get(part) or f"no {part}").strip())


def _overview(reply: dict[str, Any]) -> list[str]:
    found = [_section("Model", _facts(reply)), _section("Variants", _variants(reply.get("variants") or []))]
    found += [_section("Adapters", _adapters(reply.get("adapters") or []))]
    found += [_section(name.capitalize(), str(reply.get(name) or "").strip()) for name in ("parameters", "system")]
    messages = [f"{it['role']}: {it['content']}" for it in reply.get("messages") or []]
    found += [_section("Messages", "\n".join(messages))]
    found += [_section("License", "\n".join(str(reply.get("license") or "").strip().splitlines()[:2]))]
    return [*found, _section("Problems", "\n".join(problems_of(reply)))]


def _facts(reply: dict[str, Any]) -> str:
    details, info = reply.get("details") or {}, reply.get("model_info") or {}
    architecture = info.get("general.architecture") or details.get("family")
    rows = {
        "description": reply.get("description"),
        "architecture": architecture,
        "parameters": details.get("parameter_size"),
        "context length": info.get(f"{architecture}.context_length"),
        "embedding length": info.get(f"{architecture}.embedding_length"),
        "quantization": details.get("quantization_level"),
        "capabilities": ", ".join(reply.get("capabilities") or []),
        "origin": reply.get("origin"),
        "draft": reply.get("draft"),
        "projector": reply.get("projector"),
    }
    return "\n".join(f"{name:18}{value}" for name, value in rows.items() if value)


def _variants(variants: list[dict[str, Any]]) -> str:
    rows = [
        (
            it["name"] + " (default)" * it["is_default"],
            size(it),
            f"{it['bits_per_weight']:.2f}" if it.get("bits_per_weight") else "",
            it.get("problem") or "",
        )
        for it in variants
    ]
    header = ("NAME", "SIZE", "BITS/WEIGHT", "PROBLEM" * any(it.get("problem") for it in variants))
    return render.table(header, rows) if rows else ""


def _adapters(adapters: list[dict[str, Any]]) -> str:
    rows = [(it["name"], f"{it['scale']:g}", "yes" if it["applied"] else "no") for it in adapters]
    return render.table(("NAME", "SCALE", "APPLIED"), rows) if rows else ""


def _metadata(info: dict[str, Any]) -> str:
    """``key  value`` lines; what is too long to keep is null in the reply."""
    rows = [(key, "(long)" if value is None else json.dumps(value, ensure_ascii=False)) for key, value in info.items()]
    return render.table(("KEY", "VALUE"), rows)


def _tensors(tensors: list[dict[str, Any]]) -> str:
    rows = [(it["name"], it["type"], " × ".join(map(str, it["shape"]))) for it in tensors]
    return render.table(("NAME", "TYPE", "SHAPE"), rows)


def _section(title: str, body: str) -> str:
    """Empty without a body."""
    return "\n".join([title, *("  " + line for line in body.splitlines())]) if body else ""
