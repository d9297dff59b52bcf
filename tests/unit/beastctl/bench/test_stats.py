"""Figures from moments."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beastctl.bench.stats import Timeline, many_streams, one_stream, percentile, steady_rate


def timeline(sent_s: float, stamps_s: list[float], n_answer: int | None = None, error: str = "") -> Timeline:
    n = len(stamps_s) if n_answer is None else n_answer
    return Timeline(sent_s, stamps_s, stamps_s[-1] if stamps_s else sent_s, n_prompt=10, n_answer=n, error=error)


@given(st.lists(st.floats(0, 1e6), min_size=2), st.sampled_from([0.5, 0.9, 0.99]))
def test_percentiles_are_those_of_the_standard_library(values: list[float], share: float) -> None:
    """Interpolated between the values, the ends included."""
    expected = statistics.quantiles(values, n=100, method="inclusive")[round(share * 100) - 1]
    assert percentile(values, share) == pytest.approx(expected)


def test_nothing_has_percentile_zero() -> None:
    """An empty measurement does not crash the report."""
    assert percentile([], 0.5) == 0


def test_one_request_in_figures() -> None:
    """Times from its sending, speed from its first piece."""
    run = timeline(1.0, [3.0, 3.5, 4.0], n_answer=5)
    assert run.ttft_s == 2.0
    assert run.gaps_s == [0.5, 0.5]
    assert run.generation_rate == 4.0
    assert run.prefill_rate == 5.0


def test_failed_requests_are_counted_and_left_out_of_the_times() -> None:
    """They have no time to first token; their reasons are kept."""
    report = many_streams([[timeline(0, [1, 2])], [timeline(0, [], error="boom")]])
    assert (report["n_requests"], report["n_errors"], report["errors"]) == (2, 1, ["boom"])
    assert report["ttft_s"]["p50"] == 1
    assert report["tokens_per_s"] == 1.0
    assert one_stream([timeline(0, [], error="boom")])["n_runs"] == 0


def test_steady_speed_counts_only_while_all_answer() -> None:
    """From the last stream's first piece to the first stream's end; a piece stands for its share of tokens."""
    early = [timeline(0, [1.0, 2.0, 3.0, 4.0], n_answer=8)]
    late = [timeline(0, [2.0, 3.0, 4.0, 5.0])]
    assert steady_rate([early, late]) == pytest.approx((2 * 2 + 2) / 2)
    assert steady_rate([]) == 0
