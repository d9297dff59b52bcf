"""Which set of LoRA adapters a step serves. Pure: time comes in as an argument.

llama.cpp applies one set to a whole batch, so sets take turns. It also plans its compute graph anew after every
change of set, which costs as much as some tokens: a turn is several steps, unless they are long.
"""

from __future__ import annotations

from beastd.engine.adapters import AdapterSet

TURN_STEPS = 16
"""Most steps of a turn while other sets wait. A change costs 2.3 ms on Cub, a step of four sequences 6.3 ms."""


class Turns:
    """The sets that have running sequences, in the order of their turns. No adapters at all is a set like others."""

    def __init__(self, round_s: float) -> None:
        """``round_s``: by then each set shall have its next turn, if a step each is shorter than that."""
        self._round_ns = int(round_s * 1e9)
        self._queue: list[AdapterSet] = []
        self._n_steps = 0
        self._start_ns = 0

    def next(self, sets: set[AdapterSet], now_ns: int) -> AdapterSet:
        """The set of the next step, of one or more that have something to compute; a new one comes after all others."""
        current = self._queue[:1]
        self._queue = [adapters for adapters in self._queue if adapters in sets]
        self._queue += sorted(sets.difference(self._queue))
        if self._queue[:1] == current and self._is_over(now_ns):
            self._queue.append(self._queue.pop(0))
        if self._queue[:1] != current:
            self._n_steps, self._start_ns = 0, now_ns
        self._n_steps += 1
        return self._queue[0]

    def _is_over(self, now_ns: int) -> bool:
        """Whether the turn has had its steps, or one more like them would take more than its part of a round."""
        took_ns = now_ns - self._start_ns
        next_ns = took_ns // self._n_steps
        return self._n_steps >= TURN_STEPS or (took_ns + next_ns) * len(self._queue) > self._round_ns
