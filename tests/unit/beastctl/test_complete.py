"""What the Tab key finds, with a daemon and without."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakedaemon import FakeDaemon

from beastctl.complete import cached_names, fitting_names, loaded_names, worker_labels


def test_workers_are_found_by_the_logs_they_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each name once, those of ended workers as well; none where there is no folder yet."""
    monkeypatch.setenv("BEAST_HOME", str(tmp_path))
    assert worker_labels("") == []
    (tmp_path / "logs").mkdir()
    for name in ("worker-cub-0000000a.log", "worker-cub-0000000b.log", "worker-bear_q8_0-0000000c.log", "beastd.log"):
        (tmp_path / "logs" / name).touch()
    assert worker_labels("") == ["bear_q8_0", "cub"]
    assert worker_labels("C") == ["cub"]


def test_what_may_fit_is_here_or_in_the_catalog(fake: FakeDaemon) -> None:
    """Models that are here come first, and none twice."""
    fake.says("GET /api/tags", {"models": [{"name": "qwen3:0.6b", "variants": [{"name": "q8_0"}]}]})
    fake.says("GET /api/search", {"models": [{"name": name, "variants": []} for name in ("qwen3:0.6b", "qwen3:4b")]})
    assert fitting_names("q") == ["qwen3:0.6b", "qwen3:0.6b@q8_0", "qwen3:4b"]


def test_only_what_is_kept_can_be_cleared(fake: FakeDaemon) -> None:
    """A model of which something is kept, or its variant; damaged files have no name."""
    kept = [{"name": "cub:latest", "variant": "q8_0"}, {"name": "", "variant": ""}]
    fake.says("GET /api/cache", {"models": kept})
    assert cached_names("") == ["cub", "cub@q8_0"]


def test_only_what_is_loaded_can_be_stopped(fake: FakeDaemon) -> None:
    """With the variant that runs, for a model that runs in several."""
    fake.says("GET /api/ps", {"models": [{"name": "cub:latest", "variant": "q8_0"}]})
    assert loaded_names("c") == ["cub", "cub@q8_0"]
    assert loaded_names("d") == []
