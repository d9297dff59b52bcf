"""`beast bench`: measure a model's speed, here or on any server."""

from __future__ import annotations

import random
import sys
from enum import StrEnum
from typing import Annotated

import typer

from beastctl import daemon, render
from beastctl.complete import model_names
from beastctl.options import Priority


class Api(StrEnum):
    """How to talk to the server."""

    AUTO = "auto"
    OLLAMA = "ollama"
    OPENAI = "openai"
    OPENAI_CHAT = "openai-chat"


def bench(
    model: Annotated[
        str, typer.Argument(help="The model's name; without it, the built-in one.", autocompletion=model_names)
    ] = "",
    *,
    prompt_tokens: Annotated[int, typer.Option(help="Tokens of each prompt.", min=1)] = 512,
    tokens: Annotated[int, typer.Option(help="Tokens of each answer.", min=2)] = 128,
    streams: Annotated[str, typer.Option(help="How many streams at once, one measurement each.")] = "1,4,8",
    rounds: Annotated[int, typer.Option(help="Requests each stream makes, one after another.", min=1)] = 1,
    prompt_lengths: Annotated[str, typer.Option(help="Also one stream with prompts of these lengths: 16,2048.")] = "",
    shared_prefix: Annotated[int, typer.Option(help="Tokens all prompts of a measurement begin with.", min=0)] = 0,
    stagger: Annotated[
        float | None, typer.Option(help="Send a short request so many seconds after the others; show its TTFT.", min=0)
    ] = None,
    warm_up: Annotated[int, typer.Option(help="Requests made before anything is measured.", min=0)] = 1,
    temperature: Annotated[float, typer.Option(help="Sampling temperature.", min=0)] = 0.8,
    seed: Annotated[int | None, typer.Option(help="Draws the prompts; repeat one only on a fresh server.")] = None,
    priority: Annotated[
        Priority | None, typer.Option(help="Of the streams' requests; the late one keeps the default.")
    ] = None,
    url: Annotated[str, typer.Option(help="Another server: http://HOST:PORT, or unix:PATH.", show_default=False)] = "",
    api: Annotated[Api, typer.Option(help="The API it speaks.")] = Api.AUTO,
    as_json: Annotated[bool, typer.Option("--json", help="Print data for machines.")] = False,
) -> None:
    """Measure prefill and generation speed of one stream, then of several at once.

    Times are what a client sees: TTFT to the first text, ITL between pieces of text. TOK/S is answer tokens over
    the whole time; STEADY, only from when every stream answers until the first is done. Prompts are random words,
    different in every request, so that no cached prefix helps.
    """
    import asyncio

    from beastctl.bench.plan import Plan, measure
    from beastctl.bench.report import as_text, errors

    plan = Plan(
        url=url or _own_url(),
        api=Api.OLLAMA if not url and api is Api.AUTO else api,
        model=model,
        n_prompt=prompt_tokens,
        n_answer=tokens,
        streams=_numbers(streams),
        n_rounds=rounds,
        prompt_lengths=_numbers(prompt_lengths),
        n_shared=shared_prefix,
        stagger_s=stagger,
        n_warm_up=warm_up,
        temperature=temperature,
        seed=random.randrange(2**31) if seed is None else seed,
        priority=priority and priority.value,
    )
    report = asyncio.run(measure(plan, render.say if sys.stderr.isatty() else lambda _: None))
    if as_json:
        render.print_json(report)
    else:
        print(as_text(report))
    for error in errors(report):
        render.say(error)
    raise typer.Exit(1 if errors(report) else 0)


def _own_url() -> str:
    paths = daemon.current_paths()
    daemon.ensure_running(paths, render.say)
    return f"unix:{paths.socket}"


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(word) for word in text.split(",") if word.strip()]
    except ValueError:
        numbers = [0]
    if any(number < 1 for number in numbers):
        raise typer.BadParameter(f"{text!r} is not a list of whole numbers such as 1,4,8")
    return numbers
