"""KV that outlives the daemon, and how many chats the same bytes of KV hold."""

from __future__ import annotations

import asyncio

from tests.bench.peer.asking import Answer, Ask, words
from tests.bench.peer.figures import Row
from tests.bench.peer.plan import Plan, seeded, together, warm_up
from tests.bench.peer.servers import Beast, ask

N_STATIC = 4
"""Slots of 4,096 tokens whose bytes of KV the chats of ``capacity`` share."""
N_COMMON, N_OWN, N_ANSWER = 600, 300, 100
N_CHATS = 36
"""Of 1,000 tokens with 600 in common: about what 16,384 cells hold."""
LOOK_S = 0.1


async def restart(plan: Plan) -> Row:
    """A prompt of 700 tokens: the first time, again, and again after the daemon was stopped and started."""
    row = Row("restart")
    with plan.beast(plan.shape(), {"parallel": "4", "context": "2048"}) as beast:
        for round_ in range(plan.n_rounds):
            await warm_up(beast)
            it = Ask(words(seeded("restart", round_), plan.n(700)), 8, temperature=0)
            first, second = await ask(beast, it), await ask(beast, it)
            beast.restart()
            await warm_up(beast)
            third = await ask(beast, it)
            row.add("TTFT of the prompt again", second.ttft_s, first.ttft_s, against="the first")
            row.add("TTFT after a restart", third.ttft_s, first.ttft_s, against="the first", at_most=0.1)
            row.note(f"prompt tokens cached: {first.n_cached}, {second.n_cached}, {third.n_cached} of {third.n_prompt}")
            if third.text != first.text:
                row.note("UNEQUAL: the answer after the restart is another one")
    return row


async def capacity(plan: Plan) -> Row:
    """Chats of 1,000 tokens with 600 in common that run at once in the KV of 4 slots of 4,096 tokens."""
    row = Row("capacity")
    settings = {"parallel": str(N_STATIC), "context": "4096", "kv_layout": "unified", "sequences": str(N_CHATS)}
    with plan.beast(plan.shape(), settings) as beast:
        random = seeded("capacity", 0)
        prefix = words(random, N_COMMON)
        asks = [Ask(prefix + words(random, N_OWN), N_ANSWER) for _ in range(plan.n(N_CHATS))]
        answers, n_running = await _watched(beast, asks)
    row.add("chats at once (beast_worker_running)", n_running, N_STATIC, "", against="static slots", at_least=4)
    row.add("chats at once that had begun to answer", _most_answering(answers), N_STATIC, "", against="static slots")
    row.note(f"{len(answers)} chats asked for, none failed")
    return row


async def _watched(beast: Beast, asks: list[Ask]) -> tuple[list[Answer], float]:
    """The answers, and the most sequences that /metrics told of meanwhile."""
    work = asyncio.create_task(together(beast, asks))
    most = 0.0
    while not work.done():
        most = max(most, await beast.metric("beast_worker_running"))
        await asyncio.wait([work], timeout=LOOK_S)
    return work.result(), most


def _most_answering(answers: list[Answer]) -> int:
    """Most answers between their first and last piece at one moment."""
    return max(sum(it.stamps_s[0] <= now.stamps_s[0] <= it.stamps_s[-1] for it in answers) for now in answers)
