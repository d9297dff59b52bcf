"""The measurement itself: calibrate, one stream, then more at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from beastctl.bench.dialect import DIALECTS, Ask, Dialect
from beastctl.bench.load import BenchFailed, Server
from beastctl.bench.prompts import Scale, text, with_prefix
from beastctl.bench.stats import Timeline, many_streams, one_stream

DEFAULT_CTX = 4096
"""Context every Beast model has at least; a longer load asks for its own."""
N_LATE = 16
"""Tokens of the late request's prompt, and of its answer."""
N_PROBE = 8
"""Tokens of a calibrating answer: one alone may be half a character, and show no text."""
N_RUNS = 3
"""Requests whose median is a figure for one stream."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. Lengths in tokens, times in seconds."""

    url: str
    api: str
    """A key of DIALECTS, or "auto"."""
    model: str
    n_prompt: int
    n_answer: int
    streams: Sequence[int]
    n_rounds: int
    prompt_lengths: Sequence[int]
    n_shared: int
    stagger_s: float | None
    n_warm_up: int
    temperature: float
    seed: int
    priority: str | None = None
    """Of all requests but the late one, which has the server's default."""


async def measure(plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Run the plan; the report as plain data. ``say`` hears what is being done.

    Raises:
        BenchFailed: the server is not there, or refuses the load.
    """
    async with Server(plan.url) as server:
        dialect = await server.detect() if plan.api == "auto" else DIALECTS[plan.api]()
        return await Measurement(plan, server, say).run(dialect)


class Measurement:
    """One run of a plan against one server."""

    def __init__(self, plan: Plan, server: Server, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._server = server
        self._say = say
        self._random = Random(plan.seed)
        self._scale = Scale(0.0, 1.0)
        n_ctx = max(plan.n_prompt, *plan.prompt_lengths, 0) + plan.n_answer + 64
        self._ask = Ask(
            model=plan.model,
            prompt="",
            n_answer=plan.n_answer,
            seed=plan.seed,
            temperature=plan.temperature,
            n_ctx=n_ctx if n_ctx > DEFAULT_CTX else None,
            priority=plan.priority,
        )

    async def run(self, dialect: Dialect) -> dict[str, Any]:
        """Calibrate, warm up, measure."""
        plan = self._plan
        dialect = await self._calibrate(dialect)
        for _ in range(plan.n_warm_up):
            await self._server.run(dialect, self._next(plan.n_prompt))
        report: dict[str, Any] = {"url": plan.url, "path": dialect.path, "model": plan.model}
        report |= {"prompt_tokens": plan.n_prompt, "answer_tokens": plan.n_answer, "shared_prefix": plan.n_shared}
        report["one_stream"] = await self._one(dialect, plan.n_prompt)
        report["prompt_lengths"] = [await self._one(dialect, n_prompt) for n_prompt in plan.prompt_lengths]
        report["streams"] = [await self._many(dialect, n_streams) for n_streams in plan.streams]
        return report

    async def _calibrate(self, dialect: Dialect) -> Dialect:
        self._say("calibrating the prompts' length …")
        probe = replace(self._ask, n_answer=N_PROBE)
        dialect, probe = await self._server.fitting(dialect, replace(probe, prompt=text(self._random, 40)))
        self._ask = replace(self._ask, is_eos_ignored=probe.is_eos_ignored)
        points = []
        for n_words in (40, 200):
            timeline = await self._server.run(dialect, replace(probe, prompt=text(self._random, n_words)))
            if timeline.error:
                raise BenchFailed(f"{self._plan.url} refuses the load: {timeline.error}")
            points.append((n_words, timeline.n_prompt or n_words))
        self._scale = Scale.through(points[0], points[1])
        return dialect

    async def _one(self, dialect: Dialect, n_prompt: int) -> dict[str, Any]:
        self._say(f"one stream, {n_prompt} tokens of prompt …")
        return one_stream([await self._server.run(dialect, self._next(n_prompt)) for _ in range(N_RUNS)])

    async def _many(self, dialect: Dialect, n_streams: int) -> dict[str, Any]:
        plan = self._plan
        self._say(f"{n_streams} streams …")
        prefix = text(self._random, self._scale.n_words(plan.n_shared)) if plan.n_shared else ""
        asks = [[self._next(plan.n_prompt, prefix) for _ in range(plan.n_rounds)] for _ in range(n_streams)]
        if plan.stagger_s is None:
            return many_streams(await self._server.run_together(dialect, asks))
        late, runs = await asyncio.gather(self._late(dialect, plan.stagger_s), self._server.run_together(dialect, asks))
        outcome = {"late_error": late.error} if late.error else {"late_ttft_s": late.ttft_s}
        return many_streams(runs) | outcome

    async def _late(self, dialect: Dialect, delay_s: float) -> Timeline:
        await asyncio.sleep(delay_s)
        return await self._server.run(dialect, replace(self._next(N_LATE), n_answer=N_LATE, priority=None))

    def _next(self, n_prompt: int, prefix: str = "") -> Ask:
        prompt = with_prefix(prefix, self._random, self._scale.n_words(n_prompt))
        return replace(self._ask, prompt=prompt, seed=self._random.randrange(2**31))
