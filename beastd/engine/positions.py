"""Who is told how many requests are ahead of it. Pure: time comes in as an argument."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass

from beastd.engine.sequence import Sequence

EVERY_NS = 1_000_000_000
"""A waiting request's position is looked at this often."""


@dataclass(frozen=True, slots=True)
class _Told:
    n_ahead: int
    checked_ns: int


class Positions:
    """What waiting sequences know of their place: told at once, then at most once a second, if it has changed."""

    def __init__(self) -> None:
        self._told: dict[int, _Told] = {}

    def is_due(self, waiting: Items[Sequence], now_ns: int) -> bool:
        """Whether any of these may have to be told: only then is their order worth finding."""
        return any(self._is_due(sequence, now_ns) for sequence in waiting)

    def news(self, queue: Items[Sequence], now_ns: int) -> list[tuple[int, int]]:
        """(id, how many are ahead) of those to be told now; ``queue`` is all who wait, the next one first."""
        news: list[tuple[int, int]] = []
        before, self._told = self._told, {}
        for n_ahead, sequence in enumerate(queue):
            told = before.get(sequence.id)
            if told is None or now_ns - told.checked_ns >= EVERY_NS:
                if told is None or told.n_ahead != n_ahead:
                    news.append((sequence.id, n_ahead))
                told = _Told(n_ahead, now_ns)
            self._told[sequence.id] = told
        return news

    def _is_due(self, sequence: Sequence, now_ns: int) -> bool:
        told = self._told.get(sequence.id)
        return told is None or now_ns - told.checked_ns >= EVERY_NS
