"""The worker process before it has a model: it never outlives what it hears."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

Worker = tuple[socket.socket, "subprocess.Popen[bytes]"]


@pytest.fixture
def worker() -> Iterator[Worker]:
    """A worker process, and the daemon's end of its socket."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-P", "-m", "beastd.engine", "--fd", str(theirs.fileno())]
        with subprocess.Popen(command, pass_fds=(theirs.fileno(),), stderr=subprocess.PIPE) as process:
            theirs.close()
            yield ours, process
            process.kill()


def test_it_ends_with_the_socket(worker: Worker) -> None:
    end, process = worker
    end.shutdown(socket.SHUT_WR)
    assert process.wait(60) == 0


@pytest.mark.parametrize("line", [b"nonsense\n", b'{"type":"load"}\n', b"\xff\n", b"[" * 5000 + b"\n"])
def test_a_frame_it_cannot_read_ends_it_with_a_trace(worker: Worker, line: bytes) -> None:
    """It would hear no further one; the daemon ends what waits for it when it is gone."""
    end, process = worker
    end.sendall(line)
    process.wait(60)
    assert process.stderr is not None
    assert b"Traceback" in process.stderr.read()
