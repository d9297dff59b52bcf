"""Drafts from the model's own heads (multi-token prediction): what it found out at a token predicts the next but one.

The heads are a small model in a context of their own, with the target's slots. llama.cpp's header for them is not of
its public interface: the functions are exported by their C++ names (``src/llama-ext.h``; ``common/speculative.cpp``
uses them as this does).
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np

from beastd.engine.llama import Batch, DecodeError, FloatArray, Llama, Piece
from beastd.errors import LoadFailed

_SET = "_Z26llama_set_embeddings_nextnP13llama_contextbb"
_GET = "_Z26llama_get_embeddings_nextnP13llama_context"


@dataclass(frozen=True, slots=True)
class _Tokens:
    slot: int
    tokens: list[int]
    start: int
    n_outputs: int = 0


class Heads:
    """The heads of one loaded model. Every step of the target is followed, and every cut of its slots."""

    def __init__(self, llama: Llama) -> None:
        """Raises ``LoadFailed`` for a model without heads, loaded without them (``mtp``), or a foreign llama.cpp."""
        self._set = _exported(_SET, [ctypes.c_void_p, ctypes.c_bool, ctypes.c_bool], None)
        self._get = _exported(_GET, [ctypes.c_void_p], ctypes.c_void_p)
        if not llama.load.settings.mtp:
            raise LoadFailed(f"{llama.load.label} was loaded without its heads")
        self._llama = llama
        self._ctx = llama.make_head_context()
        self._memory = lib.llama_get_memory(self._ctx)
        self._set(llama.handle, True, False)  # of every token
        self._set(self._ctx, True, True)  # of those with logits
        self._states = np.zeros((llama.n_batch, llama.n_state), np.float32)
        self._batch = Batch(llama.n_batch, llama.n_slots, llama.n_ctx)
        self._batch.carry(self._states)
        self._seen: dict[int, tuple[int, FloatArray]] = {}
        """Slot → the position after the first of these rows, and what the target found out at its last tokens."""
        self._ends = [0] * llama.n_slots
        """Position after the last token of each slot."""

    @property
    def handle(self) -> lib.llama_context_p:
        """As ``Llama.handle``."""
        return self._ctx

    def close(self) -> None:
        """Before the target's context is freed."""
        self._set(self._llama.handle, False, False)
        self._llama.free_head_context(self._ctx)

    def follow(self, pieces: Sequence[Piece]) -> None:
        """The target has computed this step: learn what it found out. A slot has one piece.

        Raises ``DecodeError``.
        """
        n = sum(len(piece.tokens) for piece in pieces)
        found, at = self._rows(self._llama.handle, n), 0
        for piece in pieces:
            end = at + len(piece.tokens)
            # Each token comes with what was known before it.
            self._states[at] = self._known(piece.slot, piece.start)
            self._states[at + 1 : end] = found[at : end - 1]
            # The next token follows one of those that had logits.
            n_kept = max(1, piece.n_outputs)
            self._seen[piece.slot] = piece.start + len(piece.tokens) - n_kept + 1, found[end - n_kept : end].copy()
            at = end
            self._go_to(piece.slot, piece.start)
        self._decode([_Tokens(piece.slot, piece.tokens, piece.start) for piece in pieces])

    def draft(self, last: Mapping[int, tuple[int, int]], n: int) -> dict[int, list[int]]:
        """The ``n`` likeliest tokens after each slot's last one, as (token, position), which the target has yet to see.

        Raises ``DecodeError``.
        """
        drafts: dict[int, list[int]] = {slot: [] for slot in last}
        tokens = {slot: token for slot, (token, _) in last.items()}
        for i, (slot, (_, position)) in enumerate(last.items()):
            self._go_to(slot, position)
            self._states[i] = self._known(slot, position)
        try:
            for step in range(n):
                pieces = [_Tokens(slot, [tokens[slot]], last[slot][1] + step, n_outputs=1) for slot in last]
                tokens = dict(zip(last, map(int, self._decode(pieces).argmax(axis=1)), strict=True))
                self._states[: len(last)] = self._rows(self._ctx, len(last))
                for slot, token in tokens.items():
                    drafts[slot].append(token)
        finally:
            for slot, (_, position) in last.items():
                self._trim(slot, position)
        return drafts

    def forget(self, slot: int, n_kept: int) -> None:
        """The target's slot was cut after so many tokens."""
        self._trim(slot, n_kept)
        if not n_kept:
            self._seen.pop(slot, None)

    def share(self, source: int, target: int, n: int) -> None:
        """The target's empty slot holds the source's first ``n`` tokens as well."""
        self.forget(target, 0)
        # Cells of a slot's own can only be copied whole.
        start, end = (0, n) if self._llama.is_unified else (-1, -1)
        lib.llama_memory_seq_cp(self._memory, source, target, start, end)
        self._ends[target] = min(n, self._ends[source]) if self._llama.is_unified else self._ends[source]
        self._trim(target, n)
        if source in self._seen:
            self._seen[target] = self._seen[source]

    def _go_to(self, slot: int, position: int) -> None:
        """What comes next is at this position: llama.cpp wants no overlap, and no gap."""
        self._trim(slot, position if position <= self._ends[slot] else 0)

    def _trim(self, slot: int, n_kept: int) -> None:
        if n_kept < self._ends[slot]:
            lib.llama_memory_seq_rm(self._memory, slot, n_kept, -1)
            self._ends[slot] = n_kept

    def _known(self, slot: int, position: int) -> FloatArray | float:
        """What the target found out at the token before this position; nothing, if that was not in its last step."""
        first, rows = self._seen.get(slot, (0, self._states[:0]))
        return rows[position - first] if 0 <= position - first < len(rows) else 0.0

    def _decode(self, pieces: Sequence[Piece]) -> FloatArray:
        n_outputs = self._batch.fill(pieces)
        for piece in pieces:
            self._ends[piece.slot] = piece.start + len(piece.tokens)
        if code := lib.llama_decode(self._ctx, self._batch.native):
            raise DecodeError(code)
        address = ctypes.addressof(lib.llama_get_logits(self._ctx).contents) if n_outputs else 0
        return _view(address, n_outputs, self._llama.n_vocab)

    def _rows(self, context: lib.llama_context_p, n: int) -> FloatArray:
        return _view(self._get(context), n, self._llama.n_state)


def _view(address: int, n: int, width: int) -> FloatArray:
    if not n:
        return np.empty((0, width), np.float32)
    memory = (ctypes.c_char * (4 * n * width)).from_address(address)
    return np.ndarray((n, width), np.float32, memoryview(memory))


def _exported(name: str, arguments: list[Any], result: Any) -> Any:
    try:
        function = getattr(lib._lib, name)
    except AttributeError as error:
        raise LoadFailed("this build of llama.cpp does not export its heads; speculate with another drafter") from error
    function.argtypes, function.restype = arguments, result
    return function
