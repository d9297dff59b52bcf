"""One request inside the engine: its tokens, its place in the KV cache, its clocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from beastd.contract import Final, Logprob, Priority, Speculative
from beastd.engine.adapters import AdapterSet
from beastd.engine.detokenizer import Detokenizer, ThinkingSplitter
from beastd.engine.prefixes import Slot
from beastd.engine.sampler import Sampler

if TYPE_CHECKING:
    from beastd.engine.grammar import Grammar


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
    priority: Priority = "normal"
    client: str = ""
    """Who asks."""
    weight: float = 1.0
    """The client's share next to others' 1."""
    adapters: AdapterSet = ()
    grammar: Grammar | None = None
    """The sampler's, which is bound to the model's copy in memory."""
    variant: str = ""
    """The quantization that computes."""
    ends: frozenset[int] = frozenset()
    """Tokens that end the answer."""
    thinking: ThinkingSplitter | None = None
    top_logprobs: int | None = None
    speculative: Speculative = "auto"
    """Where drafts may come from."""
    n_dropped_messages: int = 0
    n_dropped_tokens: int = 0
    arrived_ns: int = 0

    answer: list[int] = field(default_factory=list)
    n_carried: int = 0
    """Tokens of the answer that count as prompt, since their KV was lost."""
    slot: Slot | None = None
    n_cached: int = 0
    """Prompt tokens whose KV was there when it was first admitted."""
    logprobs: list[Logprob] = field(default_factory=list)
    """Of tokens whose text is still held back."""
    _variants: list[str] = field(default_factory=list)
    """Those that computed tokens of the answer before, and how many tokens there were then."""
    _n_said_before: int = 0
    has_begun: bool = False
    n_drafted: int = 0
    """Tokens proposed and computed for it, and those of them that its sampler chose."""
    n_accepted: int = 0
    n_ahead: int = 0
    """Proposed tokens in the KV cache, after those of the slot, that the sampler has not chosen (yet)."""
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
        return self.n_said >= self.n_predict or len(self.prompt) + len(self.answer) >= self.n_ctx

    @property
    def n_draftable(self) -> int:
        """Tokens that may be proposed after the last one: the step's own token comes besides."""
        return min(self.n_predict - self.n_said, self.n_ctx - len(self.prompt) - len(self.answer)) - 1

    @property
    def n_said(self) -> int:
        """Tokens of the answer so far."""
        return self.n_carried + len(self.answer)

    @property
    def said(self) -> list[int]:
        """The answer so far."""
        return self.prompt[len(self.prompt) - self.n_carried :] + self.answer

    def begin_again(self) -> None:
        """The KV is lost: what was said is to be computed again with the prompt, and the answer goes on after it."""
        self.n_carried = self.n_said
        self.prompt = self.prompt + self.answer  # the sampler may hold the old list
        self.answer = []

    def begin(self, n_found: int) -> None:
        """It was admitted, and so many tokens of its prompt were there."""
        if not self.has_begun:
            self.n_cached = n_found
        self.has_begun = True

    def switch(self, variant: str) -> None:
        """From now on another quantization computes."""
        self._variants = self.variants
        self._n_said_before = self.n_said
        self.variant = variant

    @property
    def variants(self) -> list[str]:
        """Every quantization that computed tokens of the answer, in the order of their first."""
        has_said = self.n_said > self._n_said_before
        return list(dict.fromkeys([*self._variants, self.variant])) if has_said else self._variants

    def final(self, reason: str) -> Final:
        """The ending with its counts and times; the daemon adds the load and total times."""
        n_prompt, variants = len(self.prompt) - self.n_carried, self.variants
        return Final(
            reason="length" if reason == "length" else "stop",
            variant=self.variant,
            variants=variants if len(variants) > 1 else [],
            n_prompt=n_prompt,
            n_cached=min(self.n_cached, n_prompt),
            n_answer=self.n_said,
            n_drafted=self.n_drafted,
            n_accepted=self.n_accepted,
            prompt_ns=max(0, self.answer_start_ns - self.prompt_start_ns),
            answer_ns=max(0, self.answer_end_ns - self.answer_start_ns),
            context=self.prompt + self.answer,
            n_ctx=self.n_ctx,
            n_dropped_messages=self.n_dropped_messages,
            n_dropped_tokens=self.n_dropped_tokens,
        )
