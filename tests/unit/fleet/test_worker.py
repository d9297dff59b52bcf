"""A worker whose process never comes to be, and one that cannot be heard."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from beastd import ipc
from beastd.errors import LoadFailed, WorkerDied
from beastd.fleet import worker as worker_module
from beastd.fleet.link import Link
from beastd.fleet.spec import WorkerSpec
from beastd.fleet.worker import Limits, Worker

LIMITS = Limits(load_s=60.0, hang_s=60.0)


async def test_a_process_that_cannot_start_fails_the_load(spec: Callable[..., WorkerSpec], tmp_path: Path) -> None:
    """The system's reason is told, as Beast's own error."""
    (tmp_path / "logs").write_text("a file where the folder should be")
    worker = Worker(spec(), tmp_path / "logs" / "worker.log", LIMITS)
    with pytest.raises(LoadFailed, match="could not be started"):
        await worker.load()
    assert worker.pid is None


SUBMIT = ipc.Submit(id=0, prompt=ipc.Prompt(raw="hello"), sampling=ipc.Sampling())


async def _deaf_worker(
    spec: Callable[..., WorkerSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Worker, socket.socket]:
    """A loaded worker whose answers Beast has a bug in reading, and its process's end of the socket."""
    ours, theirs = socket.socketpair()
    worker = Worker(spec(), tmp_path / "worker.log", LIMITS)
    worker._link = await Link.over(ours)

    async def read_answers() -> None:
        await asyncio.sleep(0)
        raise KeyError("oops")

    monkeypatch.setattr(worker._link, "read_answers", read_answers)
    return worker, theirs


async def test_a_bug_in_reading_answers_strands_no_request(
    spec: Callable[..., WorkerSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that wait and those to come end with one error; serve returns, so that the worker is replaced."""
    worker, theirs = await _deaf_worker(spec, tmp_path, monkeypatch)
    with theirs:
        waiting = asyncio.create_task(anext(worker.generate(SUBMIT)))
        await asyncio.sleep(0)
        await worker.serve()
        with pytest.raises(WorkerDied, match="failed to read"):
            await asyncio.wait_for(waiting, 60)
        with pytest.raises(WorkerDied):
            await asyncio.wait_for(anext(worker.generate(SUBMIT)), 60)
    assert "KeyError: 'oops'" in caplog.text


async def test_a_cancelled_serve_strands_no_request(
    spec: Callable[..., WorkerSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, theirs = await _deaf_worker(spec, tmp_path, monkeypatch)
    monkeypatch.setattr(worker._link, "read_answers", asyncio.Event().wait)
    with theirs:
        waiting = asyncio.create_task(anext(worker.generate(SUBMIT)))
        serving = asyncio.create_task(worker.serve())
        await asyncio.sleep(0)
        serving.cancel()
        with pytest.raises(WorkerDied):
            await asyncio.wait_for(waiting, 60)
    assert serving.cancelled()


# --- signs of life ---

QUICK = Limits(load_s=60.0, hang_s=0.04)
READY = ipc.Ready(n_ctx=4096, n_parallel=4, n_threads=2, resident_bytes=1)


class FakeLink:
    """A link whose engine answers as many pings as the test says, and is silent then."""

    def __init__(self, n_answers: float) -> None:
        self.n_answers = n_answers
        self.n_pings = 0
        self.n_heard = 0
        self.stats = ipc.EngineStats()
        self.failure: BaseException | None = None
        self.ended = asyncio.Event()
        self.news = asyncio.Event()
        self.reshaped = ipc.Reshaped(ready=READY, stall_s=0.0)
        self.asked: list[tuple[ipc.Load, bool]] = []

    def ping(self) -> None:
        self.n_pings += 1
        self.news.set()
        if self.n_pings <= self.n_answers:
            self.n_heard += 1

    async def pinged(self, n: int) -> None:
        """Wait until it has been pinged so often."""
        while self.n_pings < n:
            self.news.clear()
            await asyncio.wait_for(self.news.wait(), 60)

    async def read_answers(self) -> None:
        await self.ended.wait()

    async def reshape(self, load: ipc.Load, *, is_asleep: bool) -> ipc.Reshaped:
        self.asked.append((load, is_asleep))
        return self.reshaped

    is_idle = True
    n_left = 0

    def leave(self) -> None:
        self.n_left += 1
        self.news.set()

    def abort(self) -> None:
        self.ended.set()

    def fail(self, error: BaseException) -> None:
        self.failure = error


def watched(spec: Callable[..., WorkerSpec], tmp_path: Path, link: FakeLink, *, gb: float = 0) -> Worker:
    """A loaded worker over this link, that may be silent for four pings, and longer if it has weights to read."""
    worker = Worker(spec(gb=gb), tmp_path / "worker.log", QUICK)
    worker._link = link  # type: ignore[assignment]
    return worker


async def test_a_worker_that_gives_no_sign_of_life_is_ended(
    spec: Callable[..., WorkerSpec], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After as many unanswered pings as the limit has; its requests are told why."""
    link = FakeLink(n_answers=3)
    await asyncio.wait_for(watched(spec, tmp_path, link).serve(), 60)
    assert link.n_pings == 3 + 4
    assert isinstance(link.failure, WorkerDied)
    assert "gave no sign of life for 0.04 s and was killed" in str(link.failure)
    assert "gave no sign of life" in caplog.text


async def test_a_worker_may_be_silent_while_it_reads_its_weights_again(
    spec: Callable[..., WorkerSpec], tmp_path: Path
) -> None:
    """The system may have dropped them; 7.5 MB are 0.075 s of a slow disk."""
    link = FakeLink(n_answers=0)
    await asyncio.wait_for(watched(spec, tmp_path, link, gb=0.01).serve(), 60)
    assert link.n_pings == 12
    assert "for 0.115 s" in str(link.failure)


async def test_a_load_is_given_time_to_read_its_weights(
    spec: Callable[..., WorkerSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mapped file is read in the warm-up, when no progress is told."""
    limits: list[float] = []

    class Reading:
        async def load(self, _frame: ipc.Load, limit_s: float, _on_progress: object) -> ipc.Ready:
            limits.append(limit_s)
            return READY

    async def connect() -> Reading:
        return Reading()

    worker = Worker(spec(gb=40), tmp_path / "worker.log", LIMITS)
    monkeypatch.setattr(worker, "_connect", connect)
    assert await worker.load() == READY
    assert limits == [60 + 300]


async def test_a_worker_that_answers_lives(spec: Callable[..., WorkerSpec], tmp_path: Path) -> None:
    """However many pings it takes, and its end is its own."""
    link = FakeLink(n_answers=math.inf)
    serving = asyncio.create_task(watched(spec, tmp_path, link).serve())
    await link.pinged(12)
    assert not serving.done()
    link.ended.set()
    await asyncio.wait_for(serving, 60)
    assert "sign of life" not in str(link.failure)


async def test_an_answer_now_and_then_is_a_sign_of_life(spec: Callable[..., WorkerSpec], tmp_path: Path) -> None:
    """Silence counts from the last frame of any kind."""
    link = FakeLink(n_answers=0)
    serving = asyncio.create_task(watched(spec, tmp_path, link).serve())
    for n_pings in range(3, 13, 3):
        await link.pinged(n_pings)
        link.n_heard += 1  # an answer's piece
    assert not serving.done()
    link.ended.set()
    await asyncio.wait_for(serving, 60)


async def test_a_daemon_that_was_stopped_itself_blames_nobody(
    spec: Callable[..., WorkerSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A laptop's lid was closed for an hour: the clock jumps, but only one ping is unanswered."""
    link = FakeLink(n_answers=0)
    sleep, loop = asyncio.sleep, asyncio.get_running_loop()
    jumped = asyncio.Event()

    async def sleep_through(delay_s: float) -> None:
        if link.n_pings == 1:
            now = loop.time
            monkeypatch.setattr(loop, "time", lambda: now() + 3600.0)
            jumped.set()
        link.n_heard += link.n_pings > 1  # it answers as soon as both run again
        await sleep(delay_s)

    monkeypatch.setattr("beastd.fleet.worker.asyncio.sleep", sleep_through)
    serving = asyncio.create_task(watched(spec, tmp_path, link).serve())
    await jumped.wait()
    await link.pinged(8)
    assert not serving.done()
    link.ended.set()
    await asyncio.wait_for(serving, 60)
    assert "sign of life" not in str(link.failure)


async def test_pings_are_several_within_the_limit() -> None:
    """One lost in a busy moment is no death; a long limit does not make them rare."""
    assert Limits(load_s=1, hang_s=4.0).ping_every_s == 1.0
    assert Limits(load_s=1, hang_s=600.0).ping_every_s == 2.0


# --- leaving ---

DISK = ipc.KvTiers(folder="/kv", memory_bytes=0, disk_bytes=1)


class FakeProcess:
    """A process that notes what it is told."""

    pid, is_killed = 1234, False

    def __init__(self) -> None:
        self.told: list[str] = []

    def terminate(self) -> None:
        self.told.append("terminate")

    def kill(self) -> None:
        self.told.append("kill")

    async def end(self, grace_s: float) -> None:
        self.told.append("end")

    def outcome(self) -> str:
        return "ended"


async def _serving(
    spec: Callable[..., WorkerSpec], tmp_path: Path, *, tiers: ipc.KvTiers | None = DISK, is_idle: bool = True
) -> tuple[Worker, FakeLink, FakeProcess, asyncio.Task[None]]:
    worker = Worker(spec(), tmp_path / "worker.log", LIMITS, tiers)
    link, process = FakeLink(n_answers=math.inf), FakeProcess()
    link.is_idle = is_idle
    worker._link, worker._process = link, process  # type: ignore[assignment]
    serving = asyncio.create_task(worker.serve())
    await link.pinged(1)
    return worker, link, process, serving


async def test_an_idle_worker_may_save_its_kv_before_it_ends(spec: Callable[..., WorkerSpec], tmp_path: Path) -> None:
    """It ends by itself: nobody signals it."""
    worker, link, process, serving = await _serving(spec, tmp_path)
    worker.stop()
    assert (link.n_left, process.told, link.ended.is_set()) == (1, [], False)
    link.ended.set()  # its end of the socket is closed
    await asyncio.wait_for(serving, 60)
    assert process.told == ["end"]
    assert worker.is_stopping


@pytest.mark.parametrize("is_asked_twice", [True, False])
async def test_a_worker_that_does_not_leave_is_ended(
    spec: Callable[..., WorkerSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_asked_twice: bool
) -> None:
    """When its time is up, or when it is told to stop once more."""
    monkeypatch.setattr(worker_module, "LEAVE_S", 3600.0 if is_asked_twice else 0.0)
    worker, link, process, serving = await _serving(spec, tmp_path)
    worker.stop()
    if is_asked_twice:
        worker.stop()
    await asyncio.wait_for(serving, 60)
    assert (link.n_left, process.told) == (1, ["terminate", "end"])


@pytest.mark.parametrize(
    ("tiers", "is_idle"),
    [(None, True), (ipc.KvTiers(folder="", memory_bytes=1, disk_bytes=0), True), (DISK, False)],
)
async def test_a_worker_that_answers_or_has_nowhere_to_save_ends_at_once(
    spec: Callable[..., WorkerSpec], tmp_path: Path, tiers: ipc.KvTiers | None, is_idle: bool
) -> None:
    """As it always did."""
    worker, link, process, serving = await _serving(spec, tmp_path, tiers=tiers, is_idle=is_idle)
    worker.stop()
    await asyncio.wait_for(serving, 60)
    assert (link.n_left, process.told) == (0, ["terminate", "end"])


async def test_a_worker_is_told_where_its_kv_goes(spec: Callable[..., WorkerSpec], tmp_path: Path) -> None:
    """With the digest of what it loads; neither makes it another worker."""
    link = FakeLink(n_answers=0)
    worker = Worker(spec(), tmp_path / "worker.log", LIMITS, DISK)
    worker._link = link  # type: ignore[assignment]
    await worker.reshape(replace(spec(), digest="sha256:1"), is_asleep=False)
    ((load, _),) = link.asked
    assert (load.tiers, load.digest) == (DISK, "sha256:1")


# --- changes ---


async def test_a_changed_worker_is_what_it_has_become(spec: Callable[..., WorkerSpec], tmp_path: Path) -> None:
    """By its spec, and by what it says of itself."""
    link = FakeLink(n_answers=0)
    worker = watched(spec, tmp_path, link)
    link.reshaped = ipc.Reshaped(ready=msgspec.structs.replace(READY, n_ctx=8192), stall_s=0.1)
    larger = spec(n_ctx=8192)
    assert await worker.reshape(larger, is_asleep=False) == link.reshaped
    assert worker.spec is larger
    assert worker.ready.n_ctx == 8192
    ((load, is_asleep),) = link.asked
    assert (load.paths, load.settings, load.variant, is_asleep) == (list(larger.paths), larger.settings, "q8_0", False)


async def test_a_worker_whose_change_failed_is_what_it_was(spec: Callable[..., WorkerSpec], tmp_path: Path) -> None:
    """And says anew what it holds."""
    link = FakeLink(n_answers=0)
    worker = watched(spec, tmp_path, link)
    before, ready = worker.spec, msgspec.structs.replace(READY, resident_bytes=5)
    link.reshaped = ipc.Reshaped(ready=ready, stall_s=0.1, failure=ipc.Failure("out_of_memory", "no room"))
    await worker.reshape(spec(n_ctx=8192), is_asleep=False)
    assert worker.spec is before
    assert worker.ready is ready
