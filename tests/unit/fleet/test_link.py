"""The daemon's end of a worker's socket, with the test at the other end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import msgspec
import pytest

from beastd import ipc
from beastd.contract import Final
from beastd.errors import BadModel, BadRequest, TooLarge, WorkerDied
from beastd.fleet.link import Link, LinkBroken, LinkClosed, LinkStalled

LOAD = ipc.Load(paths=["/models/cub.gguf"], label="cub", settings=ipc.LoadSettings())
READY = ipc.Ready(n_ctx=4096, n_parallel=4, n_threads=2, resident_bytes=1)
SUBMIT = ipc.Submit(id=0, prompt=ipc.Prompt(raw="hello"), sampling=ipc.Sampling())


class Engine:
    """The other end: says what the test wants, and hears what the daemon says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def say(self, *messages: ipc.FromWorker) -> None:
        for message in messages:
            self.writer.write(ipc.frame(message))

    async def hear(self) -> ipc.ToWorker:
        message: ipc.ToWorker = ipc.to_worker.decode(await self.reader.readline())
        return message

    async def hear_all(self) -> list[ipc.ToWorker]:
        """All there is until the daemon closes its end."""
        return [ipc.to_worker.decode(line) async for line in self.reader]


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Link, Engine]]:
    ours, theirs = socket.socketpair()
    link = await Link.over(ours)
    engine = Engine(*await asyncio.open_unix_connection(sock=theirs))
    yield link, engine
    link.abort()
    engine.writer.close()
    await engine.writer.wait_closed()


Ends = tuple[Link, Engine]


async def test_a_load_tells_growing_progress_until_ready(ends: Ends) -> None:
    """The daemon speaks first; repeated or smaller fractions are not passed on."""
    link, engine = ends
    heard: list[float] = []
    engine.say(*(ipc.Progress(f) for f in (0.2, 0.2, 0.1, 0.7)), READY)
    assert await link.load(LOAD, 60, heard.append) == READY
    assert heard == [0.2, 0.7]
    assert await engine.hear() == LOAD


async def test_a_load_without_progress_is_given_up(ends: Ends) -> None:
    """Saying the same fraction again is no progress."""
    link, engine = ends
    engine.say(ipc.Progress(0.5), ipc.Progress(0.5))
    with pytest.raises(LinkStalled, match="50%"):
        await link.load(LOAD, 0.01, lambda _: None)


async def test_the_workers_load_error_is_raised_as_its_class(ends: Ends) -> None:
    """By code, with its message."""
    link, engine = ends
    engine.say(ipc.LoadError(ipc.Failure("bad_model", "no tensors")))
    with pytest.raises(BadModel, match="no tensors"):
        await link.load(LOAD, 60, lambda _: None)


async def test_a_link_is_idle_while_nothing_is_asked_for(ends: Ends) -> None:
    """Neither an answer nor a change."""
    link, engine = ends
    assert link.is_idle
    inbox = link.open()
    assert not link.is_idle
    link.close(inbox, was_sent=False)
    assert link.is_idle
    reading = asyncio.create_task(link.read_answers())
    change = asyncio.create_task(link.reshape(LOAD, is_asleep=False))
    await engine.hear()
    assert not link.is_idle
    engine.say(ipc.Reshaped(ready=READY, stall_s=0.0))
    await change
    assert link.is_idle
    reading.cancel()


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"hello\n",
        b'{"type":"nonsense"}\n',
        b'{"type":"step"}\n',
        b"\xff\n",
        ipc.frame(ipc.Step([])),
        ipc.frame(ipc.Pong(ipc.EngineStats())),
        ipc.frame(ipc.Reshaped(ready=READY, stall_s=0.0)),
    ],
)
async def test_nonsense_during_a_load_breaks_the_link(ends: Ends, line: bytes) -> None:
    """Nothing after it can be trusted; an answer before Ready is nonsense too."""
    link, engine = ends
    engine.writer.write(line)
    with pytest.raises(LinkBroken):
        await link.load(LOAD, 60, lambda _: None)


async def test_a_closed_end_during_a_load(ends: Ends) -> None:
    """With or without an unfinished line before it."""
    link, engine = ends
    engine.writer.write(b'{"type":"rea')
    engine.writer.close()
    with pytest.raises(LinkClosed):
        await link.load(LOAD, 60, lambda _: None)


async def test_answers_reach_their_requests(ends: Ends) -> None:
    """One frame serves several; deltas of requests that left are dropped."""
    link, engine = ends
    a, b = link.open(), link.open()
    engine.say(ipc.Step([ipc.Delta(id=b.id, text="B"), ipc.Delta(id=99, text="?"), ipc.Delta(id=a.id, text="A")]))
    engine.writer.close()
    await link.read_answers()
    assert (await a.take()).text == "A"
    assert (await b.take()).text == "B"


async def test_a_second_ready_breaks_the_link(ends: Ends) -> None:
    """Only answers come after it."""
    link, engine = ends
    engine.say(READY)
    with pytest.raises(LinkBroken, match="Ready"):
        await link.read_answers()


async def test_a_frame_too_long_breaks_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon's memory is bounded whatever a worker sends."""
    monkeypatch.setattr(ipc, "MAX_FRAME_BYTES", 1000)
    ours, theirs = socket.socketpair()
    with theirs:
        link = await Link.over(ours)
        theirs.sendall(b"x" * 5000)
        with pytest.raises(LinkBroken, match="1000 bytes"):
            await link.read_answers()
        link.abort()


async def test_a_request_too_large_for_a_frame_is_refused(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a byte of it is sent."""
    link, engine = ends
    monkeypatch.setattr(ipc, "MAX_FRAME_BYTES", 100)
    with pytest.raises(TooLarge, match="at most 100"):
        await link.send(SUBMIT)
    link.abort()
    assert await engine.hear_all() == []


async def test_a_request_that_nests_too_deeply_is_refused(ends: Ends) -> None:
    """It came through the door with a little less of the stack in use."""
    link, engine = ends
    schema: dict[str, object] = {}
    for _ in range(5000):
        schema = {"x": schema}
    with pytest.raises(BadRequest, match="nests"):
        await link.send(msgspec.structs.replace(SUBMIT, format=schema))
    link.abort()
    assert await engine.hear_all() == []


async def test_leaving_early_cancels_once(ends: Ends) -> None:
    """Only a request the worker knows and has not ended."""
    link, engine = ends
    sent, unsent, ended = link.open(), link.open(), link.open()
    ended.put(ipc.Delta(id=ended.id, final=Final(reason="stop")))
    link.close(sent, was_sent=True)
    link.close(unsent, was_sent=False)
    link.close(ended, was_sent=True)
    link.abort()
    assert await engine.hear_all() == [ipc.Cancel(sent.id)]


async def test_failing_ends_every_request_present_and_to_come(ends: Ends) -> None:
    """None is left waiting for a worker that is gone."""
    link, _ = ends
    early = link.open()
    link.fail(WorkerDied("gone"))
    late = link.open()
    for inbox in (early, late):
        with pytest.raises(WorkerDied):
            await inbox.take()


async def test_a_worker_that_does_not_read_holds_back_its_own_requests_only(ends: Ends) -> None:
    """At most one frame piles up, those who wait can leave, and a dead link lets them all go."""
    link, engine = ends
    engine.reader._transport.pause_reading()  # type: ignore[attr-defined]
    large = ipc.Submit(id=1, prompt=ipc.Prompt(raw="x" * 2_000_000), sampling=ipc.Sampling())
    senders = [asyncio.create_task(link.send(large)) for _ in range(5)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert [sender.done() for sender in senders] == [True, False, False, False, False]
    assert link._writer.transport.get_write_buffer_size() < 2_100_000
    senders[1].cancel()
    link.abort()
    results = await asyncio.gather(*senders, return_exceptions=True)
    assert [type(result).__name__ for result in results] == ["NoneType", "CancelledError"] + ["NoneType"] * 3


# --- the worker itself ---

RESHAPED = ipc.Reshaped(ready=READY, stall_s=0.5)


async def test_a_change_returns_what_the_worker_has_become(ends: Ends) -> None:
    """Answers go on passing meanwhile, and its progress is no nonsense."""
    link, engine = ends
    inbox = link.open()
    reading = asyncio.create_task(link.read_answers())
    changing = asyncio.create_task(link.reshape(LOAD, is_asleep=True))
    assert await engine.hear() == ipc.Reshape(load=LOAD, is_asleep=True)
    engine.say(ipc.Progress(0.5), ipc.Step([ipc.Delta(id=inbox.id, text="a")]), RESHAPED)
    assert await changing == RESHAPED
    assert (await inbox.take()).text == "a"
    engine.writer.close()
    await reading


async def test_a_change_that_fails_is_an_answer(ends: Ends) -> None:
    """It says what the worker still is; a second change can follow it."""
    link, engine = ends
    reading = asyncio.create_task(link.read_answers())
    failed = msgspec.structs.replace(RESHAPED, failure=ipc.Failure("out_of_memory", "no room"))
    for answer in (failed, RESHAPED):
        changing = asyncio.create_task(link.reshape(LOAD, is_asleep=False))
        await engine.hear()
        engine.say(answer)
        assert await changing == answer
    engine.writer.close()
    await reading


async def test_a_worker_that_ends_in_a_change_fails_it(ends: Ends) -> None:
    """As it fails every request; one that comes after the end is failed at once."""
    link, engine = ends
    changing = asyncio.create_task(link.reshape(LOAD, is_asleep=False))
    await engine.hear()
    link.fail(WorkerDied("gone"))
    for change in (changing, link.reshape(LOAD, is_asleep=False)):
        with pytest.raises(WorkerDied):
            await change


@pytest.mark.parametrize("n_changes", [0, 1])
async def test_a_change_nobody_asked_for_breaks_the_link(ends: Ends, n_changes: int) -> None:
    """Nor is one change answered twice."""
    link, engine = ends
    changes = [asyncio.create_task(link.reshape(LOAD, is_asleep=False)) for _ in range(n_changes)]
    await asyncio.sleep(0)
    engine.say(*[RESHAPED] * (n_changes + 1))
    with pytest.raises(LinkBroken, match="Reshaped"):
        await link.read_answers()
    assert await asyncio.gather(*changes) == [RESHAPED] * n_changes


async def test_every_frame_is_a_sign_of_life(ends: Ends) -> None:
    """An answer to a ping brings what the engine says of itself."""
    link, engine = ends
    assert link.stats == ipc.EngineStats()
    link.ping()
    assert await engine.hear() == ipc.Ping()
    stats = ipc.EngineStats(n_running=3, resident_bytes=7)
    engine.say(ipc.Step([]), ipc.Pong(stats))
    engine.writer.close()
    await link.read_answers()
    assert link.n_heard == 2
    assert link.stats == stats


async def test_what_it_held_before_a_change_is_forgotten(ends: Ends) -> None:
    """Nobody takes it for what a sleeping worker holds, until the next answer to a ping."""
    link, engine = ends
    reading = asyncio.create_task(link.read_answers())
    engine.say(ipc.Pong(ipc.EngineStats(n_answer=3, resident_bytes=1000)))
    changing = asyncio.create_task(link.reshape(LOAD, is_asleep=True))
    await engine.hear()
    engine.say(RESHAPED)
    await changing
    assert link.stats == ipc.EngineStats(n_answer=3, resident_bytes=READY.resident_bytes)
    engine.writer.close()
    await reading


async def test_nonsense_is_no_sign_of_life(ends: Ends) -> None:
    """Only what can be understood counts."""
    link, engine = ends
    engine.writer.write(b"nonsense\n")
    with pytest.raises(LinkBroken):
        await link.read_answers()
    assert link.n_heard == 0


async def test_an_adapter_is_detached_by_its_path(ends: Ends) -> None:
    """There is no answer to it."""
    link, engine = ends
    link.detach("/adapters/x.gguf")
    assert await engine.hear() == ipc.Detach("/adapters/x.gguf")


async def test_words_to_a_worker_that_is_gone_are_lost_quietly(ends: Ends) -> None:
    """Its end is told elsewhere."""
    link, engine = ends
    link.abort()
    link.ping()
    link.detach("/adapters/x.gguf")
    assert await engine.hear_all() == []
