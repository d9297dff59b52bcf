"""`beast cache`."""

from __future__ import annotations

import json
from typing import Any

from fakedaemon import FakeDaemon

CUB = {
    "name": "cub:latest",
    "variant": "q8_0",
    "n_disk": 2,
    "disk_tokens": 90,
    "disk_bytes": 5_000_000,
    "n_memory": 1,
    "memory_bytes": 0,
    "used_at": "2026-01-01T00:00:00Z",
}
KEPT = {"models": [CUB], "folder": "/kv", "disk_bytes": 5_000_000, "disk_limit_bytes": 4_000_000_000}


def test_ls_shows_each_model_and_the_whole(fake: FakeDaemon, beast: Any) -> None:
    """For people, and as it came for machines."""
    fake.says("GET /api/cache", KEPT)
    out = beast("cache", "ls").out
    assert out.splitlines()[1].split()[:6] == ["cub:latest", "q8_0", "3", "90", "5", "MB"]
    assert "on disk: 5 MB of at most 4 GB, in /kv" in out
    assert json.loads(beast("cache", "ls", "--json").out) == KEPT


def test_files_that_cannot_be_read_are_told_of(fake: FakeDaemon, beast: Any) -> None:
    """They have no model."""
    fake.says("GET /api/cache", KEPT | {"models": [CUB | {"name": "", "variant": ""}]})
    assert "(damaged)" in beast("cache", "ls").out


def test_clear_names_a_model_or_none(fake: FakeDaemon, beast: Any) -> None:
    """And tells what it freed."""
    fake.says("DELETE /api/cache", {"status": "success", "bytes": 5_000_000, "memory_bytes": 2_000_000})
    assert "freed 5 MB on disk and 2 MB in memory" in beast("cache", "clear").err
    fake.says("DELETE /api/cache", {"status": "success", "bytes": 0, "memory_bytes": 2_000_000})
    assert "freed 2 MB in memory" in beast("cache", "clear").err
    fake.says("DELETE /api/cache", {"status": "success", "bytes": 0, "memory_bytes": 0})
    assert "nothing was kept" in beast("cache", "clear", "cub").err
    assert fake.asked("DELETE /api/cache") == [{}, {}, {"model": "cub"}]
