"""A worker whose process never comes to be, and one that cannot be heard."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from beastd import ipc
from beastd.errors import LoadFailed, WorkerDied
from beastd.fleet.link import Link
from beastd.fleet.worker import Worker


async def test_a_process_that_cannot_start_fails_the_load(spec: Any, tmp_path: Path) -> None:
    """The system's reason is told, as Beast's own error."""
    (tmp_path / "logs").write_text("a file where the folder should be")
    worker = Worker(spec(), tmp_path / "logs" / "worker.log", 60.0)
    with pytest.raises(LoadFailed, match="could not be started"):
        await worker.load(lambda _: None)
    assert worker.pid is None


SUBMIT = ipc.Submit(id=0, prompt=ipc.Prompt(raw="hello"), sampling=ipc.Sampling())


async def _deaf_worker(spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Worker, socket.socket]:
    """A loaded worker whose answers Beast has a bug in reading, and its process's end of the socket."""
    ours, theirs = socket.socketpair()
    worker = Worker(spec(), tmp_path / "worker.log", 60.0)
    worker._link = await Link.over(ours)

    async def read_answers() -> None:
        await asyncio.sleep(0)
        raise KeyError("oops")

    monkeypatch.setattr(worker._link, "read_answers", read_answers)
    return worker, theirs


async def test_a_bug_in_reading_answers_strands_no_request(
    spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that wait and those to come end with one error; serve returns, so that the worker is replaced."""
    worker, theirs = await _deaf_worker(spec, tmp_path, monkeypatch)
    with theirs:
        waiting = asyncio.create_task(anext(worker.generate(SUBMIT)))
        await asyncio.sleep(0)
        await worker.serve()
        with pytest.raises(WorkerDied, match="failed to read"):
            await asyncio.wait_for(waiting, 60)
        with pytest.raises(WorkerDied):
            await asyncio.wait_for(anext(worker.generate(SUBMIT)), 60)
    assert "KeyError: 'oops'" in caplog.text


async def test_a_cancelled_serve_strands_no_request(spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, theirs = await _deaf_worker(spec, tmp_path, monkeypatch)
    monkeypatch.setattr(worker._link, "read_answers", asyncio.Event().wait)
    with theirs:
        waiting = asyncio.create_task(anext(worker.generate(SUBMIT)))
        serving = asyncio.create_task(worker.serve())
        await asyncio.sleep(0)
        serving.cancel()
        with pytest.raises(WorkerDied):
            await asyncio.wait_for(waiting, 60)
    assert serving.cancelled()
