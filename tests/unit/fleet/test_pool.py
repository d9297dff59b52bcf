"""The pool with workers that are promises: leases end once, whatever happens around them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from beastd import ipc
from beastd.errors import LoadFailed, ShuttingDown
from beastd.fleet import pool as pool_module
from beastd.fleet.lease import Lease
from beastd.fleet.pool import Pool
from beastd.fleet.spec import WorkerSpec

READY = ipc.Ready(n_ctx=2048, n_parallel=4, n_threads=2, resident_bytes=7, gpu_bytes={"CUDA0": 1, "CUDA1": 2})


class Promise:
    """A worker whose life the test decides."""

    all: list[Promise]
    failure: Exception | None = None
    """What serving ends with, if not well."""

    def __init__(self, spec: WorkerSpec, log: Path, load_timeout_s: float) -> None:
        self.spec = spec
        self.is_stopping = False
        self.fraction = 0.0
        self.pid = 1234
        self.loaded: asyncio.Future[ipc.Ready] = asyncio.get_running_loop().create_future()
        self.ended = asyncio.Event()
        self.all.append(self)

    async def load(self, on_progress: Callable[[float], None]) -> ipc.Ready:
        self.on_progress = on_progress
        return await self.loaded

    async def serve(self) -> None:
        await self.ended.wait()
        if self.failure:
            raise self.failure

    def stop(self) -> None:
        self.is_stopping = True
        if not self.loaded.done():
            self.loaded.set_exception(ShuttingDown("stopped while it loaded"))
        self.ended.set()


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list[Promise]:
    """The workers started, in order."""
    Promise.all = []
    monkeypatch.setattr(pool_module, "Worker", Promise)
    return Promise.all


class Clock:
    """Time that passes when the test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pool(workers: list[Promise], clock: Clock, tmp_path: Path) -> Pool:
    return Pool(budget_bytes=10**10, max_queue=100, load_timeout_s=60, logs_dir=tmp_path, clock=clock)


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


async def use(lease: Lease, seen: list[float], end: asyncio.Event | None = None) -> Any:
    """A request: wait for the load, hold the worker until told."""
    async with lease:
        seen += [fraction async for fraction in lease.loading()]
        if end:
            await end.wait()
        return lease.worker


async def test_ten_cold_leases_share_one_start(pool: Pool, workers: list[Promise], spec: Any) -> None:
    """And are granted together."""
    tasks = [asyncio.create_task(use(pool.lease(spec(), 60.0), [])) for _ in range(10)]
    await settle()
    assert len(workers) == 1
    workers[0].loaded.set_result(READY)
    assert await asyncio.gather(*tasks) == [workers[0]] * 10
    await pool.close()


async def test_progress_reaches_all_who_wait(pool: Pool, workers: list[Promise], spec: Any) -> None:
    """Who joins later hears at once how far it is; only the newest fraction is told."""
    first: list[float] = []
    second: list[float] = []
    tasks = [asyncio.create_task(use(pool.lease(spec(), 60.0), first))]
    await settle()
    workers[0].fraction = 0.5
    workers[0].on_progress(0.4)
    workers[0].on_progress(0.5)
    tasks.append(asyncio.create_task(use(pool.lease(spec(), 60.0), second)))
    await settle()
    workers[0].loaded.set_result(READY)
    await asyncio.gather(*tasks)
    assert first == [0.0]  # the rest came within the quarter of a second
    assert second == [0.5]
    await pool.close()


async def test_a_hot_lease_waits_for_nothing(pool: Pool, workers: list[Promise], spec: Any, clock: Clock) -> None:
    """No progress, no load time."""
    task = asyncio.create_task(use(pool.lease(spec(), 60.0), []))
    await settle()
    clock.now += 2.5
    workers[0].loaded.set_result(READY)
    await task
    seen: list[float] = []
    hot = pool.lease(spec(), 60.0)
    await use(hot, seen)
    assert seen == []
    assert hot.load_s == 0.0
    assert pool.snapshot()[0].load_s == 2.5
    await pool.close()


async def test_a_failed_load_is_raised_in_every_lease(pool: Pool, workers: list[Promise], spec: Any) -> None:
    """And the next lease starts afresh."""
    tasks = [asyncio.create_task(use(pool.lease(spec(), 60.0), [])) for _ in range(3)]
    await settle()
    workers[0].loaded.set_exception(LoadFailed("broken file"))
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(result) for result in results] == ["broken file"] * 3
    assert pool.snapshot() == []
    again = asyncio.create_task(use(pool.lease(spec(), 60.0), []))
    await settle()
    workers[1].loaded.set_result(READY)
    assert await again is workers[1]
    await pool.close()


async def test_cancelled_while_loading_ends_the_load(pool: Pool, workers: list[Promise], spec: Any) -> None:
    """Its only request left."""
    task = asyncio.create_task(use(pool.lease(spec(), 60.0), []))
    await settle()
    task.cancel()
    await settle()
    assert task.cancelled()
    assert workers[0].is_stopping
    assert pool.snapshot() == []
    await pool.close()


@pytest.mark.parametrize("how", ["cancel", "raise", "return"])
async def test_leaving_the_block_releases_whatever_the_reason(
    pool: Pool, workers: list[Promise], spec: Any, how: str
) -> None:
    """With keep-alive 0 the release is seen by the worker's end."""

    async def body() -> None:
        async with pool.lease(spec(), 0.0) as lease:
            async for _ in lease.loading():
                pass
            if how == "raise":
                raise KeyError
            if how == "cancel":
                await asyncio.Event().wait()

    task = asyncio.create_task(body())
    await settle()
    workers[0].loaded.set_result(READY)
    await settle()
    if how == "cancel":
        assert pool.snapshot()[0].n_leases == 1
        task.cancel()
    await asyncio.wait([task])
    assert workers[0].is_stopping
    await settle()
    assert pool.snapshot() == []


async def test_a_worker_that_dies_is_replaced(pool: Pool, workers: list[Promise], spec: Any) -> None:
    """The next lease gets a fresh one; the old lease's end changes nothing."""
    end = asyncio.Event()
    old = asyncio.create_task(use(pool.lease(spec(), 0.0), [], end))
    await settle()
    workers[0].loaded.set_result(READY)
    await settle()
    workers[0].ended.set()
    await settle()
    fresh_end = asyncio.Event()
    fresh = asyncio.create_task(use(pool.lease(spec(), 60.0), [], fresh_end))
    await settle()
    workers[1].loaded.set_result(READY)
    end.set()
    await old
    assert not workers[1].is_stopping
    fresh_end.set()
    assert await fresh is workers[1]
    await pool.close()


async def test_expiry_needs_no_event(pool: Pool, workers: list[Promise], spec: Any, clock: Clock) -> None:
    """The pool wakes by itself when a keep-alive ends."""
    task = asyncio.create_task(use(pool.lease(spec(), 0.001), []))
    await settle()
    workers[0].loaded.set_result(READY)
    await task
    clock.now += 1.0
    await asyncio.wait_for(workers[0].ended.wait(), 60)
    await pool.close()


async def test_unload_returns_when_an_idle_worker_is_gone(pool: Pool, workers: list[Promise], spec: Any) -> None:
    """And says whether there was one; a busy one goes later."""
    assert not await pool.unload("cub")
    end = asyncio.Event()
    task = asyncio.create_task(use(pool.lease(spec(), 60.0), [], end))
    await settle()
    workers[0].loaded.set_result(READY)
    await settle()
    assert await pool.unload("cub")
    assert not workers[0].is_stopping
    end.set()
    await task
    await settle()
    assert pool.snapshot() == []
    idle = asyncio.create_task(use(pool.lease(spec(), 60.0), []))
    await settle()
    workers[1].loaded.set_result(READY)
    await idle
    assert await pool.unload("cub")
    assert pool.snapshot() == []


async def test_closing_ends_everything(pool: Pool, workers: list[Promise], spec: Any) -> None:
    """Who waits and who comes is refused."""
    loading = asyncio.create_task(use(pool.lease(spec("a"), 60.0), []))
    await settle()
    await pool.close()
    with pytest.raises(ShuttingDown):
        await loading
    with pytest.raises(ShuttingDown):
        await use(pool.lease(spec("b"), 60.0), [])
    assert [worker.is_stopping for worker in workers] == [True]
    assert pool.snapshot() == []


async def test_a_snapshot_tells_what_there_is(pool: Pool, workers: list[Promise], spec: Any) -> None:
    """While it loads what is expected, then what the worker said; for ever is no date."""
    task = asyncio.create_task(use(pool.lease(spec("a", gb=2), math.inf), []))
    await settle()
    (loading,) = pool.snapshot()
    assert (loading.state, loading.n_bytes, loading.n_ctx, loading.load_s) == ("loading", 2 * 10**9, 4096, 0.0)
    workers[0].loaded.set_result(READY)
    await task
    (ready,) = pool.snapshot()
    assert (ready.state, ready.n_bytes, ready.n_ctx, ready.gpu_bytes, ready.n_leases) == ("ready", 7, 2048, 3, 0)
    assert ready.expires_at is None
    await use(pool.lease(spec("a", gb=2), 60.0), [])
    assert pool.snapshot()[0].expires_at is not None
    await pool.close()


async def test_a_bug_while_serving_is_a_death_like_another(
    pool: Pool, workers: list[Promise], spec: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, the fleet learns it, and the next lease gets a fresh worker."""
    held = asyncio.Event()
    old = asyncio.create_task(use(pool.lease(spec(), 60.0), [], held))
    await settle()
    workers[0].failure = KeyError("oops")
    workers[0].loaded.set_result(READY)
    await settle()
    workers[0].ended.set()
    await settle()
    assert "KeyError: 'oops'" in caplog.text
    fresh = asyncio.create_task(use(pool.lease(spec(), 60.0), []))
    await settle()
    workers[1].loaded.set_result(READY)
    assert await fresh is workers[1]
    held.set()
    await old
    await pool.close()


async def test_a_bug_while_loading_fails_the_load(
    pool: Pool, workers: list[Promise], spec: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Who waits is told, as of any failed load."""
    waiting = asyncio.create_task(use(pool.lease(spec(), 60.0), []))
    await settle()
    workers[0].loaded.set_exception(KeyError("oops"))
    with pytest.raises(LoadFailed, match="bug"):
        await asyncio.wait_for(waiting, 60)
    assert "KeyError: 'oops'" in caplog.text
    assert pool.snapshot() == []
    await pool.close()
