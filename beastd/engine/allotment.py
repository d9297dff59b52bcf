"""How many proposed tokens a step should compute, weighing what they promise against what they cost. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

LEAST_CHANCE = 0.1
"""A token less likely to be wanted is not thought of."""
CostOf = Callable[[list[int]], float]
"""Tokens of each chunk of a step → seconds."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A draft that might go into the step."""

    chunk: int
    """Which of the step's chunks it would prolong."""
    n_tokens: int
    chance: float


def allot(lengths: Sequence[int], offers: Iterable[Offer], cost_s: CostOf, n_most: int) -> tuple[list[int], float]:
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
    while heap and sum(taken) < n_most and (not most or -heap[0][0] >= LEAST_CHANCE):
        gain, index, offer = heappop(heap)
        n_expected -= gain
        taken[index] += 1
        if taken[index] < offer.n_tokens:
            heappush(heap, (gain * offer.chance, index, offer))
        rate = n_expected / max(1e-9, cost_s([a + b for a, b in zip(lengths, taken, strict=True)]))
        if rate > most:
            best, most = list(taken), rate
    return best, most / plain


def depth(
    lengths: Sequence[int],
    chances: Mapping[int, float],
    cost_s: CostOf,
    draft_cost_s: Callable[[int], float],
    n_most: int,
) -> tuple[int, float]:
    """How many tokens to have proposed for each of these chunks, and how many times more tokens a second that promises.

    ``chances``: chunk → that a token is right. Of at most ``n_most``, and at least one.
    """
    n_plain = sum(lengths)
    plain = n_plain / max(1e-9, cost_s(list(lengths)))
    rates: list[float] = []
    n_expected = float(n_plain)
    for n in range(1, n_most + 1):
        if n > 1 and max(chances.values()) ** n < LEAST_CHANCE:
            break
        n_expected += sum(chance**n for chance in chances.values())
        longer = [length + n * (i in chances) for i, length in enumerate(lengths)]
        rates.append(n_expected / max(1e-9, cost_s(longer) + draft_cost_s(n)))
    best = max(range(len(rates)), key=rates.__getitem__)
    return best + 1, rates[best] / plain


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
