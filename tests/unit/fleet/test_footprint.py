"""Bytes by device."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beastd.fleet.footprint import Footprint, ram

GB = 10**9
footprints = st.dictionaries(st.sampled_from(["RAM", "CUDA0", "CUDA1"]), st.integers(-50, 50)).map(Footprint)
DEVICES = ("RAM", "CUDA0", "CUDA1")


@given(footprints, footprints)
def test_arithmetic_is_by_device(a: Footprint, b: Footprint) -> None:
    """A device that one of them does not name has none there."""
    for device in DEVICES:
        x, y = a.get(device, 0), b.get(device, 0)
        assert (a + b).get(device, 0) == x + y
        assert (a - b).get(device, 0) == x - y
        assert a.or_more(b).get(device, 0) == max(x, y)
        assert a.or_less(b).get(device, 0) == min(x, y)
    assert (a + b).total_bytes == a.total_bytes + b.total_bytes


@given(footprints, footprints)
def test_it_fits_where_every_device_has_enough(a: Footprint, b: Footprint) -> None:
    """One that lacks a byte is enough to say no."""
    assert a.fits_in(b) == all(a.get(device, 0) <= b.get(device, 0) for device in DEVICES)


@given(footprints, footprints)
def test_it_helps_where_it_has_some_of_what_is_short(a: Footprint, short: Footprint) -> None:
    """Memory of another device does not."""
    assert a.helps(short) == any(a.get(device, 0) > 0 and short.get(device, 0) > 0 for device in DEVICES)


@given(footprints, footprints)
def test_operations_leave_their_operands_alone(a: Footprint, b: Footprint) -> None:
    """It is a value, and equal ones have one hash."""
    before = dict(a), dict(b)
    _ = a + b, a - b, a.or_more(b), a.or_less(b), a.times(0.5)
    assert (dict(a), dict(b)) == before
    assert hash(a) == hash(Footprint(dict(reversed(a.items()))))


@pytest.mark.parametrize(
    ("footprint", "text"),
    [
        (ram(1_204_000_000), "1.20 GB"),
        (Footprint(), "0.00 GB"),
        (ram(0), "0.00 GB"),
        (Footprint({"RAM": GB, "CUDA0": 0}), "1.00 GB"),
        (Footprint({"RAM": GB, "CUDA0": 2 * GB}), "1.00 GB of RAM and 2.00 GB of CUDA0"),
        (Footprint({"CUDA0": 2 * GB}), "2.00 GB of CUDA0"),
    ],
)
def test_messages_name_devices_only_where_there_are_several(footprint: Footprint, text: str) -> None:
    """Most machines have main memory and nothing else."""
    assert str(footprint) == text
