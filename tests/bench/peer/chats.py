"""More chats than slots, each with a history of its own that grows turn by turn."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from tests.bench.peer.asking import Answer, Ask, words
from tests.bench.peer.figures import Row, add_answers
from tests.bench.peer.plan import ClientLoad, Plan, at_once, in_turn, seeded
from tests.bench.peer.servers import Server, ask

N_CHATS, N_TURNS = 32, 4
N_SLOTS, N_CTX = 16, 2048


async def chats(plan: Plan) -> Row:
    """32 chats at once of 4 turns without pauses, questions of 30 to 300 tokens, answers of 20 to 120."""
    row = Row("chats")
    async with plan.pair(plan.shape(), N_SLOTS, N_CTX) as pair:
        for round_ in range(plan.n_rounds):
            load = ClientLoad()
            answers = {server.name: await _round(plan, row, server, round_) for server in in_turn(pair, round_)}
            load.note(row)
            add_answers(row, answers["Beast"], answers["llama-server"], total_time=0.8, ITL_p99=0.5)
    return row


async def _round(plan: Plan, row: Row, server: Server, round_: int) -> list[Answer]:
    talks = [_chat(server, _turns(plan, seeded("chats", round_, chat))) for chat in range(plan.n(N_CHATS))]
    answers = [answer for chat in await at_once(talks) for answer in chat]
    n_cached, n_prompt = (sum(values) for values in zip(*((it.n_cached, it.n_prompt) for it in answers), strict=True))
    row.note(f"round {round_ + 1}: {server.name} had {n_cached / n_prompt:.0%} of its prompt tokens cached")
    return answers


def _turns(plan: Plan, random: Random) -> list[Ask]:
    return [
        Ask(words(random, plan.n(random.randint(30, 300))), plan.n(random.randint(20, 120))) for _ in range(N_TURNS)
    ]


async def _chat(server: Server, turns: list[Ask]) -> list[Answer]:
    """One chat; a turn's prompt is all tokens before it and its question."""
    answers: list[Answer] = []
    history: list[int | str] = []
    for turn in turns:
        asked = replace(turn, history=history)
        answers.append(await ask(server, asked))
        history = server.api.history(asked, answers[-1])
    return answers
