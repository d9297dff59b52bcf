"""One request inside the engine: its tokens, its place in the KV cache, its clocks."""

from __future__ import annotations

from dataclasses import dataclass, field

from beastd.contract import Final, Logprob
from beastd.engine.detokenizer import Detokenizer, ThinkingSplitter
from beastd.engine.kvcache import AdapterSet, Slot
from beastd.engine.sampler import Sampler


@dataclass(slots=True, eq=False)
class Sequence:
    """A request from its admission to its ending. Times are monotonic nanoseconds."""

    id: int
    prompt: list[int]
    sampler: Sampler
    detokenizer: Detokenizer
    n_ctx: int
    """Tokens prompt and answer may have together."""
    n_predict: int
    """Most tokens to generate."""
    adapters: AdapterSet = ()
    ends: frozenset[int] = frozenset()
    """Tokens that end the answer."""
    thinking: ThinkingSplitter | None = None
    top_logprobs: int | None = None
    n_dropped_messages: int = 0
    n_dropped_tokens: int = 0
    arrived_ns: int = 0

    answer: list[int] = field(default_factory=list)
    slot: Slot | None = None
    n_cached: int = 0
    logprobs: list[Logprob] = field(default_factory=list)
    """Of tokens whose text is still held back."""
    prompt_start_ns: int = 0
    answer_start_ns: int = 0
    answer_end_ns: int = 0

    @property
    def n_prefill_left(self) -> int:
        """Prompt tokens whose KV is still to be computed."""
        return len(self.prompt) - (len(self.slot.tokens) if self.slot else 0)

    @property
    def is_decoding(self) -> bool:
        """The whole prompt is in the KV cache and a first token has been sampled."""
        return bool(self.answer)

    @property
    def is_full(self) -> bool:
        """No further token may be generated: the limit asked for, or the context's."""
        return len(self.answer) >= self.n_predict or len(self.prompt) + len(self.answer) >= self.n_ctx

    def final(self, reason: str) -> Final:
        """The ending with its counts and times; the daemon adds the load and total times."""
        return Final(
            reason="length" if reason == "length" else "stop",
            n_prompt=len(self.prompt),
            n_cached=self.n_cached,
            n_answer=len(self.answer),
            prompt_ns=max(0, self.answer_start_ns - self.prompt_start_ns),
            answer_ns=max(0, self.answer_end_ns - self.answer_start_ns),
            context=self.prompt + self.answer,
            n_ctx=self.n_ctx,
            n_dropped_messages=self.n_dropped_messages,
            n_dropped_tokens=self.n_dropped_tokens,
        )
