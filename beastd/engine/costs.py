"""What a step takes, learnt from the steps that were taken. Pure: measured times come in as arguments.

A step's time is that of its rows (the next tokens of answers, and drafts), a straight line in its prompt tokens, and
a part for every cell that a row attends to. Few rows cost far more than their share, and by no formula: kernels
change with their number. So their times are a table, with straight lines between its places.
"""

from __future__ import annotations

from bisect import bisect_right

_KNOTS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512)
"""Numbers of rows whose times are in the table."""
_PRIOR_TOKENS = 4
"""A step of one row takes about as long as so many prompt tokens more: all weights are read for it."""
_SLOWEST_LEARNING = 0.1
"""Weight of a new time against what was learnt before; the first times at a place weigh more."""
_TRUST = 3
"""Times at a place from which on an odd one is cut to ``_ODD`` more or less than expected."""
_ODD = 0.3
_SHORTEST_S = 1e-9
"""No step is shorter: such a time is none."""
_MOST_OF_OTHERS = 0.8
"""The largest part of a step that is laid to its cells, and of one with prompt tokens to all else."""


class StepCosts:
    """The times of one model's steps on this machine as it is now.

    ``n_cells`` is always the sum over a step's rows of the KV cells each attends to: its sequence's, or with a unified
    cache those of all. What prompt tokens attend to is part of their line.
    """

    def __init__(self, rate: float) -> None:
        """``rate``: prompt tokens/s, as the warm-up saw it."""
        self._line = _Line(rate)
        self._cells = _CellCost()
        self._counts = [0] * len(_KNOTS)
        self._times_s = [0.0] * len(_KNOTS)
        """Of so many rows that attend to nothing."""
        self._guess_unseen()

    @property
    def rate(self) -> float:
        """Prompt tokens/s in large chunks."""
        return 1 / self._line.slope

    def predict_s(self, n_tokens: int, n_prefill: int = 0, n_cells: int = 0) -> float:
        """How long a step of ``n_tokens`` rows and, besides, ``n_prefill`` prompt tokens would take."""
        took_s = self._cells.cost_s * n_cells
        if n_tokens:
            took_s += self._rows_s(n_tokens)
        if n_prefill:
            took_s += self._line.at(n_prefill)
        return took_s

    def n_prefill_within(self, target_s: float, n_tokens: int, n_cells: int = 0) -> int:
        """Most prompt tokens that a step of ``n_tokens`` rows can hold besides without taking longer; may be 0."""
        left_s = target_s - self.predict_s(n_tokens, 0, n_cells) - self._line.base
        return max(0, int(left_s / self._line.slope))

    def observe(self, n_decode: int, n_prefill: int, n_cells: int, step_s: float) -> None:
        """Take note of a step of ``n_decode`` rows and ``n_prefill`` prompt tokens."""
        if step_s < _SHORTEST_S or not (n_decode or n_prefill):
            return
        if n_prefill:
            self._observe_mixed(n_decode, n_prefill, n_cells, step_s)
        else:
            self._observe_rows(n_decode, n_cells, step_s)

    def _observe_mixed(self, n_rows: int, n_prefill: int, n_cells: int, step_s: float) -> None:
        """What came otherwise than expected is laid to rows and prompt tokens by their parts of the step."""
        rows_s, prefill_s = self.predict_s(n_rows), self._line.at(n_prefill)
        error_s = step_s - self._cells.cost_s * n_cells - rows_s - prefill_s
        part = rows_s / (rows_s + prefill_s)
        self._line.observe(n_prefill, prefill_s + (1 - part) * error_s)
        if n_rows:
            self._move(n_rows, part * max(-_ODD * rows_s, min(_ODD * rows_s, error_s)), _SLOWEST_LEARNING)
        self._guess_unseen()

    def _observe_rows(self, n: int, n_cells: int, step_s: float) -> None:
        at, _ = _place(n)
        self._cells.observe(at, n_cells, step_s)
        is_new = not self._counts[at]
        error_s = step_s - self._cells.cost_s * n_cells - self._rows_s(n)
        if self._counts[at] >= _TRUST:
            most_s = _ODD * self._rows_s(n)
            error_s = max(-most_s, min(most_s, error_s))
        self._move(n, error_s)
        if is_new:
            self._guess_unseen()

    def _move(self, n: int, error_s: float, learning: float = 0.0) -> None:
        """Let the time of n rows differ by this, as far as a new time counts (``learning``: so much).

        Both ends of the stretch move by their nearness to n, so that together they move by the whole error.
        """
        at, share = _place(n)
        both = (1 - share) ** 2 + share**2
        for knot, part in ((at, 1 - share), (at + 1, share)):
            if part:
                weight = learning or max(_SLOWEST_LEARNING, 1 / (1 + self._counts[knot]))
                self._times_s[knot] += weight * error_s * part / both
                self._counts[knot] = max(1, self._counts[knot]) if learning else self._counts[knot] + 1
        self._straighten(at)

    def _rows_s(self, n: int) -> float:
        at, share = _place(n)
        if at == len(_KNOTS) - 1:
            return self._times_s[at] + (n - _KNOTS[at]) * self._line.slope
        return self._times_s[at] + share * (self._times_s[at + 1] - self._times_s[at])

    def _straighten(self, at: int) -> None:
        """More rows never take less time: what noise says against that is smoothed away, from this place on."""
        times_s, floor_s = self._times_s, self._line.slope / 10
        times_s[at] = max(times_s[at], floor_s)
        for i in range(at + 1, len(_KNOTS)):
            times_s[i] = max(times_s[i], times_s[i - 1])
        for i in range(min(at, len(_KNOTS) - 2), -1, -1):
            times_s[i] = min(times_s[i], times_s[i + 1])

    def _guess_unseen(self) -> None:
        """Places without a time lie on lines between those with one, and beyond them cost what prompt tokens do."""
        seen = [i for i, count in enumerate(self._counts) if count]
        slope = self._line.slope
        for i, n in enumerate(_KNOTS):
            if not self._counts[i]:
                self._times_s[i] = self._guess_s(n, seen, slope)

    def _guess_s(self, n: int, seen: list[int], slope: float) -> float:
        below = max((i for i in seen if n > _KNOTS[i]), default=None)
        above = min((i for i in seen if n < _KNOTS[i]), default=None)
        if below is None and above is None:
            return (n + _PRIOR_TOKENS) * slope
        if below is None:
            assert above is not None
            return self._times_s[above] * (n + _PRIOR_TOKENS) / (_KNOTS[above] + _PRIOR_TOKENS)
        if above is None:
            return self._times_s[below] + (n - _KNOTS[below]) * slope
        share = (n - _KNOTS[below]) / (_KNOTS[above] - _KNOTS[below])
        return self._times_s[below] + share * (self._times_s[above] - self._times_s[below])


def _place(n: int) -> tuple[int, float]:
    """The last place of the table that has at most ``n`` rows, and how far on the way to the next one n lies."""
    at = bisect_right(_KNOTS, n) - 1
    if at == len(_KNOTS) - 1:
        return at, 0.0
    return at, (n - _KNOTS[at]) / (_KNOTS[at + 1] - _KNOTS[at])


class _Line:
    """The time of n prompt tokens: ``base + slope * n``, by regression over the last steps that had some.

    Sizes that hardly differ say nothing of the slope: it is drawn towards a line through the origin.
    """

    _MEMORY = 0.9
    _RIDGE = 0.05

    def __init__(self, rate: float) -> None:
        self.slope = 1 / rate
        self.base = 0.0
        self._weight, self._x, self._y = 1.0, 64.0, 64 / rate
        self._xx, self._xy = 64.0**2, 64 * 64 / rate
        self._n_seen = 0

    def at(self, n: int) -> float:
        """Seconds of n tokens."""
        return self.base + self.slope * n

    def observe(self, n: int, took_s: float) -> None:
        """Take note of a step; small ones weigh less, since what else is in a step blurs them."""
        expected_s = self.at(n)
        is_known = self._n_seen >= _TRUST
        most_s = (1 + _ODD) * expected_s if is_known else took_s
        took_s = max((1 - _ODD if is_known else 1 - _MOST_OF_OTHERS) * expected_s, min(most_s, took_s))
        weight = min(1.0, n / 64)
        keep = self._MEMORY**weight
        self._weight = keep * self._weight + weight
        self._x = keep * self._x + weight * n
        self._y = keep * self._y + weight * took_s
        self._xx = keep * self._xx + weight * n * n
        self._xy = keep * self._xy + weight * n * took_s
        self._n_seen += 1
        self._fit()

    def _fit(self) -> None:
        x, y = self._x / self._weight, self._y / self._weight
        variance, covariance = self._xx / self._weight - x * x, self._xy / self._weight - x * y
        slope = (covariance + self._RIDGE * x * y) / (variance + self._RIDGE * x * x)
        self.slope = max(0.5 * y / x, min(y / x, slope))
        self.base = y - self.slope * x


class _CellCost:
    """Seconds a cell costs: how steps of about as many rows grow with what they attend to."""

    _MEMORY = 0.99
    _RIDGE = 0.3

    def __init__(self) -> None:
        self.cost_s = 0.0
        self._means: dict[int, tuple[float, float]] = {}
        """Place in the table → (cells, seconds) of its steps, of late."""
        self._xx = self._xy = 0.0

    def observe(self, at: int, n_cells: int, step_s: float) -> None:
        """Take note of a step without prompt tokens."""
        cells, mean_s = self._means.get(at, (float(n_cells), step_s))
        step_s = max((1 - _ODD) * mean_s, min((1 + _ODD) * mean_s, step_s))
        # In units of the usual step, so that large steps do not outvote small ones.
        x, y = (n_cells - cells) / mean_s, (step_s - mean_s) / mean_s
        self._xx = self._MEMORY * self._xx + x * x
        self._xy = self._MEMORY * self._xy + x * y
        cost_s = self._xy / (self._xx + self._RIDGE * (cells / mean_s) ** 2 + 1)
        self.cost_s = max(0.0, min(_MOST_OF_OTHERS * mean_s / (cells + 1), cost_s))
        self._means[at] = cells + 0.1 * (n_cells - cells), mean_s + 0.1 * (step_s - mean_s)
