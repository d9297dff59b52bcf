"""What the fleet decided of late and why: for `beast ps --why`, and for the log."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

MOST_DECISIONS = 200


@dataclass(frozen=True, slots=True)
class Decision:
    """One thing the fleet did to a worker."""

    at: float
    """In the fleet's clock."""
    act: str
    """load, evict, sleep, wake, step_down, step_up, grow, change_failed, expire, unload, retry, cool_down, died."""
    subject: str
    """The model and variant it was done to."""
    why: str
    """A sentence's rest, with the numbers it rests on."""


class Journal:
    """The last decisions, oldest first."""

    def __init__(self) -> None:
        self.n_by_act: Counter[str] = Counter()
        self.decisions: deque[Decision] = deque(maxlen=MOST_DECISIONS)

    def note(self, at: float, act: str, subject: str, why: str) -> Decision:
        """Write one down."""
        self.n_by_act[act] += 1
        decision = Decision(at, act, subject, why)
        self.decisions.append(decision)
        return decision
