"""How many proposed tokens a step computes: never more than allowed, and none where that does not pay."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beastd.engine.allotment import Offer, allot, depth, passes
from beastd.engine.chunks import Chunk
from beastd.engine.costs import StepCosts
from beastd.engine.detokenizer import Detokenizer
from beastd.engine.lookup import Lookup
from beastd.engine.prefixes import Slot
from beastd.engine.sampler import Sampler
from beastd.engine.sequence import Sequence
from beastd.engine.speculative import (
    LONGEST_DRAFT,
    LONGEST_MODEL_DRAFT,
    LONGEST_PAUSE,
    LOOK_EVERY,
    MOST_DRAFTED,
    PROBE_EVERY,
    RESTS_AFTER,
    Chances,
    Speculation,
    Wish,
)

CYCLE = [1, 2, 3, 4, 5, 6, 7, 8, 9]


def flat(n_tokens: int) -> float:
    """A machine that computes up to 64 tokens as fast as one."""
    return 0.01 * max(1, n_tokens / 64)


def linear(n_tokens: int) -> float:
    """One that gains nothing by computing tokens together."""
    return 0.01 * n_tokens


def costs(seconds: object = flat) -> StepCosts:
    known = StepCosts(100)
    for _ in range(3):
        for n in range(1, 200):
            known.observe(n, 0, 0, seconds(n))  # type: ignore[operator]
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
    """The longer it has not paid, the longer the pause: 64 steps, 128, 256."""
    lengths = run(Speculation(costs(linear)), stream(n_predict=9999, n_ctx=9999), CYCLE, 7 * PROBE_EVERY)
    assert sum(length > 0 for length in lengths) == 3


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


# --- a draft model ---


class Oracle:
    """It knows what comes, and takes so many seconds a token."""

    def __init__(self, token_s: float, catch_up_s: float = 0.0) -> None:
        self.token_s, self._catch_up_s = token_s, catch_up_s
        self.asked: list[tuple[list[int], int]] = []

    def cost_s(self, n_sequences: int, n_tokens: int) -> float:
        return self.token_s * n_tokens

    def catch_up_s(self, wishes: Items[Wish]) -> float:
        return self._catch_up_s

    def draft(self, wishes: Items[Wish], n_tokens: int) -> dict[int, list[int]]:
        self.asked.append(([wish.slot for wish in wishes], n_tokens))
        return {wish.slot: [(wish.text[-1] % 9 + 1 + i) % 9 or 9 for i in range(n_tokens)] for wish in wishes}


def test_a_draft_model_is_asked_where_it_pays_and_its_drafts_are_computed() -> None:
    oracle = Oracle(0.0001)
    sequence = stream(speculative="draft")
    sequence.prompt, sequence.answer = [5], [1]
    lengths = run(Speculation(costs(), oracle), sequence, CYCLE, 20)
    assert oracle.asked
    assert all(0 < n <= LONGEST_MODEL_DRAFT for n in lengths)


def test_a_draft_model_as_slow_as_the_model_is_hardly_asked() -> None:
    oracle = Oracle(0.01)
    run(Speculation(costs(linear), oracle), stream(speculative="draft"), CYCLE, PROBE_EVERY * 7)
    assert len(oracle.asked) == 3, "each pause is twice the one before it"


@pytest.mark.parametrize(("speculative", "is_asked"), [("off", False), ("ngram", False), ("draft", True)])
def test_a_draft_model_is_asked_for_those_who_want_it(speculative: str, is_asked: bool) -> None:
    oracle = Oracle(0.0)
    Speculation(costs(), oracle).extend([decode(stream(speculative=speculative))], 100, is_split=False)
    assert bool(oracle.asked) == is_asked


def test_a_text_that_repeats_itself_needs_no_draft_model() -> None:
    oracle = Oracle(0.0)
    (chunk,) = Speculation(costs(), oracle).extend([decode(stream())], 100, is_split=False)
    assert chunk.n_drafted
    assert not oracle.asked


def test_a_long_text_to_catch_up_with_is_not_worth_it() -> None:
    oracle = Oracle(0.0, catch_up_s=10.0)
    Speculation(costs(), oracle).extend([decode(stream(speculative="draft"))], 100, is_split=False)
    assert not oracle.asked


@given(st.integers(1, 8), st.floats(0.02, 0.98), st.integers(1, 16), st.floats(0, 0.02))
def test_the_depth_is_within_what_is_allowed(n_streams: int, chance: float, n_most: int, token_s: float) -> None:
    def cost_s(them: list[int]) -> float:
        return flat(sum(them))

    chances = dict.fromkeys(range(n_streams), chance)
    n_tokens, gain = depth([1] * n_streams, chances, cost_s, lambda n: n * token_s, n_most)
    assert 1 <= n_tokens <= n_most
    assert gain < 1 or token_s < 0.01


def test_texts_are_hardly_looked_at_where_drafts_never_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    guess = Lookup.guess
    monkeypatch.setattr(Lookup, "guess", lambda it, n: looks.append(n) or guess(it, n))
    run(Speculation(costs(linear)), stream(n_predict=9999, n_ctx=9999), CYCLE, 1000)
    assert 1000 / LOOK_EVERY < len(looks) < 2 * 1000 / LOOK_EVERY + 3 * RESTS_AFTER


def test_a_text_that_begins_to_repeat_itself_after_long_is_soon_drafted() -> None:
    speculation, sequence = Speculation(costs()), stream(n_predict=10**6, n_ctx=10**6)
    assert not any(run(speculation, sequence, [*range(100, 1100)], 500)[1:])
    assert any(run(speculation, sequence, CYCLE, 2 * len(CYCLE) + LOOK_EVERY))


class Fragile(Oracle):
    """It fails each time, at one thing or the other."""

    n_failed = 0

    def catch_up_s(self, wishes: Items[Wish]) -> float:
        self.n_failed += 1
        if self.n_failed % 2:
            raise OSError("no cost")
        return 0.0

    def draft(self, wishes: Items[Wish], n_tokens: int) -> dict[int, list[int]]:
        raise OSError("no draft")


def test_a_drafter_that_fails_is_asked_again_later(capsys: pytest.CaptureFixture[str]) -> None:
    """What failed may have passed by, and each failure is told."""
    fragile = Fragile(0.0001)
    sequence = stream(n_predict=10**6, n_ctx=10**6, speculative="draft")
    assert not any(run(Speculation(costs(), fragile), sequence, CYCLE, 2 * LONGEST_PAUSE + 10))
    assert fragile.n_failed == 3
    told = capsys.readouterr().err
    assert told.count("the drafter failed") == 3
    assert "no draft" in told
