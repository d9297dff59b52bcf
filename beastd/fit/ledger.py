"""What models take in memory, exactly and before they are loaded, as llama.cpp's simulated allocation tells.

Simulations run in a tool process, one at a time, and are remembered by the file's digest and the settings that matter.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from beastd.contract import Gpu, MemoryNeed, ModelShape
from beastd.errors import BeastError, ToolFailed
from beastd.fit.needsfile import NeedsFile
from beastd.fleet.memory import estimated_need, padded_ctx
from beastd.ipc import Failure, LoadSettings
from beastd.jobs.process import run_tool
from beastd.tool import Report
from beastd.toolorders import Outcome, SimulateCase, Simulated, SimulateOrder

TOOL = "beastd.engine.simulate"
LIMIT_S = 60.0
"""For a simulation, which takes a second or two: every cold load waits for its turn."""
_THAT_MATTER = (
    "n_ctx",
    "n_parallel",
    "n_sequences",
    "n_batch",
    "n_ubatch",
    "n_gpu_layers",
    "flash_attn",
    "kv_type",
    "kv_layout",
    "n_rollback",
    "mtp",
)
"""Fields of LoadSettings that change what is taken."""
_EDITION = 2
"""Another one wherever the simulation counts otherwise than before, or the key is another."""

_log = logging.getLogger(__name__)

RunTool = Callable[[str, SimulateOrder, Report, Path], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Case:
    """A model that might be loaded, and how."""

    digest: str
    """Of its files (``Variant.digest``)."""
    paths: tuple[str, ...]
    """The file, or all shards in order."""
    label: str
    """What messages call it."""
    shape: ModelShape
    settings: LoadSettings

    @property
    def key(self) -> str:
        """The same for all cases that take the same."""
        settings = msgspec.structs.replace(self.settings, n_ctx=padded_ctx(self.settings.n_ctx))
        return " ".join([self.digest, *(str(getattr(settings, name)) for name in _THAT_MATTER)])


class Ledger:
    """Answers what cases take. Its one user is the daemon's event loop."""

    def __init__(self, state_file: Path, logs_dir: Path, run: RunTool = run_tool) -> None:
        self._file = NeedsFile(state_file, f"llama-cpp-python {version('llama-cpp-python')}, {_EDITION}")
        self.gpus = self._file.gpus
        """As the last simulation saw them, this daemon's or an earlier one's."""
        self._log_file = logs_dir / "simulate.log"
        self._run = run
        self._turn = asyncio.Lock()
        self._failures: dict[str, Failure] = {}
        """Key → why a case was not simulated; it is not tried again while the daemon lives."""

    async def needs(self, cases: Sequence[Case]) -> list[MemoryNeed]:
        """What each case takes, in order; estimated where it cannot be simulated, which ``why_estimated`` tells.

        What is not known yet is simulated in one process. Never raises BeastError.
        """
        if self._missing(cases):
            async with self._turn:  # who asks the same meanwhile finds it known
                if missing := self._missing(cases):
                    await self._learn(missing)
        return [self._file.get(case.key) or estimated_need(case.shape, case.settings) for case in cases]

    async def learn_gpus(self) -> list[Gpu]:
        """Look at the GPUs anew: what is free on them changes. As before where that fails."""
        async with self._turn:
            await self._learn([])
        return self.gpus

    def why_estimated(self, case: Case) -> Failure | None:
        """Why a case's need is only estimated; None when it is exact."""
        return self._failures.get(case.key)

    def _missing(self, cases: Sequence[Case]) -> list[Case]:
        known = {case.key: case for case in cases if not self._file.get(case.key) and case.key not in self._failures}
        return list(known.values())

    async def _learn(self, cases: list[Case]) -> None:
        outcomes = await self._simulated(cases)
        found = {case.key: it.need for case, it in zip(cases, outcomes, strict=True) if it.need}
        for case, outcome in zip(cases, outcomes, strict=True):
            if outcome.failure:
                self._failures[case.key] = outcome.failure
                _log.warning("the memory %s takes is only estimated: %s", case.label, outcome.failure.message)
        if found:
            self._file.put(found)
            await asyncio.to_thread(self._file.save)

    async def _simulated(self, cases: list[Case]) -> list[Outcome]:
        """The outcomes; where one of several ends the process, each gets one of its own."""
        order = SimulateOrder(
            cases=[SimulateCase(paths=list(it.paths), label=it.label, settings=it.settings) for it in cases]
        )
        try:
            async with asyncio.timeout(LIMIT_S):
                result = msgspec.convert(await self._run(TOOL, order, lambda _: None, self._log_file), Simulated)
        except TimeoutError:
            failure = Failure(ToolFailed.code, f"the simulation did not end within {LIMIT_S:g} s")
            return [Outcome(failure=failure) for _ in cases]
        except ToolFailed as e:
            if len(cases) > 1:
                return [outcome for case in cases for outcome in await self._simulated([case])]
            return [Outcome(failure=Failure(e.code, e.message)) for _ in cases]
        except (BeastError, msgspec.ValidationError, OSError) as e:
            return [Outcome(failure=Failure("tool_failed", str(e))) for _ in cases]
        self.gpus = result.gpus
        self._file.use_gpus(result.gpus)
        return result.outcomes
