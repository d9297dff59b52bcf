"""A small model that proposes tokens for a larger one with the same vocabulary.

Its KV cache has a slot for each of the larger one's. What a slot holds is compared with the text at each draft, and
only what differs is computed: so it catches up by itself, whoever uses the slot.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from beastd.engine.chunks import Chunk
from beastd.engine.costs import StepCosts
from beastd.engine.llama import Llama
from beastd.engine.prefixes import common_prefix
from beastd.engine.speculative import Wish
from beastd.errors import BadModel
from beastd.ipc import Load

CATCH_UP_DRAFTS = 32
"""A prompt that the draft model has not seen is computed in the hope of so many drafts."""
CATCH_UP_TOKENS = 256
"""It catches up with so many tokens a step at most, so that nobody waits long for it."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """Tokens of one slot in a step of the draft model."""

    tokens: list[int]
    start: int
    slot: int
    n_outputs: int


class DraftModel:
    """The model, its context, and what is in its slots. Drafts are its likeliest tokens."""

    def __init__(self, load: Load, target: Llama) -> None:
        """Load ``load.draft`` for a target that is open.

        Raises as ``Llama.open``, ``BadModel`` for one with other tokens or a memory that cannot be cut anywhere.
        """
        assert load.draft
        self._path = load.draft
        self._label = f"the draft model of {load.label}"
        self._llama = Llama(self._load(load), lambda _: None)
        if objection := _objection(self._llama, target):
            self._llama.close(keeps_model=False)
            raise BadModel(f"{self._label} {objection}, or leave draft out")
        self._costs = StepCosts(self._llama.warm_up())
        self._forget()

    def open(self, load: Load) -> None:
        """Make its context anew, as the target's is now. Raises ``LoadFailed``, ``OutOfMemory``."""
        self._llama.open(self._load(load))
        self._forget()

    def close(self) -> None:
        """Give back the memory of its context."""
        self._llama.close(keeps_model=True)

    def follow(self, chunks: Sequence[Chunk]) -> None:
        """Nothing to do: it catches up with what it drafts for."""

    @property
    def gpu_bytes(self) -> dict[str, int]:
        """As ``Llama.gpu_bytes``."""
        return self._llama.gpu_bytes

    def cost_s(self, n_sequences: int, n_tokens: int) -> float:
        """Seconds it takes to propose so many tokens for each of so many sequences that it has caught up with."""
        return n_tokens * self._costs.predict_s(n_sequences)

    def catch_up_s(self, wishes: Sequence[Wish]) -> float:
        """Seconds it takes besides, for what of these texts it has not seen, shared out among the drafts to come."""
        n_behind = sum(len(wish.text) - 1 - self._n_shared(wish) for wish in wishes)
        return self._costs.predict_s(n_behind) / CATCH_UP_DRAFTS if n_behind else 0.0

    def draft(self, wishes: Sequence[Wish], n_tokens: int) -> dict[int, list[int]]:
        """Slot → so many tokens, but for texts that it has not caught up with or that fill its context.

        Raises ``DecodeError``, ``OutOfMemory``.
        """
        fitting = self._fitting(wishes, n_tokens)
        pieces = self._behind(sorted(fitting, key=lambda wish: wish.slot))
        drafts: dict[int, list[int]] = {piece.slot: [] for piece in pieces if piece.n_outputs}
        for _ in range(n_tokens if drafts else 0):
            for draft, token in zip(drafts.values(), self._step(pieces), strict=True):
                draft.append(token)
            pieces = [self._piece(slot, draft[-1:], 1) for slot, draft in drafts.items()]
        if not drafts and pieces:
            self._step(pieces)
        return drafts

    def _fitting(self, wishes: Sequence[Wish], n_tokens: int) -> list[Wish]:
        """Those whose texts and drafts its cache has room for; where all slots share it, those of nobody make room."""
        fitting = [wish for wish in wishes if len(wish.text) + n_tokens <= self._llama.n_ctx]
        n_left = self._llama.n_cells
        if n_left is None:
            return fitting
        sizes = {wish.slot: len(wish.text) + n_tokens for wish in fitting}
        if sum(sizes.values()) + sum(len(held) for slot, held in enumerate(self._held) if slot not in sizes) > n_left:
            self._empty([slot for slot in range(len(self._held)) if slot not in sizes])
        while sum(sizes.values()) > n_left:
            sizes.pop(max(sizes, key=sizes.__getitem__))
        self._empty([wish.slot for wish in fitting if wish.slot not in sizes])
        return [wish for wish in fitting if wish.slot in sizes]

    def _empty(self, slots: Sequence[int]) -> None:
        for slot in slots:
            self._llama.forget(slot, 0)
            self._held[slot].clear()

    def _behind(self, wishes: Sequence[Wish]) -> list[_Piece]:
        """What its slots lack of these texts, as much as a step may hold; logits where nothing is lacking then."""
        n_room = CATCH_UP_TOKENS
        pieces: list[_Piece] = []
        for wish in wishes:
            n_kept = self._n_shared(wish)
            self._llama.forget(wish.slot, n_kept)
            del self._held[wish.slot][n_kept:]
            if tokens := wish.text[n_kept : n_kept + n_room]:
                n_room -= len(tokens)
                pieces.append(self._piece(wish.slot, tokens, int(n_kept + len(tokens) == len(wish.text))))
        return pieces

    def _n_shared(self, wish: Wish) -> int:
        """Tokens in the slot that are the text's; the last one is computed always, for its logits."""
        return min(common_prefix(self._held[wish.slot], wish.text), len(wish.text) - 1)

    def _piece(self, slot: int, tokens: list[int], n_outputs: int) -> _Piece:
        return _Piece(tokens, len(self._held[slot]), slot, n_outputs)

    def _step(self, pieces: list[_Piece]) -> list[int]:
        start_s = time.perf_counter()
        logits = self._llama.decode(pieces)
        self._costs.observe(sum(len(piece.tokens) for piece in pieces), 0, 0, time.perf_counter() - start_s)
        for piece in pieces:
            self._held[piece.slot] += piece.tokens
        return [int(row.argmax()) for row in logits]

    def _forget(self) -> None:
        self._held: list[list[int]] = [[] for _ in range(self._llama.n_slots)]

    def _load(self, load: Load) -> Load:
        return msgspec.structs.replace(load, paths=[self._path], label=self._label)


def _objection(llama: Llama, target: Llama) -> str | None:
    """Why it cannot draft for the target."""
    if llama.vocabulary != target.vocabulary:
        return "has other tokens than the model: name one of the same tokenizer"
    if not llama.is_plain:  # drafts that were wrong are cut from its slots
        return "has sliding windows or recurrent states, which cannot take a draft back: name one with full attention"
    return None
