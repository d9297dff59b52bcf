"""Prints what many LoRA adapters on one worker cost: tokens/s, memory and fairness against one adapter for all.

On a machine that does other work, ``--threads 1`` and the tokens of a processor second say more than the clock.

Run it from the repository: ``python tests/bench/adapters.py [--parallel 8,32] [--rounds 3]``. Every round asks the same
worker the same number of streams twice: all with one adapter, then spread over eight.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from loras import variations

from beastd import ipc
from beastd.contract import Message
from beastd.fleet.process import WORKER_ENV
from beastd.registry.registry import BUILTIN_DIR

CUB = BUILTIN_DIR / "cub"
TOPICS = (
    "the sea",
    "a bear",
    "why the sky is blue",
    "bread",
    "the moon and the tides",
    "Rome",
    "rain",
    "a good friend",
)


@dataclass
class Stream:
    """One client: asks, reads to the end, asks again."""

    adapter: Path | None
    n_left: int
    arrivals_s: list[float] = field(default_factory=list)
    """When pieces of the answer under way came."""
    gaps_s: list[float] = field(default_factory=list)
    end_s: float = 0.0


class Worker:
    """A worker process, spoken to as the daemon does."""

    def __init__(self, n_parallel: int, n_threads: int, log: Path) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "beastd.engine", "--fd", str(theirs.fileno())]
        env = WORKER_ENV | os.environ
        with log.open("w") as errors:
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=errors, env=env)
        theirs.close()
        self._socket, self._lines = ours, ours.makefile("rb")
        self._n_asked = 0
        settings = ipc.LoadSettings(n_ctx=512, n_parallel=n_parallel, n_threads=n_threads)
        self.send(ipc.Load(paths=[str(CUB / "cub-q8_0.gguf")], label="cub", settings=settings))
        while not isinstance(self.hear(), ipc.Ready):
            pass

    def send(self, message: ipc.ToWorker) -> None:
        self._socket.sendall(ipc.frame(message))

    def hear(self) -> ipc.FromWorker:
        message: ipc.FromWorker = ipc.from_worker.decode(self._lines.readline())
        return message

    def ask(self, adapter: Path | None, n_tokens: int) -> int:
        """Submit a request that no earlier one shares a prompt with; returns its id."""
        self._n_asked += 1
        about = " and ".join(TOPICS[(self._n_asked + i) % 8] for i in range(1 + self._n_asked % 7))
        prompt = ipc.Prompt(messages=[Message(role="user", content=f"{self._n_asked}: tell me about {about}.")])
        sampling = ipc.Sampling(temperature=0, num_predict=n_tokens, ignore_eos=True)
        adapters = [ipc.Adapter(str(adapter))] if adapter else []
        self.send(ipc.Submit(id=self._n_asked, prompt=prompt, sampling=sampling, adapters=adapters))
        return self._n_asked

    @property
    def resident_bytes(self) -> int:
        rollup = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return next(1024 * int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Rss:"))

    @property
    def processor_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def started(n_parallel: int, n_threads: int, log: Path) -> Iterator[Worker]:
    worker = Worker(n_parallel, n_threads, log)
    try:
        yield worker
    finally:
        worker.process.kill()
        worker.process.wait()


def serve(worker: Worker, streams: list[Stream], n_tokens: int) -> float:
    """Run all streams to their ends; returns answer tokens a second."""
    start_s = time.monotonic()
    n_requests = sum(stream.n_left for stream in streams)
    asked = {worker.ask(stream.adapter, n_tokens): stream for stream in streams}
    while asked:
        step = worker.hear()
        assert isinstance(step, ipc.Step)
        now_s = time.monotonic() - start_s
        for delta in step.deltas:
            assert delta.error is None, delta.error
            stream = asked[delta.id]
            if delta.text:
                stream.arrivals_s.append(now_s)
            if delta.final:
                finish(worker, asked, delta.id, now_s, n_tokens)
    return n_requests * n_tokens / (time.monotonic() - start_s)


def finish(worker: Worker, asked: dict[int, Stream], id_: int, now_s: float, n_tokens: int) -> None:
    """An answer has ended: note its gaps, and ask the stream's next."""
    stream = asked.pop(id_)
    times, stream.arrivals_s = stream.arrivals_s, []
    stream.gaps_s += [b - a for a, b in itertools.pairwise(times)]
    stream.end_s = now_s
    stream.n_left -= 1
    if stream.n_left:
        asked[worker.ask(stream.adapter, n_tokens)] = stream


def described(name: str, rate: float, streams: list[Stream]) -> str:
    gaps_ms = sorted(1e3 * gap for stream in streams for gap in stream.gaps_s)
    ends = [max(s.end_s for s in streams if s.adapter == adapter) for adapter in {s.adapter for s in streams}]
    p50, p99 = gaps_ms[len(gaps_ms) // 2], gaps_ms[len(gaps_ms) * 99 // 100]
    return (
        f"  {name:12} {rate:6.0f} tok/s  ITL p50 {p50:4.0f} p99 {p99:4.0f} max {gaps_ms[-1]:5.0f} ms"
        f"  sets end {min(ends):5.1f}-{max(ends):5.1f} s"
    )


def compare(n_parallel: int, adapters: list[Path], args: argparse.Namespace) -> None:
    """Print the rounds of one worker, and the ratios' medians."""

    def streams(kinds: list[Path | None]) -> list[Stream]:
        return [Stream(kinds[i % len(kinds)], args.requests) for i in range(args.streams)]

    print(f"n_parallel {n_parallel}, {args.streams} streams of {args.requests} × {args.tokens} tokens")
    with started(n_parallel, args.threads, adapters[0].with_suffix(".log")) as worker:
        serve(worker, streams([None]), args.tokens)
        plain_bytes = worker.resident_bytes
        ratios, work = [], []
        for _ in range(args.rounds):
            kinds: dict[str, list[Path | None]] = {"one adapter": [adapters[0]], "8 adapters": [*adapters]}
            rates, processor_s = [], []
            for name, paths in kinds.items():
                asking, start_s = streams(paths), worker.processor_s
                rates.append(serve(worker, asking, args.tokens))
                processor_s.append(worker.processor_s - start_s)
                print(described(name, rates[-1], asking))
            ratios.append(rates[1] / rates[0])
            work.append(processor_s[0] / processor_s[1])
        memory = worker.resident_bytes / plain_bytes
        print(f"  tokens/s {statistics.median(ratios):.2f}× ({min(ratios):.2f}-{max(ratios):.2f}), ", end="")
        print(f"a processor second {statistics.median(work):.2f}×, memory {memory:.3f}×")


def main() -> None:
    """Make the adapters, and compare for each number of slots."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parallel", default="8,32", help="slots, comma-separated")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--requests", type=int, default=2, help="of each stream, one after another")
    parser.add_argument("--tokens", type=int, default=48, help="of each answer")
    parser.add_argument("--threads", type=int, default=0, help="of the worker; 0: as many as cores")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        adapters = variations(CUB / "cub-pirate-lora-f16.gguf", Path(folder), 8)
        for n_parallel in map(int, args.parallel.split(",")):
            compare(n_parallel, adapters, args)


if __name__ == "__main__":
    main()
