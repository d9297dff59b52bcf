"""Fetch processes killed at random points of a download, and the pulls after them.

With the 85 pulls of tests/unit/fetch/test_pull.py whose connections are cut, these are 100. tests/bench/pull_cuts.py
does all through processes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakehub import FakeHub, Repo
from fetching import CHUNK_BYTES, REPO, digest, gguf, order
from toolrun import run_tool, started

from beastd.fetch.order import HubSource
from beastd.registry.store import Store
from beastd.tool import Done

SIZE = 30 * CHUNK_BYTES
FETCH = "beastd.fetch"
FILE = "M-Q8_0.gguf"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that is slow enough to be killed at."""
    with FakeHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        hub.pause_s = 0.002
        yield hub


def kill_at(store: Store, n_bytes: int, partial: Path) -> int:
    """Kill a fetch once so many bytes are there, or it has ended; how many there were."""
    with started(FETCH, order(store, HubSource(repo=REPO))) as tool:
        while tool.process.poll() is None and not (partial.exists() and partial.stat().st_size >= n_bytes):
            time.sleep(0.001)
        tool.kill()
    return partial.stat().st_size if partial.exists() else 0


def test_15_pulls_killed_at_random_points_load_at_most_a_chunk_twice(hub: FakeHub, tmp_path: Path) -> None:
    draw = random.Random(7)
    store = Store(tmp_path / "models")
    for i in range(15):
        data = gguf(SIZE, seed=i)
        hub.repos[REPO] = Repo({FILE: data})
        partial = store.partial(f"sha256-{digest(data)}")
        n_received = kill_at(store, draw.choice([1, draw.randrange(SIZE), SIZE]), partial)
        assert digest(data) not in store.blobs() or n_received == 0, "an unfinished file is no blob"
        hub.asked.clear()
        _, ending = run_tool(FETCH, order(store, HubSource(repo=REPO)))
        assert isinstance(ending, Done)
        assert store.blob(digest(data)).read_bytes() == data
        asked = hub.downloads(FILE)
        n_twice = n_received - asked[0].first_byte if asked else 0
        assert 0 <= n_twice <= CHUNK_BYTES
    assert store.partials() == []
