"""Prints the memory a worker was predicted to take, what it then took, and the ratio; exits with 1 beyond 5 %.

Run it from the repository: ``python tests/bench/memory_needs.py [MODEL.gguf ...] [--ctx 2048x1,4096x8 --kv f16,q8_0]``.
Without models it takes Cub's four variants. What was taken is the worker's resident memory after a prompt of two full
micro-batches of random tokens, and then an answer in every slot.
"""

from __future__ import annotations

import argparse
import os
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import msgspec

sys.path.insert(0, str(Path(__file__).parent.parent))

from toolrun import run_tool

from beastd import ipc
from beastd.contract import MemoryNeed
from beastd.fleet.process import WORKER_ENV
from beastd.registry.gguf import read_shards, shard_paths
from beastd.tool import Done
from beastd.toolorders import SimulateCase, Simulated, SimulateOrder

CUB = Path(__file__).parent.parent.parent / "beastd" / "builtin" / "cub"
CUBS = [CUB / name for name in ("cub-f16-00001-of-00002.gguf", "cub-q8_0.gguf", "cub-q4_k_m.gguf", "cub-q2_k.gguf")]
BAR = 0.05


class Worker:
    """A real worker, spoken to as the daemon does."""

    def __init__(self, case: SimulateCase) -> None:
        ours, its = socket.socketpair()
        command = [sys.executable, "-P", "-m", "beastd.engine", "--fd", str(its.fileno())]
        env = WORKER_ENV | os.environ
        self._process = subprocess.Popen(command, pass_fds=[its.fileno()], stderr=subprocess.DEVNULL, env=env)
        its.close()
        self._socket, self._lines = ours, ours.makefile("rb")
        start_s = time.monotonic()
        self._send(ipc.Load(paths=case.paths, label=case.label, settings=case.settings))
        self.ready = next(message for message in self if isinstance(message, ipc.Ready))
        self.load_s = time.monotonic() - start_s

    def __iter__(self):
        return (ipc.from_worker.decode(line) for line in self._lines)

    def _send(self, message: ipc.ToWorker) -> None:
        self._socket.sendall(ipc.frame(message))

    def answer(self, prompts: list[list[int]]) -> float:
        """Answer them all at once; returns the seconds until the first token."""
        start_s, first_s, n_left = time.monotonic(), 0.0, len(prompts)
        sampling = ipc.Sampling(num_predict=16, ignore_eos=True)
        for i, tokens in enumerate(prompts):
            self._send(ipc.Submit(id=i + 1, prompt=ipc.Prompt(raw="a", context=tokens), sampling=sampling))
        for message in self:
            first_s = first_s or time.monotonic() - start_s
            deltas = message.deltas if isinstance(message, ipc.Step) else []
            assert not any(delta.error for delta in deltas), deltas
            n_left -= sum(delta.final is not None for delta in deltas)
            if not n_left:
                return first_s
        raise AssertionError("the worker ended")

    @property
    def resident_bytes(self) -> int:
        """What it holds now."""
        statm = Path(f"/proc/{self._process.pid}/statm").read_text()
        return int(statm.split()[1]) * resource.getpagesize()

    def close(self) -> None:
        """End it."""
        self._lines.close()
        self._socket.close()
        self._process.wait(timeout=60)


def taken(case: SimulateCase, n_vocab: int, *, is_filled: bool) -> tuple[int, Worker, float]:
    """What a worker takes once it has been used; ``is_filled``: with a prompt as long as its context."""
    settings, random = case.settings, Random(1)
    draw = lambda n: [random.randrange(n_vocab) for _ in range(n)]  # noqa: E731
    worker = Worker(case)
    try:
        n_long = settings.n_ctx if is_filled else 2 * settings.n_ubatch
        first_s = worker.answer([draw(min(n_long, settings.n_ctx - 64))])
        worker.answer([draw(24) for _ in range(settings.n_parallel)])
        return worker.resident_bytes, worker, first_s
    finally:
        worker.close()


def cases(models: list[Path], contexts: str, kv_types: str) -> list[SimulateCase]:
    """Every model in every setting."""
    pairs = [tuple(map(int, text.split("x"))) for text in contexts.split(",")]
    return [
        SimulateCase(
            paths=[str(path) for path in shard_paths(model)],
            label=model.name.removesuffix(".gguf").removesuffix("-00001-of-00002"),
            settings=ipc.LoadSettings(n_ctx=n_ctx, n_parallel=n_parallel, kv_type=kv_type, step_ms=600_000),
        )
        for model in models
        for n_ctx, n_parallel in pairs
        for kv_type in kv_types.split(",")
    ]


def predicted(wanted: list[SimulateCase]) -> list[MemoryNeed]:
    """What the tool says of all of them."""
    _, ending = run_tool("beastd.engine.simulate", SimulateOrder(cases=wanted))
    assert isinstance(ending, Done), ending
    outcomes = msgspec.convert(ending.result, Simulated).outcomes
    assert all(it.need for it in outcomes), outcomes
    return [it.need for it in outcomes]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--ctx", default="2048x1,4096x8,16384x2")
    parser.add_argument("--kv", default="f16,q8_0,q4_0")
    parser.add_argument("--fill", action="store_true", help="a prompt as long as the context: slow")
    given = parser.parse_args()
    wanted = cases(given.models or CUBS, given.ctx, given.kv)
    worst = 0.0
    columns = ("model", "context", "KV", "predicted MB", "taken MB", "ratio", "load s", "first token s")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for case, need in zip(wanted, predicted(wanted), strict=True):
        n_vocab = read_shards([Path(path) for path in case.paths]).shape().n_vocab
        n_bytes, worker, first_s = taken(case, n_vocab, is_filled=given.fill)
        ratio = need.ram_bytes / n_bytes
        worst = max(worst, abs(ratio - 1))
        it = case.settings
        sizes = f"{need.ram_bytes / 1e6:.1f} | {n_bytes / 1e6:.1f} | {ratio:.3f}"
        times = f"{worker.load_s:.2f} | {first_s:.2f}"
        print(f"| {case.label} | {it.n_ctx}x{it.n_parallel} | {it.kv_type} | {sizes} | {times} |", flush=True)
    print(f"largest deviation: {worst:.1%}")
    sys.exit(worst > BAR)


if __name__ == "__main__":
    main()
