"""`beast logs`: the daemon's log, or a worker's."""

from __future__ import annotations

import json
import os
import select
import stat
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from beastctl import daemon, render
from beastctl.ask import EXIT_INTERRUPTED
from beastctl.complete import worker_labels
from beastctl.logline import as_object, painted
from beastctl.logtail import LogTail, worker_logs
from beastd.errors import BeastError

POLL_S = 0.1


class NoLog(BeastError):
    """There is no such log."""

    code = "no_log"


def logs(
    *,
    n_lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="So many of the last lines.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    worker: Annotated[
        str,
        typer.Option(
            metavar="MODEL", help="The log of the process that runs it, the latest one.", autocompletion=worker_labels
        ),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print each line as a JSON object.")] = False,
) -> None:
    """Show the daemon's log, or a worker's.

    A daemon that `beast` or a service started logs to a file; one of `beast serve` logs to its own terminal.
    """
    paths = daemon.current_paths()
    path = _worker_log(paths.logs_dir, worker) if worker else paths.logs_dir / daemon.LOG_NAME
    show_file(path, n_lines, follows=follow, as_json=as_json)


def show_file(path: Path, n_lines: int, *, follows: bool, as_json: bool = False) -> None:
    """Print the last lines of a log, and go on with what comes. Raises NoLog where there is none to end with."""
    line_for = _json if as_json else painted if _has_colours() else str
    try:
        with LogTail(path) as tail:
            last = tail.last(n_lines)
            if follows:
                _follow(tail, last, line_for)
            if not path.exists():
                raise NoLog(f"there is no log at {path}; a daemon that `beast` or a service started writes it")
            _print((last + tail.unfinished())[-n_lines:] if n_lines else [], line_for)
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _follow(tail: LogTail, last: list[bytes], line_for: Callable[[str], str]) -> NoReturn:
    _print(last, line_for)
    while True:
        _await(POLL_S)
        _print(tail.fresh(), line_for)


def _print(lines: Iterable[bytes], line_for: Callable[[str], str]) -> None:
    for line in lines:
        print(line_for(line.decode(errors="replace")))
    sys.stdout.flush()


def _await(pause_s: float) -> None:
    """Let time pass, unless nobody reads what we print: a pipe tells so even when there is nothing to write."""
    if not stat.S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode):
        time.sleep(pause_s)
        return
    poll = select.poll()
    poll.register(sys.stdout, 0)
    if any(event & select.POLLERR for _, event in poll.poll(pause_s * 1000)):
        raise BrokenPipeError


def _json(line: str) -> str:
    return json.dumps(as_object(line), ensure_ascii=False)


def _has_colours() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _worker_log(folder: Path, name: str) -> Path:
    """The latest log of a worker with that name, else of one whose name begins so. Raises NoLog where there is none."""
    from beastd.log import readable_label

    wanted, logs = readable_label(name).lower(), worker_logs(folder)
    found = {path: label for path, label in logs.items() if label.lower() == wanted}
    found = found or {path: label for path, label in logs.items() if label.lower().startswith(wanted)}
    if not found:
        known = ", ".join(sorted(set(logs.values()))) or "none at all"
        raise NoLog(f"no worker of '{name}' has left a log in {folder}; there are: {known}")
    latest = max(found, key=lambda path: path.stat().st_mtime_ns)
    if len(found) > 1:
        render.say(f"{latest.name}, the latest of {len(found)} logs")
    return latest
