"""One worker: a process that holds one loaded base model, and the requests it answers."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from beastd import ipc
from beastd.errors import BeastError, LoadFailed, LoadTimeout, OutOfMemory, ShuttingDown, WorkerDied
from beastd.fleet.link import Link, LinkBroken, LinkClosed, LinkStalled
from beastd.fleet.memory import n_oom_kills
from beastd.fleet.process import Process
from beastd.fleet.spec import WorkerSpec

_END_GRACE_S = 0.5
"""For a process whose end of the socket is closed: it is about to end, or hangs."""
_STOP_GRACE_S = 3.0
"""For a process that was told to stop."""

LEAVE_S = 2.5
"""For an idle process that was told to save its KV and leave."""

_PING_EVERY_S = 2.0
_READ_BYTES_PER_S = 100e6
"""A slow disk. A step reads all weights from it that the system has dropped from memory since the last one."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a worker may give no sign of life, in seconds, besides what the reading of its weights may take."""

    load_s: float
    """While it loads: no progress."""
    hang_s: float
    """While it serves: no answer to pings, from a loop that answers between any two steps."""

    @property
    def ping_every_s(self) -> float:
        """How often it is asked."""
        return min(_PING_EVERY_S, self.hang_s / 4)


class Worker:
    """The life of one process: ``load`` once, then ``serve`` until it ends; ``stop`` at any time ends either.

    While it serves it takes other shapes in place (``reshape``), and is killed when its loop gives no sign of life.

    Whenever load raises or serve returns, the process is gone and reaped; if one of them is cancelled it is killed.
    """

    ready: ipc.Ready
    """What the loaded worker said of itself; there once load has returned."""

    def __init__(self, spec: WorkerSpec, log: Path, limits: Limits, tiers: ipc.KvTiers | None = None) -> None:
        """``tiers``: where KV goes that leaves the cache."""
        self.spec = spec
        self._tiers = tiers
        self._leaving: asyncio.TimerHandle | None = None
        self._is_serving = False
        self.is_stopping = False
        self.fraction = 0.0
        """How much of the load is done."""
        self._log = log
        self._limits = limits
        self._is_hung = False
        self._n_oom_kills = n_oom_kills()
        self._process: Process | None = None
        self._link: Link | None = None

    @property
    def pid(self) -> int | None:
        """The process, once there is one."""
        return self._process.pid if self._process else None

    async def load(self) -> ipc.Ready:
        """Start the process and have it load its model; ``fraction`` tells how far it is.

        Raises LoadTimeout without progress for the load timeout; LoadFailed when the process cannot start, ends
        or talks nonsense; and whatever error the engine reports (BadModel, DoesNotFit…).
        """
        try:
            link = await self._connect()
            # A mapped file is read when the model is warmed up, which tells of no progress.
            limit_s = self._limits.load_s + self._reading_s
            self.ready = await link.load(_load_frame(self.spec, self._tiers), limit_s, self._on_progress)
        except Exception as cause:
            await self._end(is_hopeless=isinstance(cause, LinkStalled | LinkBroken))
            raise self._load_error(cause) from cause
        except BaseException:
            self._kill()
            raise
        return self.ready

    async def serve(self) -> None:
        """Pass answers on until the process ends; then every request it held ends with one error."""
        assert self._link is not None, "serve comes after load"
        broken: LinkBroken | None = None
        self._is_serving = True
        watch = asyncio.create_task(self._watch(self._link), name=f"watch of {self.spec.label}")
        try:
            broken = await self._read_answers(self._link)
            watch.cancel()
            await self._end(is_hopeless=broken is not None)
        except BaseException:
            self._kill()
            raise
        finally:
            watch.cancel()
            if self._leaving:
                self._leaving.cancel()
            self._link.fail(self._death(broken))

    async def _watch(self, link: Link) -> None:
        """Ping, and kill a process whose loop does not answer.

        Silence is counted in pings, not read off a clock: a daemon that was itself stopped blames nobody for it.
        """
        silent_s = 0.0
        while silent_s < self._hang_s:
            n_heard = link.n_heard
            link.ping()
            await asyncio.sleep(self._limits.ping_every_s)
            silent_s = silent_s + self._limits.ping_every_s if link.n_heard == n_heard else 0.0
        self._is_hung = True
        _log.error("%s gave no sign of life for %.3g s: killing it", self.spec.label, self._hang_s)
        self._kill()

    @property
    def _hang_s(self) -> float:
        """How long it may be silent: a large model that was not asked for a while reads its file again."""
        return self._limits.hang_s + self._reading_s

    @property
    def _reading_s(self) -> float:
        return self.spec.weights.total_bytes / _READ_BYTES_PER_S

    @property
    def stats(self) -> ipc.EngineStats:
        """What the engine last said of itself."""
        return self._link.stats if self._link else ipc.EngineStats()

    async def reshape(self, spec: WorkerSpec, *, is_asleep: bool) -> ipc.Reshaped:
        """Have the loaded process become this in place. Its answers pause, and go on afterwards.

        Raises what its requests would be told when the process ends meanwhile.
        """
        assert self._link is not None, "reshape comes after load"
        reshaped = await self._link.reshape(_load_frame(spec, self._tiers), is_asleep=is_asleep)
        self.ready = reshaped.ready
        if reshaped.failure is None:
            self.spec = spec
        return reshaped

    def detach(self, path: str) -> None:
        """Have a LoRA adapter freed as soon as no answer uses it."""
        if self._link:
            self._link.detach(path)

    def clear_cache(self) -> None:
        """Have the KV forgotten that is kept for later prompts."""
        if self._link:
            self._link.clear_cache()

    async def _read_answers(self, link: Link) -> LinkBroken | None:
        """Pass answers on while the link holds; returns what broke it, if it was not closed."""
        try:
            await link.read_answers()
        except LinkBroken as error:
            return error
        except Exception as error:
            _log.exception("unexpected error while reading from %s", self.spec.label)
            return LinkBroken(f"what Beast failed to read ({error!r})")
        return None

    def stop(self) -> None:
        """Begin to end the process; load raises or serve returns when it is gone.

        One that answers nothing may save its KV first.
        """
        self.is_stopping = True
        if not self._process or not self._link:
            return
        if self._leaving is None and self._is_serving and self._has_disk_tier and self._link.is_idle:
            self._link.leave()
            self._leaving = asyncio.get_running_loop().call_later(LEAVE_S, self.stop)
        else:
            self._link.abort()
            self._process.terminate()

    @property
    def _has_disk_tier(self) -> bool:
        return self._tiers is not None and self._tiers.disk_bytes > 0

    async def generate(self, submit: ipc.Submit) -> AsyncGenerator[ipc.Delta, None]:
        """Have a request answered; its id is replaced. Ends after the delta with ``final``.

        A slow consumer gets fewer, longer deltas. Closing the generator early cancels the request in the engine:
        close it for certain (``contextlib.aclosing``). Raises the error the engine gives the request, WorkerDied,
        ShuttingDown, and BadRequest for a request too large to pass on.
        """
        assert self._link is not None, "generate comes after load"
        inbox = self._link.open()
        was_sent = False
        try:
            await self._link.send(msgspec.structs.replace(submit, id=inbox.id))
            was_sent = True
            while True:
                delta = await inbox.take()
                yield delta
                if delta.final is not None:
                    return
        finally:
            self._link.close(inbox, was_sent=was_sent)

    async def _connect(self) -> Link:
        daemon_end, engine_end = socket.socketpair()
        try:
            with engine_end:
                self._process = await Process.spawn(engine_end, self._log)
            self._link = await Link.over(daemon_end)
        except BaseException:
            daemon_end.close()
            raise
        if self.is_stopping:  # it was told so while it had no process
            self.stop()
        return self._link

    def _on_progress(self, fraction: float) -> None:
        self.fraction = fraction

    async def _end(self, *, is_hopeless: bool) -> None:
        """Close the link and see the process gone; a hopeless one is not given time."""
        if self._link:
            self._link.abort()
        if self._process:
            if is_hopeless:
                self._process.kill()
            await self._process.end(_STOP_GRACE_S if self.is_stopping else _END_GRACE_S)

    def _kill(self) -> None:
        if self._link:
            self._link.abort()
        if self._process:
            self._process.kill()

    # --- messages ---

    def _load_error(self, cause: Exception) -> BeastError:
        label = self.spec.label
        if isinstance(cause, BeastError):
            return cause
        if self.is_stopping:
            return ShuttingDown(f"{label} was stopped while it loaded.")
        if isinstance(cause, LinkStalled):
            return LoadTimeout(f"{label} was given up while it loaded: {cause}. {self._log_hint()}")
        if isinstance(cause, LinkBroken):
            return LoadFailed(f"{label} failed to load: its worker sent {cause}. {self._log_hint()}")
        if isinstance(cause, LinkClosed) and self._process:
            kind = OutOfMemory if self._was_oom_killed else WorkerDied if self._process.is_killed else LoadFailed
            return kind(f"{label} failed to load: its worker, pid {self.pid}, {self._outcome()}. {self._log_hint()}")
        return LoadFailed(f"{label} failed to load: its worker could not be started ({cause}).")

    def _log_hint(self) -> str:
        tail = self._process.log_tail() if self._process else ""
        return f"The end of {self._log}:\n{tail}" if tail else f"Its log, {self._log}, is empty."

    def _death(self, broken: LinkBroken | None) -> BeastError:
        if self.is_stopping:
            return ShuttingDown(f"{self.spec.label} was stopped before the answer was complete.")
        outcome = self._outcome()
        how = f"sent {broken} and {outcome}" if broken else outcome
        return WorkerDied(
            f"The worker of {self.spec.label}, pid {self.pid}, {how} before the answer was complete; the next request "
            "starts a fresh one."
        )

    def _outcome(self) -> str:
        """How its process ended, to follow its name in a sentence."""
        if self._is_hung:
            return f"gave no sign of life for {self._hang_s:.3g} s and was killed"
        outcome = self._process.outcome() if self._process else "is gone"
        if not self._was_oom_killed:
            return outcome
        held = f"; it last held {self.stats.resident_bytes / 1e9:.2f} GB" if self.stats.resident_bytes else ""
        return f"{outcome}: the system ran out of memory{held}"

    @property
    def _was_oom_killed(self) -> bool:
        is_killed = self._process is not None and self._process.is_killed and not self._is_hung
        return is_killed and not self.is_stopping and n_oom_kills() > self._n_oom_kills


def _load_frame(spec: WorkerSpec, tiers: ipc.KvTiers | None) -> ipc.Load:
    return ipc.Load(
        paths=list(spec.paths),
        label=spec.label,
        variant=spec.variant,
        template=spec.template,
        digest=spec.digest,
        tiers=tiers,
        draft=spec.draft,
        settings=spec.settings,
    )
