"""Pulls from end to end: real daemon, fetch process, command line and Ollama client, and a hub over real sockets."""

from __future__ import annotations

import hashlib
import itertools
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ollama
import pytest
from fakehub import COMMIT, FakeHub, Fault, Repo
from fetching import gguf
from harness import RunningDaemon, StartDaemon

from beastd.fetch.order import CHUNK_BYTES, KEEP_FREE_BYTES
from beastd.registry.registry import BUILTIN_DIR

BEAST = str(Path(sys.executable).with_name("beast"))
CUB = BUILTIN_DIR / "cub"
Q2, Q4, Q8 = ((CUB / f"cub-{quant}.gguf").read_bytes() for quant in ("q2_k", "q4_k_m", "q8_0"))
LORA = (CUB / "cub-pirate-lora-f16.gguf").read_bytes()
SHARDS = [f"cub-f16-0000{i}-of-00002.gguf" for i in (1, 2)]
SMOLLM = "bartowski/SmolLM2-135M-Instruct-GGUF"
SIZE = 40 * 2**20
"""Of models that are stopped on their way: more than two chunks."""
WAIT_S = 60

seeds = itertools.count()


def environment(hub: FakeHub, home: Path) -> dict[str, str]:
    """Where a daemon finds the hub, and that it has no token."""
    return {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home / "hf"), "HF_TOKEN": ""}


@pytest.fixture(scope="module")
def one_hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        yield hub


@pytest.fixture
def hub(one_hub: FakeHub) -> Iterator[FakeHub]:
    """The hub, without what other tests counted and queued."""
    one_hub.served.clear()
    one_hub.asked.clear()
    one_hub.faults.clear()
    one_hub.stalled.clear()
    one_hub.go_on.clear()
    one_hub.pause_s = 0
    yield one_hub
    one_hub.go_on.set()


@pytest.fixture(scope="module")
def daemon(short_home: Path, one_hub: FakeHub, module_port: int) -> Iterator[RunningDaemon]:
    running = RunningDaemon(short_home, ["--tcp", f"127.0.0.1:{module_port}"], environment(one_hub, short_home))
    yield running
    running.stop()


@pytest.fixture
def client(daemon: RunningDaemon, module_port: int) -> Iterator[ollama.Client]:
    """Ollama's client, over TCP."""
    with ollama.Client(f"http://127.0.0.1:{module_port}") as client:
        yield client


@pytest.fixture
def start(start_daemon: StartDaemon, hub: FakeHub, beast_home: Path) -> Callable[..., RunningDaemon]:
    """Start daemons of this test alone, one after another in one home."""
    return lambda **env: start_daemon(**environment(hub, beast_home), **env)


def pull(daemon: RunningDaemon, model: str, **fields: Any) -> dict[str, Any]:
    """The reply of a pull that succeeds."""
    status, reply = daemon.request("POST", "/api/pull", {"model": model, **fields})
    assert (status, reply.get("status")) == (200, "success"), reply
    return dict(reply)


def refused(daemon: RunningDaemon, model: str, **fields: Any) -> tuple[int, str, str]:
    """Status, code and text of a pull that fails."""
    status, reply = daemon.request("POST", "/api/pull", {"model": model, "stream": False, **fields})
    return status, reply["code"], reply["error"]


def beast(daemon: RunningDaemon, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BEAST, *arguments],
        env=daemon.env | env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * WAIT_S,
    )


def answer(daemon: RunningDaemon, model: str) -> dict[str, Any]:
    body = {"model": model, "prompt": "Hello", "stream": False, "keep_alive": 0, "options": {"num_predict": 4}}
    status, reply = daemon.request("POST", "/api/generate", body)
    assert status == 200, reply
    assert reply["response"]
    return dict(reply)


def shown(daemon: RunningDaemon, model: str) -> dict[str, Any]:
    status, reply = daemon.request("POST", "/api/show", {"model": model})
    assert status == 200, reply
    return dict(reply)


def variants(daemon: RunningDaemon, model: str) -> list[str]:
    return [it["name"] for it in shown(daemon, model)["variants"]]


def names(daemon: RunningDaemon) -> set[str]:
    listing = daemon.get("/api/tags")
    assert listing.get("problems", []) == []
    return {model["name"] for model in listing["models"]}


def partials(daemon: RunningDaemon) -> dict[str, int]:
    """Unfinished files and their bytes."""
    return {path.name: path.stat().st_size for path in (daemon.home / "models" / ".partial").glob("*")}


def is_sound(daemon: RunningDaemon) -> bool:
    """Whether every blob is what its name says."""
    blobs = (daemon.home / "models" / ".blobs").glob("*")
    return all(path.name == f"sha256-{hashlib.sha256(path.read_bytes()).hexdigest()}" for path in blobs)


def until(is_true: Callable[[], object]) -> None:
    give_up = time.monotonic() + WAIT_S
    while not is_true():
        assert time.monotonic() < give_up, "it did not happen"
        time.sleep(0.02)


def offer(hub: FakeHub, n_bytes: int = SIZE) -> tuple[str, bytes]:
    """Put a model that nobody has yet on the hub; its repository and content. Its file is M-Q8_0.gguf there."""
    seed = next(seeds)
    data = gguf(n_bytes, seed)
    hub.repos[f"user/fresh{seed}-GGUF"] = Repo({"M-Q8_0.gguf": data})
    hub.served.clear()
    return f"hf.co/user/fresh{seed}-GGUF", data


def stall(hub: FakeHub, n_bytes: int = SIZE // 2) -> None:
    """The next download stops after so many bytes, until the hub goes on. Its header comes by a request of its own."""
    hub.faults["M-Q8_0.gguf"] += [Fault(), Fault(stall_after=n_bytes)]


# --- what can be named ---


def test_a_repositorys_best_variant_is_chosen_others_join_the_same_model_and_run(daemon, hub):
    """The reply says why; what is here already is not loaded again."""
    files = {"Cub-Q8_0.gguf": Q8, "Cub-Q4_K_M.gguf": Q4, "Cub-Q2_K.gguf": Q2, "README.md": b"# Cub"}
    hub.repos["user/Cub-GGUF"] = Repo(files, {"license": "mit"})
    first = pull(daemon, "hf.co/user/Cub-GGUF")
    assert first["model"] == "hf.co/user/Cub-GGUF:latest@q8_0"
    assert re.fullmatch(r"q8_0 \(34\.0 MB\): the best of 3 that fits half of .* of memory .*", first["why"])
    assert (first["fits"], first["warnings"]) == (True, [])
    assert pull(daemon, "hf.co/user/Cub-GGUF:Q4_K_M")["model"] == "hf.co/user/Cub-GGUF:latest@q4_k_m"
    assert "as asked for" in pull(daemon, "huggingface.co/user/Cub-GGUF@q2_k")["why"]
    assert variants(daemon, "hf.co/user/Cub-GGUF") == ["q8_0", "q4_k_m", "q2_k"]
    found = shown(daemon, "hf.co/user/Cub-GGUF")
    assert found["license"] == "mit"
    assert f"hf.co/user/Cub-GGUF@{COMMIT}" in found["modelfile"]
    assert [hub.served[file] for file in files] == [len(Q8), len(Q4), len(Q2), 0]
    hub.served.clear()
    assert pull(daemon, "hf.co/user/Cub-GGUF:q4_k_m")["model"] == "hf.co/user/Cub-GGUF:latest@q4_k_m"
    assert not hub.served
    assert answer(daemon, "hf.co/user/Cub-GGUF:Q4_K_M")["variant"] == "q4_k_m"
    assert answer(daemon, "hf.co/user/Cub-GGUF")["variant"] == "q8_0"


@pytest.mark.parametrize(
    "text",
    [
        "hf.co/user/pages/deep/Cub-Q2_K.gguf",
        "https://huggingface.co/user/pages/blob/main/deep/Cub-Q2_K.gguf",
        "https://hf.co/user/pages/resolve/main/deep/Cub-Q2_K.gguf?download=true",
        f"https://hf.co/user/pages/blob/{COMMIT}/deep/Cub-Q2_K.gguf",
    ],
)
def test_a_file_is_named_by_its_path_or_by_its_page(daemon, hub, text):
    """Of several models in a repository only that is taken, under a tag of its own."""
    hub.repos["user/pages"] = Repo({"deep/Cub-Q2_K.gguf": Q2, "deep/Other-Q2_K.gguf": Q4})
    assert pull(daemon, text)["model"] == "hf.co/user/pages:cub@q2_k"
    assert variants(daemon, "hf.co/user/pages:cub") == ["q2_k"]
    assert refused(daemon, "hf.co/user/pages")[1:] == (
        "bad_request",
        "user/pages holds several models; name one's file: deep/Cub-Q2_K.gguf, deep/Other-Q2_K.gguf",
    )


def test_two_models_of_one_repository_are_two_models(daemon, hub):
    """Neither takes the other's place; one that is given the other's name is refused."""
    draft = (CUB / "cub-draft-f16.gguf").read_bytes()
    hub.repos["user/two"] = Repo({"alpha-F16.gguf": draft, "beta-Q2_K.gguf": Q2})
    assert pull(daemon, "hf.co/user/two/alpha-F16.gguf")["model"] == "hf.co/user/two:alpha@f16"
    assert pull(daemon, "hf.co/user/two:Q2_K")["model"] == "hf.co/user/two:beta@q2_k"
    assert answer(daemon, "hf.co/user/two:beta")["variant"] == "q2_k"
    found = refused(daemon, "hf.co/user/two/alpha-F16.gguf", save_as="hf.co/user/two:beta")
    assert found[1] == "conflict"
    assert "another model" in found[2]
    assert variants(daemon, "hf.co/user/two:beta") == ["q2_k"]


def test_a_short_name_brings_what_the_catalog_knows_of_the_model(daemon, hub):
    """Parameters, licence and description; the variant it recommends; and it is found as installed."""
    prefix = "SmolLM2-135M-Instruct"
    hub.repos[SMOLLM] = Repo({f"{prefix}-Q8_0.gguf": Q8, f"{prefix}-Q4_K_M.gguf": Q4, f"{prefix}-Q2_K.gguf": Q2})

    def is_installed() -> bool:
        found = daemon.get("/api/search?q=smollm2")["models"]
        return bool(next(it["installed"] for it in found if it["name"] == "smollm2:135m"))

    assert not is_installed()
    reply = pull(daemon, "smollm2:135m")
    assert reply["model"] == "smollm2:135m@q8_0"
    assert "recommended for this model" in reply["why"]
    found = shown(daemon, "smollm2:135m")
    assert found["license"] == "apache-2.0"
    assert "very small models" in found["modelfile"]
    assert "temperature                    0.2" in found["parameters"]
    assert pull(daemon, "SmolLM2:135M@Q2_K")["model"] == "smollm2:135m@q2_k"
    assert variants(daemon, "smollm2:135m") == ["q8_0", "q2_k"]
    assert is_installed()
    searched = beast(daemon, "search", "smollm2")
    assert re.search(r"smollm2:135m .*(yes|installed|✓|here)", searched.stdout, re.IGNORECASE), searched.stdout
    assert answer(daemon, "smollm2:135m")["variant"] == "q8_0"
    status, code, text = refused(daemon, "smolm2:135m")
    assert (status, code) == (404, "model_not_found")
    assert "the catalog has smollm2:135m" in text


def test_an_address_is_pulled_with_and_without_its_digest(daemon, hub):
    """A wrong digest leaves neither a model nor a file."""
    hub.plain["/files/Plain-Q2_K.gguf"] = (Q2, '"one"')
    url = f"{hub.cdn}/files/Plain-Q2_K.gguf"
    assert pull(daemon, f"{url}?key=secret")["model"] == "plain-q2_k:latest@q2_k"
    assert "secret" not in shown(daemon, "plain-q2_k")["modelfile"]
    assert pull(daemon, url, sha256=hashlib.sha256(Q2).hexdigest(), save_as="checked")["model"] == "checked:latest@q2_k"
    assert answer(daemon, "checked")["variant"] == "q2_k"
    status, code, text = refused(daemon, url, sha256="0" * 64, save_as="wrong")
    assert (status, code) == (502, "digest_mismatch"), text
    assert "wrong:latest" not in names(daemon)
    assert partials(daemon) == {}
    assert refused(daemon, "http://files.example/x.gguf")[:2] == (400, "bad_request")


def test_a_file_of_this_machine_is_copied(daemon, hub, tmp_path):
    """The model does not change with the file."""
    file = tmp_path / "Here-Q4_K_M.gguf"
    file.write_bytes(Q4)
    assert pull(daemon, f"file:{file}", sha256=f"sha256:{hashlib.sha256(Q4).hexdigest()}")["model"] == (
        "here-q4_k_m:latest@q4_k_m"
    )
    file.unlink()
    assert answer(daemon, "here-q4_k_m")["variant"] == "q4_k_m"
    assert refused(daemon, f"file:{file}")[:2] == (422, "bad_model")
    assert not hub.asked


def test_only_the_hub_and_the_catalog_are_open_to_clients_over_tcp(client, hub, tmp_path):
    """Addresses and files of this machine are for its own users."""
    (tmp_path / "x.gguf").write_bytes(Q2)
    for text in (f"file:{tmp_path}/x.gguf", f"{hub.cdn}/files/x.gguf", "https://files.example/x.gguf"):
        with pytest.raises(ollama.ResponseError, match="only taken over the Unix socket"):
            client.pull(text)
    assert not hub.asked


def test_ollamas_own_client_pulls_with_progress(client, hub):
    """The unchanged client, over TCP, sees each file's digest and bytes."""
    repo, data = offer(hub, 2**20)
    parts = list(client.pull(repo, stream=True))
    assert parts[-1].status == "success"
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    told = [part for part in parts if part.digest == digest]
    assert (told[-1].completed, told[-1].total) == (len(data), len(data))
    assert client.pull(repo).status == "success"
    assert f"{repo}:latest" in {model.model for model in client.list().models}


def test_a_split_model_comes_with_all_its_shards(daemon, hub):
    """It is one variant, and runs."""
    hub.repos["user/split"] = Repo({name: (CUB / name).read_bytes() for name in SHARDS})
    assert pull(daemon, "hf.co/user/split")["model"] == "hf.co/user/split:latest@f16"
    assert answer(daemon, "hf.co/user/split")["variant"] == "f16"
    assert [hub.served[name] for name in SHARDS] == [(CUB / name).stat().st_size for name in SHARDS]
    again = pull(daemon, f"hf.co/user/split/{SHARDS[1]}")
    assert again["model"] == "hf.co/user/split:latest@f16"


def test_an_adapter_is_no_model_but_is_added_to_one(daemon, hub):
    """The refusal says how; then the base runs with it."""
    hub.repos["user/pirate"] = Repo({"pirate-lora-f16.gguf": LORA}, {"base_model": "user/Cub"})
    status, code, text = refused(daemon, "hf.co/user/pirate")
    assert (status, code) == (400, "bad_request")
    assert "a LoRA adapter (made for user/Cub)" in text
    assert "beast adapter add pirate-lora-f16 hf.co/user/pirate --base MODEL" in text
    assert "hf.co/user/pirate:latest" not in names(daemon)
    daemon.request("POST", "/api/copy", {"source": "cub", "destination": "based"})
    body = {"name": "arr", "source": "hf.co/user/pirate", "base": "based", "stream": False}
    status, reply = daemon.request("POST", "/api/adapters", body)
    assert (status, reply["model"]) == (200, "based:latest+arr"), reply
    assert answer(daemon, "based@q2_k+arr")["done"]


def test_a_projector_is_noted_and_not_loaded(daemon, hub):
    """The model runs without its eyes; the reply says so."""
    hub.repos["user/eyes"] = Repo({"Eyes-Q2_K.gguf": Q2, "mmproj-Eyes-F16.gguf": gguf(2**20, 99, "mmproj")})
    reply = pull(daemon, "hf.co/user/eyes")
    assert reply["warnings"] == ["it reads images with mmproj-Eyes-F16.gguf, which Beast does not use yet"]
    assert hub.served["mmproj-Eyes-F16.gguf"] == 0
    assert answer(daemon, "hf.co/user/eyes")["variant"] == "q2_k"


def test_a_model_too_large_for_the_memory_is_pulled_with_a_warning(start, hub):
    """The smallest is taken, and what it would need is told before the download and after."""
    hub.repos["user/large"] = Repo({"L-Q8_0.gguf": Q8, "L-Q2_K.gguf": Q2})
    daemon = start(BEAST_MEMORY_BUDGET="1MB")
    hub.faults["L-Q2_K.gguf"] += [Fault(), *[Fault(stall_after=2**20)] * 4]
    thread, heard = watch(daemon, "hf.co/user/large")
    assert hub.stalled.wait(WAIT_S)
    job = heard_job(daemon, "hf.co/user/large")
    until(lambda: "disk free" in str(daemon.get("/api/jobs")))
    progress = next(it["progress"] for it in daemon.get("/api/jobs")["jobs"] if it["id"] == job)
    told = next(line["status"] for line in progress if not line.get("item"))
    hub.go_on.set()
    thread.join(WAIT_S)
    reply = heard[-1]
    assert (reply["model"], reply["fits"]) == ("hf.co/user/large:latest@q2_k", False)
    assert "the smallest of 2" in reply["why"]
    assert "more than the 1.0 MB of memory" in reply["why"]
    assert re.fullmatch(re.escape(reply["why"]) + r"; 1\d\.\d MB to load, .* here, .* disk free", told), told
    assert "more than this machine's memory budget" in reply["warnings"][0]
    warned = beast(daemon, "pull", "hf.co/user/large")
    assert (warned.returncode, warned.stdout) == (0, "hf.co/user/large:latest@q2_k\n")
    assert "memory budget" in warned.stderr


# --- the command line ---


def test_the_command_line_tells_the_choice_and_prints_the_name(daemon, hub):
    """The reason goes to standard error; several are pulled at once, and one's failure is not the others'."""
    repo, _ = offer(hub, 2**20)
    other, _ = offer(hub, 2**20)
    done = beast(daemon, "pull", repo, "hf.co/user/none", other)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [f"{repo}:latest@q8_0", f"{other}:latest@q8_0"]
    assert "the only one offered" in done.stderr
    assert "hf.co/user/none: the hub has no repository user/none" in done.stderr
    assert "Traceback" not in done.stderr


def test_run_pulls_a_model_of_the_catalog_that_is_missing(start, hub):
    """And answers; standard output holds the answer alone."""
    hub.repos[SMOLLM] = Repo({"SmolLM2-135M-Instruct-Q8_0.gguf": Q8})
    daemon = start()
    done = beast(daemon, "run", "smollm2:135m", "Hello", "--num-predict", "4")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "smollm2:135m" not in done.stdout
    assert "smollm2:135m" in names(daemon)


def test_ctrl_c_stops_a_pull_and_asking_again_goes_on(daemon, hub):
    """At most a chunk is loaded twice."""
    repo, _ = offer(hub)
    stall(hub)
    with subprocess.Popen([BEAST, "pull", repo], env=daemon.env, stderr=subprocess.PIPE, text=True) as process:
        assert hub.stalled.wait(WAIT_S)
        until(lambda: max(partials(daemon).values(), default=0) > CHUNK_BYTES)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=WAIT_S)
        assert process.returncode == 130
    assert "asking again goes on where it stopped" in err
    assert f"{repo}:latest" not in names(daemon)
    assert max(partials(daemon).values()) > CHUNK_BYTES
    hub.go_on.set()
    assert beast(daemon, "pull", repo).returncode == 0
    assert hub.downloads("M-Q8_0.gguf")[-1].first_byte >= CHUNK_BYTES
    assert f"{repo}:latest" in names(daemon)
    assert partials(daemon) == {}


# --- shared, left, cancelled, killed ---


def watch(daemon: RunningDaemon, model: str) -> tuple[threading.Thread, list[dict[str, Any]]]:
    """A client that follows a pull to its end; what it hears."""
    heard: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: heard.extend(daemon.stream("/api/pull", {"model": model})))
    thread.start()
    return thread, heard


def n_watchers(daemon: RunningDaemon, model: str) -> int:
    return sum(job["n_watchers"] for job in daemon.get("/api/jobs")["jobs"] if job["subject"] == model)


def test_clients_who_pull_the_same_share_one_download_and_both_see_it(daemon, hub):
    """Every byte comes once."""
    repo, data = offer(hub)
    stall(hub)
    clients = [watch(daemon, repo), watch(daemon, repo)]
    assert hub.stalled.wait(WAIT_S)
    until(lambda: n_watchers(daemon, repo) == 2)
    hub.go_on.set()
    for thread, _ in clients:
        thread.join(WAIT_S)
    assert hub.served["M-Q8_0.gguf"] == len(data)
    for _, heard in clients:
        assert heard[-1]["status"] == "success"
        assert any(0 < line.get("completed", 0) < line.get("total", 0) for line in heard)
    assert len({heard[-1]["job"] for _, heard in clients}) == 1


@pytest.mark.parametrize("n_who_stay", [1, 0])
def test_a_pull_goes_on_to_its_end_when_clients_leave(daemon, hub, n_who_stay):
    """Whether one of two leaves, or all."""
    repo, data = offer(hub)
    stall(hub)
    leaving = daemon.stream("/api/pull", {"model": repo})
    next(leaving)
    others = [watch(daemon, repo) for _ in range(n_who_stay)]
    assert hub.stalled.wait(WAIT_S)
    leaving.close()
    until(lambda: n_watchers(daemon, repo) == n_who_stay)
    hub.go_on.set()
    for thread, heard in others:
        thread.join(WAIT_S)
        assert heard[-1]["status"] == "success"
    until(lambda: f"{repo}:latest" in names(daemon))
    assert hub.served["M-Q8_0.gguf"] == len(data)


def test_a_cancelled_pull_keeps_what_came_shows_no_model_and_is_gone_on_with(daemon, hub):
    """What came is told by du, and prune leaves it while it is fresh."""
    repo, _ = offer(hub)
    stall(hub)
    thread, heard = watch(daemon, repo)
    assert hub.stalled.wait(WAIT_S)
    until(lambda: max(partials(daemon).values(), default=0) > CHUNK_BYTES)
    assert daemon.request("DELETE", f"/api/jobs/{heard_job(daemon, repo)}")[1] == {"cancelled": True}
    thread.join(WAIT_S)
    assert heard[-1]["code"] == "cancelled"
    assert f"{repo}:latest" not in names(daemon)
    assert daemon.get("/api/du")["partial_bytes"] > CHUNK_BYTES
    assert daemon.request("POST", "/api/prune", {})[1]["removed"] == []
    hub.go_on.set()
    pull(daemon, repo)
    assert hub.downloads("M-Q8_0.gguf")[-1].first_byte >= CHUNK_BYTES
    assert daemon.get("/api/du")["partial_bytes"] == 0


def heard_job(daemon: RunningDaemon, model: str) -> str:
    jobs = daemon.get("/api/jobs")["jobs"]
    return str(next(job["id"] for job in jobs if job["subject"] == model and job["state"] == "running"))


def test_what_came_of_a_pull_that_nobody_wants_any_more_is_told_and_pruned(daemon, hub):
    """It was begun by one command, and ended by another."""
    repo, _ = offer(hub, 2**20)
    stall(hub, 2**19)
    job = beast(daemon, "pull", "--detach", repo).stdout.strip()
    assert hub.stalled.wait(WAIT_S)
    assert beast(daemon, "jobs", "cancel", job).returncode == 0
    told = beast(daemon, "du")
    assert re.search(r"^unfinished: +[0-9]{3} kB", told.stdout, re.MULTILINE), told.stdout
    removed = daemon.request("POST", "/api/prune", {"partial_age_s": 0})[1]
    assert removed["bytes"] > 2**18
    assert partials(daemon) == {}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_pull_goes_on_after_the_daemon_was_ended(start, hub, how):
    """In between there is no model and no process; at most a chunk is loaded twice."""
    repo, _ = offer(hub)
    stall(hub)
    daemon = start()
    thread, heard = watch_to_any_end(daemon, repo)
    assert hub.stalled.wait(WAIT_S)
    until(lambda: max(partials(daemon).values(), default=0) > CHUNK_BYTES)
    fetchers = children(daemon.pid)
    assert fetchers
    daemon.process.send_signal(how)
    assert daemon.process.wait(WAIT_S) == (-signal.SIGKILL if how == signal.SIGKILL else 0)
    thread.join(WAIT_S)
    assert not any(line.get("status") == "success" for line in heard)
    until(lambda: not any(is_running(pid) for pid in fetchers))
    daemon = start()
    assert names(daemon) == {"cub:latest"}
    assert (daemon.home / "models" / ".blobs").exists() is False
    hub.go_on.set()
    pull(daemon, repo)
    assert hub.downloads("M-Q8_0.gguf")[-1].first_byte >= CHUNK_BYTES
    assert names(daemon) == {"cub:latest", f"{repo}:latest"}
    assert is_sound(daemon)
    assert partials(daemon) == {}


def watch_to_any_end(daemon: RunningDaemon, model: str) -> tuple[threading.Thread, list[dict[str, Any]]]:
    """As ``watch``, of a daemon that may be killed."""
    heard: list[dict[str, Any]] = []

    def listen() -> None:
        try:
            heard.extend(daemon.stream("/api/pull", {"model": model}))
        except OSError as e:
            heard.append({"error": str(e)})

    thread = threading.Thread(target=listen)
    thread.start()
    return thread, heard


def children(pid: int) -> list[int]:
    return [int(it) for it in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# --- what goes wrong ---


@pytest.mark.parametrize(
    ("model", "status", "code", "told"),
    [
        ("hf.co/user/gated", 403, "access_denied", "user/gated is gated: accept its licence at .*, then set HF_TOKEN"),
        ("hf.co/user/private", 404, "model_not_found", "no repository user/private, or it is private: .* HF_TOKEN"),
        ("hf.co/user/nowhere", 404, "model_not_found", "no repository user/nowhere"),
        ("hf.co/user/some:Q3_K_S", 404, "model_not_found", "user/some has no 'Q3_K_S'; there is q2_k"),
        ("hf.co/user/some/x.gguf", 404, "model_not_found", "user/some has no file 'x.gguf'; there is S-Q2_K.gguf"),
        ("hf.co/user/text", 404, "model_not_found", "user/text has no GGUF files; .*-GGUF"),
        ("hf.co/user/broken", 422, "bad_model", "B-Q2_K.gguf"),
        ("hf.co/user", 400, "bad_request", "write hf.co/user/repo"),
        ("qwen9:1b", 404, "model_not_found", "the catalog has no 'qwen9:1b'; the catalog has qwen[0-9]"),
        ("", 400, "bad_request", "qwen3:0.6b or hf.co/user/repo"),
    ],
)
def test_what_cannot_be_had_is_told_with_what_to_do(daemon, hub, model, status, code, told):
    """To clients and people alike, in a line; nothing changes here."""
    hub.repos["user/gated"] = Repo({"G-Q2_K.gguf": gguf(2**16, 1001)}, gated=True)
    hub.repos["user/private"] = Repo({"P-Q2_K.gguf": gguf(2**16, 1002)}, private=True)
    hub.repos["user/some"] = Repo({"S-Q2_K.gguf": gguf(2**16, 1003)})
    hub.repos["user/text"] = Repo({"README.md": b"# nothing"})
    hub.repos["user/broken"] = Repo({"B-Q2_K.gguf": b"GGUF" + bytes(2**16)})
    before = names(daemon), partials(daemon)
    found = refused(daemon, model)
    assert found[:2] == (status, code), found
    assert re.search(told, found[2]), found[2]
    assert (names(daemon), partials(daemon)) == before
    if model:
        said = beast(daemon, "pull", model)
        assert (said.returncode, said.stdout) == (1, "")
        assert re.search(told, said.stderr)
        assert len(said.stderr.strip().splitlines()) <= 3, said.stderr


def test_a_gated_repository_opens_with_a_token(start, hub):
    """HF_TOKEN of the daemon's environment; the CDN never sees it."""
    hub.repos["user/gated"] = Repo({"G-Q2_K.gguf": Q2}, gated=True)
    daemon = start()
    assert refused(daemon, "hf.co/user/gated")[1] == "access_denied"
    daemon.stop()
    (daemon.home / "hf").mkdir(exist_ok=True)
    (daemon.home / "hf" / "token").write_text(hub.token)
    daemon = start()
    pull(daemon, "hf.co/user/gated")
    assert all("authorization" not in asked.headers for asked in hub.asked if asked.is_cdn)


@pytest.mark.parametrize("status", [429, 500])
def test_a_busy_server_is_asked_again_and_given_up_in_the_end(daemon, hub, status):
    """A few failures cost nothing; many are told as such, and what came is kept."""
    repo, data = offer(hub, 2**20)
    busy = Fault(status=status, headers={"Retry-After": "0"})
    before = sum(partials(daemon).values())
    hub.faults["api"] += [busy]
    hub.faults["M-Q8_0.gguf"] += [busy, busy, Fault(), Fault(cut_after=300_000), *[busy] * 6]
    found = refused(daemon, repo)
    assert found[:2] == (502, "download_failed"), found
    assert "6 times in a row; what has come is kept: try again to go on from there" in found[2]
    assert f"{repo}:latest" not in names(daemon)
    assert daemon.get("/api/du")["partial_bytes"] >= before + 500_000
    pull(daemon, repo)
    assert hub.served["M-Q8_0.gguf"] == len(data)


def test_a_cut_connection_is_made_anew_where_it_was_cut(daemon, hub):
    """The watcher sees the wait; no byte comes twice."""
    repo, data = offer(hub)
    hub.faults["M-Q8_0.gguf"] += [Fault(cut_after=100_000), Fault(), Fault(cut_after=9_000_000)]
    lines = list(daemon.stream("/api/pull", {"model": repo}))
    assert lines[-1]["status"] == "success"
    assert any(line["status"].startswith("waiting 1 s: the connection to 127.0.0.1 was cut") for line in lines)
    assert hub.served["M-Q8_0.gguf"] == len(data)


def test_what_is_not_what_the_hub_announced_is_thrown_away(daemon, hub):
    """The next pull, of a hub that tells the truth, succeeds."""
    repo, _ = offer(hub, 2**20)
    announced = hub.repos[repo.removeprefix("hf.co/")].announced
    announced["M-Q8_0.gguf"] = "0" * 64
    before = partials(daemon)
    found = refused(daemon, repo)
    assert found[:2] == (502, "digest_mismatch"), found
    assert f"{repo}:latest" not in names(daemon)
    assert partials(daemon) == before
    announced.clear()
    pull(daemon, repo)
    assert is_sound(daemon)


def test_a_disk_that_fills_up_in_mid_pull_is_told_and_what_came_is_kept(start, hub):
    """A limit on file sizes stands for the disk."""
    repo, _ = offer(hub)
    daemon = start()
    limit = CHUNK_BYTES + 2**20
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    full = refused(daemon, repo)
    assert full[:2] == (507, "disk_full"), full
    assert names(daemon) == {"cub:latest"}
    assert daemon.get("/api/du")["partial_bytes"] >= CHUNK_BYTES
    said = beast(daemon, "pull", repo)
    assert (said.returncode, said.stdout) == (1, "")
    assert "full" in said.stderr
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    hub.faults["M-Q8_0.gguf"] += [Fault(status=404)]
    assert refused(daemon, repo)[:2] == (404, "model_not_found")
    pull(daemon, repo)
    assert hub.downloads("M-Q8_0.gguf")[-1].first_byte >= CHUNK_BYTES


@pytest.fixture
def small_disk(beast_home: Path) -> Iterator[Path]:
    """The models folder of this test's daemons on a disk too small for what stays free anyway."""
    folder = beast_home / "models"
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={KEEP_FREE_BYTES}", "tmpfs", str(folder)]
    if subprocess.run(mounting, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_too_small_is_refused_before_the_download(small_disk, start, hub):
    """With how much is needed and what to do; prune removes what little came."""
    repo, _ = offer(hub)
    daemon = start()
    found = refused(daemon, repo)
    assert found[:2] == (507, "disk_full"), found
    assert re.search(r"needs 4\d\.\d MB more in .*free some space \(`beast du`, `beast prune`\)", found[2]), found[2]
    assert hub.served["M-Q8_0.gguf"] < 2**20
    assert names(daemon) == {"cub:latest"}
    daemon.request("POST", "/api/prune", {"partial_age_s": 0})
    assert daemon.get("/api/du")["partial_bytes"] == 0
    pruned = beast(daemon, "prune")
    assert pruned.returncode == 0, pruned.stderr


@pytest.fixture(scope="module", autouse=True)
def stalled() -> Iterator[tuple[FakeHub, threading.Thread, list[dict[str, Any]]]]:
    """A hub that stalls, and a pull from it: it takes half a minute, so it goes on beside the other tests."""
    home = Path(tempfile.mkdtemp(prefix="beast-"))
    with FakeHub() as hub:
        hub.repos["user/slow"] = Repo({"M-Q8_0.gguf": gguf(2**20, 2000)})
        stall(hub, 300_000)
        daemon = RunningDaemon(home, [], environment(hub, home))
        yield hub, *watch(daemon, "hf.co/user/slow")
        daemon.stop()
    shutil.rmtree(home, ignore_errors=True)


def test_a_stalled_download_is_made_anew(stalled):
    """After half a minute without a byte, from where it stood."""
    hub, thread, heard = stalled
    thread.join(WAIT_S)
    assert heard[-1]["status"] == "success"
    assert any("127.0.0.1 has sent nothing for 30 s" in line["status"] for line in heard)
    assert [asked.first_byte for asked in hub.downloads("M-Q8_0.gguf")] == [0, 2**18, 2**18 + 300_000]
