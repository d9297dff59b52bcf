"""Memory as the system counts it."""

from __future__ import annotations

import mmap
import subprocess
import sys
from pathlib import Path

import pytest

from beastd.engine.memory import held
from beastd.engine.pages import unload_pages

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
SIZE = 64 * 2**20


def test_mapped_files_are_resident_but_not_anonymous_until_they_are_let_go(tmp_path: Path) -> None:
    """What they hold can still be read."""
    (path := tmp_path / "a file").write_bytes(b"\x07" * SIZE)
    before = held()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert sum(mapped[::4096]) == 7 * SIZE // 4096
        during = held()
        unload_pages([str(path)])
        after = held()
        assert mapped[SIZE // 2] == 7
    assert during.resident_bytes - before.resident_bytes > 0.9 * SIZE
    assert during.anon_bytes - before.anon_bytes < 0.1 * SIZE
    assert after.resident_bytes - before.resident_bytes < 0.1 * SIZE


def test_own_memory_is_anonymous_until_it_is_given_back() -> None:
    """In a process of its own: here, freed memory of other tests would be used again."""
    program = f"""
from beastd.engine.memory import give_back, held
before = held()
pieces = [bytearray(b"7") * 100_000 for _ in range({SIZE} // 100_000)]
during = held()
del pieces
give_back()
print(during.anon_bytes - before.anon_bytes, held().anon_bytes - before.anon_bytes)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    taken, left = map(int, run.stdout.split())
    assert taken > 0.9 * SIZE
    assert left < 0.1 * SIZE
