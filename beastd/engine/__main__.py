"""The worker process: load one base model as told over the inherited socket, then serve it.

    python -m beastd.engine --fd N

The end of the socket ends the process at once, whatever it is doing: a daemon that was killed leaves no worker.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TYPE_CHECKING

from beastd import ipc
from beastd.errors import BeastError

if TYPE_CHECKING:
    from beastd.engine.engine import Engine
    from beastd.engine.llama import Llama

_PR_SET_PDEATHSIG = 1
_PROGRESS_EVERY_S = 0.05
LOAD_NICENESS = 10
"""A tenth of a core that a loaded model keeps busy: it hardly notices, and the load still ends."""


class Link:
    """The worker's end of the socket: a thread reads, the engine's thread writes."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self.inbox: SimpleQueue[ipc.ToWorker] = SimpleQueue()

    def start_reading(self) -> None:
        """Read frames in a thread of its own, so that the end of the stream is seen even in a long native call."""
        threading.Thread(target=self._read, name="link", daemon=True).start()

    def _read(self) -> None:
        try:
            with self._socket.makefile("rb") as lines:
                for line in lines:
                    self.inbox.put(ipc.to_worker.decode(line))
        except Exception:
            traceback.print_exc()
        finally:  # an engine that hears nothing any more would keep its requests waiting for ever
            os._exit(0)

    def send(self, message: ipc.FromWorker) -> None:
        """Send one frame; exits when nobody is left to read it."""
        try:
            self._socket.sendall(ipc.frame(message))
        except OSError:
            os._exit(0)


def die_with_parent() -> None:
    """Ask Linux to kill this process with its daemon, even if it is stopped and cannot see the socket's end."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def serve(link: Link) -> None:
    """Load what the first frame names, say Ready, and run the engine."""
    try:
        engine = load_gently(link)
    except BeastError as error:
        link.send(ipc.LoadError(ipc.Failure(error.code, error.message)))
        sys.exit(1)
    link.send(engine.ready)
    engine.run()
    os._exit(0)  # all is said and saved: taking the model apart would only take time


def load_gently(link: Link) -> Engine:
    """Load in a thread that other processes' threads come before, and so do this one's, once it serves."""
    order = link.inbox.get()
    assert isinstance(order, ipc.Load), "the daemon speaks first"
    future: Future[tuple[Engine, Llama]] = Future()
    thread = threading.Thread(target=_load, args=(order, link, future), name="load")
    thread.start()
    thread.join()
    engine, llama = future.result()
    llama.touch()  # OpenMP keeps a pool for each thread that computes: this one's has none yet
    return engine


def _load(order: ipc.Load, link: Link, future: Future[tuple[Engine, Llama]]) -> None:
    try:
        _yield_to_others()
        future.set_result(_made(order, link))
    except BaseException as error:
        future.set_exception(error)


def _yield_to_others() -> None:
    """Let other processes come before this thread and those it will start; Linux keeps a priority for each thread."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads would stay, and are not needed
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOAD_NICENESS)


def _made(order: ipc.Load, link: Link) -> tuple[Engine, Llama]:
    # Imported only now: the reader thread must be up before anything slow, and it needs neither numpy nor llama.cpp.
    from beastd.engine.assembly import new_drafter, new_scheduler
    from beastd.engine.engine import Engine
    from beastd.engine.headdrafts import HeadDrafts
    from beastd.engine.intake import Intake
    from beastd.engine.llama import Llama
    from beastd.engine.outbox import Outbox
    from beastd.engine.pace import Pace
    from beastd.engine.speculative import Speculation
    from beastd.engine.tiers import Tiers, identity_of

    tiers = Tiers(order.tiers, identity_of(order), order.label)
    llama = Llama(order, _progress(link))
    draft = new_drafter(llama)
    intake = Intake(llama, order.template, has_drafter=draft is not None)
    intake.rehearse()
    rate = llama.warm_up()
    pace = Pace(order.settings.step_ms / 1e3, llama.n_batch, rate)
    heads = draft if isinstance(draft, HeadDrafts) else None
    scheduler = new_scheduler(llama, pace, tiers, order.settings.policy, heads)
    speculation = Speculation(pace.costs, draft, llama.longest_draft)
    outbox = Outbox(link.send)
    return (
        Engine(llama, intake, scheduler, link.inbox, outbox, tiers=tiers, speculation=speculation, draft=draft),
        llama,
    )


def _progress(link: Link) -> Callable[[float], None]:
    last_s = 0.0

    def report(fraction: float) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if now_s - last_s >= _PROGRESS_EVERY_S:
            last_s = now_s
            link.send(ipc.Progress(fraction))

    return report


def main() -> None:
    """Entry point of the worker process."""
    parser = argparse.ArgumentParser(prog="beastd.engine")
    parser.add_argument("--fd", type=int, required=True)
    link = Link(parser.parse_args().fd)
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    link.start_reading()
    serve(link)


if __name__ == "__main__":
    main()
