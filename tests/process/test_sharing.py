"""Many requests with common beginnings on one pool: clients leave, a worker dies, a reader stalls."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from harness import RunningDaemon, StartDaemon

SYSTEM = "You are Cub, a small bear who lives in the forest, loves honey, and answers all questions briefly. " * 5
N_LARGE = 250
"""Tokens of an answer that with all its logprobs is more than sockets hold."""
FINE = {"done", "left", "worker_died"}


def eventually(condition: Callable[[], bool], limit_s: float = 15) -> bool:
    give_up = time.monotonic() + limit_s
    while time.monotonic() < give_up:
        if condition():
            return True
        time.sleep(0.05)
    return False


def metrics(daemon: RunningDaemon) -> dict[str, float]:
    """Summed over labels."""
    connection, found = daemon.connection(), Counter[str]()
    connection.request("GET", "/metrics")
    for line in connection.getresponse().read().decode().splitlines():
        if not line.startswith("#"):
            found[line.partition(" ")[0].partition("{")[0]] += float(line.rpartition(" ")[2])
    connection.close()
    return found


def is_quiet(daemon: RunningDaemon) -> bool:
    now = metrics(daemon)
    names = ("beast_worker_running", "beast_worker_requests", "beast_worker_waiting", "beast_line_requests")
    return not any(now[name] for name in names)


def body(number: int, **options: Any) -> dict[str, Any]:
    options = {"num_predict": 24, "ignore_eos": True, "seed": number, **options}
    return {"model": "cub@q2_k", "prompt": f"Story {number}", "system": SYSTEM, "options": options}


def test_a_crowd_with_a_common_beginning_ends_whole_though_clients_leave_and_a_worker_dies(
    start_daemon: StartDaemon,
) -> None:
    """Each request ends once; what comes after is answered, and nothing runs or waits in the end."""
    daemon = start_daemon("--set", "kv_layout=unified", "--set", "parallel=2", "--set", "sequences=12")
    assert daemon.request("POST", "/api/generate", {**body(0), "stream": False})[0] == 200
    chance = random.Random(4)
    outcomes = Counter[str]()

    def client(number: int, n_lines: int | None, priority: str) -> None:
        lines = daemon.stream("/api/generate", {**body(number), "priority": priority})
        for n, line in enumerate(lines):
            if n == n_lines:
                lines.close()  # type: ignore[attr-defined]
                outcomes["left"] += 1
                return
            if line.get("done"):
                assert line["eval_count"] == 24
                outcomes["done"] += 1
            elif "error" in line:
                outcomes[line["code"]] += 1

    plans = [(i, chance.randint(0, 9) if i % 3 == 0 else None, chance.choice(["high", "low"])) for i in range(60)]
    threads = [threading.Thread(target=client, args=plan) for plan in plans]
    for thread in threads:
        thread.start()
    assert eventually(lambda: outcomes["done"] >= 5)
    for pid in daemon.worker_pids():
        os.kill(pid, signal.SIGKILL)
    for thread in threads:
        thread.join()
    assert outcomes.total() == 60
    assert outcomes.keys() <= FINE, outcomes
    _, reply = daemon.request("POST", "/api/generate", {**body(1), "stream": False})
    assert reply["eval_count"] == 24
    _, reply = daemon.request("POST", "/api/generate", {**body(2), "stream": False})
    assert reply["prompt_eval_cached_count"] > 80
    assert eventually(lambda: is_quiet(daemon))


def test_a_client_that_does_not_read_delays_nobody_and_then_has_it_all(daemon: RunningDaemon) -> None:
    """Its answer is complete before it reads on: what it had not taken comes in few pieces, and nothing of it lacks."""
    large = {**body(1, num_predict=N_LARGE), "logprobs": True, "top_logprobs": 20}
    largest = max(len(line.get("logprobs") or ()) for line in daemon.stream("/api/generate", large))
    assert eventually(lambda: metrics(daemon)["beast_answer_tokens_total"] >= N_LARGE)
    slow = daemon.stream("/api/generate", large)
    first = next(slow)
    done = [list(daemon.stream("/api/generate", body(number)))[-1] for number in range(2, 6)]
    assert all(line["eval_count"] == 24 for line in done)
    n_tokens = 2 * N_LARGE + 4 * 24
    assert eventually(lambda: metrics(daemon)["beast_answer_tokens_total"] >= n_tokens), "its own waits for nobody"
    pieces = [line for line in (first, *slow) if line["response"] or line["done"]]
    assert max(len(line.get("logprobs") or ()) for line in pieces) > 2 * largest, "what waited came in one"
    assert pieces[-1]["eval_count"] == N_LARGE
    tokens = [one for line in pieces for one in line.get("logprobs") or ()]
    assert len(tokens) == N_LARGE
    said = b"".join(bytes(one["bytes"]) for one in tokens).decode("utf-8", "replace")
    assert "".join(line["response"] for line in pieces) == said
    assert eventually(lambda: is_quiet(daemon))
