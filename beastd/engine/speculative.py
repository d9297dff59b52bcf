"""Drafts: tokens proposed for a sequence, computed with its last one in one step. Decides how many pay. Pure.

The model's own sampler is asked at each of them in turn, and goes on only while it says what the draft says: so answers
are those there would be without drafts, token by token, only sooner.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from typing import Protocol

from beastd.engine.costs import StepCosts
from beastd.engine.lookup import LONGEST, SHORTEST, Lookup
from beastd.engine.scheduler import Chunk
from beastd.engine.sequence import Sequence as Stream

MOST_DRAFTED = 32
"""Drafted tokens of all sequences in one step: each has a row of logits, which takes memory."""
LONGEST_DRAFT = 16
MARGIN = 1.05
"""Drafts must promise so many times the tokens a second: costs and chances are only estimated."""
PROBE_EVERY = 64
"""Steps without drafts after which one tries what it would else not: chances and costs change."""
MODEL = 0
"""Strength of what a draft model proposes."""
_FIRST_CHANCES = {MODEL: 0.5, 2: 0.3, 3: 0.4, 4: 0.6, 8: 0.8, LONGEST: 0.9}
"""Strength → how often a drafted token is taken to be right before any was seen."""
_WEIGHT = 0.1
_SHARED_WEIGHT = 0.01


@dataclass(frozen=True, slots=True)
class Draft:
    """Tokens that may come next."""

    tokens: list[int]
    strength: int
    """Drafts of equal strength are right about as often: MODEL, or tokens that match (2, 3, 4 to 7, 8 to 15, more)."""


class Drafter(Protocol):
    """Proposes tokens at a cost; it is asked only where that seems to pay."""

    def cost_s(self, n_sequences: int, n_tokens: int) -> float:
        """Seconds it takes to propose so many tokens for each of so many sequences."""

    def draft(self, wanted: Sequence[tuple[Chunk, list[int]]], n_tokens: int) -> list[list[int]]:
        """At most so many tokens for each (chunk, whole text so far)."""


class Chances:
    """How often a drafted token is right when all before it were, by the draft's strength."""

    def __init__(self, before: Chances | None = None) -> None:
        """Start with what others have seen."""
        self._before = before
        self._chances: dict[int, float] = dict(before._chances if before else _FIRST_CHANCES)

    def of(self, strength: int) -> float:
        """From 0 to 1, and never quite either."""
        return min(0.98, max(0.02, self._chances[strength]))

    def observe(self, strength: int, n_right: int, n_tried: int) -> None:
        """Of so many tokens tried one after another so many were right; the first wrong one ends the trial."""
        weight = _WEIGHT if self._before else _SHARED_WEIGHT
        for i in range(min(n_tried, n_right + 1)):
            self._chances[strength] += weight * ((i < n_right) - self._chances[strength])
        if self._before:
            self._before.observe(strength, n_right, n_tried)


@dataclass(frozen=True, slots=True)
class Offer:
    """A draft that might go into the step."""

    chunk: int
    """Which of the step's chunks it would prolong."""
    n_tokens: int
    chance: float


def allot(
    lengths: Sequence[int], offers: Iterable[Offer], cost_s: Callable[[list[int]], float], n_most: int
) -> tuple[list[int], float]:
    """How many tokens of each chunk's draft to compute so that tokens a second are most, and how many times more.

    ``lengths`` are the chunks' tokens without drafts. At least one token is taken where any is offered, even if that
    does not pay: then the second value is below 1.
    """
    taken = [0] * len(lengths)
    heap: list[tuple[float, int, Offer]] = []
    for offer in offers:
        if offer.n_tokens:
            heappush(heap, (-offer.chance, offer.chunk, offer))
    n_expected = float(sum(lengths))
    plain = n_expected / max(1e-9, cost_s(list(lengths)))
    best, most = list(taken), 0.0
    while heap and sum(taken) < n_most:
        gain, index, offer = heappop(heap)
        n_expected -= gain
        taken[index] += 1
        if taken[index] < offer.n_tokens:
            heappush(heap, (gain * offer.chance, index, offer))
        rate = n_expected / max(1e-9, cost_s([a + b for a, b in zip(lengths, taken, strict=True)]))
        if rate > most:
            best, most = list(taken), rate
    return best, most / plain


def passes(lengths: Collection[int], *, is_split: bool) -> list[int]:
    """Tokens of each pass over the weights that a step with chunks of these lengths takes.

    With a partitioned cache (``is_split``) llama.cpp computes as many tokens of each sequence as the shortest one has,
    then those that the others have besides (``llama_batch_allocr::split_equal``).
    """
    if not is_split:
        return [sum(lengths)]
    found, n_left, before = [], len(lengths), 0
    for length, n in sorted(Counter(lengths).items()):
        found.append((length - before) * n_left)
        n_left, before = n_left - n, length
    return found


@dataclass(slots=True)
class _Track:
    """What is known of one sequence."""

    chances: Chances
    text: Lookup = field(default_factory=Lookup)
    draft: Draft | None = None
    """Proposed last, when the text had so many tokens, of which so many were computed."""
    n_before: int = 0
    n_used: int = 0

    def offer(self, chunk: int) -> Offer:
        """The draft, for a chunk."""
        assert self.draft is not None
        return Offer(chunk, len(self.draft.tokens), self.chances.of(self.draft.strength))

    def score(self) -> None:
        """Compare the last draft with what came. One that was not computed has told its first token's worth."""
        if self.draft and (came := self.text.since(self.n_before)):
            tried = self.draft.tokens[: max(1, self.n_used)]
            n_right = next((i for i, (a, b) in enumerate(zip(tried, came, strict=False)) if a != b), len(tried))
            self.chances.observe(self.draft.strength, min(n_right, len(came)), len(tried))
        self.draft, self.n_used = None, 0


class Speculation:
    """Prolongs the chunks of decoding sequences by drafts, as far as that pays."""

    def __init__(self, costs: StepCosts) -> None:
        self._costs = costs
        self._chances = Chances()
        self._tracks: dict[int, _Track] = {}
        self._n_idle = 0

    def forget(self, id_: int) -> None:
        """The sequence has ended."""
        self._tracks.pop(id_, None)

    def observe(self, chunks: Sequence[Chunk], step_s: float, *, is_split: bool) -> None:
        """A step was computed."""
        if len(parts := passes([len(chunk.tokens) for chunk in chunks], is_split=is_split)) == 1:
            self._costs.observe(parts[0], step_s)

    def extend(self, chunks: list[Chunk], n_room: int, *, is_split: bool) -> list[Chunk]:
        """The same step with drafts; ``n_room``: tokens it may hold besides."""
        tracks = {i: self._follow(chunk.sequence) for i, chunk in enumerate(chunks) if chunk.can_draft}
        for i, track in tracks.items():
            track.draft = _looked_up(track.text, min(LONGEST_DRAFT, chunks[i].sequence.n_draftable))
        offers = [it.offer(i) for i, it in tracks.items() if it.draft]
        if not offers or n_room <= 0:
            return chunks

        def cost_s(lengths: list[int]) -> float:
            return sum(map(self._costs.predict_s, passes(lengths, is_split=is_split)))

        lengths = [len(chunk.tokens) for chunk in chunks]
        taken, gain = allot(lengths, offers, cost_s, min(n_room, MOST_DRAFTED))
        if not self._is_worth(gain):
            return chunks
        return [_prolonged(chunk, tracks.get(i), n) for i, (chunk, n) in enumerate(zip(chunks, taken, strict=True))]

    def _follow(self, sequence: Stream) -> _Track:
        track = self._tracks.get(sequence.id)
        if not track:
            track = self._tracks[sequence.id] = _Track(Chances(self._chances))
        track.text.follow(sequence.prompt, sequence.answer)
        track.score()
        track.n_before = track.text.n_tokens
        return track

    def _is_worth(self, gain: float) -> bool:
        self._n_idle += 1
        if gain < MARGIN and self._n_idle < PROBE_EVERY:
            return False
        self._n_idle = 0
        return True


def _looked_up(text: Lookup, n_most: int) -> Draft | None:
    tokens, n_same = text.guess(n_most) if n_most > 0 else ([], 0)
    if not tokens:
        return None
    return Draft(tokens, max(it for it in _FIRST_CHANCES if it <= max(n_same, SHORTEST)))


def _prolonged(chunk: Chunk, track: _Track | None, n: int) -> Chunk:
    if not track or not track.draft or not n:
        return chunk
    track.n_used = n
    return replace(chunk, tokens=chunk.tokens + track.draft.tokens[:n], n_drafted=n)
