"""The daemon, and its fetch process, killed at every write of create, copy, remove and pull.

The process dies just before the write (tests/killpoints). Afterwards a new daemon must find the old state or
the new one, every file whole, and do what was asked when asked again. By default every few points are tried, and the
last ones of each verb; TEST_EVERY_KILL=1 tries all.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fakehub import FakeHub, Repo
from fetching import digest, gguf
from harness import RunningDaemon

DAEMON, FETCH = "beastd", "beastd.fetch"
PYTHONPATH = os.pathsep.join([str(Path(__file__).parent.parent / "killpoints"), os.environ.get("PYTHONPATH", "")])
STEP = 1 if os.environ.get("TEST_EVERY_KILL") else 4
"""One point of so many is tried."""
REPO = "user/kill-GGUF"
PULLED = f"hf.co/{REPO}"
OLD, NEW = gguf(600_000, 1), gguf(700_000, 2)
"""The file of the model that is there, and the one that comes."""
State = dict[str, frozenset[str]]
"""Model → digests of its files."""


@dataclass(frozen=True)
class Verb:
    """A change of the models folder, and all of it that may be seen."""

    module: str
    """Who is killed."""
    ask: Callable[[RunningDaemon], Any]
    after: State
    n_least: int
    """It has at least so many writes; fewer mean that they are not seen."""


class Failed(Exception):
    """An answer that is an error."""


def post(daemon: RunningDaemon, path: str, body: object, method: str = "POST") -> Any:
    status, reply = daemon.request(method, path, body)
    if status not in {200, 201} or (reply and "error" in reply):
        raise Failed(reply)
    return reply


def create(daemon: RunningDaemon) -> None:
    """The file is sent, then described."""
    post(daemon, f"/api/blobs/sha256:{digest(NEW)}", NEW)
    post(
        daemon, "/api/create", {"model": "ns/new", "files": {"new-q8_0.gguf": f"sha256:{digest(NEW)}"}, "stream": False}
    )


def replace(daemon: RunningDaemon) -> None:
    """A model gets another file; nothing names the old one any more."""
    post(daemon, f"/api/blobs/sha256:{digest(NEW)}", NEW)
    post(daemon, "/api/create", {"model": "old", "files": {"new-q8_0.gguf": f"sha256:{digest(NEW)}"}, "stream": False})


def copy(daemon: RunningDaemon) -> None:
    if "ns/copy:latest" not in state(daemon):
        post(daemon, "/api/copy", {"source": "old", "destination": "ns/copy"})


def remove(daemon: RunningDaemon) -> None:
    if "old:latest" in state(daemon):
        post(daemon, "/api/delete", {"model": "old"}, "DELETE")


def pull(daemon: RunningDaemon) -> None:
    post(daemon, "/api/pull", {"model": PULLED, "stream": False})


BEFORE: State = {"old:latest": frozenset({digest(OLD)})}
WITH_PULLED = BEFORE | {f"{PULLED}:latest": frozenset({digest(NEW)})}
VERBS = {
    "create": Verb(DAEMON, create, BEFORE | {"ns/new:latest": frozenset({digest(NEW)})}, 14),
    "replace": Verb(DAEMON, replace, {"old:latest": frozenset({digest(NEW)})}, 14),
    "copy": Verb(DAEMON, copy, BEFORE | {"ns/copy:latest": frozenset({digest(OLD)})}, 6),
    "remove": Verb(DAEMON, remove, {}, 3),
    "pull, the daemon killed": Verb(DAEMON, pull, WITH_PULLED, 6),
    "pull, the fetch killed": Verb(FETCH, pull, WITH_PULLED, 12),
}


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.repos[REPO] = Repo({"New-Q8_0.gguf": NEW})
        yield hub


class Homes:
    """Homes in which one model is, and daemons in them."""

    def __init__(self, root: Path, env: dict[str, str]) -> None:
        self._root = root
        self._env = env | {"PYTHONPATH": PYTHONPATH, "HF_HOME": str(root / "hf"), "HF_TOKEN": ""}
        self.ready = root / "ready"
        daemon = self.start(self.ready)
        post(daemon, f"/api/blobs/sha256:{digest(OLD)}", OLD)
        post(daemon, "/api/create", {"model": "old", "files": {"old-q8_0.gguf": f"sha256:{digest(OLD)}"}})
        daemon.stop()

    def fresh(self) -> Path:
        """A copy of the home with the one model."""
        home = self._root / "home"
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(self.ready, home, symlinks=True, ignore=shutil.ignore_patterns("run"))
        return home

    def start(self, home: Path, module: str = "", nth: int = 0) -> RunningDaemon:
        """A daemon; ``module`` (itself or its child) dies at its nth write."""
        home.mkdir(exist_ok=True)
        kill = {"TEST_KILL": f"{module}:{nth}:{home}/models", "TEST_KILL_COUNT": str(home / "count")} if module else {}
        return RunningDaemon(home, [], self._env | kill)


@pytest.fixture(scope="module")
def homes(hub: FakeHub) -> Iterator[Homes]:
    root = Path(tempfile.mkdtemp(prefix="beast-"))
    yield Homes(root, {"HF_ENDPOINT": hub.endpoint})
    shutil.rmtree(root, ignore_errors=True)


def state(daemon: RunningDaemon) -> State:
    """Every model that is no built-in one; all must be sound."""
    listing = daemon.get("/api/tags")
    assert listing.get("problems", []) == []
    names = {model["name"] for model in listing["models"]} - {"cub:latest"}
    return {name: files(daemon, name) for name in names}


def files(daemon: RunningDaemon, model: str) -> frozenset[str]:
    """Digests of the files that a model's description names, each of which is there."""
    text = post(daemon, "/api/show", {"model": model})["modelfile"]
    found = frozenset(re.findall(r"\bsha256:([0-9a-f]{64})", text))
    assert found
    assert found <= blobs(daemon)
    return found


def blobs(daemon: RunningDaemon) -> set[str]:
    """Digests of all blobs, each of which has its name's."""
    folder = daemon.home / "models" / ".blobs"
    found = {path.name.removeprefix("sha256-"): path for path in folder.iterdir()} if folder.exists() else {}
    for name, path in found.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == name
    return set(found)


def is_killed_at(homes: Homes, home: Path, verb: Verb, nth: int) -> bool:
    """Ask a daemon that is to die, or whose fetch is; False if it was done before the nth write."""
    try:
        daemon = homes.start(home, verb.module, nth)
    except AssertionError:  # its start writes too
        assert nth
        return True
    try:
        verb.ask(daemon)
    except (http.client.HTTPException, OSError):
        return daemon.process.wait(60) == -signal.SIGKILL
    except Failed as e:
        if verb.module != FETCH or "signal 9" not in str(e):
            raise
        return True
    finally:
        daemon.stop()
    return False


def check(homes: Homes, home: Path, verb: Verb) -> None:
    """What a new daemon finds, and makes of it."""
    daemon = homes.start(home)
    try:
        assert state(daemon) in (BEFORE, verb.after)
        verb.ask(daemon)
        assert state(daemon) == verb.after
        post(daemon, "/api/prune", {"partial_age_s": 0})
        assert blobs(daemon) == frozenset[str]().union(*verb.after.values())
        assert not [path for path in (daemon.home / "models" / ".partial").glob("*") if not path.name.startswith(".")]
    finally:
        daemon.stop()


@pytest.mark.parametrize("name", VERBS)
def test_a_kill_at_any_write_leaves_the_old_state_or_the_new_which_asking_again_gives(homes, name):
    """And then only the files that models name are left."""
    verb = VERBS[name]
    home = homes.fresh()
    assert not is_killed_at(homes, home, verb, 0)
    check(homes, home, verb)
    n_writes = (home / "count").stat().st_size
    assert n_writes >= verb.n_least
    points = sorted({*range(1, n_writes + 1, STEP), n_writes - 1, n_writes})
    n_killed = 0
    for nth in points:
        home = homes.fresh()
        n_killed += is_killed_at(homes, home, verb, nth)
        check(homes, home, verb)
    assert n_killed >= len(points) - 2, "the number of writes differs a little with how bytes come in"
