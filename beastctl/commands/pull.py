"""`beast pull`: get models."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from beastctl import daemon, hub, jobs, local, render
from beastctl.ask import EXIT_INTERRUPTED
from beastctl.client import Client
from beastctl.complete import catalog_names


def pull(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="A name of the catalog (qwen3:0.6b), a repository (hf.co/USER/REPO, :Q4_K_M or /FILE.gguf after it), "
            "an https:// address of a GGUF file, or a file. @VARIANT chooses a quantization.",
            autocompletion=catalog_names,
        ),
    ],
    *,
    name: Annotated[str | None, typer.Option("--as", metavar="NAME", help="The model's name here.")] = None,
    sha256: Annotated[
        str | None, typer.Option(metavar="HEX", help="What the content of an address or file must have.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Do not wait; print the job's id.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print data for machines.")] = False,
) -> None:
    """Get models, several at once; what was cut off before goes on where it stopped.

    Without a variant, the best one that fits this machine is chosen. The full name goes to standard output, all else
    to standard error. Ctrl-C stops the download, unless others wait for it too.
    """
    models = list(dict.fromkeys(models))
    if len(models) > 1 and (name or sha256):
        raise typer.BadParameter("--as and --sha256 are for one model at a time")
    client = daemon.ensure_running(daemon.current_paths(), render.say)
    works = [work_for(model, save_as=name, sha256=sha256) for model in models]
    if detach:
        for work in works:
            print(jobs.begin(client, work))
        return
    is_whole = jobs.follow(client, works)
    _tell(works, as_json=as_json)
    if not is_whole:
        raise typer.Exit(EXIT_INTERRUPTED)
    if any(work.error for work in works):
        raise typer.Exit(1)


def work_for(model: str, *, save_as: str | None = None, sha256: str | None = None) -> jobs.Work:
    """The request that pulls ``model``, which may be the path of a file."""
    path = local.path_of(model)
    request = {"model": f"file:{path}" if path else model, "save_as": save_as, "sha256": sha256}
    given = {name: value for name, value in request.items() if value is not None}
    return jobs.Work(model, "/api/pull", hub.with_token(given), is_resumable=True)


def get(client: Client, model: str) -> str:
    """Pull one model, as a part of another command; its full name.

    Raises:
        BeastError: it cannot be had.
        typer.Exit: Ctrl-C was pressed.
    """
    result = jobs.run(client, work_for(model))
    advise(result)
    return str(result["model"])


def _tell(works: list[jobs.Work], *, as_json: bool) -> None:
    """What came of each, the failures last: a line each, where a person looks first."""
    for work in works:
        if work.result is not None:
            advise(work.result, _whose(work, works))
            if not as_json:
                print(work.result["model"], flush=True)
    for work in works:
        if work.error:
            render.say(_whose(work, works) + work.error.message)
    if as_json:
        render.print_json({"models": [work.result for work in works if work.result is not None]})


def _whose(work: jobs.Work, works: list[jobs.Work]) -> str:
    return f"{work.title}: " if len(works) > 1 else ""


def advise(result: dict[str, Any], whose: str = "") -> None:
    """Say why this variant was chosen, and what to know about it."""
    for text in (result.get("why"), *(result.get("warnings") or [])):
        if text:
            render.say(whose + text)
