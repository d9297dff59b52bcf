"""A saved KV state fits caches with other numbers of streams."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beastd.engine.kvstate import State, with_streams


def state(n_streams: int, own: int, cells: bytes) -> State:
    """As llama.cpp writes it: magic, sequence, streams; each stream's number of cells; the cells after their own."""
    counts = [np.array([3 if stream == own else 0], np.uint32).tobytes() for stream in range(n_streams)]
    counts[own] += cells
    head = np.array([0x67676D6C, own, n_streams], np.uint32).tobytes()
    return np.frombuffer(head + b"".join(counts), np.uint8)


@given(st.integers(1, 9), st.integers(1, 9), st.data(), st.binary(min_size=4, max_size=50))
def test_the_cells_come_first_and_the_other_streams_have_none(
    before: int, after: int, data: st.DataObject, cells: bytes
) -> None:
    own = data.draw(st.integers(0, before - 1))
    made = with_streams(state(before, own, cells), after)
    if before == after:
        assert made.tobytes() == state(before, own, cells).tobytes()
    else:
        expected = state(after, 0, cells)
        assert made[8:].tobytes() == expected[8:].tobytes()
        assert made[4:8].view(np.uint32)[0] == own


@pytest.mark.parametrize("after", [1, 2, 5])
def test_an_empty_state_stays_empty(after: int) -> None:
    empty = np.array([0x67676D6C, 0, 3, 0, 0, 0], np.uint32).view(np.uint8)
    expected = np.array([0x67676D6C, 0, after, *[0] * after], np.uint32).view(np.uint8)
    assert with_streams(empty, after).tobytes() == expected.tobytes()
