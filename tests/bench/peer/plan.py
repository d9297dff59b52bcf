"""What every row is told, and how two servers run in turn: both are up, one computes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from tests.bench.peer.asking import Answer, Ask
from tests.bench.peer.figures import Row
from tests.bench.peer.servers import Beast, NotMeasured, Peer, Server, ask, llama_server

T = TypeVar("T")
Pair = tuple[Beast, Peer]


@dataclass(frozen=True, slots=True)
class Plan:
    """The command line."""

    model: Path | None
    cub: Path
    draft: Path
    llama_server: Path | None
    python: Path | None
    """Of an environment with llama_cpp.server."""
    n_rounds: int
    n_threads: int
    seconds: float
    """Length of a closed loop."""
    is_small: bool
    """A trial: a quarter of the streams, prompts and answers."""
    settings: dict[str, str] = field(default_factory=dict)
    """Beast's, over those of the row."""
    llama_args: Sequence[str] = ()

    def n(self, n: int) -> int:
        """So many, or a quarter of them in a trial."""
        return max(n // 4, 2) if self.is_small else n

    def shape(self) -> Path:
        """The large model. Raises NotMeasured."""
        if self.model is None:
            raise NotMeasured("it needs --model")
        return self.model

    def peer_binary(self) -> Path:
        """llama-server. Raises NotMeasured."""
        if self.llama_server is None:
            raise NotMeasured("it needs --llama-server")
        return self.llama_server

    @contextmanager
    def beast(self, model: Path, settings: dict[str, str], draft: Path | None = None) -> Iterator[Beast]:
        """A Beast of its own, warmed up and ended."""
        own = {"threads": str(self.n_threads)} | settings | self.settings
        server = Beast(model, own, draft)
        try:
            yield server
        finally:
            server.stop()

    @contextmanager
    def llama(self, model: Path, n_slots: int, n_ctx: int) -> Iterator[Peer]:
        """A llama-server of its own."""
        server = llama_server(self.peer_binary(), model, self.n_threads, n_slots, n_ctx, self.llama_args)
        try:
            yield server
        finally:
            server.stop()

    @asynccontextmanager
    async def pair(self, model: Path, n_slots: int, n_ctx: int, draft: Path | None = None) -> AsyncIterator[Pair]:
        """Both, with the same slots and context, each warmed up by two requests at once."""
        self.peer_binary()
        shape = {"parallel": str(n_slots), "context": str(n_ctx)}
        with self.beast(model, shape, draft) as ours, self.llama(model, n_slots, n_ctx) as theirs:
            for server in (ours, theirs):
                await warm_up(server)
            yield ours, theirs


async def warm_up(server: Server) -> None:
    """Two small requests at once, so that buffers are touched and threads there."""
    await together(server, [Ask(f" {word} time year", 4) for word in ("day", "way")])


async def at_once(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Results in order; the first failure ends all of them."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


async def together(server: Server, asks: Sequence[Ask]) -> list[Answer]:
    """All at once; their answers in order."""
    return await at_once(ask(server, it) for it in asks)


def in_turn(pair: Pair, round_: int) -> Sequence[Server]:
    """Who goes first changes from round to round."""
    return pair if round_ % 2 == 0 else (pair[1], pair[0])


def seeded(row: str, round_: int, more: int = 0) -> Random:
    """The same texts for both servers, others in every round."""
    return Random(f"{row} {round_} {more}")


class ClientLoad:
    """How much of a core this process takes, which must be little: it shares the cores with the servers."""

    def __init__(self) -> None:
        self._start = time.process_time(), time.perf_counter()

    def note(self, row: Row) -> None:
        """Say it."""
        process_s, wall_s = (
            now - then for now, then in zip((time.process_time(), time.perf_counter()), self._start, strict=True)
        )
        row.note(f"the client took {process_s / wall_s:.1%} of a core")
