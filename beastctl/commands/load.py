"""`beast load`: have a model loaded before it is needed."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from beastctl import ask, daemon, render
from beastctl.client import Client
from beastctl.complete import model_names


def load(
    model: Annotated[str, typer.Argument(help="The model's name.", autocompletion=model_names)],
    *,
    num_ctx: Annotated[int | None, typer.Option(help="Tokens of context a request may hold.", min=1)] = None,
    keep_alive: Annotated[
        str | None, typer.Option(help="How long it stays loaded when idle, e.g. 1h; -1: for ever.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print data for machines.")] = False,
) -> None:
    """Load a model, or grow its context; exit status 1 when it cannot be had."""
    client = daemon.ensure_running(daemon.current_paths(), render.say)
    final = load_now(client, model, num_ctx, keep_alive)
    if as_json:
        render.print_json(final)
    elif final.get("load_duration", 0) < READY_NS:
        render.say(f"{final['model']} ({final['variant']}) was loaded already")
    else:
        render.say(f"{final['model']} ({final['variant']}) is loaded: {render.seconds(final['load_duration'])}")


READY_NS = 1e6
"""A request that had its worker within a millisecond did not wait for a load."""


def load_now(client: Client, model: str, num_ctx: int | None = None, keep_alive: str | None = None) -> dict[str, Any]:
    """Have it loaded, showing a bar; the reply's last line, empty when it was interrupted.

    Raises:
        BeastError: it cannot be loaded.
    """
    request: dict[str, Any] = {"model": model, "stream": True, "options": {"num_ctx": num_ctx} if num_ctx else None}
    if keep_alive is not None:
        request["keep_alive"] = keep_alive
    answer = ask.ask(client, "/api/generate", request, ask.silent_screen)
    if answer.is_interrupted:
        raise typer.Exit(ask.EXIT_INTERRUPTED)
    return dict(answer.final)
