"""Where a worker's output goes."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from beastd.fleet.process import log_path


@given(st.text(max_size=300), st.text(max_size=50))
def test_a_log_stays_in_its_folder_whatever_the_model_is_called(label: str, key: str) -> None:
    """No separator, no parent, no name too long for a file system."""
    path = log_path(Path("/logs"), label, key)
    assert path.parent == Path("/logs")
    assert path.name.startswith("worker-")
    assert path.suffix == ".log"
    assert len(path.name.encode()) < 255


def test_logs_of_different_workers_differ() -> None:
    """Even where only the digest does, or the characters a file name cannot have."""
    paths = {log_path(Path(), label, key) for label, key in [("a b", "1"), ("a/b", "2"), ("a b", "3")]}
    assert len(paths) == 3
