"""The pool with real workers: however one ends, its requests end once, and no process stays."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import pytest

import beastd
from beastd import ipc
from beastd.errors import BadModel, LoadFailed, LoadTimeout, ShuttingDown, WorkerDied
from beastd.fleet import Lease, Pool, Want, Worker, WorkerSpec
from beastd.fleet import worker as worker_module
from beastd.fleet.footprint import ram
from beastd.fleet.memory import estimated_need
from beastd.fleet.pool import Settings
from beastd.fleet.worker import Limits
from beastd.registry.gguf import read_header

CUB = Path(beastd.__file__).parent / "builtin" / "cub" / "cub-q2_k.gguf"
LONG = ipc.Submit(id=0, prompt=ipc.Prompt(raw="Once"), sampling=ipc.Sampling(num_predict=-1, ignore_eos=True))
SHORT = ipc.Submit(id=0, prompt=ipc.Prompt(raw="Once upon a time"), sampling=ipc.Sampling(num_predict=8))


def spec(key: str = "cub", *, path: Path = CUB, n_parallel: int = 2) -> WorkerSpec:
    # One thread: threads that wait for each other crawl on a machine that runs other tests too.
    settings = ipc.LoadSettings(n_ctx=1024, n_parallel=n_parallel, n_threads=1)
    need = estimated_need(read_header(CUB).shape(), settings)
    return WorkerSpec(
        key=key,
        name=key,
        variant="q2_k",
        paths=(str(path),),
        template=None,
        settings=settings,
        weights=ram(need.ram_bytes),
        working=ram(0),
        process=ram(0),
    )


@pytest.fixture
async def make_pool(tmp_path: Path) -> AsyncIterator[Callable[..., Pool]]:
    """Makes pools, and closes them."""
    pools: list[Pool] = []

    def make(load_timeout_s: float = 60) -> Pool:
        limits = Limits(load_s=load_timeout_s, hang_s=60)
        settings = Settings(lambda: ram(4 * 10**9), max_queue=300, limits=limits, sleep_after_s=math.inf)
        pools.append(Pool(settings, logs_dir=tmp_path, pins_file=tmp_path / "pins.json"))
        return pools[-1]

    yield make
    for pool in pools:
        await pool.close()


@pytest.fixture
def pool(make_pool: Callable[..., Pool]) -> Pool:
    return make_pool()


def is_gone(pid: int | None) -> bool:
    """Ended and reaped."""
    assert pid is not None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def answer(pool: Pool, submit: ipc.Submit = SHORT, key: str = "cub") -> tuple[str, int | None]:
    """One request from lease to end: its text and the worker's process."""
    async with pool.lease(Want((spec(key),)), 60.0) as lease:
        await drain_load(lease)
        async with aclosing(lease.worker.generate(submit)) as deltas:
            return "".join([delta.text async for delta in deltas]), lease.worker.pid


async def until(is_so: Callable[[], bool]) -> None:
    """Let the world go on until something is so."""
    while not is_so():  # noqa: ASYNC110 - what other processes do sets no event here
        await asyncio.sleep(0.001)


def pids(pool: Pool) -> dict[str, int]:
    """Key → process of every worker that has one."""
    return {status.key: status.pid for status in pool.snapshot().workers if status.pid}


async def pid_of_load(pool: Pool, key: str = "cub") -> int:
    """The process of a worker that loads, as soon as there is one."""
    await until(lambda: key in pids(pool))
    return pids(pool)[key]


async def drain_load(lease: Lease) -> None:
    """Wait until the worker is there."""
    async for _ in lease.waiting():
        pass


async def drain(deltas: AsyncIterator[ipc.Delta]) -> None:
    """Take all there is."""
    async for _ in deltas:
        pass


async def test_ten_cold_requests_share_one_worker(pool: Pool) -> None:
    """One start, ten complete answers."""
    answers = await asyncio.gather(*[answer(pool) for _ in range(10)])
    assert len({pid for _, pid in answers}) == 1
    assert all(text for text, _ in answers)


async def test_two_models_answer_at_once(pool: Pool) -> None:
    """Each from its own process."""
    (_, first), (_, second) = await asyncio.gather(answer(pool, key="a"), answer(pool, key="b"))
    assert first != second
    assert {status.state for status in pool.snapshot().workers} == {"ready"}


async def test_a_killed_worker_ends_its_answers_and_is_replaced(pool: Pool) -> None:
    """kill -9 in mid-answer: a typed error for each request it held or gets later, a fresh process for the next."""
    async with pool.lease(Want((spec(),)), 60.0) as lease:
        await drain_load(lease)
        worker, pid = lease.worker, pids(pool)["cub"]
        async with aclosing(worker.generate(LONG)) as one, aclosing(worker.generate(LONG)) as other:
            await asyncio.gather(anext(one), anext(other))
            os.kill(pid, signal.SIGKILL)
            for deltas in (one, other):
                with pytest.raises(WorkerDied, match=rf"pid {pid}, was ended by SIGKILL.*fresh one"):
                    await drain(deltas)
        with pytest.raises(WorkerDied):
            await drain(worker.generate(SHORT))
    text, fresh = await answer(pool)
    assert text
    assert fresh != pid


async def test_a_worker_that_sends_nonsense_is_killed(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a frame that makes no sense, nothing of it is trusted."""
    async with pool.lease(Want((spec(),)), 60.0) as lease:
        await drain_load(lease)
        monkeypatch.setattr(ipc, "from_worker", msgspec.json.Decoder(ipc.Cancel))
        with pytest.raises(WorkerDied, match="a frame that makes no sense"):
            await anext(lease.worker.generate(SHORT))
        assert is_gone(lease.worker.pid)
    assert pool.snapshot().workers == []


async def test_a_load_that_hangs_is_given_up(make_pool: Callable[..., Pool]) -> None:
    """Even by a process that cannot react to anything but SIGKILL."""
    pool = make_pool(load_timeout_s=0.5)
    request = asyncio.create_task(answer(pool))
    pid = await pid_of_load(pool)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(LoadTimeout, match=r"no progress for [0-9.]+ s"):
        await request
    assert is_gone(pid)
    assert pool.snapshot().workers == []


async def test_a_worker_killed_while_it_loads(pool: Pool) -> None:
    """It is started again, and the request waits for that; killed again and again, the error names the signal."""
    request = asyncio.create_task(answer(pool))
    os.kill(await pid_of_load(pool), signal.SIGKILL)
    assert (await request)[0]
    request = asyncio.create_task(answer(pool, key="other"))
    for _ in range(3):
        pid = await pid_of_load(pool, "other")
        os.kill(pid, signal.SIGKILL)
        await until(partial(is_gone, pid))
    with pytest.raises(WorkerDied, match="SIGKILL"):
        await request


async def test_a_file_that_is_no_model(pool: Pool, tmp_path: Path) -> None:
    """A typed error, and no process left."""
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\x07" * 5000)
    request = pool.lease(Want((spec(path=broken),)), 60.0)
    async with request as lease:
        pid = asyncio.create_task(pid_of_load(pool))
        with pytest.raises((BadModel, LoadFailed)):
            await drain_load(lease)
    assert is_gone(await pid)
    assert pool.snapshot().workers == []


async def test_leaving_in_mid_answer_frees_the_only_sequence(pool: Pool) -> None:
    """The next request on a worker of one sequence is answered at once, and nothing is remembered of the first."""
    async with pool.lease(Want((spec(n_parallel=1),)), 60.0) as lease:
        await drain_load(lease)
        for _ in range(20):
            async with aclosing(lease.worker.generate(LONG)) as deltas:
                await anext(deltas)
        assert [delta async for delta in lease.worker.generate(SHORT)][-1].final is not None
        assert lease.worker._link is not None
        assert lease.worker._link._inboxes == {}


async def test_a_reader_that_pauses_gets_it_all_in_one_piece(pool: Pool) -> None:
    """Deltas merge while nobody takes them; the text is the same as a fast reader's."""
    greedy = msgspec.structs.replace(SHORT, sampling=ipc.Sampling(num_predict=40, temperature=0.0))
    expected, _ = await answer(pool, greedy)
    async with pool.lease(Want((spec(),)), 60.0) as lease, aclosing(lease.worker.generate(greedy)) as deltas:
        texts = [(await anext(deltas)).text]
        await _until_ended(lease.worker)
        texts += [delta.text async for delta in deltas]
    assert "".join(texts) == expected
    assert len(texts) <= 2


async def _until_ended(worker: Worker) -> None:
    assert worker._link is not None
    (inbox,) = worker._link._inboxes.values()
    await until(lambda: inbox.is_ended)


async def test_keep_alive_zero_ends_the_process(pool: Pool) -> None:
    """Nothing of it stays after the answer."""
    async with pool.lease(Want((spec(),)), 0.0) as lease:
        await drain_load(lease)
        pid = lease.worker.pid
    await until(lambda: not pool.snapshot().workers)
    assert is_gone(pid)


async def test_closing_leaves_no_process(pool: Pool) -> None:
    """One idle, one in mid-answer, one loading: all gone, and their requests know why."""
    _, idle = await answer(pool, key="idle")
    async with pool.lease(Want((spec("busy"),)), 60.0) as lease:
        await drain_load(lease)
        async with aclosing(lease.worker.generate(LONG)) as deltas:
            await anext(deltas)
            loading = asyncio.create_task(answer(pool, key="loading"))
            pid = await pid_of_load(pool, "loading")
            await pool.close()
            with pytest.raises(ShuttingDown):
                await drain(deltas)
        with pytest.raises(ShuttingDown):
            await loading
        assert all(is_gone(p) for p in (idle, lease.worker.pid, pid))
    assert pool.snapshot().workers == []


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
async def test_a_stopped_process_is_killed_after_its_grace(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM does not reach it; SIGKILL does."""
    monkeypatch.setattr(worker_module, "_STOP_GRACE_S", 0.1)
    await answer(pool)
    process = next(iter(pool._lives.values())).worker._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    await until(lambda: "State:\tT" in Path(f"/proc/{process.pid}/status").read_text())
    assert await pool.unload(pool.snapshot().workers[0].id)
    assert is_gone(process.pid)
    assert process.outcome() == "was ended by SIGKILL"


async def test_an_idle_worker_leaves_by_itself(tmp_path: Path) -> None:
    """So it could save its KV: nobody had to end it."""
    tiers = ipc.KvTiers(folder=str(tmp_path / "kv"), memory_bytes=10**6, disk_bytes=10**8)
    worker = Worker(replace(spec(), digest="sha256:1"), tmp_path / "log", Limits(load_s=60, hang_s=60), tiers)
    await worker.load()
    serving = asyncio.create_task(worker.serve())
    await drain(worker.generate(SHORT))
    worker.stop()
    await asyncio.wait_for(serving, 60)
    assert worker._outcome() == "exited with status 0"
    assert is_gone(worker.pid)
