"""What is remembered of files, and for how long."""

from __future__ import annotations

import pytest

from beastd.registry.cache import Cache, stamp_of


def stamp(name: str) -> tuple[tuple[str, int, int], ...]:
    return ((name, 1, 1),)


def refuse() -> str:
    raise AssertionError("read again")


def test_a_value_is_read_once_while_its_files_stay():
    """The second asker gets what the first one read."""
    cache: Cache[str] = Cache(2)
    assert cache.get(stamp("a"), lambda: "read") == "read"
    assert cache.get(stamp("a"), refuse) == "read"


def test_the_least_recently_used_value_goes_first():
    """The cache is bounded."""
    cache: Cache[str] = Cache(2)
    for name in ("a", "b", "a", "c"):
        cache.get(stamp(name), lambda name=name: name)
    assert cache.get(stamp("a"), refuse) == "a"
    assert cache.get(stamp("b"), lambda: "again") == "again"


def test_a_failure_is_not_remembered():
    """A file that was broken a moment ago may be mended."""
    cache: Cache[str] = Cache(2)
    with pytest.raises(AssertionError):
        cache.get(stamp("a"), refuse)
    assert cache.get(stamp("a"), lambda: "mended") == "mended"


def test_a_stamp_changes_with_the_file(tmp_path):
    """Size is enough, where the clock is coarse."""
    path = tmp_path / "f"
    path.write_bytes(b"1")
    before = stamp_of([path])
    assert stamp_of([path]) == before
    path.write_bytes(b"12")
    assert stamp_of([path]) != before
