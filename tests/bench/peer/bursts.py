"""Requests that come together: with a common prefix, without one, and a short one that comes after them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tests.bench.peer.asking import Answer, Ask, words
from tests.bench.peer.figures import Row, add_answers
from tests.bench.peer.plan import ClientLoad, Pair, Plan, at_once, in_turn, seeded, together
from tests.bench.peer.servers import Server, ask

N_SLOTS = 16
N_CTX = 2048
DELAYS_S = (0.2, 0.5, 1.0)


async def shared(plan: Plan) -> Row:
    """16 requests at once with 700 tokens in common, some 20 of their own, answers of 32."""
    row = Row("shared")
    async with plan.pair(plan.shape(), N_SLOTS, N_CTX) as pair:
        for round_ in range(plan.n_rounds):
            random = seeded("shared", round_)
            prefix = words(random, plan.n(700))
            asks = [Ask(prefix + words(random, random.randint(16, 24)), plan.n(32)) for _ in range(plan.n(N_SLOTS))]
            await _compare(row, pair, round_, asks, total_time=1 / 8, TTFT_p50=1 / 8)
    return row


async def burst(plan: Plan) -> Row:
    """8 requests at once, prompts of 128 tokens and answers of 64."""
    row = Row("burst")
    async with plan.pair(plan.shape(), N_SLOTS, N_CTX) as pair:
        for round_ in range(plan.n_rounds):
            random = seeded("burst", round_)
            asks = [Ask(words(random, plan.n(128)), plan.n(64)) for _ in range(plan.n(8))]
            await _compare(row, pair, round_, asks, TTFT_mean=0.6)
    return row


async def _compare(row: Row, pair: Pair, round_: int, asks: Sequence[Ask], **at_most: float) -> None:
    load = ClientLoad()
    answers = {server.name: await together(server, asks) for server in in_turn(pair, round_)}
    load.note(row)
    add_answers(row, answers["Beast"], answers["llama-server"], **at_most)


async def short(plan: Plan) -> Row:
    """A request of 16 tokens that comes a little after 8 prompts of 128 tokens with answers of 64."""
    row = Row("short")
    async with plan.pair(plan.shape(), N_SLOTS, N_CTX) as pair:
        for round_ in range(plan.n_rounds):
            for delay_s in DELAYS_S:
                late = {it.name: await _late_ttft_s(plan, it, round_, delay_s) for it in in_turn(pair, round_)}
                what = f"TTFT of a request {delay_s} s after 8 others"
                row.add(what, late["Beast"], late["llama-server"], at_most=0.15)
    return row


async def _late_ttft_s(plan: Plan, server: Server, round_: int, delay_s: float) -> float:
    random = seeded("short", round_, int(1000 * delay_s))
    busy = [Ask(words(random, plan.n(128)), plan.n(64)) for _ in range(plan.n(8))]
    late = Ask(words(random, 16), 16)

    async def after() -> Answer:
        await asyncio.sleep(delay_s)
        return await ask(server, late)

    return (await at_once([after(), *(ask(server, it) for it in busy)]))[0].ttft_s
