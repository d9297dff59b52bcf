"""The pool with workers that are promises: leases end once, and orders are carried out."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from beastd import ipc
from beastd.contract import Gpu, Loading, Waiting
from beastd.errors import Conflict, CoolingDown, DoesNotFit, LoadFailed, OutOfMemory, ShuttingDown, WorkerDied
from beastd.fleet import memory
from beastd.fleet import pool as pool_module
from beastd.fleet.footprint import Footprint, ram
from beastd.fleet.lease import Lease, News
from beastd.fleet.pool import Pool, Settings
from beastd.fleet.spec import Want, WorkerSpec
from beastd.fleet.worker import Limits

GB = 10**9
READY = ipc.Ready(n_ctx=4096, n_parallel=4, n_threads=2, resident_bytes=7)


class Promise:
    """A worker whose life the test decides."""

    all: list[Promise]
    failure: Exception | None = None
    """What serving ends with, if not well."""

    def __init__(self, spec: WorkerSpec, log: Path, limits: Limits, tiers: ipc.KvTiers | None) -> None:
        self.spec = spec
        self.is_stopping = False
        self.fraction = 0.0
        self.pid = 1234
        self.ready = READY
        self.stats = ipc.EngineStats()
        self.loaded: asyncio.Future[ipc.Ready] = asyncio.get_running_loop().create_future()
        self.changes: list[tuple[str, int, bool]] = []
        """What it was told to become: variant, context, asleep."""
        self.reshaped: asyncio.Future[ipc.Reshaped] = asyncio.get_running_loop().create_future()
        """How its first change ends."""
        self.ended = asyncio.Event()
        self.detached: list[str] = []
        self.all.append(self)

    async def load(self) -> ipc.Ready:
        return await self.loaded

    async def reshape(self, spec: WorkerSpec, *, is_asleep: bool) -> ipc.Reshaped:
        self.changes.append((spec.variant, spec.settings.n_ctx, is_asleep))
        return await self.reshaped

    async def serve(self) -> None:
        await self.ended.wait()
        if not self.reshaped.done():
            self.reshaped.set_exception(WorkerDied("gone"))
            self.reshaped.exception()  # seen, for the case that nobody waits for it
        if self.failure:
            raise self.failure

    def detach(self, path: str) -> None:
        self.detached.append(path)

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


class Machine:
    """Memory that other programs use as the test says."""

    available_bytes = 10**15
    ours_bytes = 0


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(memory, "available_ram_bytes", lambda: machine.available_bytes)
    monkeypatch.setattr(memory, "anon_bytes", lambda _: machine.ours_bytes)
    return machine


class Clock:
    """Time that passes when the test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


GPUS: list[Gpu] = []
"""What simulations have told of; tests add to it."""


def budget() -> Footprint:
    """What the configuration gives the fleet."""
    return Footprint({"RAM": 10 * GB, **{gpu.name: gpu.total_bytes // 2 for gpu in GPUS}})


SETTINGS = Settings(budget, max_queue=100, limits=Limits(load_s=60, hang_s=60), sleep_after_s=1e6)


@pytest.fixture
def pool(workers: list[Promise], clock: Clock, machine: Machine, tmp_path: Path) -> Pool:
    return Pool(SETTINGS, logs_dir=tmp_path, pins_file=tmp_path / "pins.json", clock=clock)


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


async def use(lease: Lease, seen: list[News], end: asyncio.Event | None = None) -> Any:
    """A request: wait for the load, hold the worker until told."""
    async with lease:
        seen += [news async for news in lease.waiting()]
        if end:
            await end.wait()
        return lease.worker


async def test_ten_cold_leases_share_one_start(pool: Pool, workers: list[Promise], want: Any) -> None:
    """And are granted together."""
    tasks = [asyncio.create_task(use(pool.lease(want(), 60.0), [])) for _ in range(10)]
    await settle()
    assert len(workers) == 1
    workers[0].loaded.set_result(READY)
    assert await asyncio.gather(*tasks) == [workers[0]] * 10
    await pool.close()


async def test_progress_reaches_all_who_wait(pool: Pool, workers: list[Promise], want: Any) -> None:
    """Who joins later hears at once how far it is; only the newest fraction is told."""
    first: list[News] = []
    second: list[News] = []
    tasks = [asyncio.create_task(use(pool.lease(want(), 60.0), first))]
    await settle()
    workers[0].fraction = 0.5
    tasks.append(asyncio.create_task(use(pool.lease(want(), 60.0), second)))
    await settle()
    workers[0].loaded.set_result(READY)
    await asyncio.gather(*tasks)
    assert first == [Loading(0.0)]  # the rest came within the quarter of a second
    assert second == [Loading(0.5)]
    await pool.close()


async def test_a_hot_lease_waits_for_nothing(pool: Pool, workers: list[Promise], want: Any, clock: Clock) -> None:
    """No progress, no load time."""
    task = asyncio.create_task(use(pool.lease(want(), 60.0), []))
    await settle()
    clock.now += 2.5
    workers[0].loaded.set_result(READY)
    await task
    seen: list[News] = []
    hot = pool.lease(want(), 60.0)
    await use(hot, seen)
    assert seen == []
    assert hot.load_s == 0.0
    assert pool.snapshot().workers[0].load_s == 2.5
    await pool.close()


async def test_a_failed_load_is_raised_in_every_lease(
    pool: Pool, workers: list[Promise], want: Any, clock: Clock
) -> None:
    """And after its rest the next lease starts afresh."""
    tasks = [asyncio.create_task(use(pool.lease(want(), 60.0), [])) for _ in range(3)]
    await settle()
    workers[0].loaded.set_exception(LoadFailed("broken file"))
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(result) for result in results] == ["broken file"] * 3
    assert pool.snapshot().workers == []
    (rest,) = pool.snapshot().resting
    assert (rest.n_failures, rest.error) == (1, "broken file")
    with pytest.raises(CoolingDown):
        await use(pool.lease(want(), 60.0), [])
    clock.now += rest.for_s
    again = asyncio.create_task(use(pool.lease(want(), 60.0), []))
    await settle()
    workers[1].loaded.set_result(READY)
    assert await again is workers[1]
    await pool.close()


async def test_cancelled_while_loading_ends_the_load(pool: Pool, workers: list[Promise], want: Any) -> None:
    """Its only request left."""
    task = asyncio.create_task(use(pool.lease(want(), 60.0), []))
    await settle()
    task.cancel()
    await settle()
    assert task.cancelled()
    assert workers[0].is_stopping
    assert pool.snapshot().workers == []
    await pool.close()


@pytest.mark.parametrize("how", ["cancel", "raise", "return"])
async def test_leaving_the_block_releases_whatever_the_reason(
    pool: Pool, workers: list[Promise], want: Any, how: str
) -> None:
    """With keep-alive 0 the release is seen by the worker's end."""

    async def body() -> None:
        async with pool.lease(want(), 0.0) as lease:
            async for _ in lease.waiting():
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
        assert pool.snapshot().workers[0].n_leases == 1
        task.cancel()
    await asyncio.wait([task])
    assert workers[0].is_stopping
    await settle()
    assert pool.snapshot().workers == []


async def test_a_worker_that_dies_is_replaced(pool: Pool, workers: list[Promise], want: Any) -> None:
    """The next lease gets a fresh one; the old lease's end changes nothing."""
    end = asyncio.Event()
    old = asyncio.create_task(use(pool.lease(want(), 0.0), [], end))
    await settle()
    workers[0].loaded.set_result(READY)
    await settle()
    workers[0].ended.set()
    await settle()
    fresh_end = asyncio.Event()
    fresh = asyncio.create_task(use(pool.lease(want(), 60.0), [], fresh_end))
    await settle()
    workers[1].loaded.set_result(READY)
    end.set()
    await old
    assert not workers[1].is_stopping
    fresh_end.set()
    assert await fresh is workers[1]
    await pool.close()


async def test_expiry_needs_no_event(pool: Pool, workers: list[Promise], want: Any, clock: Clock) -> None:
    """The pool wakes by itself when a keep-alive ends."""
    task = asyncio.create_task(use(pool.lease(want(), 0.001), []))
    await settle()
    workers[0].loaded.set_result(READY)
    await task
    clock.now += 1.0
    await asyncio.wait_for(workers[0].ended.wait(), 60)
    await pool.close()


async def test_unload_returns_when_an_idle_worker_is_gone(pool: Pool, workers: list[Promise], want: Any) -> None:
    """And says whether there was one; a busy one goes later."""
    assert not await pool.unload(12345)
    end = asyncio.Event()
    task = asyncio.create_task(use(pool.lease(want(), 60.0), [], end))
    await settle()
    workers[0].loaded.set_result(READY)
    await settle()
    assert await pool.unload(pool.snapshot().workers[0].id)
    assert not workers[0].is_stopping
    end.set()
    await task
    await settle()
    assert pool.snapshot().workers == []
    idle = asyncio.create_task(use(pool.lease(want(), 60.0), []))
    await settle()
    workers[1].loaded.set_result(READY)
    await idle
    assert await pool.unload(pool.snapshot().workers[0].id)
    assert pool.snapshot().workers == []


async def test_closing_ends_everything(pool: Pool, workers: list[Promise], want: Any) -> None:
    """Who waits and who comes is refused."""
    loading = asyncio.create_task(use(pool.lease(want("a"), 60.0), []))
    await settle()
    await pool.close()
    with pytest.raises(ShuttingDown):
        await loading
    with pytest.raises(ShuttingDown):
        await use(pool.lease(want("b"), 60.0), [])
    assert [worker.is_stopping for worker in workers] == [True]
    assert pool.snapshot().workers == []


async def test_a_snapshot_tells_what_there_is(pool: Pool, workers: list[Promise], want: Any) -> None:
    """While it loads what is expected, then what the worker said; for ever is no date."""
    task = asyncio.create_task(use(pool.lease(want("a", gb=2), math.inf), []))
    await settle()
    (loading,) = pool.snapshot().workers
    assert (loading.state, loading.n_bytes, loading.n_ctx, loading.load_s) == ("loading", 2 * 10**9, 4096, 0.0)
    workers[0].loaded.set_result(READY)
    await task
    (ready,) = pool.snapshot().workers
    assert (ready.state, ready.n_bytes, ready.n_ctx, ready.gpu_bytes) == ("ready", 2 * 10**9, 4096, 0)
    assert ready.n_leases == 0
    assert ready.expires_at is None
    await use(pool.lease(want("a", gb=2), 60.0), [])
    assert pool.snapshot().workers[0].expires_at is not None
    await pool.close()


async def test_a_bug_while_serving_is_a_death_like_another(
    pool: Pool, workers: list[Promise], want: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, the fleet learns it, and the next lease gets a fresh worker."""
    held = asyncio.Event()
    old = asyncio.create_task(use(pool.lease(want(), 60.0), [], held))
    await settle()
    workers[0].failure = KeyError("oops")
    workers[0].loaded.set_result(READY)
    await settle()
    workers[0].ended.set()
    await settle()
    assert "KeyError: 'oops'" in caplog.text
    fresh = asyncio.create_task(use(pool.lease(want(), 60.0), []))
    await settle()
    workers[1].loaded.set_result(READY)
    assert await fresh is workers[1]
    held.set()
    await old
    await pool.close()


async def test_a_bug_while_loading_fails_the_load(
    pool: Pool, workers: list[Promise], want: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Who waits is told, as of any failed load."""
    waiting = asyncio.create_task(use(pool.lease(want(), 60.0), []))
    await settle()
    workers[0].loaded.set_exception(KeyError("oops"))
    with pytest.raises(LoadFailed, match="bug"):
        await asyncio.wait_for(waiting, 60)
    assert "KeyError: 'oops'" in caplog.text
    assert pool.snapshot().workers == []
    await pool.close()


# --- changes in place ---


async def hold(pool: Pool, want: Want, end: asyncio.Event | None = None) -> asyncio.Task[Any]:
    """A request under way, after everything that could happen has."""
    task = asyncio.create_task(use(pool.lease(want, 60.0), [], end))
    await settle()
    return task


async def grown(pool: Pool, workers: list[Promise], want: Any) -> tuple[asyncio.Task[Any], asyncio.Task[Any]]:
    """A request that is answered, and one for which its worker has been told to take more context."""
    small = await hold(pool, want(n_ctx=4096), asyncio.Event())
    workers[0].loaded.set_result(READY)
    await settle()
    large = await hold(pool, want(n_ctx=8192))
    assert workers[0].changes == [("q8_0", 8192, False)]
    return small, large


async def test_a_change_that_ends_well_grants_who_waited(pool: Pool, workers: list[Promise], want: Any) -> None:
    """In the same worker, beside the answer under way; what it holds is what it then says, or what is computed."""
    small, large = await grown(pool, workers, want)
    assert pool.snapshot().workers[0].state == "changing"
    workers[0].reshaped.set_result(ipc.Reshaped(ready=msgspec.structs.replace(READY, n_ctx=8192), stall_s=0.1))
    assert await large is workers[0]
    assert not small.done()
    (worker,) = pool.snapshot().workers
    assert (worker.state, worker.n_ctx, worker.n_leases) == ("ready", 8192, 1)
    assert worker.n_bytes == want(n_ctx=8192).best.need.total_bytes
    small.cancel()
    await pool.close()


async def test_a_change_that_fails_is_raised_by_who_waited(pool: Pool, workers: list[Promise], want: Any) -> None:
    """As the error the engine names; the worker answers on as what it was."""
    small, large = await grown(pool, workers, want)
    failure = ipc.Failure("out_of_memory", "no room for the KV cache")
    workers[0].reshaped.set_result(ipc.Reshaped(ready=READY, stall_s=0.1, failure=failure))
    with pytest.raises(OutOfMemory, match="no room for the KV cache"):
        await large
    assert not small.done()
    (worker,) = pool.snapshot().workers
    assert (worker.state, worker.n_ctx, worker.n_leases) == ("ready", 4096, 1)
    assert await hold(pool, want(n_ctx=2048))
    small.cancel()
    await pool.close()


async def test_a_worker_that_dies_in_a_change_is_replaced_for_who_waited(
    pool: Pool, workers: list[Promise], want: Any
) -> None:
    """They never held it; the answer under way is told by the worker itself."""
    small, large = await grown(pool, workers, want)
    workers[0].ended.set()
    await settle()
    assert len(workers) == 2
    assert workers[1].spec.settings.n_ctx == 8192
    workers[1].loaded.set_result(READY)
    assert await large is workers[1]
    small.cancel()
    await pool.close()


async def test_closing_in_a_change_ends_everything(pool: Pool, workers: list[Promise], want: Any) -> None:
    """Who waits for it is refused."""
    small, large = await grown(pool, workers, want)
    await pool.close()
    with pytest.raises(ShuttingDown):
        await large
    assert pool.snapshot().workers == []
    small.cancel()
    await settle()


async def test_a_request_that_waits_is_told_its_place_and_why(pool: Pool, workers: list[Promise], want: Any) -> None:
    """Whatever it is that it waits for."""
    holder = await hold(pool, want("busy", gb=6), asyncio.Event())
    workers[0].loaded.set_result(READY)
    await settle()
    async with pool.lease(want("cold", gb=7), 60.0) as lease:
        news = await anext(lease.waiting())
    assert isinstance(news, Waiting)
    assert news.position == 1
    assert news.reason.startswith("the answers of busy (q8_0) to end")
    holder.cancel()
    await pool.close()


# --- pins ---


async def loaded(pool: Pool, workers: list[Promise], want: Want) -> int:
    """The id of an idle worker."""
    task = await hold(pool, want)
    workers[-1].loaded.set_result(READY)
    await task
    return pool.snapshot().workers[-1].id


async def test_pins_are_remembered_by_later_pools(
    pool: Pool, workers: list[Promise], clock: Clock, tmp_path: Path
) -> None:
    """Until they are let go."""
    pool.pin("cub", is_pinned=True)
    later = Pool(SETTINGS, logs_dir=tmp_path, pins_file=tmp_path / "pins.json", clock=clock)
    assert later.snapshot().pins == ["cub"]
    later.pin("cub", is_pinned=False)
    assert later.snapshot().pins == []
    last = Pool(SETTINGS, logs_dir=tmp_path, pins_file=tmp_path / "pins.json", clock=clock)
    assert last.snapshot().pins == []
    for it in (later, last):
        await it.close()


async def test_a_pinned_worker_is_not_unloaded_unless_even_that_is_meant(
    pool: Pool, workers: list[Promise], want: Any
) -> None:
    """The error says how to let it go."""
    id_ = await loaded(pool, workers, want())
    pool.pin("cub", is_pinned=True)
    assert pool.snapshot().workers[0].is_pinned
    with pytest.raises(Conflict, match="beast unpin cub"):
        await pool.unload(id_)
    assert not workers[0].is_stopping
    assert await pool.unload(id_, even_pinned=True)
    assert pool.snapshot().workers == []


async def test_a_description_pins_its_model_as_long_as_it_says_so(
    pool: Pool, workers: list[Promise], want: Any
) -> None:
    """An edit counts for the worker that is there."""
    await loaded(pool, workers, want("a"))
    pool.on_described("a", is_pinned=True)
    assert pool.snapshot().workers[0].is_pinned
    with pytest.raises(Conflict):
        await pool.unload(pool.snapshot().workers[0].id)
    pool.on_described("a", is_pinned=False)
    assert not pool.snapshot().workers[0].is_pinned
    await pool.close()


async def test_what_the_configuration_pins_stays_pinned(
    workers: list[Promise], machine: Machine, clock: Clock, tmp_path: Path
) -> None:
    """Nothing is written of it, and a file of pins adds to it."""
    settings = dataclasses.replace(SETTINGS, pins=frozenset({"Cub"}))
    pool = Pool(settings, logs_dir=tmp_path, pins_file=tmp_path / "pins.json", clock=clock)
    with pytest.raises(Conflict, match="configuration"):
        pool.pin("cub", is_pinned=False)
    assert not (tmp_path / "pins.json").exists()
    pool.pin("ace", is_pinned=True)
    assert pool.snapshot().pins == ["ace", "cub"]
    await pool.close()


async def test_an_unpinned_worker_whose_time_was_over_leaves_by_itself(
    pool: Pool, workers: list[Promise], want: Any, clock: Clock
) -> None:
    """The timer is set anew."""
    pool.pin("cub", is_pinned=True)
    await loaded(pool, workers, want())
    clock.now += 1000.0
    await settle()
    assert not workers[0].is_stopping
    pool.pin("cub", is_pinned=False)
    await asyncio.wait_for(workers[0].ended.wait(), 60)
    await pool.close()


# --- memory ---


async def test_the_budget_follows_other_programs(
    pool: Pool, workers: list[Promise], want: Any, machine: Machine
) -> None:
    """What they take is not to be had: a model that would fit the configuration is refused with the number."""
    machine.available_bytes = 4 * GB
    with pytest.raises(DoesNotFit, match=r"3\.80 GB"):  # all but a twentieth
        await use(pool.lease(want(gb=5), 60.0), [])
    assert pool.snapshot().budget_bytes["RAM"] == 3_800_000_000
    machine.available_bytes = 100 * GB
    task = await hold(pool, want(gb=5))
    assert pool.snapshot().budget_bytes["RAM"] == 10 * GB
    task.cancel()
    await pool.close()


async def test_what_workers_hold_is_not_taken_for_other_programs(
    pool: Pool, workers: list[Promise], want: Any, machine: Machine
) -> None:
    """Else a loaded model would make itself leave."""
    await loaded(pool, workers, want("a", gb=6))
    machine.available_bytes, machine.ours_bytes = 4 * GB, 6 * GB
    await loaded(pool, workers, want("b", gb=3))
    assert not workers[0].is_stopping
    assert pool.snapshot().budget_bytes["RAM"] == 9_500_000_000  # of 4 + 6 GB
    await pool.close()


async def test_idle_workers_give_way_to_other_programs(
    pool: Pool, workers: list[Promise], want: Any, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody needs to ask for anything: the memory is watched."""
    monkeypatch.setattr(pool_module, "LOOK_EVERY_S", 0.0)
    await loaded(pool, workers, want("a", gb=6))
    machine.available_bytes = GB
    watching = asyncio.create_task(pool.watch())
    await asyncio.wait_for(workers[0].ended.wait(), 60)
    assert "the workers hold more than the budget" in next(
        it.why for it in pool.snapshot().decisions if it.act == "evict"
    )
    watching.cancel()
    await pool.close()


async def test_what_a_worker_says_it_holds_is_believed(
    pool: Pool, workers: list[Promise], want: Any, machine: Machine
) -> None:
    """Above what was computed; less means that it has not touched all of it yet. A hot request does not look."""
    await loaded(pool, workers, want("a", gb=4))
    workers[0].stats = ipc.EngineStats(resident_bytes=5 * GB)
    await loaded(pool, workers, want("b", gb=1))
    assert pool.snapshot().workers[0].n_bytes == 5 * GB
    workers[0].stats = ipc.EngineStats(resident_bytes=GB)
    await use(pool.lease(want("b", gb=1), 60.0), [])
    assert pool.snapshot().workers[0].n_bytes == 5 * GB
    await loaded(pool, workers, want("c", gb=1))
    assert pool.snapshot().workers[0].n_bytes == 4 * GB
    await pool.close()


async def test_kv_that_left_the_cache_counts_as_it_comes(
    pool: Pool, workers: list[Promise], want: Any, machine: Machine
) -> None:
    """Besides all that was computed, though not all of that was touched yet."""
    await loaded(pool, workers, want("a", gb=4))
    workers[0].stats = ipc.EngineStats(resident_bytes=GB, tier_memory_bytes=GB // 4)
    await loaded(pool, workers, want("b", gb=1))
    assert pool.snapshot().workers[0].n_bytes == 4 * GB + GB // 4
    await pool.close()


async def test_gpus_count_once_they_are_known(
    pool: Pool, workers: list[Promise], want: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is to be had of them is the configuration's to say."""
    on_gpu = want(gb=1)
    rung = dataclasses.replace(on_gpu.best, weights=Footprint({"CUDA0": 3 * GB}), process=ram(0))
    with pytest.raises(DoesNotFit):
        await use(pool.lease(Want((rung,)), 60.0), [])
    gpu = Gpu(name="CUDA0", description="a GPU", total_bytes=8 * GB, free_bytes=8 * GB)
    monkeypatch.setattr(sys.modules[__name__], "GPUS", [gpu])
    task = await hold(pool, Want((rung,)))
    assert pool.snapshot().budget_bytes == {"RAM": 10 * GB, "CUDA0": 4 * GB}
    workers[0].loaded.set_result(msgspec.structs.replace(READY, gpu_bytes={"CUDA0": 3 * GB}))
    await task
    (worker,) = pool.snapshot().workers
    assert (worker.gpu_bytes, worker.n_bytes) == (3 * GB, 3 * GB + rung.working.total_bytes)
    await pool.close()


async def test_an_adapter_is_detached_from_every_worker(pool: Pool, workers: list[Promise], want: Any) -> None:
    """Whichever has it."""
    await loaded(pool, workers, want("a"))
    await loaded(pool, workers, want("b"))
    pool.detach("/adapters/x.gguf")
    assert [worker.detached for worker in workers] == [["/adapters/x.gguf"]] * 2
    await pool.close()


async def test_decisions_are_logged(
    pool: Pool, workers: list[Promise], want: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """One line each."""
    caplog.set_level("INFO")
    await loaded(pool, workers, want())
    assert "fleet: load cub (q8_0): one request wants it; it needs 1.00 GB" in caplog.messages
    await pool.close()
