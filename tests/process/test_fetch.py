"""The fetch process as the daemon runs it: real processes, a hub over real sockets, real full disks."""

from __future__ import annotations

import os
import resource
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakehub import FakeHub, Fault, Repo
from fetching import CHUNK_BYTES, REPO, digest, gguf, order
from toolrun import run_tool, started

from beastd.fetch.order import HubSource
from beastd.registry.store import Store
from beastd.tool import Done, Failed, Progress

SIZE = 24 * CHUNK_BYTES
FETCH = "beastd.fetch"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that fetch processes find."""
    with FakeHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        hub.repos[REPO] = Repo({"M-Q8_0.gguf": gguf(SIZE)})
        yield hub


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounting = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounting.returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def content(hub: FakeHub) -> bytes:
    return hub.repos[REPO].files["M-Q8_0.gguf"]


def await_bytes(partial: Path, n_bytes: int) -> None:
    """Until a partial has so many."""
    give_up = time.monotonic() + 30
    while not partial.exists() or partial.stat().st_size < n_bytes:
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_a_model_comes_with_progress_to_its_last_byte(hub: FakeHub, store: Store) -> None:
    progress, ending = run_tool(FETCH, order(store, HubSource(repo=REPO)))
    assert isinstance(ending, Done)
    assert ending.result["files"][0]["parts"] == [{"digest": digest(content(hub)), "size_bytes": len(content(hub))}]
    assert store.blob(digest(content(hub))).read_bytes() == content(hub)
    assert progress[0].status == "pulling manifest"
    last = [told for told in progress if told.item == "M-Q8_0.gguf"][-1]
    assert (last.completed, last.total) == (len(content(hub)), len(content(hub)))
    assert last.digest == f"sha256:{digest(content(hub))}"


def test_a_refusal_ends_it_with_its_code(hub: FakeHub, store: Store) -> None:
    _, ending = run_tool(FETCH, order(store, HubSource(repo="user/none")))
    assert isinstance(ending, Failed)
    assert ending.failure.code == "model_not_found"


def test_it_ends_at_once_when_nobody_listens_any_more(hub: FakeHub, store: Store) -> None:
    hub.faults["M-Q8_0.gguf"] += [Fault(), Fault(stall_after=2 * CHUNK_BYTES)]
    with started(FETCH, order(store, HubSource(repo=REPO))) as tool:
        assert hub.stalled.wait(30)
        assert tool.process.stdin
        tool.process.stdin.close()
        assert tool.process.wait(30) == 1
    assert store.blobs() == {}


def test_two_processes_share_one_download(hub: FakeHub, store: Store) -> None:
    hub.faults["M-Q8_0.gguf"] += [Fault(), Fault(stall_after=2 * CHUNK_BYTES)]
    endings: list[Done | Failed] = []
    watched: list[Progress] = []

    def second() -> None:
        with started(FETCH, order(store, HubSource(repo=REPO))) as tool:
            for message in tool:
                if isinstance(message, Progress):
                    watched.append(message)
                    if message.completed:  # it sees how far the first is, so the first may go on
                        hub.go_on.set()
                else:
                    endings.append(message)

    with started(FETCH, order(store, HubSource(repo=REPO), stall_s=60)) as first:
        assert hub.stalled.wait(30)
        other = threading.Thread(target=second)
        other.start()
        endings.extend(message for message in first if isinstance(message, Done | Failed))
        other.join(60)
    assert [type(ending) for ending in endings] == [Done, Done]
    assert hub.served["M-Q8_0.gguf"] == len(content(hub))
    assert any(0 < told.completed < told.total for told in watched)
    assert store.partials() == []


def test_the_second_goes_on_where_a_killed_first_was(hub: FakeHub, store: Store) -> None:
    hub.faults["M-Q8_0.gguf"] += [Fault(), Fault(stall_after=8 * CHUNK_BYTES)]
    with started(FETCH, order(store, HubSource(repo=REPO), stall_s=60)) as first:
        assert hub.stalled.wait(30)
        with started(FETCH, order(store, HubSource(repo=REPO))) as second:
            waiting = next(m for m in second if isinstance(m, Progress) and m.completed)
            assert waiting.completed >= 4 * CHUNK_BYTES
            first.kill()
            ending = list(second)[-1]
    hub.go_on.set()
    assert isinstance(ending, Done)
    assert hub.served["M-Q8_0.gguf"] <= len(content(hub)) + CHUNK_BYTES
    assert store.blobs() == {digest(content(hub)): len(content(hub))}


def test_a_disk_too_small_is_refused_with_numbers(hub: FakeHub, small_disk: Path) -> None:
    hub.repos[REPO] = Repo({"M-Q8_0.gguf": gguf(5 * 2**20)})
    _, ending = run_tool(FETCH, order(Store(small_disk), HubSource(repo=REPO)))
    assert isinstance(ending, Failed)
    assert ending.failure.code == "disk_full"
    assert "needs 5.0 MB more" in ending.failure.message
    assert hub.served["M-Q8_0.gguf"] <= 256 * 1024


def test_a_disk_that_fills_up_keeps_what_came(hub: FakeHub, small_disk: Path) -> None:
    hub.faults["M-Q8_0.gguf"] += [Fault(), Fault(stall_after=8 * CHUNK_BYTES)]
    with started(FETCH, order(Store(small_disk), HubSource(repo=REPO), stall_s=60)) as tool:
        partial = Store(small_disk).partial(f"sha256-{digest(content(hub))}")
        await_bytes(partial, 12 * CHUNK_BYTES)
        filler = small_disk / "filler"
        room = os.statvfs(small_disk).f_bavail * 4096
        filler.write_bytes(bytes(room - 2 * CHUNK_BYTES))
        hub.go_on.set()
        ending = list(tool)[-1]
    assert isinstance(ending, Failed)
    assert ending.failure.code == "disk_full"
    assert "the disk is full" in ending.failure.message
    filler.unlink()
    _, ending = run_tool(FETCH, order(Store(small_disk), HubSource(repo=REPO)))
    assert isinstance(ending, Done)
    assert hub.downloads("M-Q8_0.gguf")[-1].first_byte > 11 * CHUNK_BYTES
    assert Store(small_disk).blob(digest(content(hub))).read_bytes() == content(hub)


def test_a_file_size_limit_is_a_full_disk_too(hub: FakeHub, store: Store) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10 * CHUNK_BYTES, 10 * CHUNK_BYTES))

    _, ending = run_tool(FETCH, order(store, HubSource(repo=REPO)), limit)
    assert isinstance(ending, Failed)
    assert ending.failure.code == "disk_full"
    _, ending = run_tool(FETCH, order(store, HubSource(repo=REPO)))
    assert isinstance(ending, Done)
    assert hub.downloads("M-Q8_0.gguf")[-1].first_byte == 10 * CHUNK_BYTES
