"""Models whose load has just failed: they are not tried again at once, by everybody who asks."""

from __future__ import annotations

from dataclasses import dataclass

from beastd.errors import BeastError

FIRST_S = 5.0
"""Pause after a first failure; each one that follows doubles it."""
MOST_S = 300.0
MOST_KEYS = 1024


@dataclass(frozen=True, slots=True)
class Failure:
    """A model's last failure."""

    error: BeastError
    n: int
    """Failures in a row."""
    until: float


class Cooling:
    """Which keys failed, and until when they rest."""

    def __init__(self) -> None:
        self._failures: dict[str, Failure] = {}

    def on_failure(self, key: str, error: BeastError, now: float) -> Failure:
        """A load of this key failed."""
        before = self._failures.pop(key, None)
        n = before.n + 1 if before else 1
        failure = self._failures[key] = Failure(error, n, now + min(MOST_S, FIRST_S * 2 ** (n - 1)))
        if len(self._failures) > MOST_KEYS:
            del self._failures[next(iter(self._failures))]
        return failure

    def on_success(self, key: str) -> None:
        """A load of this key went well: what was is forgotten."""
        self._failures.pop(key, None)

    def resting(self, key: str, now: float) -> Failure | None:
        """The failure for which this key still rests."""
        failure = self._failures.get(key)
        return failure if failure and now < failure.until else None

    def all_resting(self, now: float) -> dict[str, Failure]:
        """Every key that rests."""
        return {key: failure for key, failure in self._failures.items() if now < failure.until}
