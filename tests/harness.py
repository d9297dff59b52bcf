"""A real beastd process, and the ways tests talk to it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

START_LIMIT_S = 30


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float = 120) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class RunningDaemon:
    """A beastd process and the ways tests talk to it."""

    def __init__(self, home: Path, arguments: list[str], env: dict[str, str]) -> None:
        self.home = home
        self.socket = str(home / "run" / "beast.sock")
        self.log = home / "daemon.err"
        self.env = {**os.environ, "BEAST_HOME": str(home), **env}
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "beastd", *arguments], env=self.env, stdout=log, stderr=log
            )
        self._await_health()

    def _await_health(self) -> None:
        give_up = time.monotonic() + START_LIMIT_S
        while time.monotonic() < give_up:
            if self.process.poll() is not None:
                break
            try:
                if self.get("/healthz")["pid"] == self.process.pid:
                    return
            except OSError:
                pass
            time.sleep(0.02)
        self.process.kill()
        self.process.wait()
        raise AssertionError(f"beastd did not start:\n{self.log.read_text()}")

    @property
    def pid(self) -> int:
        return self.process.pid

    def connection(self) -> UnixConnection:
        return UnixConnection(self.socket)

    def get(self, path: str) -> Any:
        """The JSON of a GET."""
        return self.request("GET", path)[1]

    def request(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Status and JSON (the last line, for a stream) of one request."""
        connection = self.connection()
        try:
            data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, headers or {})
            response = connection.getresponse()
            lines = response.read().decode().strip().splitlines()
            try:
                return response.status, json.loads(lines[-1]) if lines else None
            except ValueError:
                return response.status, lines[-1]
        finally:
            connection.close()

    def stream(self, path: str, body: object) -> Iterator[dict[str, Any]]:
        """The lines of a streamed answer, as they come; closing the generator closes the connection."""
        connection = self.connection()
        try:
            connection.request("POST", path, json.dumps(body).encode())
            response = connection.getresponse()
            for line in response:
                yield json.loads(line)
        finally:
            connection.close()

    def worker_pids(self) -> list[int]:
        return [model["pid"] for model in self.get("/api/ps")["models"] if model["pid"]]

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


StartDaemon = Callable[..., RunningDaemon]
