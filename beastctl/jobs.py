"""Long work of the daemon, as one who waits for it sees it: begun or joined, shown, cancelled, or left to go on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import typer

from beastctl import render
from beastctl.answer import on_interrupt
from beastctl.ask import EXIT_INTERRUPTED
from beastctl.bars import BoardScreen, screen_for
from beastctl.client import TICK_S, Client, NoAnswer, Reply
from beastctl.progress import Board
from beastd.errors import BeastError

LEAVE_LIMIT_S = 2.0
"""After Ctrl-C, work that has not told its id for so long is left as it is."""
N_TRIES = 4
"""Of cancelling a job that others seem to watch, within 0.6 seconds."""


@dataclass(slots=True, eq=False)
class Work:
    """One job to wait for: a request that begins (or joins) it, and what came of it."""

    title: str
    path: str
    request: dict[str, Any] | None = None
    """The body of a POST; None: only look at what is under way."""
    is_resumable: bool = False
    """Asking again goes on where it was cancelled."""
    job: str = ""
    result: dict[str, Any] | None = None
    error: BeastError | None = None

    @property
    def is_over(self) -> bool:
        """It has had its ending."""
        return self.result is not None or self.error is not None


_Event = tuple[Work, dict[str, Any] | BeastError]
_Events = SimpleQueue[_Event]


def run(client: Client, work: Work) -> dict[str, Any]:
    """Do one piece of work and return its result.

    Raises:
        BeastError: it failed.
        typer.Exit: Ctrl-C was pressed; what that means was said.
    """
    if not follow(client, [work]):
        raise typer.Exit(EXIT_INTERRUPTED)
    if work.error:
        raise work.error
    assert work.result is not None, "what ended without an error has a result"
    return work.result


def follow(client: Client, works: Sequence[Work], *, cancels: bool = True) -> bool:
    """Have all the work done at once and show it; False when Ctrl-C ended the waiting.

    Each work then has its result or its error. ``cancels``: Ctrl-C also cancels what nobody else watches.
    """
    events: _Events = SimpleQueue()
    with ExitStack() as until_left, on_interrupt(lambda: None) as is_interrupted:
        for work in works:
            reply = until_left.enter_context(client.stream(work.path, work.request))
            until_left.enter_context(_reading(work, reply, events))
        _show(works, events, is_interrupted)
    left = [work for work in works if not work.is_over]
    for work in left:  # only now: what we watch ourselves would count as watched
        render.say(_parting(client, work, cancels=cancels))
    return not left


def begin(client: Client, work: Work) -> str:
    """Have the work begun and leave it to the daemon; the job's id.

    Raises:
        BeastError: it was refused.
    """
    with client.stream(work.path, work.request) as reply:
        for line in reply.lines():
            if line and "job" in line:
                return str(line["job"])
    raise NoAnswer(f"beastd closed the connection before it began with {work.title}; see its log")


def _show(works: Sequence[Work], events: _Events, is_interrupted: Callable[[], bool]) -> None:
    """Take events and show them until all is over or, after Ctrl-C, until every job's id is known."""
    board, screen, leave_at = Board(), screen_for(sys.stderr), None
    try:
        while not all(work.is_over for work in works):
            if is_interrupted():
                leave_at = leave_at or time.monotonic() + LEAVE_LIMIT_S
                if all(work.job or work.is_over for work in works) or time.monotonic() > leave_at:
                    break
            with suppress(Empty):
                work, event = events.get(timeout=TICK_S)
                _take(board, work, event)
                if work.error and not all(it.is_over for it in works):
                    _tell_early(screen, work.title, work.error)
            screen.update(board)
    finally:
        screen.clear()


def _tell_early(screen: BoardScreen, title: str, error: BeastError) -> None:
    """Other work may take hours yet, and this failure may be a slip of the pen."""
    screen.clear()
    render.say(f"{title}: {error.message}")


def _take(board: Board, work: Work, event: dict[str, Any] | BeastError) -> None:
    if isinstance(event, BeastError):
        work.error = event
    else:
        work.job = str(event.get("job") or work.job)
        if event.get("status") == "success":
            work.result = {name: value for name, value in event.items() if name != "status"}
    if work.is_over or isinstance(event, BeastError):
        board.end(work.title)
    else:
        board.take(work.title, event)


@contextmanager
def _reading(work: Work, reply: Reply, events: _Events) -> Iterator[None]:
    """A thread turns the reply into events; when the block is left, it ends."""
    reader = Thread(target=_read, args=(work, reply, events), daemon=True)
    reader.start()
    try:
        yield
    finally:
        reply.cancel()
        reader.join()


def _read(work: Work, reply: Reply, events: _Events) -> None:
    is_over = False
    try:
        for line in reply.lines():
            if line is not None:
                is_over = line.get("status") == "success"
                events.put((work, line))
    except BeastError as error:
        events.put((work, error))
        return
    if not is_over:
        events.put((work, NoAnswer(f"beastd closed the connection before {work.title} was done; ask again to go on")))


def _parting(client: Client, work: Work, *, cancels: bool) -> str:
    """Cancel what nobody waits for any more, if asked to; what becomes of the work, for people."""
    if not work.job:
        return f"{work.title}: beastd has not begun yet; `beast jobs` shows whether it does"
    ending = f"`beast jobs cancel {work.job}` ends it"
    if not cancels:
        return f"{work.job} goes on; `beast jobs watch {work.job}` shows it, {ending}"
    try:
        if _is_cancelled(client, work.job):
            return f"{work.title}: stopped" + "; asking again goes on where it stopped" * work.is_resumable
    except BeastError as error:
        return f"{work.title}: {error.message}"
    return f"{work.title} goes on, others wait for it; {ending}"


def _is_cancelled(client: Client, job: str) -> bool:
    """Whether the job is cancelled, having been left alone. beastd may need a moment to see that we left it."""
    for n_before in range(N_TRIES):
        time.sleep(n_before * TICK_S)
        if client.delete(f"/api/jobs/{job}?if_alone=true")["cancelled"]:
            return True
    return False
