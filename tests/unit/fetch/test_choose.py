"""Which quantization is taken when none is named."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from beastd.fetch.choose import Memory, choose, judge, quality, size_text
from beastd.fetch.listing import Candidate, RemoteFile

GB = 10**9


def candidate(name: str, n_bytes: int) -> Candidate:
    return Candidate(name, (RemoteFile(f"m-{name}.gguf", n_bytes, None),))


def memory(budget_bytes: int) -> Memory:
    return Memory(budget_bytes, 4096, lambda it: it.n_bytes + GB)


SIZES = {"f16": 16, "q8_0": 8.5, "q6_k": 6.6, "q5_k_m": 5.7, "q4_k_m": 4.9, "q3_k_m": 4, "iq2_xs": 2.6}
OFFERED = [candidate(name, round(size * GB)) for name, size in SIZES.items()]


def test_with_much_memory_takes_q8_0_and_not_f16() -> None:
    choice = choose(OFFERED, memory(100 * GB))
    assert (choice.candidate.name, choice.fits) == ("q8_0", True)


def test_takes_the_best_that_leaves_half_of_the_memory() -> None:
    choice = choose(OFFERED, memory(14 * GB))
    assert choice.candidate.name == "q5_k_m"
    assert choice.why == (
        "q5_k_m (5.7 GB): the best of 6 that fits half of 14.0 GB of memory with 4096 tokens of context; "
        "q6_k would need 7.6 GB"
    )


def test_takes_the_best_that_fits_where_no_good_one_leaves_half() -> None:
    choice = choose(OFFERED, memory(6 * GB))
    assert choice.candidate.name == "q4_k_m"
    assert "fits 6.0 GB" in choice.why


def test_does_not_go_below_q4_k_m_just_to_leave_half() -> None:
    assert choose(OFFERED, memory(11 * GB)).candidate.name == "q8_0"


def test_takes_the_smallest_where_none_fits_and_says_so() -> None:
    choice = choose(OFFERED, memory(2 * GB))
    assert (choice.candidate.name, choice.fits) == ("iq2_xs", False)
    assert "needs 3.6 GB, more than the 2.0 GB" in choice.why


def test_takes_f16_where_it_is_the_only_kind() -> None:
    choice = choose(OFFERED[:1], memory(100 * GB))
    assert choice.candidate.name == "f16"
    assert "the only one offered" in choice.why


def test_takes_the_recommended_one_if_it_fits() -> None:
    assert choose(OFFERED, memory(100 * GB), "q4_k_m").candidate.name == "q4_k_m"
    assert choose(OFFERED, memory(4 * GB), "q4_k_m").candidate.name == "iq2_xs"


def test_a_named_one_that_does_not_fit_is_taken_and_said_not_to_fit() -> None:
    choice = judge(OFFERED[1], memory(8 * GB))
    assert not choice.fits
    assert "q8_0 (8.5 GB): as asked for; with 4096 tokens of context it needs 9.5 GB" in choice.why


def test_spellings_of_repositories_have_their_place_in_the_order() -> None:
    names = ["f32", "bf16", "q8_0", "ud-q6_k_xl", "q5_k_l", "q5_k_s", "ud-q4_k_xl", "q4_k_s", "q4", "iq3_xxs", "iq1_s"]
    ranks = [quality(name) for name in names]
    assert ranks == sorted(ranks)
    assert quality("q4_k_l") == quality("q4_k_m")
    assert quality("what") > quality("q1_0")


def test_sizes_read_as_people_write_them() -> None:
    assert [size_text(n) for n in (999, 1000, 4_900_000_000, 12_345_678)] == [
        "999 bytes",
        "1.0 kB",
        "4.9 GB",
        "12.3 MB",
    ]


NAMES = st.sampled_from(["f32", "f16", "q8_0", "q6_k", "q5_k_m", "ud-q4_k_xl", "q4_k_m", "q3_k_s", "iq1_s", "odd", ""])
OFFERS = st.lists(st.tuples(NAMES, st.integers(1, 200 * GB)), min_size=1, max_size=12)


@given(OFFERS, st.integers(0, 100 * GB), NAMES)
def test_takes_one_that_fits_whenever_one_does(sizes: list[tuple[str, int]], budget_bytes: int, preferred: str) -> None:
    offered = [candidate(*it) for it in sizes]
    room = memory(budget_bytes)
    choice = choose(offered, room, preferred)
    assert choice.candidate in offered
    assert choice.need_bytes == room.need_bytes(choice.candidate)
    assert choice.fits == (choice.need_bytes <= budget_bytes)
    assert choice.fits == any(room.need_bytes(it) <= budget_bytes for it in offered)
    if not choice.fits:
        assert choice.candidate.n_bytes == min(it.n_bytes for it in offered)
