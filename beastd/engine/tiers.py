"""Stand-in."""

from __future__ import annotations

from dataclasses import dataclass

from beastd import ipc
from beastd.engine.adapters import AdapterSet
from beastd.engine.kvstate import State

MIN_TOKENS = 32


@dataclass
class Found:
    n_usable: int
    start: int
    n_tokens: int
    state: State


class Pending: ...


class Tiers:
    def __init__(self, settings: ipc.KvTiers | None, identity: str) -> None:
        self._all: list[tuple[AdapterSet, list[int], int, State]] = []

    def wants(self, adapters: AdapterSet, tokens: list[int], start: int) -> bool:
        return len(tokens) - start >= MIN_TOKENS

    def put(self, adapters: AdapterSet, tokens: list[int], start: int, state: State) -> None:
        self._all.append((adapters, tokens, start, state))

    def find(self, adapters: AdapterSet, prompt: list[int], n_have: int, *, is_exact: bool) -> Found | None:
        from beastd.engine.prefixes import common_prefix

        best = None
        for a, t, s, st in self._all:
            n = min(common_prefix(t, prompt), len(prompt) - 1)
            if (
                a == adapters
                and s <= n_have < n
                and (not is_exact or (s == 0 and n == len(t)))
                and (best is None or n > best.n_usable)
            ):
                best = Found(n, s, len(t), st)
        return best

    def read(self, found: Found) -> State | Pending | None:
        return found.state
