"""What steps of the engine cost, learnt as they are computed. Pure: seconds come in as arguments."""

from __future__ import annotations

from bisect import bisect_left

MOST_TOKENS = 256
"""Larger steps are not told apart: they hold long prompts, whose rate the step budget knows."""
_WEIGHT = 0.15
"""Of a new measurement against those before it."""


class StepCosts:
    """Seconds of a step by the number of tokens in it."""

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._seconds: dict[int, float] = {}

    def observe(self, n_tokens: int, step_s: float) -> None:
        """A step of so many tokens took so long."""
        if n_tokens > MOST_TOKENS:
            return
        known = self._seconds.get(n_tokens)
        if known is None:
            self._sizes.insert(bisect_left(self._sizes, n_tokens), n_tokens)
            known = step_s
        # A stall of the machine is no cost of the step.
        self._seconds[n_tokens] = known + _WEIGHT * (min(step_s, 3 * known) - known)

    def predict_s(self, n_tokens: int) -> float:
        """Seconds of a step with so many tokens in all; 0 before the first was seen.

        Between two known sizes on the line that joins them. Beyond the largest known one it hopes: a token costs half
        of what tokens cost there on average, so that somebody tries.
        """
        if not self._sizes:
            return 0.0
        at = bisect_left(self._sizes, n_tokens)
        if at == len(self._sizes):
            last = self._sizes[-1]
            return self._seconds[last] * (1 + (n_tokens / last - 1) / 2 if last > 1 else 1 + (n_tokens - 1) / 16)
        above = self._sizes[at]
        if above == n_tokens or at == 0:
            return self._seconds[above]
        below = self._sizes[at - 1]
        part = (n_tokens - below) / (above - below)
        return self._seconds[below] + part * (self._seconds[above] - self._seconds[below])
