"""Drafts: tokens proposed for a sequence, computed with its last one in one step. Decides how many pay. Pure.

The model's own sampler is asked at each of them in turn, and goes on only while it says what the draft says: so answers
are those there would be without drafts, token by token, only sooner.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from beastd.engine.allotment import CostOf, Offer, allot, depth, passes
from beastd.engine.chunks import Chunk
from beastd.engine.costs import StepCosts
from beastd.engine.lookup import LONGEST, Lookup
from beastd.engine.sequence import Sequence as Stream

MOST_DRAFTED = 32
"""Drafted tokens of all sequences in one step: each has a row of logits, which takes memory."""
LONGEST_DRAFT = 31
MARGIN = 1.05
"""Drafts must promise so many times the tokens a second: costs and chances are only estimated."""
PROBE_EVERY = 64
"""Steps without drafts after which one tries what it would else not: chances and costs change."""
LONGEST_PAUSE = 1024
RESTS_AFTER = 32
"""Steps in which no draft paid, after which texts are looked at only ..."""
LOOK_EVERY = 8
"""... every so many steps: of many streams that is some of a step's time."""
LONGEST_MODEL_DRAFT = 8
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


@dataclass(frozen=True, slots=True)
class Wish:
    """A sequence that a drafter is to go on with: its slot, and all its text so far."""

    slot: int
    text: list[int]


class Drafter(Protocol):
    """Proposes tokens at a cost; it is asked only where that seems to pay."""

    def cost_s(self, n_sequences: int, n_tokens: int) -> float:
        """Seconds it takes to propose so many tokens for each of so many sequences that it has caught up with."""

    def catch_up_s(self, wishes: Sequence[Wish]) -> float:
        """Seconds it takes besides, for what of these texts it has not seen, shared out among the drafts to come."""

    def draft(self, wishes: Sequence[Wish], n_tokens: int) -> dict[int, list[int]]:
        """Slot → so many tokens, for those it can; for others it catches up. Raises anything."""


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


class Patience:
    """Says yes to what pays, and now and then to what would not; the longer between, the longer it has not paid."""

    def __init__(self) -> None:
        self._n_idle, self._most_idle = 0, PROBE_EVERY

    def rests(self) -> bool:
        """Whether to spare even the look at what there is, after long without any that pays."""
        return self._n_idle >= RESTS_AFTER and (self._n_idle + 1) % LOOK_EVERY != 0

    def has_none(self) -> None:
        """A step had nothing to try."""
        self._n_idle += 1

    def is_over(self, gain: float) -> bool:
        """Whether to draft, where that promises so many times the tokens a second."""
        self._n_idle += 1
        if gain >= MARGIN:
            self._n_idle, self._most_idle = 0, PROBE_EVERY
            return True
        if self._n_idle < self._most_idle:
            return False
        self._n_idle, self._most_idle = 0, min(2 * self._most_idle, LONGEST_PAUSE)
        return True


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

    def look_up(self, sequence: Stream, longest: int) -> None:
        """Find a draft in the text."""
        n_most = min(longest, sequence.n_draftable)
        if n_most > 0 and sequence.speculative != "draft":
            tokens, n_same = self.text.guess(n_most)
            if tokens:
                self.draft = Draft(tokens, max(it for it in _FIRST_CHANCES if it <= n_same))

    def wants_model(self, sequence: Stream) -> bool:
        """Whether a draft model's draft would be better than what was found in the text."""
        if sequence.speculative == "ngram" or sequence.n_draftable <= 0:
            return False
        return not self.draft or self.chances.of(self.draft.strength) < self.chances.of(MODEL)

    def score(self) -> None:
        """Compare the last draft with what came. One that was not computed has told its first token's worth."""
        if self.draft and (came := self.text.since(self.n_before)):
            tried = self.draft.tokens[: max(1, self.n_used)]
            n_right = next((i for i, (a, b) in enumerate(zip(tried, came, strict=False)) if a != b), len(tried))
            self.chances.observe(self.draft.strength, min(n_right, len(came)), len(tried))
        self.draft, self.n_used = None, 0


class Speculation:
    """Prolongs the chunks of decoding sequences by drafts, as far as that pays."""

    def __init__(self, costs: StepCosts, drafter: Drafter | None = None, longest: int = LONGEST_DRAFT) -> None:
        """``longest``: tokens of a sequence in a step that may be proposed, since all of them may be wrong."""
        self._costs = costs
        self._longest = longest
        self._drafter = drafter
        self._asks = Patience()
        self._n_unasked = 0
        """Steps for which the drafter, which has failed, is left alone."""
        self._chances = Chances()
        self._tracks: dict[int, _Track] = {}
        self._patience = Patience()

    def forget(self, id_: int) -> None:
        """The sequence has ended."""
        self._tracks.pop(id_, None)

    def extend(self, chunks: list[Chunk], n_room: int, *, is_split: bool) -> list[Chunk]:
        """The same step with drafts; ``n_room``: tokens it may hold besides."""
        tracks = {i: self._follow(chunk.sequence) for i, chunk in enumerate(chunks) if chunk.can_draft}
        if tracks and not self._patience.rests():
            for i, track in tracks.items():
                track.look_up(chunks[i].sequence, self._longest)

        def cost_s(lengths: list[int]) -> float:
            return sum(map(self._costs.predict_s, passes(lengths, is_split=is_split)))

        self._n_unasked = max(0, self._n_unasked - 1)
        if self._drafter and n_room > 0 and not self._n_unasked:
            self._ask(self._drafter, chunks, tracks, cost_s)
        offers = [it.offer(i) for i, it in tracks.items() if it.draft]
        if tracks and not offers:
            self._patience.has_none()
        if not offers or n_room <= 0:
            return chunks
        lengths = [len(chunk.tokens) for chunk in chunks]
        taken, gain = allot(lengths, offers, cost_s, min(n_room, MOST_DRAFTED))
        if not self._patience.is_over(gain):
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

    def _ask(self, drafter: Drafter, chunks: list[Chunk], tracks: dict[int, _Track], cost_s: CostOf) -> None:
        """Have the drafter propose for sequences whose text promises less, where that pays."""
        asked = {i: track for i, track in tracks.items() if track.wants_model(chunks[i].sequence)}
        if not asked:
            return
        lengths = [len(chunk.tokens) for chunk in chunks]
        chances = {i: track.chances.of(MODEL) for i, track in asked.items()}
        n_most = min(LONGEST_MODEL_DRAFT, self._longest, *(chunks[i].sequence.n_draftable for i in asked))
        n_tokens, gain = depth(lengths, chances, cost_s, lambda n: drafter.cost_s(len(asked), n), n_most)
        if not self._asks.is_over(gain):
            return
        wishes = [Wish(chunks[i].slot, track.text.since(0)) for i, track in asked.items()]
        plain_s = cost_s(lengths)
        try:
            if gain >= MARGIN and gain * plain_s / (plain_s + drafter.catch_up_s(wishes)) < 1:
                return
            drafts = drafter.draft(wishes, n_tokens)
        except Exception as error:  # answers come without it, only later
            sys.stderr.write(f"the drafter failed; it is asked again after {LONGEST_PAUSE} steps\n")
            traceback.print_exception(error)
            self._n_unasked = LONGEST_PAUSE
            return
        for i, track in asked.items():
            if tokens := drafts.get(chunks[i].slot):
                track.draft = Draft(tokens, MODEL)


def _prolonged(chunk: Chunk, track: _Track | None, n: int) -> Chunk:
    if not track or not track.draft or not n:
        return chunk
    track.n_used = n
    return replace(chunk, tokens=chunk.tokens + track.draft.tokens[:n], n_drafted=n)
