"""What KV is kept of which model, and forgetting it."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from beastd.cache import Cache
from beastd.errors import BadRequest, ModelNotFound
from beastd.fleet.pool import Pool
from beastd.fleet.status import FleetStatus
from beastd.ipc import EngineStats
from beastd.kvfile import Meta
from beastd.kvfolder import KVFolder
from beastd.registry.names import ModelName
from beastd.registry.registry import Registry


@dataclass
class Worker:
    """As much of a WorkerStatus as is asked for."""

    id: int
    name: str
    variant: str
    stats: EngineStats = field(default_factory=EngineStats)


class Fleet:
    """As much of a pool: notes which workers are told."""

    def __init__(self, *workers: Worker) -> None:
        self.workers = workers
        self.told: list[int] = []

    def snapshot(self) -> FleetStatus:
        return cast(FleetStatus, self)

    def clear_cache(self, ids: Iterable[int]) -> None:
        self.told += ids


class Known:
    """As much of a registry: only the wolf is there."""

    def with_hub_tag(self, asked: ModelName) -> ModelName:
        return asked

    def place(self, name: ModelName) -> None:
        if name.base != "wolf:latest":
            raise ModelNotFound(name.short)


def write(folder: Path, label: str, n_tokens: int, start: int = 0) -> None:
    meta = Meta(identity="ab" * 20, label=label, start=start)
    tokens = struct.pack(f">{n_tokens}I", *range(n_tokens))
    assert KVFolder(folder).write(meta, tokens, memoryview(bytes(100)), most_bytes=10**6)


@pytest.fixture
def fleet() -> Fleet:
    stats = EngineStats(n_tier_memory=3, tier_memory_bytes=77)
    return Fleet(Worker(1, "cub:latest", "q8_0", stats), Worker(2, "cub:latest", "q2_k"), Worker(3, "bear:7b", "q8_0"))


@pytest.fixture
def cache(tmp_path: Path, fleet: Fleet) -> Cache:
    write(tmp_path, "cub:latest (q8_0)", 40)
    write(tmp_path, "cub:latest (q8_0)", 50, start=40)
    write(tmp_path, "cub:latest (q2_k)", 60)
    write(tmp_path, "Bear:7b (q8_0)", 70)
    return Cache(tmp_path, 10**6, cast(Pool, fleet), cast(Registry, Known()))


async def test_what_is_kept_is_told_by_model_and_variant(cache: Cache, tmp_path: Path) -> None:
    """Of a suffix only its own tokens count; a damaged file is nobody's."""
    (tmp_path / f"{'0' * 16}-{'0' * 32}.kv").write_bytes(b"x")
    status = await cache.status()
    counts = [(it.name, it.variant, it.n_disk, it.disk_tokens, it.n_memory, it.memory_bytes) for it in status.models]
    assert counts == [
        ("", "", 1, 0, 0, 0),
        ("Bear:7b", "q8_0", 1, 70, 0, 0),
        ("cub:latest", "q2_k", 1, 60, 0, 0),
        ("cub:latest", "q8_0", 2, 50, 3, 77),
    ]
    assert status.disk_bytes == sum(it.disk_bytes for it in status.models)
    assert status.disk_bytes == sum(file.size_bytes for file in KVFolder(tmp_path).files())
    assert (status.disk_limit_bytes, status.folder) == (10**6, str(tmp_path))
    assert status.models[-1].used_at


@pytest.mark.parametrize(
    ("model", "n_left", "told"),
    [(None, 0, [1, 2, 3]), ("cub", 1, [1, 2]), ("CUB@Q8_0", 2, [1]), ("bear:7b", 3, [3]), ("wolf", 4, [])],
)
async def test_clearing_takes_what_is_named(
    cache: Cache, fleet: Fleet, tmp_path: Path, model: str | None, n_left: int, told: list[int]
) -> None:
    """Files, and what workers have in memory; names know no case."""
    before = sum(file.size_bytes for file in KVFolder(tmp_path).files())
    freed = (await cache.clear(model)).disk_bytes
    left = KVFolder(tmp_path).files()
    assert (len(left), fleet.told) == (n_left, told)
    assert freed == before - sum(file.size_bytes for file in left)


async def test_what_is_no_name_clears_nothing(cache: Cache, fleet: Fleet) -> None:
    """It is refused."""
    with pytest.raises(BadRequest):
        await cache.clear("../x")
    assert fleet.told == []


async def test_a_file_that_cannot_be_removed_hinders_no_other(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is not told of as freed."""
    files = KVFolder(tmp_path).files()
    unlink = Path.unlink

    def failing(path: Path, *, missing_ok: bool = False) -> None:
        if path.name == files[1].name:
            raise PermissionError(path)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", failing)
    assert (await cache.clear(None)).disk_bytes == sum(file.size_bytes for file in files) - files[1].size_bytes
    assert [file.name for file in KVFolder(tmp_path).files()] == [files[1].name]


async def test_what_workers_had_in_memory_is_told(cache: Cache) -> None:
    assert (await cache.clear("cub@q8_0")).memory_bytes == 77
    assert (await cache.clear("bear:7b")).memory_bytes == 0


async def test_a_name_that_nothing_has_is_told(cache: Cache) -> None:
    """Unless something is kept of it: of a model that was removed, say."""
    with pytest.raises(ModelNotFound):
        await cache.clear("cbu")
    await cache.clear("cub")


async def test_what_is_kept_goes_with_its_model(cache: Cache, tmp_path: Path) -> None:
    """Not with an adapter of it; and of most there is nothing."""
    for removed, n_left in (("cub+pirate", 4), ("owl", 4), ("cub@q2_k", 3), ("cub", 1)):
        await cache.forget(removed)
        assert len(KVFolder(tmp_path).files()) == n_left
