"""100 pulls through real fetch processes, each killed and its connections cut at random points, then finished.

    python tests/bench/pull_cuts.py [PULLS] [SEED]

Prints whether all digests are right, and how many bytes were loaded twice: those a process had written before it was
killed and the next asked for again, and all the server sent beyond the file's size (which also counts what lay in
socket buffers when a process died).
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fakehub import FakeHub, Fault, Repo
from fetching import CHUNK_BYTES, REPO, digest, gguf, order
from toolrun import run_tool, started

from beastd.fetch.order import HubSource
from beastd.registry.store import Store
from beastd.tool import Done

SIZE = 40 * CHUNK_BYTES
FETCH = "beastd.fetch"
FILE = "M-Q8_0.gguf"


class Pull:
    """One pull, from its first cut to its end."""

    def __init__(self, hub: FakeHub, store: Store, draw: random.Random, seed: int) -> None:
        self._hub = hub
        self._store = store
        self._draw = draw
        self._data = gguf(SIZE, seed)
        hub.repos[REPO] = Repo({FILE: self._data})
        self._partial = store.partial(f"sha256-{digest(self._data)}")
        self.most_twice = 0
        self.n_cuts = 0
        self.n_kills = 0

    def run(self) -> bool:
        """Whether the right bytes came in the end."""
        for _ in range(self._draw.randrange(1, 4)):
            self._cut()
            self._kill()
        self._cut()
        n_received = self._size()
        self._hub.asked.clear()
        _, ending = run_tool(FETCH, order(self._store, HubSource(repo=REPO)))
        self._count_twice(n_received)
        return isinstance(ending, Done) and self._store.blob(digest(self._data)).read_bytes() == self._data

    def n_excess(self) -> int:
        """Bytes the server sent beyond the file's size."""
        return self._hub.served.pop(FILE, 0) - len(self._data)

    def _cut(self) -> None:
        cuts = [Fault(cut_after=self._draw.randrange(SIZE // 2)) for _ in range(self._draw.randrange(3))]
        self._hub.faults[FILE].extend(cuts)
        self.n_cuts += len(cuts)

    def _kill(self) -> None:
        at, n_received = self._draw.randrange(SIZE), self._size()
        self._hub.asked.clear()
        with started(FETCH, order(self._store, HubSource(repo=REPO))) as tool:
            while tool.process.poll() is None and self._size() < at:
                time.sleep(0.001)
            tool.kill()
        self._count_twice(n_received)
        self.n_kills += 1

    def _count_twice(self, n_received: int) -> None:
        asked = self._hub.downloads(FILE)
        self.most_twice = max(self.most_twice, n_received - asked[0].first_byte if asked else 0)

    def _size(self) -> int:
        return self._partial.stat().st_size if self._partial.exists() else 0


def main(n_pulls: int, seed: int) -> None:
    draw = random.Random(seed)
    with FakeHub() as hub, tempfile.TemporaryDirectory() as folder:
        os.environ |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": f"{folder}/hf"}
        hub.pause_s = 0.001
        n_right = n_kills = n_cuts = 0
        twice: list[int] = []
        excess: list[int] = []
        started_at = time.monotonic()
        for i in range(n_pulls):
            pull = Pull(hub, Store(Path(folder) / "models"), draw, i)
            n_right += pull.run()
            n_kills, n_cuts = n_kills + pull.n_kills, n_cuts + pull.n_cuts
            twice.append(pull.most_twice)
            excess.append(pull.n_excess())
            hub.faults.clear()
        print(f"{n_pulls} pulls of {SIZE} bytes, chunk {CHUNK_BYTES}: {n_kills} kills, {n_cuts} cuts planned")
        print(f"right digests: {n_right}; left in .partial: {len(Store(Path(folder) / 'models').partials())}")
        print(f"written and loaded again after a kill: most {max(twice)}, mean {sum(twice) / n_pulls:.0f} bytes")
        print(f"sent beyond the size, all kills of a pull: most {max(excess)}, mean {sum(excess) / n_pulls:.0f} bytes")
        print(f"{time.monotonic() - started_at:.0f} s")


if __name__ == "__main__":
    main(*(int(argument) for argument in (sys.argv[1:] + ["100", "1"][len(sys.argv) - 1 :])))
