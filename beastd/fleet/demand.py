"""How often each model is asked for: a count that fades, so that it tells both how often and how lately."""

from __future__ import annotations

import math

FADE_S = 3600.0
"""After so long a request counts for 1/e: long against a keep-alive, so that regular use outweighs one recent use."""
MOST_KEYS = 4096


class Demand:
    """Requests a second to expect of each key, from those that came (an exponentially weighted count)."""

    def __init__(self, fade_s: float = FADE_S) -> None:
        self._fade_s = fade_s
        self._counts: dict[str, tuple[float, float]] = {}
        """Key → the count, and when it was that; least recently noted first."""

    def note(self, key: str, now: float) -> None:
        """A request came."""
        count = self._count(key, now) + 1.0
        self._counts.pop(key, None)
        self._counts[key] = (count, now)
        if len(self._counts) > MOST_KEYS:
            del self._counts[next(iter(self._counts))]

    def rate(self, key: str, now: float) -> float:
        """Requests a second to expect."""
        return self._count(key, now) / self._fade_s

    def _count(self, key: str, now: float) -> float:
        count, at = self._counts.get(key, (0.0, now))
        return count * math.exp((at - now) / self._fade_s)
