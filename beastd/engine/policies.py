"""Which sequence goes first: for a slot, and for the prompt tokens of a step. Pure: time comes in as an argument.

docs/scheduling.md compares the policies and states their bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from beastd.contract import Priority
from beastd.engine.ages import Ages
from beastd.engine.lengths import Lengths
from beastd.engine.sequence import Sequence
from beastd.engine.shares import Shares

AGEING = 0.1
"""Seconds of prefill that a second of waiting makes up for."""
SJF_AGEING = 0.02
"""The same where the whole answer counts: a burst of long answers shall not grow old before it is half done."""
CLASS_HEAD_S = 6 * 3600.0
"""Head start of a class before the next lower one, in seconds of waiting: far more than any queue, yet not for ever."""
CREDIT_S = 30.0
"""Work by which a client that had nothing of late goes before those that wait; these may be as far behind again."""
LEVELS: dict[Priority, int] = {"high": 0, "normal": 1, "low": 2}

Rank = tuple[float, ...]
"""Smaller goes first. No two sequences have the same: the last item is the id."""


class Costs(Protocol):
    """What work takes on this machine."""

    def work_s(self, n_prompt: int, n_answer: int) -> float:
        """Seconds of the machine that so many prompt and answer tokens take."""


class Order:
    """First come, first served; what the other policies change of that is theirs."""

    def rank(self, sequence: Sequence, _now_ns: int, _bonus_s: float = 0.0, /) -> Rank:
        """Its place among others now (monotonic). ``bonus_s``: work that the machine saves by taking this one first."""
        return sequence.arrived_ns, sequence.id

    def level(self, _priority: Priority, /) -> int:
        """The class of a priority, 0 before all others; one class for all where priorities do not count."""
        return 0

    def outranks(self, waiting: Sequence, running: Sequence) -> bool:
        """Whether the one that waits is worth pausing the other for: only if its class is higher."""
        return self.level(waiting.priority) < self.level(running.priority)

    def victim(self, running: Iterable[Sequence]) -> Sequence:
        """Which of one or more to pause when one must be: the youngest of the lowest priority."""
        return max(running, key=lambda one: (LEVELS[one.priority], one.arrived_ns, one.id))

    def on_wait(self, sequence: Sequence) -> None:
        """It waits for a slot: new, or paused."""

    def on_admit(self, sequence: Sequence) -> None:
        """It has a slot, and what of its prompt is cached."""

    def on_computed(self, sequence: Sequence, n_prompt: int, n_answer: int) -> None:
        """A step computed so many of its tokens."""

    def on_end(self, sequence: Sequence) -> None:
        """It is over, for any reason."""


class ShortestFirst(Order):
    """Least expected work first, prompt and answer, less a part of the time it waited.

    What takes w seconds is not overtaken by what comes more than w/SJF_AGEING later.
    """

    def __init__(self, costs: Costs) -> None:
        self._costs = costs
        self._lengths = Lengths()

    def rank(self, sequence: Sequence, now_ns: int, bonus_s: float = 0.0, /) -> Rank:
        """As the class says."""
        left_s = self._costs.work_s(sequence.n_prefill_left, self._lengths.n_left(sequence))
        return left_s - bonus_s - SJF_AGEING * (now_ns - sequence.arrived_ns) / 1e9, sequence.id

    def on_end(self, sequence: Sequence) -> None:
        """Learn how long this client's answers are."""
        self._lengths.learn(sequence)


class ByPriority(Order):
    """High before normal before low, whatever the wait; first come, first served within each."""

    def rank(self, sequence: Sequence, _now_ns: int, _bonus_s: float = 0.0, /) -> Rank:
        """As the class says."""
        return LEVELS[sequence.priority], sequence.arrived_ns, sequence.id

    def level(self, priority: Priority, /) -> int:
        """Each priority is a class."""
        return LEVELS[priority]


class FairShare(Order):
    """Whose client had least of the machine by its weight; among one client's, by priority and then arrival."""

    def __init__(self, costs: Costs, credit_s: float = 0.0) -> None:
        self._costs = costs
        self._lengths = Lengths()
        self._shares = Shares(credit_s)

    def rank(self, sequence: Sequence, _now_ns: int, _bonus_s: float = 0.0, /) -> Rank:
        """As the class says."""
        time_s = self._shares.time_s(sequence.client)
        return time_s, LEVELS[sequence.priority], sequence.arrived_ns, sequence.id

    def on_wait(self, sequence: Sequence) -> None:
        """A client that was away starts where the others are."""
        self._shares.on_wait(sequence)

    def on_admit(self, sequence: Sequence) -> None:
        """The client has what the sequence is expected to take, at once."""
        n_left = self._lengths.n_left(sequence)
        self._shares.on_admit(sequence, self._costs.work_s(sequence.n_prefill_left, n_left))

    def on_computed(self, sequence: Sequence, n_prompt: int, n_answer: int) -> None:
        """What is done is no longer expected."""
        self._shares.on_computed(sequence, self._costs.work_s(n_prompt, n_answer))

    def on_end(self, sequence: Sequence) -> None:
        """What was expected in vain is given back."""
        self._lengths.learn(sequence)
        self._shares.on_end(sequence)


class Mix(FairShare):
    """Shortest prompt first, clients that had less before those that had more, all aged; a class is a head start.

    Within a client and class, what takes w seconds of prefill is not overtaken by what comes more than w/AGEING later.
    The first of a client's in a class is not overtaken by what comes to others after these have had (w + 2 CREDIT_S
    + r) / AGEING seconds of the machine since it came, and as many more as their class has a head start; r is what its
    own client has running. A bonus counts as work.
    """

    def __init__(self, costs: Costs) -> None:
        super().__init__(costs, CREDIT_S)
        self._ages = Ages()

    def rank(self, sequence: Sequence, _now_ns: int, bonus_s: float = 0.0, /) -> Rank:
        """As the class says; the clock's part is the same for all, and left out."""
        left_s = self._costs.work_s(sequence.n_prefill_left, 0) - bonus_s
        age_s = self._ages.age_s(sequence) + _head_s(sequence)
        return left_s + self._shares.ahead_s(sequence.client) - AGEING * age_s, sequence.id

    def on_wait(self, sequence: Sequence) -> None:
        """It ages from its first time on."""
        super().on_wait(sequence)
        self._ages.on_wait(sequence)

    def on_computed(self, sequence: Sequence, n_prompt: int, n_answer: int) -> None:
        """Other clients' sequences age by that."""
        super().on_computed(sequence, n_prompt, n_answer)
        self._ages.on_computed(sequence, self._costs.work_s(n_prompt, n_answer))
        if n_answer:
            self._ages.on_answer(sequence)

    def on_end(self, sequence: Sequence) -> None:
        """Nobody is behind it any more."""
        super().on_end(sequence)
        self._ages.on_end(sequence)

    def level(self, priority: Priority, /) -> int:
        """Each priority is a class."""
        return LEVELS[priority]

    def outranks(self, waiting: Sequence, running: Sequence) -> bool:
        """Not either if the running one came longer ago than the other's class has a head start."""
        later_s = (waiting.arrived_ns - running.arrived_ns) / 1e9
        return super().outranks(waiting, running) and later_s < _head_s(waiting) - _head_s(running)


def _head_s(sequence: Sequence) -> float:
    return -LEVELS[sequence.priority] * CLASS_HEAD_S


ORDERS: dict[str, Callable[[Costs], Order]] = {
    "mix": Mix,
    "fcfs": lambda _costs: Order(),
    "sjf": ShortestFirst,
    "priority": lambda _costs: ByPriority(),
    "fair": FairShare,
}
"""Policies by their names in the configuration."""
