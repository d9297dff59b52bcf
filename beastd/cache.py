"""The verbs of the KV cache beyond the workers' own: what is kept of which model, in memory and on disk; clear it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from beastd.contract import CachedModel, CacheStatus
from beastd.fleet.pool import Pool
from beastd.fleet.status import WorkerStatus
from beastd.kvfile import BadFile, Header
from beastd.kvfolder import File, KVFolder
from beastd.registry.names import ModelName, parse_name
from beastd.registry.registry import Registry

_log = logging.getLogger(__name__)

_Label = tuple[str, str]
"""Model and variant."""


@dataclass(frozen=True, slots=True)
class _Kept:
    label: _Label
    file: File
    n_tokens: int


@dataclass(frozen=True, slots=True)
class Cleared:
    """What is no longer kept."""

    disk_bytes: int
    memory_bytes: int
    """As the workers told last."""
    was_any: bool
    """There were files, or workers, of what was named."""


class Cache:
    """Reads the folder that all workers share; they alone write to it."""

    def __init__(self, folder: Path, limit_bytes: int, pool: Pool, registry: Registry) -> None:
        self._path = folder
        self._folder = KVFolder(folder)
        self._limit_bytes = limit_bytes
        self._pool = pool
        self._registry = registry

    async def status(self) -> CacheStatus:
        """What is kept of each model."""
        kept = await asyncio.to_thread(lambda: list(self._kept()))
        workers: dict[_Label, list[WorkerStatus]] = {}
        for worker in self._pool.snapshot().workers:
            if worker.stats.n_tier_memory:
                workers.setdefault((worker.name, worker.variant), []).append(worker)
        labels = sorted({*workers, *(it.label for it in kept)})
        return CacheStatus(
            models=[
                _model(label, [it for it in kept if it.label == label], workers.get(label, [])) for label in labels
            ],
            folder=str(self._path),
            disk_bytes=sum(it.file.size_bytes for it in kept),
            disk_limit_bytes=self._limit_bytes,
        )

    async def clear(self, model: str | None) -> Cleared:
        """Forget all that is kept, or what is kept of one model or variant.

        Raises BadRequest for what is no name, ModelNotFound for one that neither a model has nor anything kept.
        """
        name = self._registry.with_hub_tag(parse_name(model)) if model else None
        cleared = await self._clear(name)
        if name and not cleared.was_any:
            self._registry.place(name)
        return cleared

    async def forget(self, removed: str) -> None:
        """This model or variant was removed: nobody asks for what is kept of it. That of an adapter just ages."""
        name = parse_name(removed)
        if not name.adapters:
            try:
                await self._clear(name)
            except OSError as error:
                _log.warning("cannot clear the KV cache of %s: %s", removed, error)

    async def _clear(self, name: ModelName | None) -> Cleared:
        gone = await asyncio.to_thread(lambda: [it.file for it in self._kept() if _is_of(it.label, name)])
        workers = [it for it in self._pool.snapshot().workers if _is_of((it.name, it.variant), name)]
        # First: what they have in memory would be written.
        self._pool.clear_cache(it.id for it in workers)
        n_bytes = await asyncio.to_thread(self._remove, gone)
        return Cleared(n_bytes, sum(it.stats.tier_memory_bytes for it in workers), bool(gone or workers))

    def _kept(self) -> Iterator[_Kept]:
        """Every file; one that cannot be read is nobody's. Blocks."""
        for file in self._folder.files():
            try:
                header = self._folder.header(file.name)
            except FileNotFoundError:
                continue
            except (OSError, BadFile):
                yield _Kept(("", ""), file, 0)
            else:
                yield _Kept(_label(header), file, header.n_tokens - header.meta.start)

    def _remove(self, files: list[File]) -> int:
        """Returns the bytes of those that could be removed. Blocks."""
        n_bytes = 0
        for file in files:
            try:
                self._folder.remove(file.name)
            except OSError as error:
                _log.warning("cannot remove %s of the KV cache: %s", file.name, error)
            else:
                n_bytes += file.size_bytes
        return n_bytes


def _label(header: Header) -> _Label:
    """Of "cub:latest (q8_0)"; no part of a name has a blank."""
    name, _, variant = header.meta.label.partition(" (")
    return name, variant.removesuffix(")")


def _is_of(label: _Label, wanted: ModelName | None) -> bool:
    if wanted is None:
        return True
    name, variant = (part.lower() for part in label)
    return name == wanted.base.lower() and (wanted.variant or variant).lower() == variant


def _model(label: _Label, kept: list[_Kept], workers: list[WorkerStatus]) -> CachedModel:
    used_s = max((it.file.used_s for it in kept), default=None)
    return CachedModel(
        name=label[0],
        variant=label[1],
        n_disk=len(kept),
        disk_tokens=sum(it.n_tokens for it in kept),
        disk_bytes=sum(it.file.size_bytes for it in kept),
        n_memory=sum(it.stats.n_tier_memory for it in workers),
        memory_bytes=sum(it.stats.tier_memory_bytes for it in workers),
        used_at=datetime.fromtimestamp(used_s, UTC).isoformat().replace("+00:00", "Z") if used_s is not None else None,
    )
