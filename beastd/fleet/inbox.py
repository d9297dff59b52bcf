"""What one request has received and not yet read: deltas merge while nobody reads, so an answer bounds its size."""

from __future__ import annotations

import asyncio

from beastd import ipc
from beastd.contract import Final, Logprob
from beastd.errors import BeastError, from_code


class Inbox:
    """One request's end of a worker: the reader of frames puts, the request takes."""

    def __init__(self, request_id: int) -> None:
        self.id = request_id
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._logprobs: list[Logprob] = []
        self._n_ahead: int | None = None
        self._final: Final | None = None
        self._error: BeastError | None = None
        self._news = asyncio.Event()

    @property
    def is_ended(self) -> bool:
        """The worker has said its last word about the request."""
        return self._final is not None or self._error is not None

    def put(self, delta: ipc.Delta) -> None:
        """Add a piece, unless the answer has ended."""
        if self.is_ended:
            return
        if delta.text:
            self._text.append(delta.text)
        if delta.thinking:
            self._thinking.append(delta.thinking)
        self._logprobs += delta.logprobs or ()
        if delta.n_ahead is not None:
            self._n_ahead = delta.n_ahead
        self._final = delta.final
        if delta.error is not None:
            self._error = from_code(delta.error.code, delta.error.message)
        self._news.set()

    def fail(self, error: BeastError) -> None:
        """End the answer with this error, unless it has ended."""
        if not self.is_ended:
            self._error = error
            self._news.set()

    async def take(self) -> ipc.Delta:
        """All there is since the last time, as one delta; waits for some.

        Raises the error the answer ended with, once everything before it was taken.
        """
        await self._news.wait()
        has_piece = bool(self._text or self._thinking or self._logprobs)
        if self._error is not None and not has_piece:
            raise self._error
        delta = ipc.Delta(
            id=self.id,
            text="".join(self._text),
            thinking="".join(self._thinking),
            logprobs=self._logprobs or None,
            n_ahead=self._n_ahead,
            final=self._final,
        )
        self._text, self._thinking, self._logprobs, self._n_ahead = [], [], [], None
        if self._error is None:
            self._news.clear()
        return delta
