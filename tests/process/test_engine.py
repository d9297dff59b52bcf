"""The worker process by itself, spoken to as the daemon does: its priorities, its memory, its changes of shape."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import beastd
from beastd import ipc
from beastd.engine.__main__ import LOAD_NICENESS

CUB = Path(beastd.__file__).parent / "builtin" / "cub"
SHARDS = [str(CUB / f"cub-f16-0000{n}-of-00002.gguf") for n in (1, 2)]
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")


class Engine:
    """A worker process and the daemon's end of its socket."""

    def __init__(self, load: ipc.Load | None, limit_bytes: int = 0) -> None:
        self._end, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-m", "beastd.engine", "--fd", str(theirs.fileno())]
        self.process = subprocess.Popen(command, pass_fds=(theirs.fileno(),), stderr=subprocess.DEVNULL)
        theirs.close()
        self._frames = self._end.makefile("rb")
        if limit_bytes:
            self.limit(limit_bytes)
        if load:
            self.send(load)

    def send(self, message: ipc.ToWorker) -> None:
        self._end.sendall(ipc.frame(message))

    def hear(self, *kinds: type) -> Any:
        """The next frame of these kinds; None when the process has closed its end."""
        for line in self._frames:
            if isinstance(message := ipc.from_worker.decode(line), kinds):
                return message
        return None

    def limit(self, n_bytes: int) -> None:
        """Let it have so much address space."""
        resource.prlimit(self.process.pid, resource.RLIMIT_AS, (n_bytes, n_bytes))

    @property
    def address_bytes(self) -> int:
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[0]
        return int(pages) * resource.getpagesize()

    def answer(self, id_: int = 1) -> ipc.Delta:
        """The ending of a short answer."""
        sampling = ipc.Sampling(num_predict=8)
        self.send(ipc.Submit(id=id_, prompt=ipc.Prompt(raw="Once upon a time"), sampling=sampling))
        while True:
            for delta in self.hear(ipc.Step).deltas:
                if delta.final or delta.error:
                    return delta  # type: ignore[no-any-return]

    def close(self) -> None:
        self._frames.close()
        self._end.close()
        self.process.kill()
        self.process.wait()


Start = Callable[..., Engine]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts engines, and ends them."""
    started: list[Engine] = []

    def begin(*args: Any, **kwargs: Any) -> Engine:
        started.append(Engine(*args, **kwargs))
        return started[-1]

    yield begin
    for engine in started:
        engine.close()


def load(paths: list[str] | None = None, **settings: Any) -> ipc.Load:
    made = ipc.LoadSettings(**{"n_ctx": 256, "n_parallel": 2, "n_threads": 2, **settings})
    return ipc.Load(paths=paths or [str(CUB / "cub-q2_k.gguf")], label="cub", variant="any", settings=made)


@on_linux
def test_it_loads_behind_everyone_else_and_serves_beside_them(start: Start) -> None:
    """No thread of a worker that serves has a lower priority than the daemon's; while it loads, one has."""
    engine = start(load())
    seen: set[int] = set()
    while (message := engine.hear(ipc.Progress, ipc.Ready)) and not isinstance(message, ipc.Ready):
        seen |= niceness(engine.process.pid)
    assert max(seen) == LOAD_NICENESS
    assert engine.answer().final
    assert niceness(engine.process.pid) == {os.getpriority(os.PRIO_PROCESS, 0)}


def niceness(pid: int) -> set[int]:
    """Of all threads."""
    stats = (task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/stat"))
    return {int(stat.rpartition(")")[2].split()[16]) for stat in stats}


@on_linux
def test_a_context_there_is_no_memory_for_is_out_of_memory(start: Start) -> None:
    """With the number of bytes, and no process left."""
    engine = start(load(n_ctx=2_000_000), limit_bytes=4 * 2**30)
    error = engine.hear(ipc.LoadError)
    assert error.failure.code == "out_of_memory"
    assert "failed to allocate buffer of size" in error.failure.message
    assert engine.process.wait(60) == 1


@on_linux
def test_a_variant_there_is_no_memory_for_leaves_the_one_before(start: Start) -> None:
    """Which answers as ever."""
    engine = start(load(mmap=False))
    engine.hear(ipc.Ready)
    assert engine.answer(1).final
    engine.limit(engine.address_bytes + 2**23)
    engine.send(ipc.Reshape(load=load(SHARDS, mmap=False, n_ctx=2048, n_parallel=64)))
    reshaped = engine.hear(ipc.Reshaped)
    assert reshaped.failure.code == "out_of_memory"
    assert engine.answer(2).final


def test_it_tells_of_its_progress_while_it_takes_another_shape(start: Start) -> None:
    """And answers pings before and after."""
    engine = start(load())
    engine.hear(ipc.Ready)
    engine.send(ipc.Ping())
    engine.send(ipc.Reshape(load=load(SHARDS)))
    engine.send(ipc.Ping())
    kinds = [type(engine.hear(object)) for _ in range(2)]
    while kinds[-1] is not ipc.Pong:
        kinds.append(type(engine.hear(object)))
    assert kinds[:2] == [ipc.Pong, ipc.Progress]
    assert kinds[-2:] == [ipc.Reshaped, ipc.Pong]


@on_linux
def test_a_step_down_and_sleep_give_memory_back(start: Start) -> None:
    """Measured as the system sees it."""
    engine = start(load(SHARDS, n_ctx=4096, mmap=False))
    whole = engine.hear(ipc.Ready)
    engine.send(ipc.Reshape(load=load(n_ctx=4096, mmap=False)))
    small = engine.hear(ipc.Reshaped).ready
    engine.send(ipc.Reshape(load=load(n_ctx=4096, mmap=False), is_asleep=True))
    asleep = engine.hear(ipc.Reshaped).ready
    assert whole.anon_bytes - small.anon_bytes > 40 * 2**20
    assert small.anon_bytes - asleep.anon_bytes > 40 * 2**20


def test_a_worker_that_lost_its_model_ends_its_requests_and_fails(start: Start, tmp_path: Path) -> None:
    """Each with the reason."""
    path = Path(shutil.copy(CUB / "cub-q2_k.gguf", tmp_path))
    (broken := tmp_path / "broken.gguf").write_bytes(b"GGUF" + b"\x07" * 5000)
    engine = start(load([str(path)]))
    engine.hear(ipc.Ready)
    endless = ipc.Sampling(num_predict=-1, ignore_eos=True)
    engine.send(ipc.Submit(id=1, prompt=ipc.Prompt(raw="Once"), sampling=endless))
    engine.hear(ipc.Step)
    path.unlink()
    engine.send(ipc.Reshape(load=load([str(broken)])))
    ended = [delta for _ in range(50) if (step := engine.hear(ipc.Step)) for delta in step.deltas if delta.error]
    assert [delta.error.code for delta in ended] == ["bad_model"]
    assert engine.process.wait(60) == 1
