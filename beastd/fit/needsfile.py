"""Needs that were computed, remembered on disk: a simulation costs a good part of a second, reading this a blink."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
from msgspec import Struct

from beastd.contract import Gpu, MemoryNeed
from beastd.durable import write_atomically
from beastd.errors import BeastError

MAX_NEEDS = 2000

_log = logging.getLogger(__name__)


class _Content(Struct, frozen=True, kw_only=True):
    made_by: str
    gpus: list[tuple[str, int]]
    """Name and memory of each."""
    needs: dict[str, MemoryNeed]


class NeedsFile:
    """Needs by key, newest last. The file is a cache: a lost, broken or foreign one is made again."""

    def __init__(self, path: Path, made_by: str) -> None:
        """``made_by``: the llama.cpp whose needs these are."""
        self._path = path
        self._made_by = made_by
        content = self._read()
        self._gpus = content.gpus if content else []
        self._needs = content.needs if content else {}

    @property
    def gpus(self) -> list[Gpu]:
        """Those of the last simulation of all, as far as they are remembered."""
        return [Gpu(name=name, description="", total_bytes=n, free_bytes=n) for name, n in self._gpus]

    def get(self, key: str) -> MemoryNeed | None:
        """What is known."""
        return self._needs.get(key)

    def use_gpus(self, gpus: list[Gpu]) -> None:
        """These are the machine's; what was computed for others is forgotten."""
        found = [(gpu.name, gpu.total_bytes) for gpu in gpus]
        if found != self._gpus:
            self._gpus, self._needs = found, {}

    def put(self, needs: dict[str, MemoryNeed]) -> None:
        """Know these too; the oldest go when there are too many."""
        self._needs = dict(list({**self._needs, **needs}.items())[-MAX_NEEDS:])

    def save(self) -> None:
        """Write all of it. Blocks; a disk that is full costs only time, later."""
        content = _Content(made_by=self._made_by, gpus=self._gpus, needs=self._needs)
        try:
            write_atomically(self._path, msgspec.json.encode(content), mode=0o600)
        except BeastError as e:
            _log.warning("%s", e.message)

    def _read(self) -> _Content | None:
        try:
            content = msgspec.json.decode(self._path.read_bytes(), type=_Content)
        except (OSError, msgspec.MsgspecError):
            return None
        return content if content.made_by == self._made_by else None
