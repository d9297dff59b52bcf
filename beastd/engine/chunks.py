"""What a step holds of each sequence, and which prompt tokens it has room for. Pure.

Prefill and decode share one budget (the idea of vLLM's ``v1/core/sched``): prompts get what the answers' rows leave.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter

from beastd.engine.kvcache import KVCache
from beastd.engine.pace import KERNEL_TOKENS, Pace
from beastd.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of one sequence in one step, from position ``start`` of its slot."""

    sequence: Sequence
    tokens: list[int]
    start: int
    wants_logits: bool
    n_drafted: int = 0
    """Of the tokens, the last ones, which are only proposed: each has its logits, as the one before them."""

    @property
    def n_outputs(self) -> int:
        """Rows of logits: those of its last tokens."""
        return 1 + self.n_drafted if self.wants_logits else 0

    @property
    def slot(self) -> int:
        """llama.cpp's sequence id."""
        assert self.sequence.slot is not None
        return self.sequence.slot.index

    @property
    def is_prefill(self) -> bool:
        """Prompt tokens, not an answer's last one."""
        return not self.sequence.is_decoding

    @property
    def can_draft(self) -> bool:
        """An answer's last token, which proposed ones may follow."""
        return self.sequence.is_decoding and self.sequence.speculative != "off"


by_slot = attrgetter("slot")
"""With a partitioned cache llama.cpp computes a run of consecutive slots together, and others apart."""


def n_attended(chunks: Iterable[Chunk], cache: KVCache) -> int:
    """Cells that the chunks' tokens attend to, as ``StepCosts`` counts them."""
    if cache.n_cells is not None:
        return sum(len(chunk.tokens) for chunk in chunks) * cache.n_tokens
    return sum(len(chunk.tokens) * (2 * chunk.start + len(chunk.tokens) + 1) // 2 for chunk in chunks)


def prompt_chunks(
    prompts: list[Sequence], decodes: list[Chunk], cache: KVCache, pace: Pace, *, n_sets: int
) -> list[Chunk]:
    """Of these prompts, most urgent first, what goes beside the answers' rows into a step.

    A prompt that ends in it waits for others only as far as that pays. ``n_sets`` of adapters take turns.
    """
    n_rows = len(decodes)
    decoding = {chunk.slot for chunk in decodes}
    n_room, n_most = _room(prompts, decodes, cache, pace, n_sets)
    chunks: list[Chunk] = []
    n_used = n_ended = 0
    for sequence in prompts:
        n, n_left = sequence.n_prefill_left, len(prompts) - n_ended
        is_whole = n <= max(n_room, n_most) - n_used
        if n_ended and not (is_whole and n <= pace.n_worth_waiting_for(n_ended, n_left, n_rows, n_used)):
            break
        tokens = _prompt_tokens(sequence, n if is_whole else n_room - n_used, decoding)
        if not tokens:
            break
        chunks.append(Chunk(sequence, tokens, len(sequence.prompt) - n, is_whole))
        n_used += len(tokens)
        n_ended += is_whole
    return chunks


def _room(prompts: list[Sequence], decodes: list[Chunk], cache: KVCache, pace: Pace, n_sets: int) -> tuple[int, int]:
    """Prompt tokens by the pace, and where they end prompts; both as far as there are cells for them."""
    n_rows, n_cells = len(decodes), n_attended(decodes, cache)
    n_room = pace.n_prefill(n_rows, n_cells, n_sets=n_sets)
    n_most = pace.n_stretched(n_rows, n_cells, n_sets=n_sets)
    n_wanted = min(max(n_room, n_most), sum(sequence.n_prefill_left for sequence in prompts))
    if cache.make_room(n_rows + n_wanted):
        return n_room, n_most
    n_obtained = cache.n_free - n_rows
    return min(n_room, n_obtained), min(n_most, n_obtained)


def _prompt_tokens(sequence: Sequence, n_most: int, decoding: set[int]) -> list[int]:
    """The next at most ``n_most`` tokens of a prompt; a part that leaves some for later fills the kernels evenly.

    Of a partitioned cache, neighbouring slots are computed together as far as the shorter one goes: next to a
    decoding slot the part's first token goes with the decodes, so it takes one more to fill what is left.
    """
    assert sequence.slot is not None
    start, n = len(sequence.slot.tokens), sequence.n_prefill_left
    if n > n_most:
        index = sequence.slot.index
        n_beside = int(not decoding.isdisjoint((index - 1, index + 1)))
        n = max(0, (n_most - n_beside) // KERNEL_TOKENS * KERNEL_TOKENS)
        n += n_beside if n else 0
    return sequence.prompt[start : start + n]
