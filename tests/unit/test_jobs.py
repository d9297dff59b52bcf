"""Long work: shared by those who ask for the same, watched by any number, ended exactly once."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from beastd.errors import BadModel, BeastError, Cancelled, ModelNotFound, Overloaded, ShuttingDown
from beastd.jobs.job import Job, Line
from beastd.jobs.jobs import MAX_RUNNING, Jobs
from beastd.tool import Progress


async def watched(job: Job) -> list[Line]:
    async with aclosing(job.watch()) as lines:
        return [line async for line in lines]


class Gate:
    """Work that reports, waits to be let through, and ends as it is told."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.open = asyncio.Event()
        self.n_runs = 0
        self._error = error

    async def __call__(self, job: Job) -> dict[str, int]:
        self.n_runs += 1
        job.report(Progress(status="pulling a", item="a", completed=1, total=4))
        job.report(Progress(status="pulling b", item="b", completed=2, total=4))
        await self.open.wait()
        job.report(Progress(status="pulling a", item="a", completed=4, total=4))
        if self._error:
            raise self._error
        return {"n": self.n_runs}


async def test_the_same_work_is_done_once_and_all_see_all_of_it():
    """One that comes late gets the latest of each item first."""
    jobs, gate = Jobs(), Gate()
    first = jobs.start("pull", "m", "key", gate)
    early = asyncio.create_task(watched(first))
    await asyncio.sleep(0)
    second = jobs.start("pull", "m", "key", gate)
    assert second is first
    late = asyncio.create_task(watched(second))
    await asyncio.sleep(0)
    assert first.n_watchers == 2
    gate.open.set()
    for lines in (await early, await late):
        assert [line.progress.item for line in lines] == ["a", "b", "a"]
        assert lines[-1].progress.completed == 4
    assert (gate.n_runs, first.state, first.result, first.n_watchers) == (1, "done", {"n": 1}, 0)
    assert [line.progress.item for line in await watched(jobs.get(first.id))] == ["b", "a"]
    assert jobs.start("pull", "m", "key", gate) is not first


async def test_work_goes_on_without_watchers():
    """A client that leaves takes nothing with it."""
    jobs, gate = Jobs(), Gate()
    job = jobs.start("pull", "m", "key", gate)
    watcher = asyncio.create_task(watched(job))
    await asyncio.sleep(0)
    watcher.cancel()
    await asyncio.wait([watcher])
    assert (job.n_watchers, job.state) == (0, "running")
    gate.open.set()
    await job.ended()
    assert job.state == "done"


@pytest.mark.parametrize(
    ("error", "told", "state"),
    [
        (BadModel("broken"), "broken", "failed"),
        (ValueError("a bug"), "Beast has a bug", "failed"),
        (None, "was cancelled; asking again goes on", "cancelled"),
    ],
)
async def test_an_early_end_is_told_to_every_watcher(error, told, state):
    """Its own error, cancelled, or a bug: never silence. It can still be asked for afterwards."""
    jobs, gate = Jobs(), Gate(error)
    job = jobs.start("pull", "m", "key", gate)
    watchers = [asyncio.create_task(watched(job)) for _ in range(2)]
    await asyncio.sleep(0)
    if error is None:
        job.cancel()
    gate.open.set()
    for watcher in [*watchers, asyncio.create_task(watched(job))]:
        with pytest.raises(BeastError, match=told):
            await watcher
    assert (job.state, jobs.running) == (state, [])


async def test_nothing_starts_after_the_close_and_nothing_is_left():
    """What was under way is cancelled."""
    jobs = Jobs()
    job = jobs.start("pull", "m", "key", Gate())
    watcher = asyncio.create_task(watched(job))
    await asyncio.sleep(0)
    await jobs.close()
    with pytest.raises(Cancelled):
        await watcher
    with pytest.raises(ShuttingDown):
        jobs.start("pull", "m", "key", Gate())


async def test_jobs_are_bounded_and_an_unknown_one_is_told():
    """One more than the most is refused; the rest goes on."""
    jobs = Jobs()
    for n in range(MAX_RUNNING):
        jobs.start("pull", "m", str(n), Gate())
    with pytest.raises(Overloaded, match="32 jobs are under way"):
        jobs.start("pull", "m", "one more", Gate())
    assert jobs.start("pull", "m", "0", Gate()) is jobs.running[0]
    with pytest.raises(ModelNotFound, match="there is no job 'pull-99'"):
        jobs.get("pull-99")
    await jobs.close()


async def test_speed_and_time_left_follow_the_items_own_progress():
    """What was there before the job does not count as speed."""
    now = [100.0]
    job = Job("pull-1", "pull", "m", "key", clock=lambda: now[0])
    job.report(Progress(status="", item="a", completed=500, total=1000))
    assert (job.lines[0].rate, job.lines[0].eta_s) == (0.0, None)
    now[0] += 2.0
    job.report(Progress(status="", item="a", completed=600, total=1000))
    assert (job.lines[0].rate, job.lines[0].eta_s) == (50.0, 8.0)
    now[0] += 1.0
    job.report(Progress(status="", item="a", completed=0, total=1000))
    assert job.lines[0].rate == 0.0
