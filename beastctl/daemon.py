"""Find beastd, start it when nobody answers, stop it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beastctl.client import Client, HungUp, NotRunning
from beastd.errors import BeastError
from beastd.paths import Paths, ensure_dir

if TYPE_CHECKING:
    from subprocess import Popen

START_LIMIT_S = 60.0
"""Without a healthy daemon for so long, the start has failed; an earlier one may take half of it to end."""
POLL_S = 0.05
LOG_NAME = "beastd.log"
N_LOG_LINES = 8
"""Lines of the daemon's log shown when it does not start, out of its last ``TAIL_BYTES``."""
TAIL_BYTES = 8192


class StartFailed(BeastError):
    """beastd was started and did not become healthy."""

    code = "start_failed"


class StopFailed(BeastError):
    """beastd was told to stop and is still there."""

    code = "stop_failed"


def current_paths() -> Paths:
    """Where Beast's files are for this user and environment."""
    return Paths.from_env(os.environ)


def running(paths: Paths) -> Client:
    """A client of the daemon that runs already.

    Raises:
        NotRunning: none does.
    """
    client = Client(paths.socket)
    client.get("/healthz")
    return client


def ensure_running(paths: Paths, say: Callable[[str], None]) -> Client:
    """A client of the daemon, started if none answers; ``say`` hears about the start once.

    Two callers may start one at the same moment: the daemon's lock lets one live, and both wait for that one.

    Raises:
        StartFailed: it did not become healthy; with the last lines of its log.
    """
    client = Client(paths.socket)
    if try_health(client) is None:
        say("starting beastd …")
        _start(client, paths)
    return client


def try_health(client: Client) -> dict[str, Any] | None:
    """What the daemon says of itself, or None when none runs."""
    try:
        return client.get("/healthz")
    except (NotRunning, HungUp):
        return None


def shutdown(paths: Paths, limit_s: float, say: Callable[[str], None]) -> int | None:
    """Stop the daemon that holds the lock, letting its answers end; its pid, or None when none runs.

    ``say`` hears of it when that takes over a second.

    Raises:
        StopFailed: it still holds the lock after ``limit_s`` seconds, or belongs to someone else.
    """
    import signal

    pid = try_lock_holder(paths.lock_file)
    if pid is None:
        return None
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError as error:
        raise StopFailed(f"beastd (pid {pid}) belongs to another user; ask them, or root, to stop it") from error
    except ProcessLookupError:
        return pid
    await_end(paths, pid, limit_s, say)
    return pid


def try_lock_holder(lock_file: Path) -> int | None:
    """Pid written in the lock file by the process that holds its lock; None when nobody does.

    The lock is tested shared, for an instant: a pid in a file that nobody locks may be another program's by now.
    """
    import fcntl

    try:
        with lock_file.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        text = lock_file.read_text().strip()
        return int(text) if text.isdigit() else None
    return None


def await_end(paths: Paths, pid: int, limit_s: float, say: Callable[[str], None]) -> None:
    """Wait until a daemon that is ending has let its lock go; ``say`` hears of it when that takes over a second.

    Raises:
        StopFailed: it still holds the lock after ``limit_s`` seconds.
    """
    started, has_said = time.monotonic(), False
    while try_lock_holder(paths.lock_file) == pid:
        took_s = time.monotonic() - started
        if took_s > 1 and not has_said:
            say(f"beastd (pid {pid}) lets answers under way end …")
            has_said = True
        if took_s > limit_s:
            raise StopFailed(f"beastd (pid {pid}) still runs after {limit_s:.0f} s; `kill -9 {pid}` ends it at once")
        time.sleep(POLL_S)


def _spawn(paths: Paths) -> Popen[bytes]:
    from subprocess import DEVNULL, Popen

    with (ensure_dir(paths.logs_dir) / LOG_NAME).open("ab") as log:
        return Popen(
            [sys.executable, "-m", "beastd", "--background"],
            stdin=DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )


def _start(client: Client, paths: Paths) -> None:
    """Start a daemon and wait until one is healthy: ours, or the one that holds the lock."""
    deadline = time.monotonic() + START_LIMIT_S
    n_logged = _log_bytes(paths)
    process, has_lost = _spawn(paths), False
    while try_health(client) is None:
        if process.poll() is not None:
            if try_lock_holder(paths.lock_file) is not None:
                has_lost = True
            elif has_lost:  # to one that was not starting, but on its way out
                process, has_lost = _spawn(paths), False
            elif try_health(client) is None:
                raise StartFailed(
                    f"beastd ended at once (exit status {process.returncode})" + _log_tail(paths, n_logged)
                )
        if time.monotonic() > deadline:
            raise StartFailed(f"beastd did not answer within {START_LIMIT_S:.0f} s" + _log_tail(paths, n_logged))
        time.sleep(POLL_S)


def _log_bytes(paths: Paths) -> int:
    """How long the log is; a daemon that starts may begin a new one."""
    try:
        return (paths.logs_dir / LOG_NAME).stat().st_size
    except FileNotFoundError:
        return 0


def _log_tail(paths: Paths, n_before: int) -> str:
    """The end of the log, without what earlier daemons wrote: its first ``n_before`` bytes, where it has more."""
    path = paths.logs_dir / LOG_NAME
    log = path.read_bytes()
    own = log[n_before:] or log
    lines = own[-TAIL_BYTES:].decode(errors="replace").splitlines()[-N_LOG_LINES:]
    return f"; its log {path} ends with" + "".join(f"\n  {line}" for line in lines)
