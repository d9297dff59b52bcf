"""An inbox: what was put in comes out, in order, merged while nobody reads."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beastd.contract import Final, Logprob
from beastd.errors import BadRequest, WorkerDied
from beastd.fleet.inbox import Inbox
from beastd.ipc import Delta, Failure

pieces = st.tuples(st.text(max_size=3), st.text(max_size=3), st.integers(0, 2))


def delta(text: str, thinking: str = "", n_logprobs: int = 0) -> Delta:
    logprobs = [Logprob(token=f"{text}{i}", logprob=-1.0, bytes=[]) for i in range(n_logprobs)]
    return Delta(id=1, text=text, thinking=thinking, logprobs=logprobs or None)


@given(st.lists(st.tuples(pieces, st.booleans()), max_size=20))
def test_no_reader_pace_changes_the_answer(steps: list[tuple[tuple[str, str, int], bool]]) -> None:
    """However often the reader looks, the joined texts, thoughts and logprobs are those of the engine."""

    async def read() -> list[Delta]:
        inbox, taken = Inbox(1), []
        for piece, is_read in steps:
            inbox.put(delta(*piece))
            if is_read:
                taken.append(await inbox.take())
        inbox.put(Delta(id=1, final=Final(reason="stop")))
        taken.append(await inbox.take())
        return taken

    taken = asyncio.run(read())
    assert "".join(d.text for d in taken) == "".join(text for (text, _, _), _ in steps)
    assert "".join(d.thinking for d in taken) == "".join(thinking for (_, thinking, _), _ in steps)
    expected = [f"{text}{i}" for (text, _, n), _ in steps for i in range(n)]
    assert [lp.token for d in taken for lp in d.logprobs or ()] == expected
    assert [d.final is not None for d in taken] == [False] * (len(taken) - 1) + [True]


async def test_taking_waits_for_news() -> None:
    """An empty inbox holds the reader until something comes."""
    inbox = Inbox(1)
    reader = asyncio.create_task(inbox.take())
    await asyncio.sleep(0)
    assert not reader.done()
    inbox.put(delta("a"))
    assert (await reader).text == "a"


async def test_an_error_comes_after_the_text_before_it() -> None:
    """What was generated is not lost with the worker."""
    inbox = Inbox(1)
    inbox.put(delta("half an ans"))
    inbox.fail(WorkerDied("gone"))
    assert (await inbox.take()).text == "half an ans"
    with pytest.raises(WorkerDied):
        await inbox.take()


async def test_the_engines_error_is_raised_as_its_class() -> None:
    """Errors cross the border by code."""
    inbox = Inbox(1)
    inbox.put(Delta(id=1, error=Failure("bad_request", "no such adapter")))
    with pytest.raises(BadRequest, match="no such adapter"):
        await inbox.take()


async def test_only_the_first_ending_counts() -> None:
    """A worker that dies after its last word does not spoil the answer."""
    inbox = Inbox(1)
    inbox.put(Delta(id=1, final=Final(reason="stop")))
    inbox.fail(WorkerDied("gone"))
    inbox.put(delta("late"))
    last = await inbox.take()
    assert last.final is not None
    assert last.text == ""


async def test_only_the_newest_place_among_those_who_wait_is_told() -> None:
    """And once: the next piece has none."""
    inbox = Inbox(1)
    inbox.put(Delta(id=1, n_ahead=5))
    inbox.put(Delta(id=1, n_ahead=2))
    assert (await inbox.take()).n_ahead == 2
    inbox.put(delta("a"))
    assert (await inbox.take()).n_ahead is None


async def test_a_place_of_nobody_ahead_is_a_place() -> None:
    """Nought is not nothing; text that comes with it does not hide it."""
    inbox = Inbox(1)
    inbox.put(Delta(id=1, n_ahead=0))
    inbox.put(delta("a"))
    taken = await inbox.take()
    assert (taken.n_ahead, taken.text) == (0, "a")
