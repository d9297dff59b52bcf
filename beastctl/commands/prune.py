"""`beast prune`: reclaim space that no model uses."""

from __future__ import annotations

from typing import Annotated

import typer

from beastctl import daemon, render

PRUNE_LIMIT_S = 600.0


def prune(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be removed.")] = False,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Also downloads stopped lately, which could go on where they are.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print data for machines.")] = False,
) -> None:
    """Remove what no model uses: files of the store, and downloads left unfinished for a week.

    What somebody works on stays.
    """
    request = {"dry_run": dry_run} | ({"partial_age_s": 0} if unfinished else {})
    client = daemon.ensure_running(daemon.current_paths(), render.say)
    reply = client.post("/api/prune", request, timeout_s=PRUNE_LIMIT_S)
    if as_json:
        render.print_json(reply)
        return
    if reply["removed"]:
        rows = [(it["kind"], render.size(it["bytes"]), it["path"]) for it in reply["removed"]]
        print(render.table(("KIND", "SIZE", "PATH"), rows))
    verb = "would free" if reply["dry_run"] else "freed"
    render.say(f"{verb} {render.size(reply['bytes'])}" if reply["removed"] else "there is nothing to remove")
