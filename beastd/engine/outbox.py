"""Gathers what the sequences have to say into one frame a step, and decides when the frame goes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from beastd import ipc
from beastd.contract import Final, Logprob

COALESCE_NS = 10_000_000
"""Steps shorter than this share a frame: every frame costs time on cores that should compute, and nobody
reads more than 100 updates a second."""


@dataclass(slots=True)
class _Pending:
    text: str = ""
    thinking: str = ""
    logprobs: list[Logprob] = field(default_factory=list)
    n_ahead: int | None = None
    final: Final | None = None
    error: ipc.Failure | None = None


class Outbox:
    """Deltas of all sequences since the last frame."""

    def __init__(self, send: Callable[[ipc.FromWorker], None]) -> None:
        self._send = send
        self._pending: dict[int, _Pending] = {}
        self._is_urgent = False
        self._sent_ns = 0

    def say(self, id_: int, text: str, thinking: str, logprobs: list[Logprob], *, is_first: bool) -> None:
        """More of an answer. A first piece goes out with the next frame at once: it is the TTFT."""
        pending = self._pending.setdefault(id_, _Pending())
        pending.text += text
        pending.thinking += thinking
        pending.logprobs += logprobs
        self._is_urgent |= is_first

    def wait(self, id_: int, n_ahead: int) -> None:
        """The request waits for a slot behind so many others."""
        self._pending.setdefault(id_, _Pending()).n_ahead = n_ahead

    def end(self, id_: int, ending: Final | ipc.Failure) -> None:
        """The one ending of an answer."""
        pending = self._pending.setdefault(id_, _Pending())
        if isinstance(ending, Final):
            pending.final = ending
        else:
            pending.error = ending
        self._is_urgent = True

    def forget(self, id_: int) -> None:
        """The request was cancelled: nobody listens any more."""
        self._pending.pop(id_, None)

    def flush_before(self, now_ns: int, *, is_short: bool) -> None:
        """Called before a step: send, unless the step is short and the last frame is hardly gone."""
        if self._is_urgent or not is_short or now_ns - self._sent_ns >= COALESCE_NS:
            self.flush(now_ns)

    def flush(self, now_ns: int) -> None:
        """Send everything gathered as one frame."""
        if self._pending:
            self._send(ipc.Step(deltas=[self._delta(id_, pending) for id_, pending in self._pending.items()]))
            self._pending.clear()
            self._sent_ns = now_ns
        self._is_urgent = False

    def tell(self, message: ipc.Reshaped | ipc.Pong) -> None:
        """Send what belongs to no request."""
        self._send(message)

    @staticmethod
    def _delta(id_: int, pending: _Pending) -> ipc.Delta:
        return ipc.Delta(
            id=id_,
            text=pending.text,
            thinking=pending.thinking,
            logprobs=pending.logprobs or None,
            n_ahead=pending.n_ahead,
            final=pending.final,
            error=pending.error,
        )
