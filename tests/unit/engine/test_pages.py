"""Mapped files leave this process's memory, and come back when they are read."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest

from beastd.engine.pages import unload_pages

N_BYTES = 4 * 2**20


def resident(path: Path) -> int:
    """Bytes of a mapped file that this process holds."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    found = 0
    for line in lines:
        if line.endswith(str(path)):
            found += next(int(it.split()[1]) * 1024 for it in lines if it.startswith("Rss:"))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc elsewhere")
def test_only_the_named_files_go_and_their_content_stays(tmp_path: Path) -> None:
    """What is read again is what it was."""
    paths = [tmp_path / name for name in ("model", "other")]
    maps = []
    for path in paths:
        path.write_bytes(b"x" * N_BYTES)
        with path.open("rb") as stream:
            maps.append(mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ))
    assert [bytes(it)[-1:] for it in maps] == [b"x", b"x"]
    assert [resident(path) for path in paths] == [N_BYTES, N_BYTES]
    unload_pages([str(paths[0]), "/no/such/file"])
    assert [resident(path) for path in paths] == [0, N_BYTES]
    assert bytes(maps[0]) == b"x" * N_BYTES
