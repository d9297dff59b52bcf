"""What runs in a tool process: one order in, progress out, one ending.

A tool is a child of the daemon for long work that must not run inside it: downloads, quantizing, perplexity. It speaks
JSON lines: its order comes on standard input, any number of Progress and then one Done or Failed go to standard output.
The end of standard input means that the daemon has gone, or wants no more: the tool exits at once, so whatever it
writes must be safe to leave at any moment.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock, Thread
from typing import Any, BinaryIO, TypeVar

import msgspec
from msgspec import Struct

from beastd.durable import translated
from beastd.errors import BeastError
from beastd.ipc import Failure

HASH_BYTES = 4 * 2**20
REPORT_S = 0.1
"""Progress of one item is told at most so often."""

T = TypeVar("T", bound=Struct)


class Progress(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="progress"):
    """Where a job stands: what it does now and, where it can be counted, how much of it is done."""

    status: str
    """What is being done, for people: "pulling manifest", "pulling model-q8_0.gguf"."""
    item: str = ""
    """What is counted; several may go on at once. Empty: the job as a whole."""
    digest: str = ""
    """``sha256:`` and 64 hex digits of the item, where they are known."""
    completed: int = 0
    total: int = 0
    """0: not known."""
    unit: str = "bytes"
    """bytes, tensors or tokens."""


class Done(Struct, frozen=True, tag="done"):
    """The work is finished; what came out of it."""

    result: dict[str, Any]


class Failed(Struct, frozen=True, tag="failed"):
    """The work ended with an error."""

    failure: Failure


FromTool = Progress | Done | Failed
from_tool = msgspec.json.Decoder(FromTool)
"""Decodes one line of a tool's output."""

Report = Callable[[Progress], None]


class Reporter:
    """Writes progress, thinned out: the first and last of an item always, others every ``REPORT_S``. Thread-safe."""

    def __init__(self, out: BinaryIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._lock = Lock()
        self._last: dict[str, tuple[str, float]] = {}

    def __call__(self, progress: Progress) -> None:
        """Tell it, unless the same was told a moment ago."""
        with self._lock:
            status, told_at = self._last.get(progress.item, ("", 0.0))
            is_news = status != progress.status or progress.completed == progress.total
            if is_news or self._clock() - told_at >= REPORT_S:
                self._last[progress.item] = (progress.status, self._clock())
                self._write(progress)

    def end(self, ending: Done | Failed) -> None:
        """Tell how it ended."""
        with self._lock:
            self._write(ending)

    def _write(self, message: FromTool) -> None:
        self._out.write(msgspec.json.encode(message) + b"\n")
        self._out.flush()


def serve(kind: type[T], work: Callable[[T, Report], dict[str, Any]]) -> None:
    """Body of a tool's program: read the order, do the work, tell the outcome. Ends the process."""
    # What libraries print must not get between our lines.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    report = Reporter(out)
    ending: Done | Failed
    try:
        order = msgspec.json.decode(sys.stdin.buffer.readline(), type=kind)
        Thread(target=_exit_at_end_of_input, daemon=True).start()
        ending = Done(work(order, report))
    except BeastError as e:
        ending = Failed(Failure(e.code, e.message))
    except BrokenPipeError:
        os._exit(1)
    report.end(ending)
    os._exit(0)  # at once: library threads must not hold it back


def digest_of_file(path: Path, report: Report, *, label: str = "") -> str:
    """The sha256 of a file, 64 hex digits, told as it is read. Raises BeastError when it cannot be read."""
    name = label or path.name
    running, n_done = hashlib.sha256(), 0
    try:
        with path.open("rb") as stream:
            total = os.fstat(stream.fileno()).st_size
            while data := stream.read(HASH_BYTES):
                running.update(data)
                n_done += len(data)
                report(Progress(status=f"verifying {name}", item=name, completed=n_done, total=total))
    except OSError as e:
        raise translated(e, f"cannot read {path}") from e
    return running.hexdigest()


def _exit_at_end_of_input() -> None:
    while sys.stdin.buffer.readline():
        pass
    os._exit(1)
