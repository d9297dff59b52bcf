"""KV on disk with real processes: killed in the middle of a write, on a disk that is full, and shared by two."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from harness import RunningDaemon, StartDaemon

from beastd import kvfile
from beastd.kvfolder import KVFolder

ROOM_BYTES = 10**7
PRELUDE = """
import os, resource, signal, sys, time
import numpy as np
from beastd import ipc, kvfile
from beastd.engine.tiers import PENDING, Tiers

def tiers():
    return Tiers(ipc.KvTiers(folder=sys.argv[1], memory_bytes=10**7, disk_bytes=10**7), "ab" * 20)

def put(kept, first):
    kept.put((), [first, *range(60)], 0, np.full(100_000, first, np.uint8), is_exact=False)

def taken(kept, first):
    found = kept.find((), [first, *range(61)], 0, is_exact=False)
    state = kept.read(found) if found else None
    while state is PENDING:
        time.sleep(0.001)
        state = kept.read(found)
    return None if state is None else bytes(state) == bytes([first]) * 100_000
"""


def run(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PRELUDE + textwrap.dedent(code), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


KILLED = """
    kept = tiers()
    put(kept, 1)
    kept.flush(60)
    put(kept, 2)
    kvfile.memoryview = lambda part: os.kill(os.getpid(), signal.SIGKILL) if len(part) == 100_000 else memoryview(part)
    kept.flush(60)
"""


def test_a_writer_killed_in_the_middle_leaves_no_half_entry(tmp_path: Path) -> None:
    """What was whole stays; the next writer is not held up, and clears away what is left."""
    assert run(tmp_path, KILLED).returncode == -9
    assert len(list(tmp_path.glob("*.tmp"))) == 1
    after = run(tmp_path, "kept = tiers(); print(taken(kept, 1), taken(kept, 2)); put(kept, 3); kept.flush(60)")
    assert (after.stdout, after.stderr) == ("True None\n", "")
    assert len(KVFolder(tmp_path).files()) == 2
    assert not list(tmp_path.glob("*.tmp"))


FULL = """
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    kept = tiers()
    put(kept, 1)
    kept.flush(60)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    for n in range(2, 5):
        put(kept, n)
    kept.flush(60)
    print(taken(kept, 1), taken(kept, 4), kept.stats.n_tier_disk)
"""


def test_a_full_disk_costs_the_tier_and_nothing_else(tmp_path: Path) -> None:
    """One line tells of it; what is in memory and on disk already is still there, and no part of a file is left."""
    done = run(tmp_path, FULL)
    assert done.stdout == "True True 1\n"
    assert done.stderr.count("\n") == 1
    assert "nothing more is kept on disk" in done.stderr
    assert sorted(it.suffix for it in tmp_path.iterdir()) == ["", ".kv"]


def test_two_processes_share_one_bound(tmp_path: Path) -> None:
    """Both write as fast as they can; together they never exceed it, and every file that is left is whole."""
    code = "kept = tiers()\nfor n in range(%d, 250, 2):\n    put(kept, n)\nkept.flush(60)"
    command = [sys.executable, "-c"]
    writers = [subprocess.Popen([*command, PRELUDE + code % n, str(tmp_path)]) for n in (0, 1)]
    while any(writer.poll() is None for writer in writers):
        assert sum(file.size_bytes for file in KVFolder(tmp_path).files()) <= ROOM_BYTES
    assert [writer.returncode for writer in writers] == [0, 0]
    folder = KVFolder(tmp_path)
    assert len(folder.files()) == ROOM_BYTES // max(file.size_bytes for file in folder.files())
    for file in folder.files():
        with folder.open(file.name) as opened:
            header = kvfile.read_header(opened)
            kvfile.read_state(opened, header, memoryview(bytearray(header.state_bytes)))


def test_the_cache_is_told_of_and_cleared(start_daemon: StartDaemon) -> None:
    """Over the API, in a folder that only its user can read."""
    daemon = start_daemon()
    folder = daemon.home / "cache" / "kv"
    assert folder.stat().st_mode & 0o777 == 0o700
    meta = kvfile.Meta(identity="ab" * 20, label="cub:latest (q8_0)")
    KVFolder(folder).write(meta, bytes(4 * 40), memoryview(bytes(100)), most_bytes=10**6)
    status = daemon.get("/api/cache")
    (model,) = status["models"]
    assert (model["name"], model["variant"], model["n_disk"], model["disk_tokens"]) == ("cub:latest", "q8_0", 1, 40)
    assert status["disk_limit_bytes"] == 4_000_000_000
    assert clear(daemon, {"model": "wolf"})["code"] == "model_not_found"
    assert clear(daemon, {})["bytes"] == status["disk_bytes"]
    assert daemon.get("/api/cache")["models"] == []


@pytest.mark.parametrize("body", [{"modell": "cub"}, {"model": "../cub"}])
def test_clearing_refuses_what_it_does_not_understand(daemon: RunningDaemon, body: dict[str, str]) -> None:
    """An unknown field, or no name."""
    assert clear(daemon, body)["code"] == "bad_request"


def clear(daemon: RunningDaemon, body: dict[str, str]) -> dict[str, object]:
    reply: dict[str, object] = daemon.request("DELETE", "/api/cache", body)[1]
    return reply
