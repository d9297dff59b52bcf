"""A model's own heads as a drafter: they follow what the model computes, and its slots.

What they have not followed (texts from the tiers, from before a change of shape) makes drafts worse, never wrong.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence

from beastd.engine.chunks import Chunk
from beastd.engine.costs import StepCosts
from beastd.engine.llama import DecodeError, Llama
from beastd.engine.mtp import Heads
from beastd.engine.speculative import Wish
from beastd.ipc import Load

FIRST_RATE = 100_000.0
"""Tokens a second that heads are thought to draft until they have: who is thought too slow is never asked."""
NO_ROOM = 1
"""What ``llama_decode`` returns where the cache has too few free cells: all is then as before."""


class HeadDrafts:
    """The heads while there are any: none in sleep, nor after they failed, until the next change of shape."""

    def __init__(self, llama: Llama) -> None:
        """Raises ``LoadFailed`` as ``Heads``, ``OutOfMemory``."""
        self._llama = llama
        self._costs = StepCosts(FIRST_RATE)
        self._heads: Heads | None = Heads(llama)

    def open(self, load: Load) -> None:
        """Make their context anew, as the model's is now. Raises ``LoadFailed``, ``OutOfMemory``."""
        assert load == self._llama.load
        self._heads = Heads(self._llama)

    def close(self) -> None:
        """Give back the memory of their context; before the model's is freed."""
        if self._heads:
            self._heads.close()
        self._heads = None

    @property
    def gpu_bytes(self) -> dict[str, int]:
        """Nothing: their buffers are among the model's."""
        return {}

    # --- speculative.Drafter ---

    def cost_s(self, n_sequences: int, n_tokens: int) -> float:
        """See ``speculative.Drafter``."""
        return n_tokens * self._costs.predict_s(n_sequences)

    def catch_up_s(self, wishes: Sequence[Wish]) -> float:  # noqa: ARG002
        """Nothing: they have followed, or never will."""
        return 0.0

    def draft(self, wishes: Sequence[Wish], n_tokens: int) -> dict[int, list[int]]:
        """See ``speculative.Drafter``."""
        if not self._heads:
            return {}
        start_s = time.perf_counter()
        try:
            drafts = self._heads.draft({it.slot: (it.text[-1], len(it.text) - 1) for it in wishes}, n_tokens)
        except DecodeError as error:
            self._give_up(error)
            return {}
        self._costs.observe(len(wishes), 0, 0, (time.perf_counter() - start_s) / n_tokens)
        return drafts

    # --- what happens to the model ---

    def follow(self, chunks: Sequence[Chunk]) -> None:
        """The model has computed this step. If they fail at it, answers come without them."""
        if self._heads:
            try:
                self._heads.follow(chunks)
            except DecodeError as error:
                self._give_up(error)

    def cut(self, slot: int, n: int) -> None:
        """The slot holds its first ``n`` tokens only."""
        if self._heads:
            self._heads.forget(slot, n)

    def share(self, source: int, target: int, n: int) -> None:
        """An empty slot holds the source's first ``n`` tokens as well."""
        if self._heads:
            self._heads.share(source, target, n)

    def _give_up(self, error: DecodeError) -> None:
        """Answers come without them; where they only lacked room for what they draft, they go on."""
        if error.code != NO_ROOM:
            traceback.print_exception(error)
            self.close()
