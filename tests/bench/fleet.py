"""What the fleet must show, on real workers: run one part by its name, or all of them.

    python tests/bench/fleet.py [many|hot|kills|contexts] …

Each part starts a daemon of its own in a temporary BEAST_HOME, with Cub and copies of it, and prints a line or two.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from harness import RunningDaemon

Line = dict[str, Any]


@contextmanager
def daemon(**settings: str) -> Iterator[RunningDaemon]:
    """A daemon with these settings, ended for good afterwards."""
    home = Path(tempfile.mkdtemp(prefix="beast-"))
    arguments = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    running = RunningDaemon(home, arguments, {})
    try:
        yield running
    finally:
        running.stop()
        shutil.rmtree(home, ignore_errors=True)


def ask(running: RunningDaemon, model: str, prompt: str, **options: Any) -> list[Line]:
    """One streamed answer: its lines, each with the seconds since the request as "at"."""
    start = time.monotonic()
    body = {"model": model, "prompt": prompt, "options": options}
    lines = running.stream("/api/generate", body)
    return [line | {"at": time.monotonic() - start} for line in lines]


def text(lines: list[Line]) -> str:
    """The answer."""
    return "".join(line.get("response", "") for line in lines)


def ttft_s(lines: list[Line]) -> float:
    """Seconds to the first piece."""
    return next(float(line["at"]) for line in lines if line.get("response"))


def ended_once(lines: list[Line]) -> bool:
    """Exactly one last line: done, or an error."""
    return sum(bool(line.get("done") or "error" in line) for line in lines) == 1 and (
        bool(lines[-1].get("done")) or "error" in lines[-1]
    )


def at_once(n: int, work: Callable[[int], None]) -> None:
    """Run ``work`` in n threads and wait for all."""
    threads = [threading.Thread(target=work, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def need_bytes(running: RunningDaemon, model: str = "cub") -> int:
    """What a model takes: loaded, looked at and unloaded."""
    running.request("POST", "/api/generate", {"model": model, "stream": False})
    size: int = running.get("/api/ps")["models"][0]["size"]
    running.request("POST", "/api/generate", {"model": model, "keep_alive": 0, "stream": False})
    return size


def copies(running: RunningDaemon, n: int) -> list[str]:
    """So many models that are Cub under other names."""
    names = [f"m{i}" for i in range(n)]
    for name in names:
        assert running.request("POST", "/api/copy", {"source": "cub", "destination": name})[0] == 200
    return names


# --- 10 models, budget for 4, 500 requests, Zipf ---


def many() -> None:
    """No request fails; reload seconds are told."""
    with daemon(parallel="4") as probe:
        one = need_bytes(probe)
    random_ = random.Random(4)
    with daemon(parallel="4", memory_budget=str(int(one * 4.3)), load_timeout_s="300") as running:
        names = copies(running, 10)
        weights = [1 / (rank + 1) ** 1.1 for rank in range(10)]
        chosen = random_.choices(names, weights, k=500)
        turn = iter(chosen)
        lock, failures, waits = threading.Lock(), Counter[str](), list[float]()

        def client(_: int) -> None:
            while True:
                with lock:
                    name = next(turn, None)
                if name is None:
                    return
                lines = ask(running, name, "Hello!", num_predict=8)
                if not lines[-1].get("done"):
                    failures[str(lines[-1].get("error"))] += 1
                waits.append(ttft_s(lines) if lines[-1].get("done") else 0.0)

        start = time.monotonic()
        at_once(4, client)
        fleet = running.get("/api/fleet")
        loads = fleet["n_decisions"]
        print(
            f"many: 500 requests over 10 models in {time.monotonic() - start:.0f} s, {sum(failures.values())} failed "
            f"{dict(failures)}; {loads}; TTFT p50 {statistics.median(waits):.2f} s, most {max(waits):.1f} s"
        )


# --- a hot model while cold ones load without pause ---


def hot() -> None:
    """TTFT of Cub alone, and while copies of it load and go without pause."""
    with daemon() as running:
        names = copies(running, 2)
        ask(running, "cub", "Hello!", num_predict=2)
        for name in names:
            ask(running, name, "Hello!", num_predict=2)
            running.request("POST", "/api/generate", {"model": name, "keep_alive": 0, "stream": False})
        rounds: list[tuple[float, float]] = []
        n_loads = 0
        for _ in range(3):
            alone = sorted(_ttfts(running, 60))
            stop = threading.Event()

            def load(stop: threading.Event = stop) -> None:
                nonlocal n_loads
                while not stop.is_set():
                    name = names[n_loads % 2]
                    running.request("POST", "/api/generate", {"model": name, "stream": False})
                    running.request("POST", "/api/generate", {"model": name, "keep_alive": 0, "stream": False})
                    n_loads += 1

            loader = threading.Thread(target=load)
            loader.start()
            beside = sorted(_ttfts(running, 60))
            stop.set()
            loader.join()
            rounds.append((alone[56], beside[56]))
        told = ", ".join(f"{a * 1e3:.0f} → {b * 1e3:.0f} ms ({b / a:.2f}×)" for a, b in rounds)
        ratio = statistics.median(b / a for a, b in rounds)
        print(f"hot: TTFT p95 alone → beside {n_loads} cold loads: {told}; median {ratio:.2f}×")


def _ttfts(running: RunningDaemon, n: int) -> list[float]:
    found = []
    for i in range(n):
        found.append(ttft_s(ask(running, "cub", f"Please tell me about the number {i} and a fox.", num_predict=4)))
        time.sleep(0.05)
    return found


# --- workers killed while clients hammer ---


def kills() -> None:
    """1,000 requests while a worker is killed every 2 s: each ends once, and every later one works."""
    with daemon() as running:
        names = ["cub", *copies(running, 2)]
        for name in names:
            ask(running, name, "Hi", num_predict=1)
        endings, lock, turn = Counter[str](), threading.Lock(), iter(range(1000))
        stop = threading.Event()

        def kill() -> None:
            random_ = random.Random(1)
            while not stop.wait(2):
                with suppress(IndexError, ProcessLookupError, StopIteration):
                    os.kill(random_.choice(running.worker_pids()), signal.SIGKILL)
                    endings["kills"] += 1

        def client(number: int) -> None:
            while True:
                with lock:
                    i = next(turn, None)
                if i is None:
                    return
                lines = ask(running, names[(i + number) % 3], f"Tell me about {i}.", num_predict=30)
                last = lines[-1] if lines else {}
                ending = "done" if last.get("done") else str(last.get("code", last.get("error", "nothing")))
                with lock:
                    endings[ending if ended_once(lines) else "not once"] += 1

        killer = threading.Thread(target=kill)
        killer.start()
        start = time.monotonic()
        at_once(16, client)
        stop.set()
        killer.join()
        later = [ask(running, name, "Hello!", num_predict=4)[-1].get("done") for name in names]
        fleet = running.get("/api/fleet")
        print(
            f"kills: 1,000 requests in {time.monotonic() - start:.0f} s: {dict(endings)}; later ones work: {later}; "
            f"leases left {sum(it['n_leases'] for it in fleet['workers'])}, line {fleet['line']}"
        )


# --- two clients that disagree about the context ---


def contexts() -> None:
    """Two clients alternate num_ctx 1024 and 2048 (Cub's longest is 2,048), 50 requests each."""
    with daemon() as running:

        def client(i: int) -> None:
            for _ in range(25):
                assert ask(running, "cub", "Hello!", num_predict=4, num_ctx=(1024, 2048)[i])[-1].get("done")

        at_once(2, client)
        print("contexts:", running.get("/api/fleet")["n_decisions"])


PARTS = {"many": many, "hot": hot, "kills": kills, "contexts": contexts}

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
