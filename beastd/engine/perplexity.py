"""The tool that measures a model's perplexity on a text.

    python -P -m beastd.engine.perplexity     (``toolorders`` has the order and the result)

The method is llama-perplexity's (``tools/perplexity/perplexity.cpp``): the text in chunks of ``n_ctx`` tokens, each
computed afresh and begun with BOS where the model's texts are; the second half of each is scored, so that every token
scored has at least half a chunk before it.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from beastd.engine.llama import DecodeError, Llama
from beastd.errors import BadModel, BadRequest, EngineFailed
from beastd.ipc import Load, LoadSettings
from beastd.tool import Progress, Report, serve
from beastd.toolorders import Perplexity, PerplexityOrder

if TYPE_CHECKING:
    from beastd.engine.llama import FloatArray

MIN_CTX = 8
MAX_TEXT_BYTES = 2**26
MAX_SEQUENCES = 64
"""Chunks computed at once, at most."""
_MOST_NLL = 700.0
"""Mean negative log-likelihood, beyond which e to it leaves a float: no model that works comes near."""


@dataclass(slots=True)
class Score:
    """Negative log-likelihoods of tokens, summed up."""

    n: int = 0
    sum: float = 0.0
    sum_of_squares: float = 0.0

    def add(self, logits: FloatArray, targets: list[int]) -> None:
        """Score the tokens that came, given the logits for each, which are overwritten."""
        logits -= logits.max(axis=1, keepdims=True)
        likely = logits[np.arange(len(targets)), targets].astype(np.float64)
        normalizer = np.log(np.exp(logits, out=logits).sum(axis=1, dtype=np.float64))
        nll = normalizer - likely
        self.n += len(targets)
        self.sum += float(nll.sum())
        self.sum_of_squares += float((nll * nll).sum())

    @property
    def mean(self) -> float:
        """Mean negative log-likelihood."""
        return self.sum / self.n

    @property
    def perplexity(self) -> float:
        """The exponential of the mean."""
        return math.exp(self.mean)

    @property
    def stderr(self) -> float:
        """Standard error of the perplexity, from the spread of the tokens' likelihoods."""
        variance = max(0.0, self.sum_of_squares / self.n - self.mean**2)
        return math.sqrt(variance / (self.n - 1)) * self.perplexity


def perplexity(order: PerplexityOrder, report: Report) -> dict[str, Any]:
    """Measure it; returns ``Perplexity`` as a dict. Raises BadRequest, BadModel, LoadFailed, EngineFailed."""
    started_s = time.monotonic()
    text = _text(order)
    meter = _Meter(order, report)
    chunks = meter.chunks(text)
    score = meter.measure(chunks)
    result = Perplexity(
        perplexity=score.perplexity,
        stderr=score.stderr,
        n_tokens=score.n,
        n_chunks=len(chunks),
        n_ctx=order.n_ctx,
        took_s=time.monotonic() - started_s,
    )
    return msgspec.structs.asdict(result)


def _text(order: PerplexityOrder) -> str:
    is_some = order.n_chunks is None or order.n_chunks >= 1
    if order.n_ctx < MIN_CTX or order.n_batch < 1 or not is_some:
        raise BadRequest(f"perplexity takes a context of at least {MIN_CTX} tokens, a batch and chunks of at least 1")
    try:
        with Path(order.text).open("rb") as stream:
            data = stream.read(MAX_TEXT_BYTES + 1)
    except OSError as e:
        raise BadRequest(f"cannot read the text {order.text}: {e.strerror}") from e
    if len(data) > MAX_TEXT_BYTES:
        raise BadRequest(f"the text {order.text} is longer than {MAX_TEXT_BYTES >> 20} MiB; give a part of it")
    return data.decode("utf-8", "replace").removesuffix("\n")  # llama-perplexity drops the last line feed too


class _Meter:
    """A loaded model, and the chunks it goes through."""

    def __init__(self, order: PerplexityOrder, report: Report) -> None:
        self._order = order
        self._report = report
        self._n_at_once = min(max(1, order.n_batch // order.n_ctx), MAX_SEQUENCES)
        self._first = order.n_ctx // 2
        settings = LoadSettings(
            n_ctx=order.n_ctx,
            n_parallel=self._n_at_once,
            n_batch=order.n_batch,
            n_threads=order.n_threads,
            n_gpu_layers=order.n_gpu_layers,
        )
        load = Load(paths=order.paths, label=order.label, settings=settings)
        report(Progress(status=f"loading {order.label}", unit="tokens"))
        n_outputs = self._n_at_once * (order.n_ctx - self._first)
        self._llama = Llama(load, lambda _: None, n_outputs=n_outputs)
        self._llama.use_adapters(tuple((adapter.path, adapter.scale) for adapter in order.adapters))

    def chunks(self, text: str) -> list[list[int]]:
        """The text's whole chunks, as many as ordered. Raises BadRequest when there is none."""
        n_ctx = self._order.n_ctx
        tokens = self._llama.tokenize(text, add_special=True, parse_special=False)
        chunks = [tokens[at : at + n_ctx] for at in range(0, len(tokens) - n_ctx + 1, n_ctx)]
        if not chunks:
            raise BadRequest(
                f"the text {self._order.text} has {len(tokens)} tokens, fewer than one chunk of {n_ctx}; "
                f"give a longer text, or a smaller context"
            )
        return chunks[: self._order.n_chunks]

    def measure(self, chunks: list[list[int]]) -> Score:
        """Score all chunks, telling the estimate so far."""
        score, n_ctx = Score(), self._order.n_ctx
        status = "measuring"
        for at in range(0, len(chunks), self._n_at_once):
            self._tell(status, at, len(chunks))
            self._score(chunks[at : at + self._n_at_once], score)
            if not score.mean < _MOST_NLL:  # no number, too
                raise BadModel(f"{self._order.label} predicts values that are no numbers: its weights are broken")
            status = f"perplexity {score.perplexity:.4f} ± {score.stderr:.4f}"
        self._tell(status, len(chunks), len(chunks))
        assert score.n == len(chunks) * (n_ctx - 1 - self._first)
        return score

    def _tell(self, status: str, n_done: int, n_chunks: int) -> None:
        n_ctx = self._order.n_ctx
        self._report(Progress(status=status, completed=n_done * n_ctx, total=n_chunks * n_ctx, unit="tokens"))

    def _score(self, chunks: list[list[int]], score: Score) -> None:
        n_rows = self._order.n_ctx - self._first
        logits = self._logits(chunks)
        for i, chunk in enumerate(chunks):
            # The last row predicts the token after the chunk, which belongs to the next.
            score.add(logits[i * n_rows : (i + 1) * n_rows - 1], chunk[self._first + 1 :])

    def _logits(self, chunks: list[list[int]]) -> FloatArray:
        """Logits of the second halves, chunk after chunk."""
        n_ctx, n_batch = self._order.n_ctx, self._llama.n_batch
        inputs = [[self._llama.bos, *chunk[1:]] for chunk in chunks] if self._llama.adds_bos else chunks
        self._llama.forget_all()
        try:
            if n_ctx <= n_batch:
                return self._llama.decode_all(inputs, 0, self._first)
            (tokens,) = inputs  # several at once are so many as fit one batch
            pieces = [(at, tokens[at : at + n_batch]) for at in range(0, n_ctx, n_batch)]
            return np.concatenate([self._llama.decode_all([piece], at, self._first).copy() for at, piece in pieces])
        except DecodeError as e:
            raise EngineFailed(f"llama.cpp could not compute {self._order.label} (llama_decode: {e.code})") from e


if __name__ == "__main__":
    serve(PerplexityOrder, perplexity)
