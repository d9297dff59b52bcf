"""The servers that are measured: each started fresh, reached over TCP, and ended for good."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from tests.bench.peer import wire
from tests.bench.peer.asking import MODEL, Answer, Api, Ask, BeastApi, LlamaApi, PythonApi, begun
from tests.harness import RunningDaemon

START_LIMIT_S = 300


class NotMeasured(Exception):
    """A server cannot do what a row asks, with its own words on it."""


class Server(Protocol):
    """Something that answers."""

    name: str
    port: int
    api: Api


async def ask(server: Server, it: Ask) -> Answer:
    """One request from its sending to its end. Raises NotMeasured when it fails."""
    answer = begun()
    try:
        status = await wire.post(
            server.port, server.api.path, server.api.body(it), lambda line, now: server.api.take(line, now, answer)
        )
    except (OSError, ValueError) as e:
        raise NotMeasured(f"{server.name}: {type(e).__name__}: {e}") from e
    answer.ended_s = time.perf_counter()
    answer.n_answer = answer.n_answer or len(answer.stamps_s)
    if status != 200 or answer.error or not answer.stamps_s:
        raise NotMeasured(f"{server.name}: HTTP {status}: {answer.error or 'the answer has no text'}")
    return answer


def free_port() -> int:
    """A TCP port nobody listens on."""
    with socket.socket() as it:
        it.bind((wire.HOST, 0))
        port: int = it.getsockname()[1]
        return port


class Beast:
    """A beastd with a BEAST_HOME of its own, and one model loaded."""

    name = "Beast"

    def __init__(self, model: Path, settings: dict[str, str], draft: Path | None = None) -> None:
        self.port = free_port()
        self._home = Path(tempfile.mkdtemp(prefix="b", dir="/tmp"))
        always = {"tcp": f"{wire.HOST}:{self.port}", "memory_budget": "100%", "keep_alive": "-1", "sleep_after": "-1"}
        self._env = {f"BEAST_{name.upper()}": value for name, value in (always | settings).items()}
        self._start()
        try:
            self._create(model, draft)
            self._load()
            self.api: Api = BeastApi(knows_speculation=self._has_option("speculative", "off"))
        except NotMeasured:
            self.stop()
            raise

    def _start(self) -> None:
        try:
            self._daemon = RunningDaemon(self._home, [], self._env)
        except AssertionError as e:
            shutil.rmtree(self._home, ignore_errors=True)
            raise NotMeasured(str(e).strip()) from None

    def _create(self, model: Path, draft: Path | None) -> None:
        text = f"variants:\n  it: {model.resolve()}\n" + (f"draft: {draft.resolve()}\n" if draft else "")
        self._do("/api/create", {"model": MODEL, "modelfile": text, "folder": "/", "stream": False})

    def _load(self) -> None:
        self._do("/api/generate", {"model": MODEL, "stream": False})

    def _has_option(self, name: str, value: object) -> bool:
        body = {"model": MODEL, "stream": False, "options": {name: value}}
        return self._daemon.request("POST", "/api/generate", body)[0] == 200

    def _do(self, path: str, body: dict[str, Any]) -> None:
        status, told = self._daemon.request("POST", path, body)
        if status != 200 or "error" in told:
            raise NotMeasured(f"Beast: {path}: HTTP {status}: {told}")

    def restart(self) -> None:
        """Stop the daemon, start it again with the same files, and load the model."""
        self._daemon.stop()
        self._start()
        self._load()

    async def metric(self, name: str) -> float:
        """The sum over all label sets of one of GET /metrics. Raises NotMeasured where there is none."""
        _, text = await wire.get(self.port, "/metrics")
        found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
        if not found:
            raise NotMeasured(f"Beast: /metrics has no {name}")
        return sum(map(float, found))

    def stop(self) -> None:
        """End it, and remove its home."""
        self._daemon.stop()
        shutil.rmtree(self._home, ignore_errors=True)


class Peer:
    """A foreign server: a process that answers once it has loaded its model."""

    def __init__(self, name: str, api: Api, command: Sequence[str], ready_path: str) -> None:
        self.name = name
        self.api = api
        self.port = free_port()
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        words = [*command, "--host", wire.HOST, "--port", str(self.port)]
        self._process = subprocess.Popen(words, stdout=self._log, stderr=self._log)
        self._await_ready(ready_path)

    def _await_ready(self, path: str) -> None:
        give_up_s = time.monotonic() + START_LIMIT_S
        while time.monotonic() < give_up_s and self._process.poll() is None:
            if is_ready(self.port, path):
                return
            time.sleep(0.1)
        self._log.seek(0)
        tail = "\n".join(self._log.read().splitlines()[-8:])
        self.stop()
        raise NotMeasured(f"{self.name} did not start:\n{tail}")

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def is_ready(port: int, path: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        with socket.create_connection((wire.HOST, port), timeout=5) as it:
            it.sendall(f"GET {path} HTTP/1.1\r\nHost: {wire.HOST}\r\nConnection: close\r\n\r\n".encode())
            return it.recv(12).endswith(b"200")
    except OSError:
        return False


def llama_server(binary: Path, model: Path, n_threads: int, n_slots: int, n_ctx: int, more: Sequence[str]) -> Peer:
    """llama-server with so many slots of ``n_ctx`` tokens; all else is its default."""
    shape = ["-t", str(n_threads), "-np", str(n_slots), "-c", str(n_slots * n_ctx)]
    return Peer("llama-server", LlamaApi(), [str(binary), "-m", str(model), *shape, *more], "/health")


def python_server(python: Path, model: Path, n_threads: int) -> Peer:
    """llama_cpp.server, one request at a time; its default would cut an answer short when another request comes."""
    threads = ["--n_threads", str(n_threads), "--n_threads_batch", str(n_threads)]
    settings = ["--n_ctx", "4096", *threads, "--interrupt_requests", "False"]
    command = [str(python), "-m", "llama_cpp.server", "--model", str(model), *settings]
    return Peer("llama_cpp.server", PythonApi(), command, "/v1/models")


def n_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
