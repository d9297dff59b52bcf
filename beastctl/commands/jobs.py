"""`beast jobs`: long work of the daemon."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from beastctl import daemon, render
from beastctl.ask import EXIT_INTERRUPTED
from beastctl.client import NotRunning
from beastctl.complete import job_ids
from beastctl.progress import sentence

HEADER = ("ID", "KIND", "SUBJECT", "STATE", "STARTED", "WATCHERS", "PROGRESS")


def jobs(
    context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="Print data for machines.")] = False
) -> None:
    """List long work under way or ended lately: pulls, quantizations, imports; watch it or cancel it."""
    if context.invoked_subcommand is not None:
        return
    try:
        reply = daemon.running(daemon.current_paths()).get("/api/jobs")
    except NotRunning:
        render.say("beastd is not running, so nothing is under way")
        reply = {"jobs": []}
    if as_json:
        render.print_json(reply)
        return
    rows = [_row(job) for job in reply["jobs"]]
    print(render.table(HEADER, rows, elastic=(2, 6), width=render.terminal_width(sys.stdout)))


def watch(
    job: Annotated[str, typer.Argument(help="Its id.", autocompletion=job_ids)],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print its result as data for machines.")] = False,
) -> None:
    """Show a job until it ends, and end as it does. Ctrl-C only stops watching."""
    from beastctl import jobs as work_of
    from beastctl.commands.pull import advise

    client = daemon.running(daemon.current_paths())
    work = work_of.Work(job, f"/api/jobs/{_checked(job)}")
    if not work_of.follow(client, [work], cancels=False):
        raise typer.Exit(EXIT_INTERRUPTED)
    if work.error:
        raise work.error
    result = work.result or {}
    advise(result)
    if as_json:
        render.print_json(result)
    else:
        render.say(f"{job} is done" + (f": {result['model']}" if result.get("model") else ""))


def cancel(job: Annotated[str, typer.Argument(help="Its id.", autocompletion=job_ids)]) -> None:
    """Cancel a job, whoever waits for it."""
    reply = daemon.running(daemon.current_paths()).delete(f"/api/jobs/{_checked(job)}")
    render.say(f"cancelled {job}" if reply["cancelled"] else f"{job} had ended already")


def _checked(job: str) -> str:
    """The id, quoted for an address."""
    from urllib.parse import quote

    return quote(job, safe="")


def _row(job: dict[str, Any]) -> tuple[str, ...]:
    news = job.get("error") or "; ".join(sentence(line) for line in reversed(job.get("progress") or []))
    return (
        job["id"],
        job["kind"],
        job["subject"],
        job["state"],
        render.when(job["started_at"]),
        str(job["n_watchers"]),
        news if job["state"] != "done" else "",
    )


SUBCOMMANDS = {"watch": watch, "cancel": cancel}
