"""How much a step may hold so that answers flow: tuned from measured times to hold a target. Pure.

The target is the time from one token of an answer to its next (ITL), which is what a step takes. Prompts get what
the answers' rows leave of it, and no less time than these: else many answers would keep out all who come.
"""

from __future__ import annotations

from beastd.engine.costs import StepCosts

KERNEL_TOKENS = 16
"""llama.cpp's matrix kernels take this many tokens at a time; what is left over costs as much as a full set."""
MIN_STEP_TOKENS = 32
"""Below this a prefill chunk costs almost as much as this many tokens: matrix kernels are not yet filled."""
STRETCH = 2.5
"""A step may take this many times the target where that ends a prompt: the rest of it would cost a step of its own,
which computes every stream's row again."""
ALONE = 2.0
"""A step without answers may take so many times the target: only who comes meanwhile waits for it."""
_ITL_LEARNING = 0.03
"""A burst of prompts may stretch some twenty steps; who keeps coming has the target held."""
_ANSWER_LEARNING = 0.2
_ANSWER_TOKENS = 5
"""Prompt tokens that take as long as one of an answer, until steps have been measured."""


class Pace:
    """Bounds the steps of one engine so that they take about ``target_s``."""

    def __init__(self, target_s: float, n_batch: int, rate: float) -> None:
        """``n_batch``: most tokens a step may hold; ``rate``: prompt tokens/s, as the warm-up saw it."""
        self.target_s = target_s
        self.costs = StepCosts(rate)
        self._n_batch = n_batch
        self._answer_s = _ANSWER_TOKENS / rate
        self.itl_s = 0.0
        """Of late, between two tokens of an answer."""
        self.predicted_s = 0.0
        """What the last step was thought to take."""
        self.measured_s = 0.0
        """What it took."""
        self.n_chunk = 0
        """Prompt tokens that the last step with a prompt had room for."""

    def renew(self, target_s: float, n_batch: int) -> None:
        """Steps are to take about so long, and may hold so many tokens, from now on."""
        self.target_s, self._n_batch = target_s, n_batch

    def work_s(self, n_prompt: int, n_answer: int) -> float:
        """Seconds of the machine that so many prompt and answer tokens take, among others."""
        return n_prompt / self.costs.rate + n_answer * self._answer_s

    def n_prefill(self, n_rows: int, n_cells: int = 0, *, n_sets: int = 1) -> int:
        """Prompt tokens for the next step beside so many rows; never 0, so that streams do not starve prompts.

        ``n_sets`` of adapters take turns: a step each shall take no longer than one.
        """
        self.n_chunk = self._n_within(1.0, n_rows, n_cells, n_sets)
        return self.n_chunk

    def n_stretched(self, n_rows: int, n_cells: int = 0, *, n_sets: int = 1) -> int:
        """As ``n_prefill``, where the step ends prompts with them; no more, as long as the target is missed."""
        return self._n_within(STRETCH if self.itl_s <= self.target_s else 1.0, n_rows, n_cells, n_sets)

    def _n_within(self, stretch: float, n_rows: int, n_cells: int, n_sets: int) -> int:
        target_s = self.target_s / n_sets
        rows_s = self.costs.predict_s(n_rows, 0, n_cells) if n_rows else 0.0
        limit_s = max(stretch * target_s, min(2 * rows_s, rows_s + target_s))
        if not n_rows and n_sets == 1:  # nobody streams
            limit_s = ALONE * target_s
        n = self.costs.n_prefill_within(limit_s, n_rows, n_cells)
        return max(MIN_STEP_TOKENS - n_rows, KERNEL_TOKENS + 1, min(self._n_batch - n_rows, n))

    def n_worth_waiting_for(self, n_ended: int, n_left: int, n_rows: int, n_used: int) -> int:
        """Longest prompt that a step should end besides ``n_ended`` others of ``n_used`` tokens, ``n_left`` to come.

        The others' first tokens wait for it, and in return all that are to come are spared what every step takes.
        It at most doubles the step: else a short prompt would wait for a long one.
        """
        n_spared = n_left * self.costs.predict_s(n_rows, 1) * self.costs.rate / n_ended
        return int(min(n_spared, self.costs.predict_s(n_rows, n_used) * self.costs.rate))

    def observe(self, n_rows: int, n_prefill: int, n_cells: int, step_s: float, *, is_one_pass: bool = True) -> None:
        """Take note of what a step took; arguments as of ``StepCosts.observe``.

        Of one that was computed in several passes its rows' costs are not known.
        """
        self.predicted_s = self.costs.predict_s(n_rows, n_prefill, n_cells)
        self.measured_s = step_s
        if is_one_pass:
            self.costs.observe(n_rows, n_prefill, n_cells, step_s)
        if n_rows:
            self.itl_s += _ITL_LEARNING * (step_s - self.itl_s)
        if n_rows and not n_prefill:
            self._answer_s += _ANSWER_LEARNING * (step_s / n_rows - self._answer_s)
