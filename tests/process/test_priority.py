"""Priorities as clients see them: who is answered first where the model answers one at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

from harness import RunningDaemon, StartDaemon


def waiting(daemon: RunningDaemon, prompt: str, **fields: Any) -> Iterator[dict[str, Any]]:
    """A request's lines from the second on; the first told that it waits for the one slot."""
    body = {"model": "cub", "prompt": prompt, "options": {"num_predict": 8, "ignore_eos": True}, **fields}
    lines = daemon.stream("/api/generate", body)
    assert next(lines)["status"] == "waiting"
    return lines


def begun(lines: Iterator[dict[str, Any]], clock: Iterator[int]) -> int:
    """When the answer's first text came, by the order of all."""
    next(line for line in lines if line.get("response"))
    at = next(clock)
    assert list(lines)[-1]["done"]
    return at


def test_a_high_request_is_answered_before_low_ones_that_came_before_it(start_daemon: StartDaemon) -> None:
    """It takes the place of one that runs; and they in the order in which they came."""
    daemon = start_daemon("--set", "parallel=1")
    long = {"num_predict": 3000, "ignore_eos": True}
    running = daemon.stream("/api/generate", {"model": "cub", "prompt": "Hi", "options": long, "priority": "low"})
    next(line for line in running if line.get("response"))
    requests = [waiting(daemon, "Tell me about the sea.", priority="low") for _ in range(3)]
    clock = count()
    high = {"model": "cub", "prompt": "A longer question: what is the capital of Italy?", "priority": "high"}
    assert begun(daemon.stream("/api/generate", {**high, "options": {"num_predict": 8}}), clock) == 0
    with ThreadPoolExecutor(len(requests)) as threads:
        order = [threads.submit(begun, lines, clock) for lines in requests]
        running.close()  # type: ignore[attr-defined]
        assert [one.result() for one in order] == [1, 2, 3]


def test_a_rule_of_the_configuration_gives_a_client_its_priority(start_daemon: StartDaemon, beast_home: Path) -> None:
    """By the user at the other end of the socket; a request that names its own has that."""
    (beast_home / "config.yaml").write_text(f"parallel: 1\nclients:\n  uid:{os.getuid()}: {{priority: low}}\n")
    daemon = start_daemon()
    running = daemon.stream(
        "/api/generate", {"model": "cub", "prompt": "Hi", "options": {"num_predict": 3000, "ignore_eos": True}}
    )
    next(line for line in running if line.get("response"))
    low, clock = waiting(daemon, "Hello, you!"), count()
    normal = {"model": "cub", "prompt": "And what of the sea and the moon?", "priority": "normal"}
    assert begun(daemon.stream("/api/generate", {**normal, "options": {"num_predict": 8}}), clock) == 0
    running.close()  # type: ignore[attr-defined]
    assert begun(low, clock) == 1
