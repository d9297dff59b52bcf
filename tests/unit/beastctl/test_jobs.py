"""Waiting for long work of the daemon, with what it says and how it ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from fakedaemon import FakeDaemon

from beastctl import daemon, jobs
from beastctl.client import Client, NoAnswer
from beastd.errors import BadModel, DiskFull

DONE = {"status": "success", "job": "pull-1", "model": "m:latest"}


@pytest.fixture
def client(fake: FakeDaemon) -> Client:
    return Client(daemon.current_paths().socket)


def test_the_last_line_is_the_result(fake: FakeDaemon, client: Client) -> None:
    """Without its status."""
    fake.says("POST /api/pull", {"status": "resolving", "job": "pull-1"}, DONE)
    assert jobs.run(client, jobs.Work("m", "/api/pull", {"model": "m"})) == {"job": "pull-1", "model": "m:latest"}
    assert fake.asked("POST /api/pull") == [{"model": "m"}]


def test_an_error_in_the_stream_is_raised_as_what_it_is(fake: FakeDaemon, client: Client) -> None:
    """As one that comes before any line."""
    fake.says("POST /api/pull", {"status": "resolving", "job": "pull-1"}, {"error": "full", "code": "disk_full"})
    with pytest.raises(DiskFull, match="full"):
        jobs.run(client, jobs.Work("m", "/api/pull", {}))
    fake.says("POST /api/pull", {"error": "broken", "code": "bad_model"})
    with pytest.raises(BadModel, match="broken"):
        jobs.run(client, jobs.Work("m", "/api/pull", {}))


def test_a_stream_that_breaks_off_is_an_error(fake: FakeDaemon, client: Client) -> None:
    """The daemon went; nothing passes as done."""
    fake.says("POST /api/pull", {"status": "resolving", "job": "pull-1"}, {"status": "pulling", "job": "pull-1"})
    with pytest.raises(NoAnswer, match="before m was done"):
        jobs.run(client, jobs.Work("m", "/api/pull", {}))


def test_one_failure_keeps_no_other_work_from_its_end(fake: FakeDaemon, client: Client) -> None:
    """Each has its own ending."""
    replies: dict[str, list[dict[str, Any]]] = {
        "a": [{"status": "resolving", "job": "pull-1"}, {"error": "gone", "code": "model_not_found"}],
        "b": [{"status": "resolving", "job": "pull-2"}, {**DONE, "job": "pull-2"}],
    }
    fake.routes["POST /api/pull"] = lambda body: iter(replies[body["model"]])
    works = [jobs.Work(name, "/api/pull", {"model": name}) for name in replies]
    assert jobs.follow(client, works)
    assert [work.error is None for work in works] == [False, True]
    assert works[1].result == {"job": "pull-2", "model": "m:latest"}


def test_a_failure_is_told_while_other_work_goes_on(
    fake: FakeDaemon, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not hours later; of what fails last, the end will tell."""
    told: list[str] = []

    def slow() -> Iterator[dict[str, Any]]:
        yield {"status": "resolving", "job": "pull-2"}
        while "gone" not in "".join(told):
            told.append(capsys.readouterr().err)
            time.sleep(0.02)
        yield {"error": "full", "code": "disk_full"}

    failing = [{"error": "gone", "code": "model_not_found"}]
    fake.routes["POST /api/pull"] = lambda body: iter(failing) if body["model"] == "a" else slow()
    assert jobs.follow(client, [jobs.Work(name, "/api/pull", {"model": name}) for name in ("b", "a")])
    assert "".join(told) == "beast: a: gone\n"
    assert capsys.readouterr().err == ""


class Endless:
    """A job that goes on until it is cancelled; Ctrl-C comes after its first line."""

    def __init__(self, fake: FakeDaemon, *, is_alone: bool) -> None:
        self._is_cancelled = threading.Event()
        self._is_alone = is_alone
        fake.routes["POST /api/pull"] = fake.routes["GET /api/jobs/pull-1"] = lambda _: self._lines()
        fake.routes["DELETE /api/jobs/pull-1"] = lambda _: self._cancel()

    def _lines(self) -> Iterator[dict[str, Any]]:
        yield {"status": "pulling", "job": "pull-1", "item": "x", "completed": 1, "total": 100}
        os.kill(os.getpid(), signal.SIGINT)
        while not self._is_cancelled.wait(0.05):
            yield {"status": "pulling", "job": "pull-1", "item": "x", "completed": 1, "total": 100}
        yield {"error": "cancelled", "code": "cancelled"}

    def _cancel(self) -> dict[str, Any]:
        self._is_cancelled.set()
        return {"cancelled": self._is_alone}


def test_ctrl_c_cancels_what_nobody_else_waits_for(
    fake: FakeDaemon, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says that asking again goes on, and exits with 130."""
    Endless(fake, is_alone=True)
    with pytest.raises(typer.Exit) as left:
        jobs.run(client, jobs.Work("m", "/api/pull", {}, is_resumable=True))
    assert left.value.exit_code == 130
    assert fake.asked("DELETE /api/jobs/pull-1") == [{"if_alone": "true"}]
    assert capsys.readouterr().err == "beast: m: stopped; asking again goes on where it stopped\n"


def test_ctrl_c_leaves_what_others_wait_for(
    fake: FakeDaemon, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    """And says how to end it."""
    Endless(fake, is_alone=False)
    with pytest.raises(typer.Exit):
        jobs.run(client, jobs.Work("m", "/api/pull", {}, is_resumable=True))
    assert "goes on, others wait for it; `beast jobs cancel pull-1`" in capsys.readouterr().err


def test_ctrl_c_ends_only_the_watching_of_one_who_watches(
    fake: FakeDaemon, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is cancelled."""
    Endless(fake, is_alone=True)
    work = jobs.Work("pull-1", "/api/jobs/pull-1")
    threading.Timer(0.5, lambda: fake.routes["DELETE /api/jobs/pull-1"]({})).start()
    assert not jobs.follow(client, [work], cancels=False)
    assert fake.asked("DELETE /api/jobs/pull-1") == []
    assert "pull-1 goes on" in capsys.readouterr().err


def test_detached_work_is_known_by_its_id(fake: FakeDaemon, client: Client) -> None:
    """The reply is left after its first line; a refusal is an error."""
    fake.says("POST /api/pull", {"status": "resolving", "job": "pull-7"}, DONE)
    assert jobs.begin(client, jobs.Work("m", "/api/pull", {})) == "pull-7"
    fake.says("POST /api/pull", {"error": "broken", "code": "bad_model"})
    with pytest.raises(BadModel):
        jobs.begin(client, jobs.Work("m", "/api/pull", {}))
