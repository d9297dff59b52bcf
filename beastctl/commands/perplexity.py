"""`beast perplexity`: measure how well models predict a text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from beastctl import daemon, jobs, local, render
from beastctl.complete import model_names
from beastctl.progress import short_time
from beastd.errors import BadRequest

HEADER = ("MODEL", "PERPLEXITY", "", "RATIO", "TOKENS", "TOOK")


def perplexity(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL... FILE",
            help="Models, e.g. cub@f16 cub@q4_k_m, then a text file.",
            autocompletion=model_names,
        ),
    ],
    *,
    ctx: Annotated[int, typer.Option(help="Tokens of a chunk, the second half of which is scored.", min=8)] = 512,
    chunks: Annotated[int | None, typer.Option(help="At most so many chunks.", min=1, show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print data for machines.")] = False,
) -> None:
    """Measure models' perplexity of a text, one after another: lower is better.

    RATIO compares with the first one, so name the best first. Perplexities of different tokenizers say nothing about
    each other.
    """
    *models, file = words
    if not models:
        raise typer.BadParameter("a model and a text file are needed, e.g. `beast perplexity cub@q4_k_m text.txt`")
    if not Path(file).expanduser().is_file():
        raise BadRequest(f"there is no text file {file!r}; it comes last, after the models")
    client = daemon.ensure_running(daemon.current_paths(), render.say)
    request: dict[str, Any] = {"file": local.absolute(file), "n_ctx": ctx} | ({"n_chunks": chunks} if chunks else {})
    works = [jobs.Work(f"perplexity of {it}", "/api/perplexity", {"model": it, **request}) for it in models]
    measured: list[dict[str, Any]] = []
    try:
        for model, work in zip(models, works, strict=True):
            measured.append(jobs.run(client, work) | {"model": model})
    finally:  # what took minutes is not lost because the next one failed
        if as_json:
            render.print_json({"measured": measured})
        elif measured:
            print(render.table(HEADER, [_row(it, measured[0]["perplexity"]) for it in measured]))


def _row(measured: dict[str, Any], first: float) -> tuple[str, ...]:
    model, variant = measured["model"], measured.get("variant")
    return (
        model if "@" in model or not variant else f"{model}@{variant}",
        f"{measured['perplexity']:.4f}",
        f"± {measured['stderr']:.4f}",
        f"{measured['perplexity'] / first:.4f}" if first else "",
        str(measured["n_tokens"]),
        short_time(measured["took_s"]),
    )
