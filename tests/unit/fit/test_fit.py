"""Whether a model fits: the decision over needs and budgets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from beastd.contract import RAM, DeviceNeed, MemoryNeed
from beastd.fit.fit import CTX_STEP, Budget, Option, judge, largest_context, with_weights

SIZES = {"q8_0": 800, "q4_k_m": 400, "q2_k": 200}


def option(variant: str = "q8_0", n_ctx: int = 1000, n_parallel: int = 1, gpu: int = 0) -> Option:
    """Takes its weights, a byte a cell and 10 for the process; ``gpu`` of the weights lie there."""
    ram = DeviceNeed(device=RAM, weights_bytes=SIZES[variant] - gpu, kv_bytes=n_ctx * n_parallel)
    gpus = [DeviceNeed(device="CUDA0", weights_bytes=gpu)] if gpu else []
    return Option(variant, n_ctx, n_parallel, "f16", MemoryNeed(devices=[ram, *gpus], process_bytes=10))


def test_what_is_within_the_budget_fits_and_needs_nothing_instead() -> None:
    verdict = judge(option(), [option("q2_k")], Budget(1810, {}))
    assert (verdict.answer, verdict.instead) == ("fits", [])
    assert judge(option(), [], Budget(1809, {})).answer == "no"


def test_every_device_must_have_room() -> None:
    """RAM to spare does not help a GPU, and a GPU nobody knows has none."""
    asked = option(gpu=500)
    assert judge(asked, [], Budget(10**6, {"CUDA0": 500})).answer == "fits"
    assert judge(asked, [], Budget(10**6, {"CUDA0": 499})).answer == "no"
    assert Budget(10**6, {}).over(asked.need) == {"CUDA0": 500}


def test_instead_comes_the_best_smaller_variant_then_less_context() -> None:
    """Of variants the largest that fits, of contexts the longest; what does not fit is never offered."""
    others = [option("q4_k_m"), option("q2_k"), option(n_ctx=100), option(n_ctx=600), option(n_ctx=800)]
    verdict = judge(option(), others, Budget(1450, {}))
    assert verdict.answer == "smaller"
    assert verdict.instead == [option("q4_k_m"), option(n_ctx=600)]


def test_fewer_sequences_come_before_less_context() -> None:
    others = [option(n_ctx=200, n_parallel=4), option(n_ctx=1000, n_parallel=1)]
    verdict = judge(option(n_parallel=4), others, Budget(1900, {}))
    assert [(it.n_ctx, it.n_parallel) for it in verdict.instead] == [(1000, 1), (200, 4)]


def test_where_both_must_be_less_the_best_variant_is_offered() -> None:
    others = [option("q4_k_m", 50), option("q2_k", 50), option("q2_k", 200)]
    assert judge(option(), others, Budget(470, {})).instead == [option("q4_k_m", 50)]


def test_where_nothing_fits_it_tells_the_least() -> None:
    verdict = judge(option(), [option("q2_k", 50), option("q4_k_m", 50)], Budget(100, {}))
    assert (verdict.answer, verdict.instead, verdict.least) == ("no", [], option("q2_k", 50))


@given(st.integers(0, 50_000), st.integers(1, 64), st.integers(1, 40))
def test_the_largest_context_fits_and_one_step_more_does_not(budget_bytes: int, n_small: int, n_more: int) -> None:
    """Exactly, as what is taken is linear here."""
    small, large = option(n_ctx=n_small * 8), option(n_ctx=n_small * 8 + n_more * CTX_STEP)
    budget = Budget(budget_bytes, {})
    found = largest_context(small, large, budget)
    if found is None:
        assert not budget.has_room_for(small.need)
        return
    assert small.n_ctx <= found <= large.n_ctx
    assert budget.has_room_for(option(n_ctx=found).need)
    if found < large.n_ctx:
        assert not budget.has_room_for(option(n_ctx=(found // CTX_STEP + 1) * CTX_STEP + small.n_ctx % CTX_STEP).need)


def test_a_guess_takes_the_weights_down_on_every_device() -> None:
    guess = with_weights(option(gpu=400), "q4_k_m", 400)
    assert [it.weights_bytes for it in guess.need.devices] == [200, 200]
    assert guess.need.devices[0].kv_bytes == 1000
    assert with_weights(option(), "x", 9999).weights_bytes == 0
