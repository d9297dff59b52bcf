"""What an engine has done since its load, counted as it goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from beastd.engine.chunks import Chunk


@dataclass(slots=True)
class Tally:
    """Counts of tokens and steps; see ipc.EngineStats for meanings."""

    n_prompt: int = 0
    n_cached: int = 0
    n_answer: int = 0
    n_drafted: int = 0
    n_accepted: int = 0
    n_steps: int = 0
    step_s: float = 0.0

    def step(self, chunks: Sequence[Chunk], step_s: float) -> None:
        """Count a step that was computed."""
        self.n_prompt += sum(len(chunk.tokens) for chunk in chunks if chunk.is_prefill)
        self.n_drafted += sum(chunk.n_drafted for chunk in chunks)
        self.n_steps += 1
        self.step_s += step_s
