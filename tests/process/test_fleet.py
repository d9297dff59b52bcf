"""The fleet with real workers: memory is shared out, nobody is surprised, and faults cost what they must."""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import resource
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import RunningDaemon, StartDaemon
from prometheus_client.parser import text_string_to_metric_families

import beastd

CUB = Path(beastd.__file__).parent / "builtin" / "cub"
PIRATE = CUB / "cub-pirate-lora-f16.gguf"
SHORT = {"num_predict": 4, "temperature": 0}
LONG = {"ignore_eos": True, "num_predict": 1000, "temperature": 0, "speculative": "off"}
CUB_MB = 195
"""What Cub q8_0 with 4 × 2,048 tokens takes, and a little more."""


def settings(**values: object) -> list[str]:
    return [word for name, value in values.items() for word in ("--set", f"{name}={value}")]


def ask(daemon: RunningDaemon, model: str = "cub", **fields: Any) -> tuple[int, Any]:
    return daemon.request(
        "POST", "/api/generate", {"model": model, "prompt": "Hello!", "stream": False, "options": SHORT, **fields}
    )


def copy(daemon: RunningDaemon, *names: str) -> None:
    for name in names:
        assert daemon.request("POST", "/api/copy", {"source": "cub", "destination": name})[0] == 200


def workers(daemon: RunningDaemon) -> dict[str, str]:
    """Model → its worker's state."""
    return {model["name"]: model["state"] for model in daemon.get("/api/ps")["models"]}


def decisions(daemon: RunningDaemon) -> list[tuple[str, str]]:
    return [(it["act"], it["subject"]) for it in daemon.get("/api/fleet")["decisions"]]


def eventually(condition: Callable[[], object], limit_s: float = 30) -> bool:
    give_up = time.monotonic() + limit_s
    while time.monotonic() < give_up:
        if condition():
            return True
        time.sleep(0.05)
    return False


def ends_once(lines: list[dict[str, Any]]) -> bool:
    """Its last line, and no other, is an ending."""
    endings = [line for line in lines if line.get("done") or "error" in line]
    return endings == lines[-1:] and bool(lines)


def test_the_model_that_is_asked_for_least_makes_room_and_why_is_told(start_daemon: StartDaemon) -> None:
    """Idle models go to sleep for it first; when that is not enough, the one that is missed least leaves."""
    daemon = start_daemon(*settings(parallel=4, memory_budget=f"{CUB_MB * 2 - 40}MB"))
    copy(daemon, "second", "third")
    for name in ("cub", "cub", "cub", "second", "third"):
        assert ask(daemon, name)[0] == 200
    left = [it for it in daemon.get("/api/fleet")["decisions"] if it["act"] == "evict"]
    assert [it["subject"] for it in left] == ["second:latest (q8_0)"]
    assert "third:latest (q8_0) needs" in left[0]["why"]
    assert "requests an hour expected" in left[0]["why"]
    fleet = daemon.get("/api/fleet")
    assert fleet["used_bytes"]["RAM"] <= fleet["budget_bytes"]["RAM"]


def test_an_idle_model_sleeps_and_wakes_in_the_same_process(start_daemon: StartDaemon) -> None:
    """It gives memory back, keeps its weights, and answers as before."""
    daemon = start_daemon(*settings(sleep_after="1s"))
    awake = ask(daemon)[1]
    (pid,) = daemon.worker_pids()
    held = daemon.get("/api/ps")["models"][0]["size"]
    assert eventually(lambda: workers(daemon) == {"cub:latest": "asleep"})
    assert daemon.get("/api/ps")["models"][0]["size"] < held - 50 * 10**6
    again = ask(daemon)[1]
    assert (again["response"], daemon.worker_pids()) == (awake["response"], [pid])
    assert [act for act, _ in decisions(daemon)] == ["load", "sleep", "wake"]


def test_clients_that_disagree_about_the_context_cause_one_growth(start_daemon: StartDaemon) -> None:
    """While answers run: they are not cut, and nobody is sent to another process."""
    daemon = start_daemon()
    failures: list[Any] = []

    def client(n_ctx: int) -> None:
        for _ in range(8):
            status, reply = ask(daemon, options={**SHORT, "num_predict": 30, "num_ctx": n_ctx})
            if status != 200 or reply["n_ctx"] != n_ctx:
                failures.append(reply)

    ask(daemon, options={**SHORT, "num_ctx": 512})
    (pid,) = daemon.worker_pids()
    clients = [threading.Thread(target=client, args=(n_ctx,)) for n_ctx in (512, 1024, 512, 1024)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    assert not failures
    assert daemon.worker_pids() == [pid]
    assert Counter(act for act, _ in decisions(daemon)) == {"load": 1, "grow": 1}


def test_streams_go_on_through_a_step_down_and_say_which_variants_answered(start_daemon: StartDaemon) -> None:
    """Under pressure adaptive models become smaller in mid-answer, instead of making a third one wait or leaving."""
    daemon = start_daemon(*settings(parallel=4, quality="adaptive", memory_budget=f"{CUB_MB * 3 - 40}MB"))
    copy(daemon, "second", "third")
    answers: list[list[dict[str, Any]]] = []
    enough = threading.Event()

    def stream(model: str) -> None:
        """One long answer after another, so that the model is busy however fast the machine is."""
        while not enough.is_set():
            answers.append(
                list(daemon.stream("/api/generate", {"model": model, "prompt": "A story!", "options": LONG}))
            )

    third: list[int] = []
    threads = [threading.Thread(target=stream, args=(model,)) for model in ("cub", "second", "cub", "second")]
    for thread in threads:
        thread.start()
    try:
        assert eventually(lambda: Counter(workers(daemon).values()) == {"ready": 2})
        threads.append(threading.Thread(target=lambda: third.append(ask(daemon, "third")[0])))
        threads[-1].start()
        assert eventually(lambda: "step_down" in {act for act, _ in decisions(daemon)})
    finally:
        enough.set()
        for thread in threads:
            thread.join()
    assert third == [200]
    assert all(ends_once(lines) and lines[-1]["eval_count"] == LONG["num_predict"] for lines in answers)
    paths = {tuple(lines[-1].get("variants", [lines[-1]["variant"]])) for lines in answers}
    assert any(len(path) > 1 and path[0] == "q8_0" for path in paths), paths
    assert not {"evict", "change_failed"} & {act for act, _ in decisions(daemon)}


def test_a_pinned_model_stays_and_who_cannot_fit_beside_it_is_told(start_daemon: StartDaemon) -> None:
    """Pins are remembered by the next daemon; `stop` and keep_alive do not undo them."""
    daemon = start_daemon(*settings(parallel=4, memory_budget=f"{CUB_MB + 60}MB", keep_alive="0"))
    copy(daemon, "second")
    assert daemon.request("POST", "/api/pin", {"model": "cub@q8_0"})[1] == {"model": "cub:latest@q8_0", "pinned": True}
    ask(daemon, "cub@q8_0", keep_alive=0)
    assert workers(daemon)["cub:latest"] == "ready"
    status, reply = ask(daemon, "second")
    assert (status, reply["code"]) == (507, "does_not_fit")
    assert "beside what is pinned (cub:latest (q8_0); `beast unpin` lets them go)" in reply["error"]
    status, reply = daemon.request("POST", "/api/generate", {"model": "cub", "keep_alive": 0, "stream": False})
    assert (status, reply["code"]) == (409, "conflict")
    assert daemon.stop() == 0
    daemon = start_daemon(*settings(parallel=4, memory_budget=f"{CUB_MB + 60}MB", keep_alive="0"))
    ask(daemon, "cub")
    assert daemon.get("/api/ps")["models"][0]["is_pinned"] is True
    daemon.request("POST", "/api/pin", {"model": "cub@q8_0", "pinned": False})
    assert ask(daemon, "second")[0] == 200


def test_a_worker_that_hangs_is_replaced(start_daemon: StartDaemon) -> None:
    """Its requests end with one typed error, and the next one is answered."""
    daemon = start_daemon(*settings(hang_timeout_s=2))
    lines = daemon.stream("/api/generate", {"model": "cub", "prompt": "Tell me a story.", "options": LONG})
    next(line for line in lines if line.get("response"))
    (pid,) = daemon.worker_pids()
    os.kill(pid, signal.SIGSTOP)
    rest = list(lines)
    assert ends_once(rest)
    assert rest[-1]["code"] == "worker_died"
    assert "no sign of life for 2." in rest[-1]["error"]
    assert ask(daemon)[0] == 200
    assert daemon.worker_pids() != [pid]


def test_every_request_ends_once_while_workers_are_killed(start_daemon: StartDaemon) -> None:
    """Loading or loaded; afterwards everything works, and nobody holds anything."""
    daemon = start_daemon()
    copy(daemon, "second")
    stop = threading.Event()
    endings: list[list[dict[str, Any]]] = []

    def kill() -> None:
        random_ = random.Random(7)
        while not stop.wait(0.7):
            if pids := daemon.worker_pids():
                os.kill(random_.choice(pids), signal.SIGKILL)

    def client(i: int) -> None:
        for n in range(12):
            model = ("cub", "second")[(i + n) % 2]
            body = {"model": model, "prompt": f"Tell me about {n}.", "options": {"num_predict": 40}}
            endings.append(list(daemon.stream("/api/generate", body)))

    threads = [threading.Thread(target=client, args=(i,)) for i in range(6)]
    killer = threading.Thread(target=kill)
    for thread in (*threads, killer):
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    killer.join()
    assert len(endings) == 72
    assert all(ends_once(lines) for lines in endings)
    assert {lines[-1].get("code", "done") for lines in endings} <= {"done", "worker_died"}
    assert [ask(daemon, name)[0] for name in ("cub", "second")] == [200, 200]
    fleet = daemon.get("/api/fleet")
    assert [it["n_leases"] for it in fleet["workers"]] == [0, 0]
    assert fleet["line"] == []


def test_a_load_that_fails_rests_and_says_until_when(start_daemon: StartDaemon, tmp_path: Any) -> None:
    """The second request is refused at once, with the failure and a Retry-After."""
    broken = tmp_path / "broken.gguf"
    whole = bytearray((CUB / "cub-q2_k.gguf").read_bytes())
    at = whole.index(b"tokenizer.ggml.model")
    whole[at : at + 20] = b"tokenizer.ggml.mooel"
    broken.write_bytes(whole)
    daemon = start_daemon()
    status, reply = daemon.request("POST", "/api/create", {"model": "broken", "from": str(broken), "stream": False})
    assert status == 200, reply
    assert ask(daemon, "broken")[1]["code"] == "bad_model"
    connection = daemon.connection()
    connection.request("POST", "/api/generate", json.dumps({"model": "broken", "prompt": "Hi", "stream": False}))
    response = connection.getresponse()
    body = json.loads(response.read())
    connection.close()
    assert (response.status, body["code"]) == (503, "cooling_down")
    assert 1 <= int(response.headers["Retry-After"]) <= 5
    assert "cannot load" in body["error"]
    assert [it["act"] for it in daemon.get("/api/fleet")["decisions"]] == ["load", "cool_down"]
    assert ask(daemon)[0] == 200, "others are not held up"


def test_preloaded_models_are_there_before_anybody_asks(start_daemon: StartDaemon) -> None:
    """One that does not exist is told in the log, and hinders no other."""
    daemon = start_daemon(*settings(preload="nonsense,cub@q2_k"))
    assert eventually(lambda: workers(daemon) == {"cub:latest": "ready"})
    assert "cannot preload nonsense" in daemon.log.read_text()


def test_adapters_of_a_request_do_as_those_in_a_name(daemon: RunningDaemon) -> None:
    """On the same worker, beside requests without; an empty list means none."""
    plain = ask(daemon)[1]["response"]
    by_name = ask(daemon, "cub+pirate")[1]["response"]
    assert ask(daemon, adapters=[{"name": "pirate"}])[1]["response"] == by_name != plain
    assert ask(daemon, adapters=[{"name": "pirate", "scale": 0}])[1]["response"] == plain
    assert ask(daemon, "cub+pirate", adapters=[])[1]["response"] == plain
    assert len(daemon.worker_pids()) == 1
    status, reply = ask(daemon, adapters=[{"name": "sailor"}])
    assert (status, reply["code"]) == (404, "model_not_found")


def test_who_waits_hears_its_place_and_what_for(start_daemon: StartDaemon) -> None:
    """In the stream and in ps: for memory that a running answer holds."""
    daemon = start_daemon(*settings(parallel=1, memory_budget="150MB"))
    copy(daemon, "second")
    busy = daemon.stream("/api/generate", {"model": "cub", "prompt": "Tell me a story.", "options": LONG})
    next(line for line in busy if line.get("response"))
    waiting = daemon.stream("/api/generate", {"model": "second", "prompt": "Hello!", "options": SHORT})
    first = next(waiting)
    assert (first["status"], first["queue_position"], first["done"]) == ("waiting", 1, False)
    assert "the answers of cub:latest (q8_0) to end: second:latest (q8_0) needs" in first["waiting_for"]
    (claim,) = daemon.get("/api/ps")["waiting"]
    assert (claim["name"], claim["n_requests"]) == ("second:latest", 1)
    list(busy)
    assert list(waiting)[-1]["done"] is True


def test_the_line_is_bounded_and_counts_every_waiter(start_daemon: StartDaemon) -> None:
    """Those behind a busy loaded model as well; a full line is a 503 that says when to come back."""
    daemon = start_daemon(*settings(parallel=1, queue=1))
    long = {"model": "cub", "prompt": "Go", "options": {**LONG, "num_predict": 200}}
    streams = [daemon.stream("/api/generate", long) for _ in range(2)]
    next(line for line in streams[0] if line.get("response"))
    starter = threading.Thread(target=lambda: list(streams[1]))
    starter.start()
    assert eventually(lambda: daemon.get("/api/ps")["models"][0]["n_waiting"] == 1)
    connection: http.client.HTTPConnection = daemon.connection()
    connection.request("POST", "/api/generate", json.dumps({"model": "cub", "prompt": "Hi"}))
    response = connection.getresponse()
    assert response.status == 503
    assert int(response.headers["Retry-After"]) >= 1
    connection.close()
    assert ends_once(list(streams[0]))
    starter.join()


def test_metrics_are_prometheus_text(daemon: RunningDaemon) -> None:
    """Of the fleet, its workers' engines, and the requests."""
    ask(daemon)
    assert eventually(lambda: _metrics(daemon)["beast_answer_tokens_total"] > 0, 10), (
        "the engine's counts come by pings"
    )
    found = _metrics(daemon)
    assert found["beast_memory_used_bytes"] > 10**8
    assert found["beast_requests_total"] >= 1
    assert found["beast_ttft_seconds_count"] >= 1
    assert found["beast_worker_state"] == 1


def _metrics(daemon: RunningDaemon) -> dict[str, float]:
    connection = daemon.connection()
    connection.request("GET", "/metrics")
    response = connection.getresponse()
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(response.read().decode()))
    connection.close()
    return {sample.name: sample.value for family in families for sample in family.samples}


@pytest.mark.parametrize("field", ["kv_type", "quality", "keep_alive"])
def test_a_modelfile_rules_how_its_model_is_kept(daemon: RunningDaemon, field: str) -> None:
    """The KV cache's type, its quality, and how long it stays."""
    value = {"kv_type": "q8_0", "quality": "adaptive", "keep_alive": "3h"}[field]
    text = f"from: cub\n{field}: {value}\n"
    status, reply = daemon.request(
        "POST", "/api/create", {"model": f"with-{field}", "modelfile": text, "stream": False}
    )
    assert status == 200, reply
    assert ask(daemon, f"with-{field}")[0] == 200
    (model,) = (it for it in daemon.get("/api/ps")["models"] if it["name"] == f"with-{field}:latest")
    if field == "kv_type":
        assert model["kv_type"] == "q8_0"
    elif field == "keep_alive":
        assert model["expires_at"] > time.strftime("%Y-%m-%dT%H:%M", time.gmtime(time.time() + 2.9 * 3600))
    daemon.request("POST", "/api/generate", {"model": f"with-{field}", "keep_alive": 0, "stream": False})


def test_adapters_come_and_go_while_their_base_serves(start_daemon: StartDaemon) -> None:
    """The worker is the same throughout; what uses an adapter when it is removed goes on."""
    daemon = start_daemon()
    copy(daemon, "second")
    daemon.request("DELETE", "/api/delete", {"model": "second+pirate"})
    plain = ask(daemon, "second")[1]["response"]
    (pid,) = daemon.worker_pids()
    lora = {"base": "second", "name": "sailor", "source": str(PIRATE), "copy": True, "stream": False}
    assert daemon.request("POST", "/api/adapters", lora)[0] == 200
    assert ask(daemon, "second+sailor")[1]["response"] != plain
    body = {"model": "second+sailor", "prompt": "Tell me a story.", "options": {**LONG, "num_predict": 200}}
    lines = daemon.stream("/api/generate", body)
    begun = [next(line for line in lines if line.get("response"))]
    assert daemon.request("DELETE", "/api/delete", {"model": "second+sailor"})[0] == 200
    assert ends_once([*begun, *lines])
    assert ask(daemon, "second+sailor")[0] == 404
    assert ask(daemon, "second")[1]["response"] == plain
    assert daemon.worker_pids() == [pid]
    assert eventually(lambda: daemon.get("/api/fleet")["workers"][0]["stats"]["n_adapters"] == 0)


@pytest.mark.skipif(sys.platform != "linux", reason="sets a limit on a running process")
def test_a_load_that_runs_out_of_memory_is_tried_smaller(start_daemon: StartDaemon) -> None:
    """With fewer sequences at once, as `parallel: auto` allows; the numbers are told."""
    daemon = start_daemon(*settings(threads=1))
    ask(daemon)
    (pid,) = daemon.worker_pids()
    peak = re.search(r"VmPeak:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert peak
    ask(daemon, keep_alive=0)
    assert eventually(lambda: not daemon.worker_pids())
    limit = int(peak[1]) * 1024 - 60 * 10**6
    resource.prlimit(daemon.pid, resource.RLIMIT_AS, (limit, limit))
    assert ask(daemon)[0] == 200
    assert daemon.get("/api/ps")["models"][0]["n_parallel"] == 4
    why = [it["why"] for it in daemon.get("/api/fleet")["decisions"] if it["act"] == "retry"]
    assert len(why) == 1
    assert "ran out of memory" in why[0]
    assert re.search(r"allocate .* of size \d+|buffer of size \d+", why[0]), why[0]
