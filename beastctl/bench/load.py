"""Put a load on a server and note when what comes back comes; little work for each piece, as it shares the machine."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

import aiohttp

from beastctl.bench.dialect import DIALECTS, Ask, Dialect
from beastctl.bench.stats import Timeline
from beastd.errors import BeastError

STALL_S = 600.0
"""A server that sends nothing for so long has failed the request."""


class BenchFailed(BeastError):
    """The server cannot be measured."""

    code = "bench_failed"


class Server:
    """A server under load, at ``url``: http://HOST:PORT, or unix:PATH."""

    def __init__(self, url: str) -> None:
        socket_path = url.removeprefix("unix:")
        self._url = url
        is_unix = socket_path != url
        self._base = "http://localhost" if is_unix else url.rstrip("/")
        # Some servers close a connection after a stream without saying so: each request gets its own.
        connector = (
            aiohttp.UnixConnector(socket_path, limit=0, force_close=True)
            if is_unix
            else aiohttp.TCPConnector(limit=0, force_close=True)
        )
        timeout = aiohttp.ClientTimeout(total=None, sock_read=STALL_S)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def detect(self) -> Dialect:
        """The API this server speaks.

        Raises:
            BenchFailed: nobody answers, or neither API.
        """
        for path, name in (("/api/version", "ollama"), ("/v1/models", "openai")):
            try:
                async with self._session.get(self._base + path) as reply:
                    if reply.status == 200 and isinstance(await reply.json(content_type=None), dict):
                        return DIALECTS[name]()
            except aiohttp.ClientConnectionError as error:
                raise BenchFailed(f"nothing answers at {self._url}: {error}") from error
            except ValueError:
                continue
        raise BenchFailed(f"{self._url} speaks neither Ollama's API nor OpenAI's; --api names it")

    async def run(self, dialect: Dialect, ask: Ask) -> Timeline:
        """One request from its sending to its end; what went wrong is in the timeline."""
        body = json.dumps(dialect.body(ask)).encode()
        timeline = Timeline(sent_s=time.perf_counter())
        try:
            await self._follow(dialect, body, timeline)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            timeline.error = f"{type(error).__name__}: {error}"
        timeline.ended_s = time.perf_counter()
        timeline.n_answer = timeline.n_answer or len(timeline.stamps_s)
        if not timeline.error and not timeline.stamps_s:
            timeline.error = "the answer has no text"
        return timeline

    async def _follow(self, dialect: Dialect, body: bytes, timeline: Timeline) -> None:
        headers = {"Content-Type": "application/json"}
        async with self._session.post(self._base + dialect.path, data=body, headers=headers) as reply:
            if reply.status != 200:
                timeline.error = f"HTTP {reply.status}: {(await reply.text())[:300]}"
                return
            pending = b""
            async for data in reply.content.iter_any():
                now = time.perf_counter()
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    _take(dialect, line, now, timeline)

    async def run_together(self, dialect: Dialect, asks: Sequence[Sequence[Ask]]) -> list[list[Timeline]]:
        """A stream for each item: its requests one after another, all streams at once."""

        async def stream(own: Sequence[Ask]) -> list[Timeline]:
            return [await self.run(dialect, ask) for ask in own]

        return await asyncio.gather(*map(stream, asks))

    async def fitting(self, dialect: Dialect, ask: Ask) -> tuple[Dialect, Ask]:
        """What of the load this server takes: ``ask`` answered without error, perhaps less an extension or the dialect.

        Raises:
            BenchFailed: no way works; with the server's first word on it.
        """
        first = await self.run(dialect, ask)
        if not first.error:
            return dialect, ask
        plain = replace(ask, is_eos_ignored=False)
        chat = DIALECTS["openai-chat"]()
        others = [(dialect, plain)] + ([(chat, ask), (chat, plain)] if dialect.path == DIALECTS["openai"].path else [])
        for other, less in others:
            if not (await self.run(other, less)).error:
                return other, less
        raise BenchFailed(f"{self._url} refuses the load: {first.error}")


def _take(dialect: Dialect, line: bytes, now: float, timeline: Timeline) -> None:
    event = dialect.read(line) if line.strip() else None
    if event is None:
        return
    if event.has_text:
        timeline.stamps_s.append(now)
    timeline.n_prompt = event.n_prompt or timeline.n_prompt
    timeline.n_answer = event.n_answer or timeline.n_answer
    timeline.error = timeline.error or event.error
