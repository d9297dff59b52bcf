"""Fuzzes the GGUF reader: whatever the bytes, the end is a Header or BadModel, soon and in little memory.

    uv run python tests/fuzz/fuzz_gguf.py --seconds 600 --seed 1

It changes sound headers, the corpus of lies and the built-in models, and goes on from each input that made the reader
end in a new way. Whatever breaks the promise is saved as a file and ends the run with status 1. The same seed makes
the same inputs; ``--replay FILE`` reads a saved one again.
"""

from __future__ import annotations

import argparse
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from random import Random

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest has it

import msgspec
from fuzz.maxima import Maximum, write_maxima
from fuzz.mutation import Input, located, mutated, seeds

from beastd.errors import BadModel
from beastd.fleet.memory import need_bytes
from beastd.ipc import LoadSettings
from beastd.registry.gguf import parse_header, read_header
from beastd.registry.header import Header

MAX_S = 1.0
HANG_S = 20.0
"""After so long it is interrupted."""
MAX_RSS_BYTES = 200 * 2**20
MAX_POOL_BYTES = 24 * 2**20
SMALL_BYTES = 32 * 1024

_VARYING = re.compile(r"'.*'|\d+|\(.*\)")
"""What differs between two messages that mean the same."""


class Finding(Exception):
    """The reader broke its promise."""


def examine(it: Input | Maximum) -> str:
    """Read a header and derive everything the daemon does. Says how it ended; whatever else it raises is a finding."""
    try:
        with it.open() as stream:
            header = parse_header(stream, it.size_bytes, "fuzz.gguf")
        derive(header)
    except BadModel as e:
        if not e.message.isprintable() or len(e.message) > 400:
            raise Finding(f"not one plain line: {e.message[:400]!r}") from e
        return _VARYING.sub("#", e.message)
    return f"read {len(header.metadata).bit_length()} {len(header.tensors).bit_length()}"


def derive(header: Header) -> None:
    """Everything the daemon asks a header."""
    if sum(tensor.n_bytes for tensor in header.tensors) > header.size_bytes:
        raise Finding("the tensors are larger than the file")
    msgspec.json.encode([header.metadata, header.quantization, header.bits_per_weight, header.n_params])
    msgspec.json.encode([header.chat_template, header.is_adapter, header.n_splits])
    shape = header.shape()
    msgspec.json.encode(shape)
    need_bytes(shape, LoadSettings(n_ctx=4096, n_parallel=4))


class Fuzzer:
    """One run: its inputs follow from the seed alone."""

    def __init__(self, seed: int, save_dir: Path, max_s: float = MAX_S, max_rss_bytes: float = MAX_RSS_BYTES) -> None:
        self._random = Random(seed)
        self._save_dir = save_dir
        self._max_s = max_s
        self._max_rss_bytes = max_rss_bytes
        self._small: list[Input] = []
        self._large: list[Input] = []
        self._n_pool_bytes = 0
        self._endings: set[str] = set()
        self.n_inputs = 0
        signal.signal(signal.SIGVTALRM, _hung)
        self.slowest_s = 0.0
        self.findings: list[Path] = []

    def run_seeds(self) -> None:
        """Read every seed, and the costliest headers allowed."""
        self._save_dir.mkdir(parents=True, exist_ok=True)
        for maximum in write_maxima(self._save_dir):
            self._try(maximum)
        for it in seeds():
            self._try(it)
            self._keep(it)

    def run_one(self) -> None:
        """Make an input, read it, and go on from it later if it ended in a new way."""
        pool = self._large if self._random.random() < 0.03 else self._small
        it = mutated(self._random.choice(pool), self._random.choice(self._small), self._random)
        ending = self._try(it)
        if ending is not None and ending not in self._endings:
            self._endings.add(ending)
            self._keep(it)

    def summary(self) -> str:
        """One line of figures."""
        return (
            f"{self.n_inputs} inputs, {len(self._endings)} endings, slowest {self.slowest_s:.3f} s, "
            f"peak RSS {peak_rss_bytes() / 2**20:.0f} MiB, {len(self.findings)} findings"
        )

    def _keep(self, it: Input) -> None:
        self._n_pool_bytes += len(it.head)
        if self._n_pool_bytes <= MAX_POOL_BYTES:
            (self._small if len(it.head) <= SMALL_BYTES else self._large).append(located(it))

    def _try(self, it: Input | Maximum) -> str | None:
        """How it ended; None after a finding."""
        self.n_inputs += 1
        try:
            ending, took_s = timed(it)
            if took_s > self._max_s:  # once may be bad luck
                took_s = min(timed(it)[1] for _ in range(3))
            self.slowest_s = max(self.slowest_s, took_s)
            if took_s > self._max_s:
                raise Finding(f"took {took_s:.2f} s")
            if peak_rss_bytes() > self._max_rss_bytes:
                self._max_rss_bytes = peak_rss_bytes() + MAX_RSS_BYTES // 10  # do not blame those that follow
                raise Finding(f"the process grew to {peak_rss_bytes() / 2**20:.0f} MiB")
        except Exception:
            self._report(it, traceback.format_exc())
            return None
        return ending

    def _report(self, it: Input | Maximum, why: str) -> None:
        path = self._save_dir / f"finding-{len(self.findings)}.gguf"
        it.save(path)
        self.findings.append(path)
        print(f"{path}\n{why}", file=sys.stderr, flush=True)


def timed(it: Input | Maximum) -> tuple[str, float]:
    """How it ended, and after how many seconds of processor time: other work on the machine is not the reader's."""
    start_s = time.process_time()
    signal.setitimer(signal.ITIMER_VIRTUAL, HANG_S)
    try:
        ending = examine(it)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return ending, time.process_time() - start_s


def _hung(*_: object) -> None:
    raise Finding(f"still reading after {HANG_S} s")


def peak_rss_bytes() -> int:
    """The most memory this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz the GGUF reader.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save", type=Path, default=Path(tempfile.gettempdir(), "beast-fuzz-gguf"))
    parser.add_argument("--replay", type=Path, help="read this file again instead")
    args = parser.parse_args()
    if args.replay:
        derive(read_header(args.replay))
        return 0
    fuzzer, started_s = Fuzzer(args.seed, args.save), time.monotonic()
    fuzzer.run_seeds()
    shown_s = 0.0
    while (elapsed_s := time.monotonic() - started_s) < args.seconds and len(fuzzer.findings) < 20:
        fuzzer.run_one()
        if elapsed_s - shown_s > 30:
            shown_s = elapsed_s
            print(f"{elapsed_s:.0f} s: {fuzzer.summary()}", flush=True)
    print(f"seed {args.seed}: {fuzzer.summary()}")
    return 1 if fuzzer.findings else 0


if __name__ == "__main__":
    sys.exit(main())
