"""How many proposed tokens a step computes: never more than allowed, and none where that does not pay."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beastd.engine.costs import StepCosts
from beastd.engine.detokenizer import Detokenizer
from beastd.engine.prefixes import Slot
from beastd.engine.sampler import Sampler
from beastd.engine.scheduler import Chunk
from beastd.engine.sequence import Sequence
from beastd.engine.speculative import (
    LONGEST_DRAFT,
    MOST_DRAFTED,
    PROBE_EVERY,
    Chances,
    Offer,
    Speculation,
    allot,
    passes,
)

CYCLE = [1, 2, 3, 4, 5, 6, 7, 8, 9]


def flat(n_tokens: int) -> float:
    """A machine that computes up to 64 tokens as fast as one."""
    return 0.01 * max(1, n_tokens / 64)


def linear(n_tokens: int) -> float:
    """One that gains nothing by computing tokens together."""
    return 0.01 * n_tokens


def costs(seconds: object = flat) -> StepCosts:
    known = StepCosts()
    for n in range(1, 200):
        known.observe(n, seconds(n))  # type: ignore[operator]
    return known


def stream(id_: int = 1, *, n_predict: int = 1000, n_ctx: int = 1000, speculative: str = "auto") -> Sequence:
    sequence = Sequence(
        id=id_,
        prompt=CYCLE * 3,
        sampler=cast(Sampler, None),
        detokenizer=Detokenizer([]),
        n_ctx=n_ctx,
        n_predict=n_predict,
        speculative=speculative,  # type: ignore[arg-type]
    )
    sequence.slot = Slot(id_, list(sequence.prompt))
    sequence.answer = [1]
    return sequence


def decode(sequence: Sequence) -> Chunk:
    assert sequence.slot
    return Chunk(sequence, sequence.answer[-1:], len(sequence.prompt) + len(sequence.answer) - 1, True)


def run(speculation: Speculation, sequence: Sequence, truth: list[int], n_steps: int) -> list[int]:
    """Steps of a stream whose sampler says ``truth`` over and over; the lengths of its drafts."""
    lengths = []
    for _ in range(n_steps):
        (chunk,) = speculation.extend([decode(sequence)], 1000, is_split=False)
        assert chunk.tokens[: len(chunk.tokens) - chunk.n_drafted] == sequence.answer[-1:]
        lengths.append(chunk.n_drafted)
        for token in [*chunk.tokens[1:], None]:
            sequence.answer.append(truth[len(sequence.answer) % len(truth)])
            if sequence.answer[-1] != token:
                break
    return lengths


def test_a_text_that_repeats_itself_is_drafted_at_length() -> None:
    lengths = run(Speculation(costs()), stream(), CYCLE, 10)
    assert max(lengths) == LONGEST_DRAFT


def test_a_text_that_never_does_what_it_did_before_is_left_alone() -> None:
    """The prompt is looked up and always wrong; drafts stop, but for a probe now and then."""
    speculation, sequence = Speculation(costs(lambda n: 0.01 * (1 + n / 8))), stream(n_ctx=10**6, n_predict=10**6)
    n_drafts = []
    for i in range(600):
        sequence.answer += [1, 2] if i % 2 else [3, 4]
        sequence.answer.append(100 + i)  # what never follows
        sequence.answer += [5, 6]
        (chunk,) = speculation.extend([decode(sequence)], 1000, is_split=False)
        n_drafts.append(chunk.n_drafted)
    assert sum(n > 0 for n in n_drafts[200:]) <= 400 // PROBE_EVERY + 1


def test_nothing_is_drafted_where_tokens_together_cost_as_much_as_alone() -> None:
    lengths = run(Speculation(costs(linear)), stream(), CYCLE, PROBE_EVERY - 1)
    assert not any(lengths)


def test_what_does_not_pay_is_tried_now_and_then() -> None:
    """After a pause, and then after one of twice that length."""
    lengths = run(Speculation(costs(linear)), stream(), CYCLE, 4 * PROBE_EVERY)
    assert sum(length > 0 for length in lengths) == 2


@pytest.mark.parametrize(("n_predict", "n_ctx"), [(4, 1000), (1000, 31), (1, 1000), (2, 1000)])
def test_a_draft_ends_where_the_answer_must(n_predict: int, n_ctx: int) -> None:
    sequence = stream(n_predict=n_predict, n_ctx=n_ctx)
    (chunk,) = Speculation(costs()).extend([decode(sequence)], 1000, is_split=False)
    left = min(n_predict - 1, n_ctx - 28)
    assert chunk.n_drafted == max(0, left - 1)


def test_off_is_off() -> None:
    sequence = stream(speculative="off")
    (chunk,) = Speculation(costs()).extend([decode(sequence)], 1000, is_split=False)
    assert chunk.n_drafted == 0


def test_a_prompt_is_not_prolonged() -> None:
    sequence = replace(stream(), answer=[])
    chunk = Chunk(sequence, sequence.prompt, 0, True)
    assert Speculation(costs()).extend([chunk], 1000, is_split=False) == [chunk]


@given(st.integers(1, 40), st.integers(0, 100), st.booleans())
def test_a_step_never_holds_more_drafts_than_there_is_room(n_streams: int, n_room: int, is_split: bool) -> None:
    chunks = [decode(stream(i)) for i in range(n_streams)]
    extended = Speculation(costs()).extend(chunks, n_room, is_split=is_split)
    assert sum(chunk.n_drafted for chunk in extended) <= min(n_room, MOST_DRAFTED)
    assert [chunk.sequence for chunk in extended] == [chunk.sequence for chunk in chunks]
    assert all(chunk.n_outputs == 1 + chunk.n_drafted for chunk in extended)


offers = st.lists(st.tuples(st.integers(0, 16), st.floats(0.02, 0.98)), min_size=1, max_size=8)


@given(offers, st.integers(0, 40))
def test_an_allotment_takes_no_more_than_is_offered(offered: list[tuple[int, float]], n_most: int) -> None:
    lengths = [1] * len(offered)
    given_ = [Offer(i, n, chance) for i, (n, chance) in enumerate(offered)]
    taken, _ = allot(lengths, given_, lambda them: flat(sum(them)), n_most)
    assert sum(taken) <= n_most
    assert all(n <= offer.n_tokens for n, offer in zip(taken, given_, strict=True))


@given(st.integers(1, 8), st.floats(0.02, 0.98))
def test_where_tokens_cost_the_same_together_none_pays(n_streams: int, chance: float) -> None:
    given_ = [Offer(i, 16, chance) for i in range(n_streams)]
    assert allot([1] * n_streams, given_, lambda them: linear(sum(them)), 32)[1] < 1


def test_the_likelier_draft_gets_the_room() -> None:
    taken, gain = allot([1, 1], [Offer(0, 16, 0.3), Offer(1, 16, 0.95)], lambda them: flat(sum(them)), 8)
    assert taken[1] > taken[0]
    assert gain > 1


def test_a_crowd_is_not_prolonged_where_one_alone_is() -> None:
    """Sixty-four tokens fill the machine."""
    for n, pays in ((1, True), (64, False)):
        _, gain = allot([1] * n, [Offer(i, 16, 0.5) for i in range(n)], lambda them: flat(sum(them)), 32)
        assert (gain > 1) == pays


def test_a_partitioned_step_takes_a_pass_for_what_some_have_besides() -> None:
    assert passes([1, 1, 5, 3], is_split=True) == [4, 4, 2]
    assert passes([1, 1, 5, 3], is_split=False) == [10]
    assert passes([4, 4], is_split=True) == [8]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=10), st.booleans())
def test_passes_hold_every_token_once(lengths: list[int], is_split: bool) -> None:
    assert sum(passes(lengths, is_split=is_split)) == sum(lengths)


def test_chances_follow_what_is_seen_and_new_sequences_start_with_it() -> None:
    shared = Chances()
    for _ in range(200):
        Chances(shared).observe(4, 0, 4)
    assert Chances(shared).of(4) < 0.15
    one = Chances(shared)
    for _ in range(50):
        one.observe(4, 4, 4)
    assert one.of(4) > 0.9


def test_tokens_after_the_first_wrong_one_count_for_nothing() -> None:
    one, other = Chances(Chances()), Chances(Chances())
    one.observe(4, 1, 2)
    other.observe(4, 1, 16)
    assert one.of(4) == other.of(4)


def test_a_draft_that_was_not_computed_teaches_all_the_same() -> None:
    """The text repeats itself, drafts are too dear, and chances rise nevertheless."""
    speculation, sequence = Speculation(costs(linear)), stream()
    run(speculation, sequence, CYCLE, PROBE_EVERY - 1)
    assert Speculation(costs(linear))._chances.of(16) < speculation._chances.of(16)
