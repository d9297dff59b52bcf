"""Steps of quality under running streams, on real workers: what stalls, what memory does, what a fresh load takes.

    python tests/bench/live_steps.py                                   # Cub: q8_0 → q4_k_m → q2_k and back
    python tests/bench/live_steps.py q8_0=a.gguf q4_k_m=b.gguf …       # variants of any model, the largest first

A pool of its own gets less and less memory, as if other programs took it, and then all of it again.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path

import beastd
from beastd import ipc
from beastd.contract import RAM, Final
from beastd.fit.ledger import Case, Ledger
from beastd.fleet import Pool, Want, WorkerSpec
from beastd.fleet import pool as pool_module
from beastd.fleet import steward as steward_module
from beastd.fleet.footprint import Footprint, ram
from beastd.fleet.pool import Settings
from beastd.fleet.worker import Limits
from beastd.registry.gguf import read_header

CUB = Path(beastd.__file__).parent / "builtin" / "cub"
N_STREAMS = 8
N_CTX = 2048
N_TOKENS = int(os.environ.get("BENCH_TOKENS", "1900"))
PAUSE_S = float(os.environ.get("BENCH_PAUSE_S", "2"))
"""Between two changes of the budget."""


async def specs(files: dict[str, Path], folder: Path) -> list[WorkerSpec]:
    """The ladder, with exact needs."""
    settings = ipc.LoadSettings(n_ctx=N_CTX, n_parallel=N_STREAMS)
    cases = [Case(name, (str(path),), name, read_header(path).shape(), settings) for name, path in files.items()]
    needs = await Ledger(folder / "needs.json", folder).needs(cases)
    return [
        WorkerSpec(
            key=name,
            name="model",
            variant=name,
            paths=(str(path),),
            template=None,
            settings=settings,
            weights=Footprint({it.device: it.weights_bytes for it in need.devices}),
            working=Footprint({it.device: it.kv_bytes + it.compute_bytes for it in need.devices}),
            process=ram(need.process_bytes),
            is_exact=True,
        )
        for (name, path), need in zip(files.items(), needs, strict=True)
    ]


class Bench:
    """A pool whose budget moves, and what its streams saw."""

    def __init__(self, ladder: list[WorkerSpec], folder: Path) -> None:
        self.ladder = ladder
        self.budget = ram(10**12)
        limits = Limits(load_s=600, hang_s=600)
        settings = Settings(lambda: self.budget, max_queue=100, limits=limits, sleep_after_s=1e9)
        self.pool = Pool(settings, logs_dir=folder, pins_file=folder / "pins.json")
        self.pieces: dict[int, list[float]] = {}
        self.finals: list[Final] = []

    async def fresh_load_s(self, spec: WorkerSpec) -> float:
        """What a worker of its own takes from start to ready, the best of three."""
        times = []
        for _ in range(3):
            async with self.pool.lease(Want((spec,)), 0.0) as lease:
                async for _ in lease.waiting():
                    pass
                times.append(lease.load_s)
            await asyncio.sleep(1)  # its process ends
        return min(times)

    async def stream(self, i: int) -> None:
        """One answer of N_TOKENS tokens."""
        submit = ipc.Submit(
            id=0,
            prompt=ipc.Prompt(raw=f"Once upon a time there were {i} foxes"),
            sampling=ipc.Sampling(num_predict=N_TOKENS, ignore_eos=True, temperature=0),
        )
        async with self.pool.lease(Want(tuple(self.ladder)), 1e6) as lease:
            async for _ in lease.waiting():
                pass
            async with aclosing(lease.worker.generate(submit)) as deltas:
                async for delta in deltas:
                    self.pieces.setdefault(i, []).append(time.monotonic())
                    if delta.final:
                        self.finals.append(delta.final)

    async def become(self, spec: WorkerSpec) -> tuple[float, int]:
        """Give the fleet just what this variant needs; the longest gap in a stream meanwhile, and the RSS after it."""
        start = time.monotonic()
        self.budget = Footprint({RAM: spec.need[RAM] + 10**6})
        status = self.pool.snapshot().workers[0]
        while (status.variant, status.state) != (spec.variant, "ready"):
            await asyncio.sleep(0.01)
            status = self.pool.snapshot().workers[0]
        await asyncio.sleep(PAUSE_S)
        gaps = [b - a for times in self.pieces.values() for a, b in pairwise(times) if b >= start]
        return max(gaps), resident_bytes(status.pid)


def resident_bytes(pid: int | None) -> int:
    """RSS of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def main(files: dict[str, Path]) -> None:
    """Down the ladder and up again under eight streams."""
    steward_module.STEP_UP_AFTER_S = 0.0
    steward_module.STEP_UP_MARGIN = 0.0
    pool_module.LOOK_EVERY_S = 0.05
    folder = Path(tempfile.mkdtemp(prefix="beast-"))
    ladder = await specs(files, folder)
    bench = Bench(ladder, folder)
    fresh = {spec.variant: await bench.fresh_load_s(spec) for spec in ladder}
    watching = asyncio.create_task(bench.pool.watch())
    streams = [asyncio.create_task(bench.stream(i)) for i in range(N_STREAMS)]
    while len(bench.pieces) < N_STREAMS:  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0.05)
    await asyncio.sleep(PAUSE_S)
    usual = statistics.median(b - a for times in bench.pieces.values() for a, b in pairwise(times))
    print(
        f"usual gap between pieces {usual * 1e3:.0f} ms; fresh loads " + str({k: round(v, 2) for k, v in fresh.items()})
    )
    print("| becomes | stall s | of a fresh load | RSS MB |\n|---|---|---|---|")
    for spec in (*ladder[1:], *reversed(ladder[:-1])):
        gap, rss = await bench.become(spec)
        print(f"| {spec.variant} | {gap:.2f} | {gap / fresh[spec.variant]:.2f}x | {rss / 1e6:.0f} |", flush=True)
    await asyncio.gather(*streams)
    watching.cancel()
    whole = sum(final.n_answer == N_TOKENS for final in bench.finals)
    print(f"{whole} of {N_STREAMS} streams with all {N_TOKENS} tokens; variants {bench.finals[0].variants}")
    await bench.pool.close()
    shutil.rmtree(folder)


if __name__ == "__main__":
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    cub = {name: CUB / f"cub-{name}.gguf" for name in ("q8_0", "q4_k_m", "q2_k")}
    asyncio.run(main({name: Path(path) for name, path in given.items()} or cub))
