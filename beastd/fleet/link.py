"""The daemon's end of a worker's socket: frames out, frames in, and an inbox for each request it holds.

Nothing here waits for a slow reader of an answer, and a worker that does not read delays only who submits to it.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable

import msgspec

from beastd import ipc
from beastd.errors import BadRequest, BeastError, TooLarge, from_code
from beastd.fleet.inbox import Inbox


class LinkClosed(Exception):
    """The worker's end is closed."""


class LinkBroken(Exception):
    """The worker sent something that is no frame, or the wrong one; the rest cannot be trusted."""


class LinkStalled(Exception):
    """The worker makes no progress with its load."""


class Link:
    """A connection to one worker. ``load`` first, then ``read_answers`` for as long as it lives."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._sending = asyncio.Lock()
        self._ids = itertools.count(1)
        self._inboxes: dict[int, Inbox] = {}
        self._failure: BeastError | None = None
        self._reshaped: asyncio.Future[ipc.Reshaped] | None = None
        self.stats = ipc.EngineStats()
        """What the engine last said of itself."""
        self.n_heard = 0
        """Frames that came: signs of life."""

    @classmethod
    async def over(cls, sock: socket.socket) -> Link:
        """A link over the daemon's end of a socketpair; the link closes it."""
        return cls(*await asyncio.open_unix_connection(sock=sock, limit=ipc.MAX_FRAME_BYTES))

    # --- the load ---

    async def load(self, load: ipc.Load, timeout_s: float, on_progress: Callable[[float], None]) -> ipc.Ready:
        """Have the model loaded; on_progress hears every larger fraction done.

        Raises the worker's own error; LinkStalled after timeout_s seconds without progress; LinkClosed; LinkBroken.
        """
        self._writer.write(ipc.frame(load))
        done = 0.0
        while True:
            message = await self._next_of_load(timeout_s, done)
            if isinstance(message, ipc.Ready):
                return message
            done = message.fraction
            on_progress(done)

    async def _next_of_load(self, timeout_s: float, done: float) -> ipc.Progress | ipc.Ready:
        """The next frame that says something new about a load of which ``done`` is behind us."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    message = await self._receive()
                    if isinstance(message, ipc.LoadError):
                        raise from_code(message.failure.code, message.failure.message)
                    if isinstance(message, ipc.Step | ipc.Reshaped | ipc.Pong):
                        raise LinkBroken(f"a {type(message).__name__} frame before it was ready")
                    if isinstance(message, ipc.Ready) or message.fraction > done:
                        return message
        except TimeoutError:
            raise LinkStalled(f"no progress for {timeout_s:.3g} s, at {done:.0%} of the load") from None

    # --- the answers ---

    async def read_answers(self) -> None:
        """Put what the worker sends into the inboxes, until its end is closed (returns) or broken (LinkBroken)."""
        while True:
            try:
                message = await self._receive()
            except LinkClosed:
                return
            if isinstance(message, ipc.Step):
                for delta in message.deltas:
                    if inbox := self._inboxes.get(delta.id):  # else its request has left
                        inbox.put(delta)
            elif isinstance(message, ipc.Pong):
                self.stats = message.stats
            elif isinstance(message, ipc.Reshaped) and self._reshaped and not self._reshaped.done():
                # What it said before the change would be taken for what it holds now.
                self.stats = msgspec.structs.replace(self.stats, resident_bytes=message.ready.resident_bytes)
                self._reshaped.set_result(message)
            elif not isinstance(message, ipc.Progress):
                raise LinkBroken(f"a {type(message).__name__} frame when none was due")

    def open(self) -> Inbox:
        """An inbox for a new request, which ends for certain: by its answer or by fail. To be closed."""
        inbox = Inbox(next(self._ids))
        self._inboxes[inbox.id] = inbox
        if self._failure:
            inbox.fail(self._failure)
        return inbox

    def close(self, inbox: Inbox, *, was_sent: bool) -> None:
        """Forget a request; if the worker may still be busy with it, tell it to stop."""
        del self._inboxes[inbox.id]
        if was_sent and not inbox.is_ended:
            self._write(ipc.Cancel(inbox.id))

    async def send(self, submit: ipc.Submit) -> None:
        """Hand a request over; waits while the worker is behind with reading. At most one frame is in flight so.

        Raises TooLarge for a request too large for a frame, BadRequest for one that nests too deeply. Does not raise
        when the worker is gone: then the request's inbox fails.
        """
        try:
            data = ipc.frame(submit)
        except RecursionError as error:
            raise BadRequest("The request nests too deeply; send a flatter one.") from error
        if len(data) > ipc.MAX_FRAME_BYTES:
            raise TooLarge(f"The request takes {len(data)} bytes; send at most {ipc.MAX_FRAME_BYTES}.")
        async with self._sending:
            try:
                await self._writer.drain()
            except OSError:
                return
            if not self._writer.is_closing():
                self._writer.write(data)

    # --- the worker itself ---

    async def reshape(self, load: ipc.Load, *, is_asleep: bool) -> ipc.Reshaped:
        """Have the worker become this, and return what it has become.

        Raises the error of ``fail`` when it ends meanwhile.
        """
        self._reshaped = asyncio.get_running_loop().create_future()
        self._write(ipc.Reshape(load=load, is_asleep=is_asleep))
        if self._failure:
            self._reshaped.set_exception(self._failure)
        return await self._reshaped

    def ping(self) -> None:
        """Ask the engine's loop for a sign of life."""
        self._write(ipc.Ping())

    @property
    def is_idle(self) -> bool:
        """The worker is asked for nothing."""
        return not self._inboxes and (self._reshaped is None or self._reshaped.done())

    def leave(self) -> None:
        """Have the worker save its KV and end."""
        self._write(ipc.Leave())

    def clear_cache(self) -> None:
        """Have the worker forget the KV it keeps for later."""
        self._write(ipc.ClearCache())

    def detach(self, path: str) -> None:
        """Have a LoRA adapter freed."""
        self._write(ipc.Detach(path))

    def _write(self, message: ipc.ToWorker) -> None:
        if not self._writer.is_closing():
            self._writer.write(ipc.frame(message))

    # --- the end ---

    def fail(self, error: BeastError) -> None:
        """End every request with this error, those that are still to come as well."""
        self._failure = error
        for inbox in self._inboxes.values():
            inbox.fail(error)
        if self._reshaped and not self._reshaped.done():
            self._reshaped.set_exception(error)

    def abort(self) -> None:
        """Close this end at once; whoever reads it finds it closed."""
        self._writer.transport.abort()

    async def _receive(self) -> ipc.FromWorker:
        try:
            line = await self._reader.readline()
        except OSError:
            raise LinkClosed from None
        except ValueError:
            raise LinkBroken(f"a frame of more than {ipc.MAX_FRAME_BYTES} bytes") from None
        if not line.endswith(b"\n"):
            raise LinkClosed
        try:
            message: ipc.FromWorker = ipc.from_worker.decode(line)
        except msgspec.MsgspecError as error:
            raise LinkBroken(f"a frame that makes no sense ({error})") from None
        self.n_heard += 1
        return message
