"""One child process that runs the engine: how it starts, how it ended, and that it never stays.

It leads its own process group, so that a terminal's Ctrl-C does not reach it. It stays in the daemon's session:
Linux weighs sessions against each other (autogroup), and niceness, by which loads stand back, only within one.
The engine starts no processes of its own; signals go to the group all the same.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import zlib
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from beastd.log import readable_label

WORKER_ENV = {"GGML_NO_BACKTRACE": "1", "GOMP_SPINCOUNT": "2000", "MALLOC_MMAP_THRESHOLD_": "1048576"}
"""Where the daemon's environment does not say otherwise. llama.cpp's aborts would spend seconds in gdb. OpenMP threads
would spin for milliseconds at each of a token's hundreds of barriers, on cores that other programs need: then a thread
that was preempted stalls all others, and generation falls to a hundredth of its speed (docs/performance.md). Without a
fixed threshold glibc keeps freed megabytes: eight adapters took 1.22 times one model's memory, with it 1.14."""

_TAIL_BYTES = 4096
_TAIL_LINES = 8


def log_path(folder: Path, label: str, key: str) -> Path:
    """Where the output of the worker with this key goes: readable, safe as a file name, and the key's own."""
    return folder / f"worker-{readable_label(label)}-{zlib.crc32(key.encode()):08x}.log"


class Process:
    """A running engine process and the log file that holds its output."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self.pid = process.pid

    @classmethod
    async def spawn(cls, engine_end: socket.socket, log: Path) -> Process:
        """Start an engine that talks over ``engine_end``, which the caller closes; the log file starts empty.

        Raises OSError when the system cannot start it.
        """
        fd = engine_end.fileno()
        # -P: a file in the daemon's working directory must not be imported in place of a library.
        command = (sys.executable, "-P", "-m", "beastd.engine", "--fd", str(fd))
        with _fresh(log) as output:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(fd,),
                process_group=0,
                env=WORKER_ENV | os.environ,
            )
        return cls(process, log)

    def terminate(self) -> None:
        """Ask it to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it, even if it is stopped or hangs."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        # Once it is reaped its number may be another's.
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    async def end(self, grace_s: float) -> None:
        """Give it grace_s seconds to end by itself, then kill it. It is reaped on return; killed if cancelled."""
        try:
            async with asyncio.timeout(grace_s):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()
        finally:
            self.kill()

    @property
    def is_killed(self) -> bool:
        """It ended by SIGKILL."""
        return self._process.returncode == -signal.SIGKILL

    def outcome(self) -> str:
        """How it ended, to follow its name in a sentence."""
        status = self._process.returncode
        if status is None:
            return "has not ended"
        return f"was ended by {_signal_name(-status)}" if status < 0 else f"exited with status {status}"

    def log_tail(self) -> str:
        """The last lines of its output, empty if there are none."""
        try:
            with self._log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
                text = file.read(_TAIL_BYTES).decode("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join([line for line in text.splitlines() if line.strip()][-_TAIL_LINES:])


def _fresh(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("wb")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
