"""Sets of LoRA adapters; which adapter files are in memory, and which of them leave it. Decides only; llama obeys."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from typing import Generic, TypeVar

Handle = TypeVar("Handle")

AdapterSet = tuple[tuple[str, float], ...]
"""LoRA adapters as (path, scale), by path: KV computed with one set is worthless to another."""

MAX_IDLE = 32
"""Adapters kept attached that no request uses; beyond them the least recently used are freed."""


def adapter_set(adapters: Iterable[tuple[str, float]]) -> AdapterSet:
    """The set these make: their order is no difference, and one of scale 0 does nothing."""
    return tuple(sorted((path, scale) for path, scale in adapters if scale))


def renamed(adapters: AdapterSet, path: str, name: str) -> AdapterSet:
    """The set with this adapter under another name."""
    return adapter_set((name if it == path else it, scale) for it, scale in adapters)


class Attached(Generic[Handle]):
    """Adapters by their file's path: read at first use, freed when detached or long unused, and only while unused."""

    def __init__(self, read: Callable[[str], Handle]) -> None:
        self._read = read
        self._handles: dict[str, Handle] = {}
        """Least recently used first."""
        self._detached: dict[str, str] = {}
        """The name of each detached one → its file's path."""

    def __len__(self) -> int:
        return len(self._handles)

    def handle(self, path: str) -> Handle:
        """What the adapter was read as. Raises what reading it raises."""
        handle = self._handles.pop(path) if path in self._handles else self._read(self._detached.get(path, path))
        self._handles[path] = handle
        return handle

    def detach(self, path: str, name: str) -> bool:
        """From now on ``path`` is read anew; who uses what it was read as knows it by this name. False: it was not."""
        if path not in self._handles:
            return False
        self._handles[name] = self._handles.pop(path)
        self._detached[name] = path
        return True

    def leaving(self, in_use: Set[str]) -> list[str]:
        """The adapters to be freed now, when requests use those."""
        idle = [path for path in self._handles if path not in in_use]
        gone = [path for path in idle if path in self._detached]
        kept = [path for path in idle if path not in self._detached]
        return gone + kept[: max(0, len(kept) - MAX_IDLE)]

    def clear(self) -> None:
        """All were freed with the model; who uses one has it read again."""
        self._handles.clear()

    def pop(self, path: str) -> Handle:
        """Give up the adapter; the caller frees it."""
        self._detached.pop(path, None)
        return self._handles.pop(path)
