"""Killed workers, dead clients, signals, second daemons: every request ends once, and nothing is left behind."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from harness import RunningDaemon, StartDaemon

LONG = {"ignore_eos": True, "num_predict": 1500, "temperature": 0}


def long_answer(daemon: RunningDaemon, **fields: Any) -> Any:
    return daemon.stream(
        "/api/generate", {"model": "cub@q2_k", "prompt": "Tell me a story.", "options": LONG, **fields}
    )


def first_piece(lines: Any) -> dict[str, Any]:
    return next(line for line in lines if "load_progress" not in line)


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False


def eventually(condition: Any, limit_s: float = 10) -> bool:
    give_up = time.monotonic() + limit_s
    while time.monotonic() < give_up:
        if condition():
            return True
        time.sleep(0.02)
    return False


def leases(daemon: RunningDaemon) -> int:
    return sum(model["n_leases"] for model in daemon.get("/api/ps")["models"])


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV])
def test_a_worker_killed_in_mid_answer_is_one_typed_error_and_the_next_request_is_answered(
    daemon: RunningDaemon, signum: signal.Signals
) -> None:
    lines = long_answer(daemon)
    first_piece(lines)
    (pid,) = daemon.worker_pids()
    os.kill(pid, signum)
    rest = list(lines)
    assert [line for line in rest if "error" in line] == rest[-1:]
    assert rest[-1]["code"] == "worker_died"
    assert rest[-1]["retryable"] is True
    status, reply = daemon.request(
        "POST", "/api/generate", {"model": "cub@q2_k", "prompt": "Hi", "stream": False, "options": {"num_predict": 4}}
    )
    assert status == 200
    assert reply["done"] is True
    assert daemon.worker_pids() != [pid]


def test_other_models_do_not_notice_a_killed_worker(daemon: RunningDaemon) -> None:
    victim, other = long_answer(daemon), long_answer(daemon, model="cub@q4_k_m")
    first_piece(victim)
    first_piece(other)
    pids = {model["variant"]: model["pid"] for model in daemon.get("/api/ps")["models"]}
    os.kill(pids["q2_k"], signal.SIGKILL)
    assert "error" in list(victim)[-1]
    assert list(other)[-1]["done_reason"] == "length"


def test_ten_requests_for_a_cold_model_cause_one_load(daemon: RunningDaemon) -> None:
    daemon.request("POST", "/api/generate", {"model": "cub", "keep_alive": 0})
    before = daemon.log.read_text().count("fleet: load cub:latest")
    body = {"model": "cub@q2_k", "prompt": "Hi", "stream": False, "options": {"num_predict": 2}}
    replies: list[int] = []
    threads = [
        threading.Thread(target=lambda: replies.append(daemon.request("POST", "/api/generate", body)[0]))
        for _ in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replies == [200] * 10
    assert daemon.log.read_text().count("fleet: load cub:latest") == before + 1


def test_a_client_that_leaves_frees_its_sequence(daemon: RunningDaemon) -> None:
    lines = long_answer(daemon)
    first_piece(lines)
    assert leases(daemon) == 1
    lines.close()
    assert eventually(lambda: leases(daemon) == 0)


def test_a_crowd_with_half_of_it_leaving_at_random_leaves_nothing_behind(daemon: RunningDaemon) -> None:
    chance = random.Random(4)
    plans = [(i, i % 2 == 0, chance.randint(1, 12)) for i in range(200)]
    outcomes: list[str] = []

    def client(number: int, leaves: bool, n_pieces: int) -> None:
        options = {"num_predict": 24, "ignore_eos": True, "seed": number}
        lines = daemon.stream("/api/generate", {"model": "cub@q2_k", "prompt": f"Story {number}", "options": options})
        for n, line in enumerate(lines):
            if leaves and n >= n_pieces:
                lines.close()
                outcomes.append("left")
                return
            if line.get("done"):
                assert line["eval_count"] == 24
                outcomes.append("complete")
            elif "error" in line:
                outcomes.append(line["error"])

    threads = [threading.Thread(target=client, args=plan) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ends = Counter(outcomes)
    assert ends.keys() <= {"left", "complete"}, ends
    assert ends.total() == 200
    assert ends["complete"] >= 100
    assert eventually(lambda: leases(daemon) == 0)


def test_a_model_file_of_garbage_is_a_clear_error_and_hurts_nobody(daemon: RunningDaemon) -> None:
    models = daemon.home / "models"
    (models / "junk.gguf").write_bytes(b"GGUF" + os.urandom(4096))
    (models / "junk.yaml").write_text("variants: {q4: junk.gguf}\n")
    status, error = daemon.request("POST", "/api/generate", {"model": "junk", "prompt": "Hi"})
    assert status in {422, 500}
    assert "junk" in error["error"]
    assert daemon.request("POST", "/api/generate", {"model": "cub@q2_k"})[0] == 200
    assert [model["name"] for model in daemon.get("/api/tags")["models"]] == ["cub:latest", "junk:latest"]
    (models / "junk.yaml").unlink()


def test_sigterm_lets_answers_finish_then_exits_0_and_leaves_no_worker(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    options = {"num_predict": 200, "ignore_eos": True}
    lines = daemon.stream("/api/generate", {"model": "cub@q2_k", "prompt": "Tell me a story.", "options": options})
    first_piece(lines)
    (worker,) = daemon.worker_pids()
    daemon.process.send_signal(signal.SIGTERM)
    assert list(lines)[-1]["eval_count"] == 200
    assert daemon.process.wait(20) == 0
    assert not is_alive(worker)
    assert not Path(daemon.socket).exists()


def test_a_second_signal_ends_the_drain(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    lines = long_answer(daemon)
    first_piece(lines)
    daemon.process.send_signal(signal.SIGTERM)
    assert eventually(lambda: "draining" in daemon.log.read_text())
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(20) == 0
    lines.close()


def test_kill_9_of_the_daemon_leaves_no_worker_and_the_next_one_recovers_the_socket(
    start_daemon: StartDaemon,
) -> None:
    daemon = start_daemon()
    lines = long_answer(daemon)
    first_piece(lines)
    (worker,) = daemon.worker_pids()
    daemon.process.kill()
    daemon.process.wait()
    lines.close()
    assert eventually(lambda: not is_alive(worker))
    assert Path(daemon.socket).exists()
    assert start_daemon().get("/healthz")["status"] == "ok"


def test_a_stopped_worker_dies_with_its_daemon_too(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    daemon.request("POST", "/api/generate", {"model": "cub@q2_k"})
    (worker,) = daemon.worker_pids()
    os.kill(worker, signal.SIGSTOP)
    daemon.process.kill()
    daemon.process.wait()
    assert eventually(lambda: not is_alive(worker))


def test_a_second_daemon_refuses_to_start_and_names_the_first(daemon: RunningDaemon) -> None:
    with pytest.raises(AssertionError, match=f"already runs here \\(pid {daemon.pid}"):
        RunningDaemon(daemon.home, [], {})
    assert json.loads(json.dumps(daemon.get("/healthz")))["pid"] == daemon.pid


def test_a_model_larger_than_the_budget_is_refused_with_the_numbers(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(BEAST_MEMORY_BUDGET="50MB")
    status, error = daemon.request("POST", "/api/generate", {"model": "cub", "prompt": "Hi"})
    assert status == 507
    assert error["code"] == "does_not_fit"
    assert "GB" in error["error"]


def test_an_idle_model_makes_room_for_another_and_a_busy_one_does_not(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(BEAST_MEMORY_BUDGET="350MB", BEAST_PARALLEL="2")
    for variant in ("q2_k", "q4_k_m", "q8_0"):
        body = {"model": f"cub@{variant}", "prompt": "Hi", "stream": False, "options": {"num_predict": 2}}
        assert daemon.request("POST", "/api/generate", body)[0] == 200
    loaded = {model["variant"] for model in daemon.get("/api/ps")["models"] if model["state"] == "ready"}
    assert "q8_0" in loaded
    assert "q2_k" not in loaded


def test_keep_alive_expires(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(BEAST_KEEP_ALIVE="300ms")
    daemon.request("POST", "/api/generate", {"model": "cub@q2_k"})
    assert eventually(lambda: daemon.get("/api/ps")["models"] == [])


@pytest.mark.parametrize(
    ("env", "word"),
    [({"BEAST_CONTEKST": "4096"}, "context"), ({"BEAST_PARALLEL": "none"}, "parallel"), ({"BEAST_TCP": "x"}, "tcp")],
)
def test_wrong_settings_stop_the_start_and_are_named(start_daemon: StartDaemon, env: dict[str, str], word: str) -> None:
    with pytest.raises(AssertionError, match=word):
        start_daemon(**env)
