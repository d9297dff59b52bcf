"""What the Tab key finds without a daemon."""

from __future__ import annotations

from pathlib import Path

import pytest

from beastctl.complete import worker_labels


def test_workers_are_found_by_the_logs_they_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each name once, those of ended workers as well; none where there is no folder yet."""
    monkeypatch.setenv("BEAST_HOME", str(tmp_path))
    assert worker_labels("") == []
    (tmp_path / "logs").mkdir()
    for name in ("worker-cub-0000000a.log", "worker-cub-0000000b.log", "worker-bear_q8_0-0000000c.log", "beastd.log"):
        (tmp_path / "logs" / name).touch()
    assert worker_labels("") == ["bear_q8_0", "cub"]
    assert worker_labels("C") == ["cub"]
