"""How often each model is asked for: counts that fade, so that they tell both how often and how lately."""

from __future__ import annotations

import math

FADES_S = (300.0, 3600.0)
"""After so long a request counts for 1/e: the short one knows who is being talked to, the long one who is used all day.

Together they reload less than either alone, in simulated days of conversations and of single requests (docs/fleet.md).
"""
MOST_KEYS = 4096


class Demand:
    """Requests a second to expect of each key, from those that came (exponentially weighted counts)."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[list[float], float]] = {}
        """Key → a count for each fade, and when they were that; least recently noted first."""

    def note(self, key: str, now: float) -> None:
        """A request came."""
        counts = [count + 1.0 for count in self._faded(key, now)]
        self._counts.pop(key, None)
        self._counts[key] = (counts, now)
        if len(self._counts) > MOST_KEYS:
            del self._counts[next(iter(self._counts))]

    def rate(self, key: str, now: float) -> float:
        """Requests a second to expect: the mean of what the fades say."""
        counts = self._faded(key, now)
        return sum(count / fade_s for count, fade_s in zip(counts, FADES_S, strict=True)) / len(FADES_S)

    def _faded(self, key: str, now: float) -> list[float]:
        counts, at = self._counts.get(key, ([0.0] * len(FADES_S), now))
        return [count * math.exp((at - now) / fade_s) for count, fade_s in zip(counts, FADES_S, strict=True)]
