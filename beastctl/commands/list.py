"""`beast list`: the models there are."""

from __future__ import annotations

from typing import Annotated

import typer

from beastctl import daemon, render


def list_(
    prefix: Annotated[str, typer.Argument(help="Only names that begin with this.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print data for machines.")] = False,
) -> None:
    """Show the models there are, with their variants and adapters."""
    reply = daemon.ensure_running(daemon.current_paths(), render.say).get("/api/tags")
    models = [model for model in reply["models"] if model["name"].startswith(prefix.lower())]
    for problem in reply.get("problems", []):
        render.say(f"{problem['path']}: {problem['error']}")
    if as_json:
        render.print_json({**reply, "models": models})
        return
    rows = [
        (
            model["name"],
            model.get("digest", "")[:12],
            render.size(model["size"]),
            " ".join(v["name"] + "*" * v["is_default"] for v in model.get("variants") or []),
            " ".join(model.get("adapters") or []),
            "built in" if model.get("builtin") else render.when(model["modified_at"]),
        )
        for model in models
    ]
    print(render.table(("NAME", "ID", "SIZE", "VARIANTS", "ADAPTERS", "MODIFIED"), rows))
