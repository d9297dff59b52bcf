"""Speculative decoding, one stream: the same requests with and without it, and what llama-server does without."""

from __future__ import annotations

from dataclasses import replace
from itertools import takewhile

from tests.bench.peer.asking import Answer, Ask
from tests.bench.peer.figures import Row
from tests.bench.peer.plan import Plan
from tests.bench.peer.servers import Beast, Peer, ask

N_CTX = 2048
N_ANSWER = 200
ASKED = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
STORIES = (
    "Tell me a short story about a fox and a bear.",
    "Tell me a story about a ship and a storm.",
    "Tell me a story about a girl who found a key.",
)
QUESTIONS = (
    "Tell me a short story about a fox and a bear.",
    "Why is the sky blue?",
    "Tell me a story about a ship and a storm.",
    "Write an email to my teacher saying that I am sick.",
)


async def copy(plan: Plan) -> Row:
    """Cub tells a story again that stands in the chat, with a few words changed: n-gram look-up against none.

    It is too small to copy a strange text: told to, it goes on with one of its own.
    """
    row = Row("copy")
    async with plan.pair(plan.cub, 1, N_CTX) as pair:
        asks = [await _told_again(plan, pair[0], it) for it in STORIES]
        for round_ in range(plan.n_rounds):
            for it in asks:
                await _compare(row, *pair, it, "ngram", round_, "a story again", at_least=1.7)
    return row


async def _told_again(plan: Plan, beast: Beast, question: str) -> Ask:
    first = Ask(ASKED.format(question), plan.n(N_ANSWER), temperature=0, ignore_eos=False)
    answer = await ask(beast, first)
    return replace(first, text=f"{first.text}{answer.text}<|im_end|>\n{first.text}")


async def draft(plan: Plan) -> Row:
    """Cub answers questions: its draft model against none, greedy and at temperature 0.8."""
    row = Row("draft")
    asks = [Ask(ASKED.format(it), plan.n(N_ANSWER), ignore_eos=False, seed=7) for it in QUESTIONS]
    async with plan.pair(plan.cub, 1, N_CTX, draft=plan.draft) as pair:
        for round_ in range(plan.n_rounds):
            for it in asks:
                for temperature in (0.0, 0.8):
                    hot = replace(it, temperature=temperature)
                    await _compare(row, *pair, hot, "draft", round_, f"temperature {temperature}")
    return row


async def _compare(
    row: Row, beast: Beast, peer: Peer, it: Ask, how: str, round_: int, what: str, *, at_least: float | None = None
) -> None:
    """One request with and without guesses, in turn, and at llama-server, which makes none by default."""
    await ask(beast, replace(it, n_answer=1))  # a prompt that is computed differs in rounding from a cached one
    ways = (how, "off") if round_ % 2 == 0 else ("off", how)
    ours = {way: await ask(beast, replace(it, speculative=way)) for way in ways}
    theirs = await ask(peer, it)
    guessed, plain = ours[how], ours["off"]
    fast, slow, other = (answer.generation_rate for answer in (guessed, plain, theirs))
    row.add(f"{what}, {how}", fast, slow, "tok/s", against="Beast, off", at_least=at_least)
    row.add(f"{what}, off", slow, other, "tok/s")
    row.note(f"{what}: {_acceptance(guessed)}")
    if guessed.text != plain.text:
        n_same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(guessed.text, plain.text, strict=False)))
        row.note(f"UNEQUAL: {what}: with {how} another answer after {n_same} of {len(plain.text)} characters")


def _acceptance(answer: Answer) -> str:
    n_drafted, n_accepted = (answer.final.get(name) for name in ("draft_count", "draft_accepted_count"))
    if n_drafted is None:
        return "the reply tells no draft_count"
    return f"{n_accepted} of {n_drafted} drafted tokens accepted, {answer.n_answer} answered"
