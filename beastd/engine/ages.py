"""How long a sequence has waited, as far as others are to blame. Pure.

Against its own client's others the clock counts. Against other clients' only what these got meanwhile: else a client
that sends a thousand requests at once would, as they grow old, shut everybody out who comes later.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from beastd.contract import Priority
from beastd.engine.sequence import Sequence


@dataclass(slots=True)
class _Client:
    """One that has sequences here."""

    got_s: float = 0.0
    """Work done for it."""
    marks_s: dict[int, float] = field(default_factory=dict)
    """Sequence → work done for other clients when it came."""
    lines: dict[Priority, dict[int, int]] = field(default_factory=dict)
    """Sequences without an answer yet, oldest first, and when they came (ns)."""


class Ages:
    """Ages of all sequences without an answer yet, in seconds."""

    def __init__(self) -> None:
        self._clients: dict[str, _Client] = {}
        self._total_s = 0.0

    def on_wait(self, sequence: Sequence) -> None:
        """It waits for a slot; one that had one goes on where it was."""
        client = self._clients.setdefault(sequence.client, _Client())
        client.marks_s.setdefault(sequence.id, self._total_s - client.got_s)
        client.lines.setdefault(sequence.priority, {})[sequence.id] = sequence.arrived_ns

    def on_computed(self, sequence: Sequence, work_s: float) -> None:
        """So much work was done for it."""
        self._total_s += work_s
        self._clients[sequence.client].got_s += work_s

    def on_answer(self, sequence: Sequence) -> None:
        """It has a token of its answer: others of its client are the oldest now."""
        self._clients[sequence.client].lines[sequence.priority].pop(sequence.id, None)

    def on_end(self, sequence: Sequence) -> None:
        """It is over."""
        self.on_answer(sequence)
        client = self._clients[sequence.client]
        del client.marks_s[sequence.id]
        if not client.marks_s:
            del self._clients[sequence.client]

    def age_s(self, sequence: Sequence) -> float:
        """What other clients got since it came, less its youth beside the oldest of its client and priority."""
        client = self._clients[sequence.client]
        others_s = self._total_s - client.got_s - client.marks_s[sequence.id]
        oldest_ns = next(iter(client.lines[sequence.priority].values()), sequence.arrived_ns)
        return others_s - (sequence.arrived_ns - oldest_ns) / 1e9
