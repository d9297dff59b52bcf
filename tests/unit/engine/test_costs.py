"""What steps take, learnt from those that were taken."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beastd.engine.costs import StepCosts

COUNTS = st.integers(0, 600)


def rows_s(n: int) -> float:
    """Like a small quantized model's on a CPU: the first row is dear, some more are cheap, many cost their share."""
    return 0.003 + 0.0012 * min(n, 32) + 0.0008 * max(0, n - 32) if n else 0.0


def step_s(n_rows: int, n_prefill: int, n_cells: int) -> float:
    return rows_s(n_rows) + (0.001 + 0.0008 * n_prefill if n_prefill else 0) + 0.4e-6 * n_cells


def taught(seed: int, *, n_steps: int = 1500, noise: float = 0.1, odd_share: float = 0.02) -> StepCosts:
    """Costs after streams of all kinds came and went on a noisy machine that stalls now and then."""
    random, costs = Random(seed), StepCosts(900)
    for _ in range(n_steps):
        n_rows, length = random.choice([1, 2, 4, 7, 8, 16, 20, 32]), random.randint(20, 1000)
        n_prefill = random.choice([0, 0, 0, 20, 64, 128, 300])
        n_cells = n_rows * length + n_prefill * n_prefill // 2
        stall = 8 if random.random() < odd_share else 1
        took_s = step_s(n_rows, n_prefill, n_cells) * random.lognormvariate(0, noise) * stall
        costs.observe(n_rows, n_prefill, n_cells, took_s)
    return costs


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "step", [(1, 0, 100), (8, 0, 8 * 500), (12, 0, 12 * 100), (32, 0, 32 * 700), (0, 256, 256 * 128), (8, 128, 12_000)]
)
def test_it_comes_to_expect_what_steps_take(seed: int, step: tuple[int, int, int]) -> None:
    """Whatever noise and stalls are among the times, and at numbers of rows that it never saw."""
    assert taught(seed).predict_s(*step) == pytest.approx(step_s(*step), rel=0.2)


def test_it_starts_from_the_warm_up() -> None:
    """Prompt tokens take what the warm-up said, one row some of that, and each further row no less."""
    costs = StepCosts(1000)
    assert costs.rate == pytest.approx(1000)
    assert costs.predict_s(0, 512) == pytest.approx(0.512)
    assert 0.001 < costs.predict_s(1) < 0.020
    assert costs.predict_s(33) - costs.predict_s(1) == pytest.approx(0.032)


def test_a_first_time_counts_at_once_and_says_something_of_sizes_that_were_never_seen() -> None:
    costs = StepCosts(1000)
    costs.observe(8, 0, 0, 0.100)
    assert costs.predict_s(8) == pytest.approx(0.100)
    assert costs.predict_s(7) < 0.100 < costs.predict_s(9)


def test_one_stall_changes_little_and_a_slower_machine_is_soon_known() -> None:
    costs = StepCosts(1000)
    for _ in range(50):
        costs.observe(4, 0, 400, 0.010)
        costs.observe(4, 128, 9000, 0.120)
    costs.observe(4, 0, 400, 3.0)
    costs.observe(4, 128, 9000, 9.0)
    assert costs.predict_s(4, 0, 400) < 0.011
    assert costs.predict_s(4, 128, 9000) < 0.130
    for _ in range(60):
        costs.observe(4, 0, 400, 0.030)
        costs.observe(4, 128, 9000, 0.360)
    assert costs.predict_s(4, 0, 400) == pytest.approx(0.030, rel=0.1)
    assert costs.predict_s(4, 128, 9000) == pytest.approx(0.360, rel=0.15)


def test_what_attention_costs_is_told_from_what_rows_cost() -> None:
    """It expects more of long sequences than of short ones that it saw, in numbers that it saw."""
    costs = taught(1, noise=0.02, odd_share=0)
    assert costs.predict_s(16, 0, 16 * 900) - costs.predict_s(16, 0, 16 * 100) == pytest.approx(
        0.4e-6 * 16 * 800, rel=0.4
    )


@given(st.lists(st.tuples(COUNTS, COUNTS, st.integers(0, 10**6), st.floats(0, 100)), max_size=40), COUNTS, COUNTS)
@settings(deadline=None)
def test_whatever_it_saw_more_tokens_never_take_less_and_nothing_is_free(
    seen: list[tuple[int, int, int, float]], n_rows: int, n_prefill: int
) -> None:
    costs = StepCosts(500)
    for step in seen:
        costs.observe(*step)
    took_s = costs.predict_s(n_rows, n_prefill, 1000)
    assert took_s > 0 or n_rows + n_prefill == 0
    assert costs.predict_s(n_rows + 1, n_prefill, 1000) >= took_s
    assert costs.predict_s(n_rows, n_prefill + 1, 1000) >= took_s
    assert costs.predict_s(n_rows, n_prefill, 1001) >= took_s


@given(st.floats(0.001, 2), st.integers(0, 64), st.integers(0, 50_000))
def test_what_is_said_to_fit_a_time_fits_it(target_s: float, n_rows: int, n_cells: int) -> None:
    costs = taught(2, n_steps=200)
    n = costs.n_prefill_within(target_s, n_rows, n_cells)
    assert n == 0 or costs.predict_s(n_rows, n, n_cells) <= target_s * 1.000001
    assert costs.predict_s(n_rows, n + 1, n_cells) > target_s * 0.999999
