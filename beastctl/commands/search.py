"""`beast search`: models of the catalog."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from beastctl import daemon, render
from beastctl.client import Client
from beastctl.complete import catalog_names

HEADER = ("NAME", "SIZE", "CONTEXT", "LICENSE", "VARIANTS", "DESCRIPTION")


def search(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TEXT]...",
            help="Words that must all occur; without any, everything is shown.",
            autocompletion=catalog_names,
            show_default=False,
        ),
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print data for machines.")] = False,
) -> None:
    """Look for models in the catalog, all of which `beast pull` gets by name."""
    text = " ".join(words or [])
    found = find(daemon.ensure_running(daemon.current_paths(), render.say), text)
    if as_json:
        render.print_json({"models": found})
        return
    if not found:
        render.say(f"the catalog has nothing for {text!r}; `beast pull hf.co/USER/REPO` takes any repository of GGUFs")
        return
    print(
        render.table(HEADER, [_row(model) for model in found], elastic=(4, 5), width=render.terminal_width(sys.stdout))
    )


def find(client: Client, text: str) -> list[dict[str, Any]]:
    """Entries of the catalog in which each word of ``text`` occurs, the best first."""
    from urllib.parse import quote

    found: list[dict[str, Any]] = client.get(f"/api/search?q={quote(text)}")["models"]
    return found


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    context = model.get("context_length")
    here = "(here) " if model.get("installed") else ""
    return (
        str(model["name"]).removesuffix(":latest"),
        str(model.get("n_params") or ""),
        str(context or ""),
        str(model.get("license") or ""),
        " ".join(model.get("variants") or []),
        here + str(model.get("description") or ""),
    )
