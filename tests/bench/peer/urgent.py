"""A short request of high priority while long ones of low priority saturate the worker, in units of its steps."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

from tests.bench.peer.asking import Ask, words
from tests.bench.peer.figures import Row
from tests.bench.peer.plan import Plan, seeded, warm_up
from tests.bench.peer.servers import Beast, NotMeasured, ask

N_JOBS = 16
N_PROMPT = 30
LOOK_S = 3.0
"""Over which steps are measured before each request."""
PATIENCE_S = 60.0


async def priority(plan: Plan) -> Row:
    """TTFT beyond its own prefill, over the mean step: among 16 jobs that answer, and among 16 that prefill."""
    row = Row("priority")
    with plan.beast(plan.shape(), {"parallel": str(N_JOBS), "context": "2048"}) as beast:
        await warm_up(beast)
        random = seeded("priority", 0)
        alone_s = statistics.median([(await ask(beast, _urgent(random))).ttft_s for _ in range(3)])
        row.note(f"its own prefill alone: {alone_s:.3f} s")
        for what, n_prompt in (("jobs answer", 64), ("jobs prefill", plan.n(1600))):
            async with _jobs(plan, beast, random, n_prompt, is_answering=what == "jobs answer"):
                for _ in range(2 * plan.n_rounds):
                    await _round(row, beast, random, what, alone_s)
    return row


async def _round(row: Row, beast: Beast, random: Random, what: str, alone_s: float) -> None:
    step_s = await _step_s(beast)
    try:
        answer = await asyncio.wait_for(ask(beast, _urgent(random)), PATIENCE_S)
    except TimeoutError:
        raise NotMeasured(f"no answer to the urgent request within {PATIENCE_S:.0f} s while {what}") from None
    row.add(f"TTFT less its prefill while {what}", answer.ttft_s - alone_s, step_s, against="a step", at_most=2)


def _urgent(random: Random) -> Ask:
    return Ask(words(random, N_PROMPT), 4, priority="high")


@asynccontextmanager
async def _jobs(plan: Plan, beast: Beast, random: Random, n_prompt: int, *, is_answering: bool) -> AsyncIterator[None]:
    """Low-priority work for all slots, more of it as soon as some is done; hung up on at the end."""

    async def job(own: Random) -> None:
        while True:
            n_answer = 1800 - n_prompt if is_answering else 16
            await ask(beast, Ask(words(own, n_prompt), n_answer, priority="low"))

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(job(Random(random.random()))) for _ in range(N_JOBS)]
            if is_answering:
                await _until_all_answer(beast)
            yield
            for task in tasks:
                task.cancel()
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def _until_all_answer(beast: Beast) -> None:
    name = "beast_answer_tokens_total"
    enough = await beast.metric(name) + 4 * N_JOBS
    while await beast.metric(name) < enough:  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0.2)


async def _step_s(beast: Beast) -> float:
    """Mean seconds of the steps of the next moments."""
    names = ("beast_step_seconds_total", "beast_steps_total")
    before = [await beast.metric(name) for name in names]
    await asyncio.sleep(LOOK_S)
    after = [await beast.metric(name) for name in names]
    seconds, steps = (now - was for now, was in zip(after, before, strict=True))
    if not steps:
        raise NotMeasured("no step ended while jobs ran")
    return seconds / steps
