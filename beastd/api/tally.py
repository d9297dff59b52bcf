"""Counts of finished requests, for /metrics: how many, how long, how soon the first piece came."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper ends of the classes that times are counted in; one more takes what is longer."""


@dataclass(slots=True)
class Times:
    """A histogram of seconds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    sum_s: float = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += seconds


@dataclass(slots=True)
class Tally:
    """What has been asked of the daemon since it started."""

    n_requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    """By verb and HTTP status."""
    ttft: dict[str, Times] = field(default_factory=dict)
    """Model → seconds to the first piece of its answers. Only models that answered: clients cannot make up labels."""
    total: dict[str, Times] = field(default_factory=dict)
    """Model → seconds of whole answers."""

    def add(self, verb: str, status: int, model: str | None, ttft_s: float | None, total_s: float) -> None:
        """A request has ended; ``model`` is the one that answered, if one did."""
        self.n_requests[verb, status] += 1
        if model is None:
            return
        self.total.setdefault(model, Times()).add(total_s)
        if ttft_s is not None:
            self.ttft.setdefault(model, Times()).add(ttft_s)
