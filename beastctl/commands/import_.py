"""`beast import`: models that are on this machine already."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from beastctl import daemon, jobs, local, render


def import_(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="GGUF files, folders of them, the models folder of Ollama or LM Studio, the Hugging Face cache, or "
            "what `beast export` wrote.",
        ),
    ],
    *,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the files, instead of using them where they are.")] = False,
    link: Annotated[
        bool, typer.Option("--link", help="Make hard links: no copy, and the originals may be removed.")
    ] = False,
    name: Annotated[str | None, typer.Option("--as", metavar="NAME", help="The model's name, where it is one.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be imported.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace models of the same names.")] = False,
    gguf_template: Annotated[
        bool,
        typer.Option(
            "--gguf-template", help="Use the GGUF's chat template where Ollama's cannot be translated, not skip it."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print data for machines.")] = False,
) -> None:
    """Import models that are on this machine already, without copying them unless asked to.

    Settings of Ollama's models come along. A file that changes or vanishes later is noticed.
    """
    if copy and link:
        raise typer.BadParameter("--copy and --link exclude each other")
    request: dict[str, Any] = {"paths": [_absolute(path) for path in paths]}
    request |= {"mode": "copy" if copy else "link"} if copy or link else {}
    request |= {"save_as": name} if name else {}
    flags = {"dry_run": dry_run, "replace": replace, "gguf_template": gguf_template}
    request |= {field: True for field, is_on in flags.items() if is_on}
    client = daemon.ensure_running(daemon.current_paths(), render.say)
    result = jobs.run(client, jobs.Work("importing", "/api/import", request))
    if as_json:
        render.print_json(result)
    else:
        _tell(result, is_dry=dry_run)
    if not result["imported"]:
        raise typer.Exit(1)


def _absolute(path: str) -> str:
    return local.path_of(path) or local.absolute(path)


def _tell(result: dict[str, Any], *, is_dry: bool) -> None:
    imported, skipped = result["imported"], result["skipped"]
    for it in imported:
        for note in it.get("notes") or []:
            render.say(f"{it['name']}: {note}")
    for it in skipped:
        render.say(f"left out {it['source']}: {it['reason']}")
    rows = [
        (it["name"], " ".join(it.get("variants") or []), " ".join(it.get("adapters") or []), str(it["source"]))
        for it in imported
    ]
    if rows:
        print(render.table(("NAME", "VARIANTS", "ADAPTERS", "SOURCE"), rows))
    if not rows:
        render.say("no model was found to import")
    elif is_dry:
        render.say("nothing was imported: this was a dry run")
