"""`beast fit` with a real daemon: of what is here, and of what a hub has, before it is downloaded."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from fakehub import FakeHub, Fault, Repo
from harness import RunningDaemon, StartDaemon

import beastd

BEAST = str(Path(sys.executable).with_name("beast"))
CUB = Path(beastd.__file__).parent / "builtin" / "cub"
REPO = "user/cub-GGUF"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    """A hub with Cub's variants."""
    with FakeHub() as hub:
        names = ("q8_0", "q4_k_m", "q2_k")
        hub.repos[REPO] = Repo({f"Cub-{it.upper()}.gguf": (CUB / f"cub-{it}.gguf").read_bytes() for it in names})
        yield hub


@pytest.fixture
def small(start_daemon: StartDaemon, hub: FakeHub, beast_home: Path) -> RunningDaemon:
    """A daemon whose models may take 145 MB."""
    env = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(beast_home / "hf"), "TMPDIR": str(beast_home)}
    (beast_home / "config.yaml").write_text("memory_budget: 145MB\n")
    return start_daemon(**env)


def fit(daemon: RunningDaemon, *arguments: str) -> tuple[int, Any]:
    """Exit status, and the reply."""
    done = run(daemon, *arguments, "--json")
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr


def run(daemon: RunningDaemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [BEAST, "fit", *arguments]
    return subprocess.run(command, env=daemon.env, capture_output=True, text=True, check=False, timeout=120)


def test_cub_fits_and_the_numbers_add_up(daemon: RunningDaemon) -> None:
    status, reply = fit(daemon, "cub", "--ctx", "1024", "--parallel", "2", "--kv-type", "q8_0")
    assert (status, reply["answer"], reply["is_exact"], reply["download"]) == (0, "fits", True, None)
    asked = reply["asked"]
    assert (asked["variant"], asked["num_ctx"], asked["num_parallel"], asked["kv_type"]) == ("q8_0", 1024, 2, "q8_0")
    ram = asked["devices"][0]
    parts = ("weights_bytes", "kv_bytes", "compute_bytes", "process_bytes")
    assert all(ram[part] > 0 for part in parts)
    assert ram["total_bytes"] == sum(ram[part] for part in parts)
    machine = reply["machine"][0]
    assert 0 < machine["budget_bytes"] <= machine["total_bytes"]
    assert 0 < machine["free_bytes"] <= machine["total_bytes"]
    assert not daemon.get("/api/ps")["models"], "nothing was loaded for it"


def test_people_are_told_in_a_sentence_a_table_and_what_to_do(daemon: RunningDaemon) -> None:
    done = run(daemon, "cub@q2_k", "--ctx", "1024")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("cub@q2_k fits: with 1024 tokens of context")
    assert "WEIGHTS" in done.stdout
    assert "FREE NOW" in done.stdout
    assert "next: `beast run cub@q2_k`" in done.stdout


def test_what_cannot_be_is_a_clear_error(daemon: RunningDaemon) -> None:
    """A context beyond what it was trained for, an unknown name, a wrong body."""
    status, told = fit(daemon, "cub", "--ctx", "999999")
    assert status == 1
    assert "was trained for" in told
    status, told = fit(daemon, "no-such-model")
    assert status == 1
    assert "no-such-model" in told
    status, told = fit(daemon, "cub@q5_k_m")
    assert status == 1
    assert "has no variant 'q5_k_m'; it has q8_0" in told
    assert daemon.request("POST", "/api/fit", {"model": "cub", "kv_type": "f32"})[0] == 400


def test_a_garbage_file_is_told_of(daemon: RunningDaemon, tmp_path: Path) -> None:
    path = tmp_path / "garbage.gguf"
    path.write_bytes(b"garbage" * 1000)
    status, told = fit(daemon, str(path))
    assert status == 1
    assert "is not a GGUF file" in told


def test_where_only_less_fits_it_says_what_does(small: RunningDaemon) -> None:
    """Every alternative is within the budget when it is asked for by itself."""
    status, reply = fit(small, "cub@q8_0", "--ctx", "2048", "--parallel", "4")
    assert (status, reply["answer"]) == (4, "smaller")
    assert "does not fit as asked" in reply["sentence"]
    assert reply["instead"]
    for option in reply["instead"]:
        shape = ("--ctx", str(option["num_ctx"]), "--parallel", str(option["num_parallel"]))
        assert fit(small, f"cub@{option['variant']}", *shape)[0] == 0


def test_where_nothing_fits_the_status_says_so(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(BEAST_MEMORY_BUDGET="20MB")
    status, reply = fit(daemon, "cub")
    assert (status, reply["answer"], reply["instead"]) == (1, "no", [])
    assert "Even cub@q2_k" in reply["sentence"]


def test_a_model_of_a_hub_is_judged_by_its_header_alone(small: RunningDaemon, hub: FakeHub, beast_home: Path) -> None:
    """The numbers are those of the model itself, the download's size is told, and nothing stays."""
    status, reply = fit(small, f"hf.co/{REPO}:Q4_K_M", "--ctx", "1024", "--parallel", "1")
    assert (status, reply["answer"], reply["is_exact"]) == (0, "fits", True)
    size = (CUB / "cub-q4_k_m.gguf").stat().st_size
    assert reply["download"]["size_bytes"] == reply["download"]["missing_bytes"] == size
    assert reply["download"]["has_room"] is True
    assert hub.served["Cub-Q4_K_M.gguf"] <= 2**20
    assert reply["next"][0] == f"`beast pull hf.co/{REPO}:Q4_K_M`"
    _, here = fit(small, "cub@q4_k_m", "--ctx", "1024", "--parallel", "1")
    assert here["asked"]["devices"][0]["weights_bytes"] == reply["asked"]["devices"][0]["weights_bytes"]
    assert not list(beast_home.glob("beast-fit-*")), "the stand-in has gone"
    assert not list(beast_home.glob("models/**/*.gguf"))


def test_a_smaller_file_of_the_repository_is_offered(small: RunningDaemon, hub: FakeHub) -> None:
    """It was looked at itself, and its name is one that pull takes."""
    status, reply = fit(small, f"hf.co/{REPO}:Q8_0", "--ctx", "2048", "--parallel", "2")
    assert (status, reply["answer"]) == (4, "smaller")
    best = reply["instead"][0]
    assert (best["variant"], best["num_ctx"]) == ("q4_k_m", 2048)
    assert reply["next"][0] == f"`beast pull hf.co/{REPO}/Cub-Q4_K_M.gguf`"
    assert hub.served["Cub-Q4_K_M.gguf"] > 0


def test_a_server_without_ranges_ends_in_words(small: RunningDaemon, hub: FakeHub) -> None:
    hub.faults["Cub-Q8_0.gguf"].append(Fault(ignores_range=True))
    status, told = fit(small, f"hf.co/{REPO}:Q8_0")
    assert status == 1
    assert "gives no part of Cub-Q8_0.gguf" in told


def test_paths_and_addresses_are_not_taken_over_tcp(start_daemon: StartDaemon, free_port: int) -> None:
    """As with pull."""
    start_daemon("--tcp", f"127.0.0.1:{free_port}")
    connection = HTTPConnection("127.0.0.1", free_port, timeout=60)
    connection.request("POST", "/api/fit", json.dumps({"model": "file:/x.gguf"}))
    response = connection.getresponse()
    assert response.status == 403
    assert "only taken over the Unix socket" in response.read().decode()
    connection.close()
