"""The engine's loop: take requests, compute one step for all of them, tell the daemon, again."""

from __future__ import annotations

import time
import traceback
from contextlib import suppress
from dataclasses import asdict
from itertools import groupby, islice
from queue import Empty, SimpleQueue

from beastd import ipc
from beastd.contract import Logprob, TokenLogprob
from beastd.engine.chunks import Chunk
from beastd.engine.intake import Intake
from beastd.engine.llama import DecodeError, FloatArray, Llama
from beastd.engine.memory import held
from beastd.engine.outbox import Outbox
from beastd.engine.positions import Positions
from beastd.engine.reshape import Companion, Shape
from beastd.engine.sampler import Sampled, Sampler
from beastd.engine.scheduler import Scheduler
from beastd.engine.sequence import Sequence
from beastd.engine.speculative import Speculation
from beastd.engine.tally import Tally
from beastd.engine.tiers import Tiers, identity_of
from beastd.errors import BeastError, EngineFailed

INTAKE_NS = 20_000_000
"""A step takes no further request after so long: rendering and tokenizing their prompts stalls every stream."""
FEWEST_TOGETHER = 3
"""From so many sequences on it takes less time to sample them together."""
_Drawn = Sampled | Exception | None

READING_S = 0.002
"""How long to wait for KV from the disk, or a message, when there is nothing to compute meanwhile."""
LEAVE_SAVE_S = 1.5
"""A load may wait for the memory. The daemon ends a process that does not leave within Worker's ``LEAVE_S``."""
SLEEP_SAVE_S = 1.0
"""A request that comes meanwhile waits; what is not on disk by then goes there later."""


class Engine:
    """Runs the sequences of one base model. One thread, no locks."""

    def __init__(
        self,
        llama: Llama,
        intake: Intake,
        scheduler: Scheduler,
        inbox: SimpleQueue[ipc.ToWorker],
        outbox: Outbox,
        *,
        tiers: Tiers | None = None,
        speculation: Speculation | None = None,
        draft: Companion | None = None,
    ) -> None:
        """``speculation`` None: nothing is ever drafted; ``draft`` changes its shape with the model."""
        self._llama = llama
        self._intake = intake
        self._scheduler = scheduler
        self._inbox = inbox
        self._outbox = outbox
        self._tiers = tiers or Tiers(None, "")
        self._shape = Shape(llama, intake, scheduler, draft)
        self._speculation = speculation
        self._draft = draft
        self._tally = Tally()
        self._arrived: dict[int, ipc.Submit] = {}
        """Requests that are not sequences yet, oldest first."""
        self._live: dict[int, Sequence] = {}
        self._positions = Positions()
        self._n_detached = 0
        self._is_leaving = False

    @property
    def ready(self) -> ipc.Ready:
        """What the daemon is told of it."""
        return self._shape.ready

    def run(self) -> None:
        """Serve until told to leave; besides, the process ends with its daemon's end of the pipe.

        Raises ``BeastError`` when the model was lost in a reshape; every request has its ending then.
        """
        while not self._is_leaving:
            self.step()

    def step(self) -> None:
        """Take what has arrived, then compute one batch. Blocks when there is nothing to compute."""
        self._drain()
        self._take_in()
        now_ns = time.monotonic_ns()
        for sequence in self._scheduler.admit(now_ns):
            self._begin(sequence, now_ns)
        self._tell_positions(now_ns)
        chunks = self._scheduler.next_batch(now_ns)
        if chunks:
            self._outbox.flush_before(now_ns, is_short=not any(chunk.is_prefill for chunk in chunks))
            self._compute(self._with_drafts(chunks))

    # --- requests in ---

    def _drain(self) -> None:
        if self._scheduler.is_idle and not self._arrived:
            self._outbox.flush(time.monotonic_ns())
            self._hear(self._inbox.get())
        elif not self._scheduler.running and not self._arrived:  # KV is on its way from the disk, for all who wait
            with suppress(Empty):
                self._hear(self._inbox.get(timeout=READING_S))
        while not self._inbox.empty():
            self._hear(self._inbox.get_nowait())

    def _hear(self, message: ipc.ToWorker) -> None:
        if isinstance(message, ipc.Submit):
            self._arrived[message.id] = message
        elif isinstance(message, ipc.Cancel):
            self._arrived.pop(message.id, None)
            if sequence := self._live.get(message.id):
                self._drop(sequence)
                self._outbox.forget(message.id)
        elif isinstance(message, ipc.Detach):
            self._detach(message.path)
        elif isinstance(message, ipc.ClearCache):
            self._scheduler.cache.drop_idle()
            self._tiers.clear()
        elif isinstance(message, ipc.Leave):
            self._leave()
        elif isinstance(message, ipc.Reshape):
            self._reshape(message)
        elif isinstance(message, ipc.Ping):
            self._outbox.tell(ipc.Pong(self._stats()))

    def _reshape(self, order: ipc.Reshape) -> None:
        while self._arrived:  # what came before the order does not depend on it
            self._take_in()
        self._outbox.flush(time.monotonic_ns())
        if order.is_asleep:
            self._put_away(SLEEP_SAVE_S)
        try:
            reshaped = self._shape.become(order, self._live.values())
        except BeastError as error:
            for id_ in self._live:
                self._outbox.end(id_, _failure(error))
            self._outbox.flush(time.monotonic_ns())
            raise
        self._tiers.become(identity_of(self._llama.load), self._llama.load.label)
        self._outbox.tell(reshaped)

    def _leave(self) -> None:
        """The process is about to end: what may be wanted again is saved."""
        self._put_away(LEAVE_SAVE_S)
        self._is_leaving = True

    def _put_away(self, limit_s: float) -> None:
        self._scheduler.cache.spill_all()
        self._tiers.flush(limit_s)

    def _stats(self) -> ipc.EngineStats:
        pace = self._scheduler.pace
        return ipc.EngineStats(
            n_running=len(self._scheduler.running),
            n_waiting=len(self._scheduler.waiting) + len(self._arrived),
            n_kv_tokens=self._scheduler.cache.n_tokens,
            n_shared_tokens=self._scheduler.cache.n_shared_tokens,
            n_paused=self._scheduler.n_paused,
            n_adapters=self._llama.n_adapters,
            n_chunk=pace.n_chunk,
            itl_s=pace.itl_s,
            predicted_s=pace.predicted_s,
            measured_s=pace.measured_s,
            **asdict(held()),
            **asdict(self._tally),
            **asdict(self._tiers.stats),
        )

    def _detach(self, path: str) -> None:
        self._n_detached += 1
        name = f"{path} (detached, {self._n_detached})"
        self._scheduler.detach(path, name, was_read=self._llama.detach(path, name))
        self._tiers.detach(path)
        self._llama.free_adapters(self._scheduler.adapters_in_use)

    def _take_in(self) -> None:
        """Make sequences of the requests that have arrived: at least one, the others as time allows."""
        start_ns = time.monotonic_ns()
        while self._arrived:
            self._submit(self._arrived.pop(self._next_arrived()))
            if time.monotonic_ns() - start_ns >= INTAKE_NS:
                break

    def _next_arrived(self) -> int:
        """The oldest request of the highest class: tokenizing a burst of low ones takes several steps."""
        order = self._scheduler.order
        return min(self._arrived, key=lambda id_: order.level(self._arrived[id_].priority))

    def _submit(self, submit: ipc.Submit) -> None:
        try:
            if self._shape.is_asleep:
                raise EngineFailed("the model sleeps, and was sent a request before it was woken; ask again")
            sequence = self._intake.sequence(submit)
        except Exception as error:  # one request's odd input must not end its neighbours
            self._outbox.end(submit.id, _failure(error))
            return
        self._live[submit.id] = sequence
        self._scheduler.add(sequence)

    def _begin(self, sequence: Sequence, now_ns: int) -> None:
        if not sequence.prompt_start_ns:
            sequence.prompt_start_ns = now_ns
            self._tally.n_cached += sequence.n_cached

    def _tell_positions(self, now_ns: int) -> None:
        if self._positions.is_due(self._scheduler.waiting, now_ns):
            for id_, n_ahead in self._positions.news(self._scheduler.queue(now_ns), now_ns):
                self._outbox.wait(id_, n_ahead)

    # --- one step ---

    def _with_drafts(self, chunks: list[Chunk]) -> list[Chunk]:
        if not self._speculation:
            return chunks
        n_room = min(self._llama.n_batch, self._scheduler.cache.n_free) - sum(len(chunk.tokens) for chunk in chunks)
        return self._speculation.extend(chunks, min(n_room, self._llama.n_draftable), is_split=self._llama.is_split)

    def _compute(self, chunks: list[Chunk]) -> None:
        start_ns = time.monotonic_ns()
        try:
            self._llama.use_adapters(chunks[0].sequence.adapters)
            logits = self._llama.decode(chunks)
            if self._draft:
                self._draft.follow(chunks)
        except Exception as error:  # a request that ends with an error is better than all that end with the process
            self._fail(chunks, error)
            return
        now_ns = time.monotonic_ns()
        step_s = (now_ns - start_ns) / 1e9
        self._tally.step(chunks, step_s)
        self._scheduler.on_computed(chunks, step_s, is_one_pass=self._is_one_pass(chunks))
        for chunk in chunks:
            assert chunk.sequence.slot is not None
            self._scheduler.cache.extend(chunk.sequence.slot, chunk.tokens[: len(chunk.tokens) - chunk.n_drafted])
            chunk.sequence.n_ahead = chunk.n_drafted
            chunk.sequence.n_drafted += chunk.n_drafted
        ended = [chunk for chunk in chunks if chunk.wants_logits]
        rows = iter(logits)
        for chunk, sampled in zip(ended, self._sampled_together(ended, logits), strict=True):
            self._try_advance(chunk, list(islice(rows, chunk.n_outputs)), sampled, now_ns)

    def _is_one_pass(self, chunks: list[Chunk]) -> bool:
        """Whether all answers' tokens were computed together: drafts may divide a step (``speculative.passes``)."""
        lengths = [len(chunk.tokens) for chunk in chunks if not chunk.is_prefill]
        return not self._llama.is_split or len(set(lengths)) <= 1

    @staticmethod
    def _sampled_together(ended: list[Chunk], logits: FloatArray) -> list[_Drawn]:
        """The next token of each sequence in a run of those with common settings and no drafts; None for others.

        Only of runs: to bring rows together that do not lie together takes longer than to sample each.
        """
        drawn: list[_Drawn] = []
        start = 0
        for is_common, run in groupby(ended, _is_common):
            chunks = list(run)
            rows = logits[start : start + sum(chunk.n_outputs for chunk in chunks)]
            start += len(rows)
            drawn += (
                _sampled_run(chunks, rows) if is_common and len(chunks) >= FEWEST_TOGETHER else [None] * len(chunks)
            )
        return drawn

    def _try_advance(self, chunk: Chunk, rows: list[FloatArray], sampled: _Drawn, now_ns: int) -> None:
        sequence = chunk.sequence
        try:
            self._advance(sequence, rows[0], sampled, now_ns)
            self._follow_draft(chunk, rows[1:], now_ns)
        except Exception as error:  # its neighbours in the step have no part in it
            self._outbox.end(sequence.id, _failure(error))
            self._drop(sequence)
        self._cut(sequence)

    def _follow_draft(self, chunk: Chunk, rows: list[FloatArray], now_ns: int) -> None:
        """Go on along the draft while the sampler chooses what it says."""
        sequence = chunk.sequence
        for token, logits in zip(chunk.tokens[len(chunk.tokens) - chunk.n_drafted :], rows, strict=True):
            if sequence.id not in self._live or sequence.answer[-1] != token:
                break
            assert sequence.slot is not None
            self._scheduler.cache.extend(sequence.slot, [token])
            sequence.n_ahead -= 1
            sequence.n_accepted += 1
            self._tally.n_accepted += 1
            self._advance(sequence, logits, None, now_ns)

    def _advance(self, sequence: Sequence, logits: FloatArray, sampled: _Drawn, now_ns: int) -> None:
        """Sample the sequence's next token, if it was not yet, unless the answer has all it may have."""
        sequence.answer_end_ns = now_ns
        if not sequence.n_said:
            sequence.answer_start_ns = now_ns
        if sequence.is_full:
            self._end(sequence, "length")
            return
        if isinstance(sampled, Exception):
            raise sampled
        sampled = sampled or sequence.sampler.sample(logits, sequence.top_logprobs)
        if sampled.token in sequence.ends:
            self._end(sequence, "stop")
        else:
            self._extend(sequence, sampled)

    def _extend(self, sequence: Sequence, sampled: Sampled) -> None:
        """Add a token to the answer; release its text; end at a stop string or a limit."""
        sequence.answer.append(sampled.token)
        self._tally.n_answer += 1
        if sampled.logprob is not None:
            sequence.logprobs.append(self._logprob(sampled))
        self._say(sequence, sequence.detokenizer.push(self._llama.piece(sampled.token)))
        if sequence.detokenizer.stopped:
            self._end(sequence, "stop")
        elif sequence.is_full:
            self._end(sequence, "length")

    def _say(self, sequence: Sequence, text: str) -> None:
        thinking = ""
        if sequence.thinking:
            thinking, text = sequence.thinking.push(text)
        if text or thinking:
            self._outbox.say(sequence.id, text, thinking, sequence.logprobs, is_first=sequence.n_said == 1)
            sequence.logprobs = []

    def _end(self, sequence: Sequence, reason: str) -> None:
        self._say(sequence, sequence.detokenizer.flush())
        thinking, text = sequence.thinking.flush() if sequence.thinking else ("", "")
        if text or thinking or sequence.logprobs:
            self._outbox.say(sequence.id, text, thinking, sequence.logprobs, is_first=False)
        self._outbox.end(sequence.id, sequence.final(reason))
        self._drop(sequence)

    def _fail(self, chunks: list[Chunk], error: Exception) -> None:
        """The step came to nothing: its sequences end, and what their slots hold is not to be trusted."""
        failure = _failure(error)
        for sequence in {id(chunk.sequence): chunk.sequence for chunk in chunks}.values():
            assert sequence.slot is not None
            self._scheduler.cache.cut(sequence.slot, 0)
            self._outbox.end(sequence.id, failure)
            self._drop(sequence)

    def _cut(self, sequence: Sequence) -> None:
        """Proposed tokens that were not chosen leave the KV cache."""
        if sequence.n_ahead:
            assert sequence.slot is not None
            self._scheduler.cache.cut_ahead(sequence.slot)
            sequence.n_ahead = 0
            if not sequence.slot.tokens:
                sequence.begin_again()

    def _drop(self, sequence: Sequence) -> None:
        """The sequence is over: nothing of it is in the next step."""
        self._cut(sequence)
        if self._speculation:
            self._speculation.forget(sequence.id)
        self._scheduler.remove(sequence)
        del self._live[sequence.id]
        if sequence.adapters:
            self._llama.free_adapters(self._scheduler.adapters_in_use)

    def _logprob(self, sampled: Sampled) -> Logprob:
        assert sampled.logprob is not None
        text, data = self._shown(sampled.token)
        top = [TokenLogprob(*self._shown(token)[:1], value, self._shown(token)[1]) for token, value in sampled.top]
        return Logprob(text, sampled.logprob, data, top or None)

    def _shown(self, token: int) -> tuple[str, list[int]]:
        piece = self._llama.piece(token)
        return piece.decode("utf-8", "replace"), list(piece)


def _is_common(chunk: Chunk) -> bool:
    """Whether its next token may be sampled together with others'."""
    sequence = chunk.sequence
    has_rows = chunk.n_drafted == 0 and sequence.top_logprobs is None
    return has_rows and sequence.sampler.is_common and not sequence.is_full


def _sampled_run(chunks: list[Chunk], logits: FloatArray) -> list[_Drawn]:
    try:
        return [*Sampler.sample_together([chunk.sequence.sampler for chunk in chunks], logits)]
    except Exception as error:  # requests that end with an error are better than a process that does
        return [error] * len(chunks)


def _failure(error: Exception) -> ipc.Failure:
    """What the client is told; an error that is not Beast's own is a bug, and logged in full."""
    if isinstance(error, DecodeError):
        error = EngineFailed(f"llama.cpp failed to compute a step ({error}); ask again")
    if isinstance(error, BeastError):
        return ipc.Failure(error.code, error.message)
    traceback.print_exception(error)
    return ipc.Failure("internal", "Beast failed at this request: a bug; see the worker's log")
