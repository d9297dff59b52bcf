"""What an engine has done since its load, counted as it goes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Tally:
    """Counts of tokens and steps; see ipc.EngineStats for meanings."""

    n_prompt: int = 0
    n_cached: int = 0
    n_answer: int = 0
    n_steps: int = 0
    step_s: float = 0.0

    def step(self, n_prefill: int, step_s: float) -> None:
        """Count a step that was computed, with its prompt tokens."""
        self.n_prompt += n_prefill
        self.n_steps += 1
        self.step_s += step_s
