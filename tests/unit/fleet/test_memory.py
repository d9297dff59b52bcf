"""Memory: the estimate before a load, and what the machine has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beastd.contract import ModelShape
from beastd.fleet.memory import (
    anon_bytes,
    auto_parallel,
    available_ram_bytes,
    estimated_need,
    kv_bytes,
    n_oom_kills,
    need_bytes,
    total_ram_bytes,
)
from beastd.ipc import LoadSettings

QWEN3_06B = ModelShape(
    architecture="qwen3",
    weights_bytes=396_700_448,
    n_params=596_049_920,
    n_layers=28,
    n_embd=1024,
    n_vocab=151_936,
    n_ctx_train=40_960,
    kv_elements_per_token=28 * 2 * 8 * 128,
)
MIB = 2**20


@pytest.mark.parametrize(("kv_type", "mib"), [("f16", 448), ("q8_0", 238), ("q4_0", 126)])
def test_the_kv_cache_is_what_llama_cpp_allocates(kv_type: str, mib: int) -> None:
    """As llama.cpp's log states it for Qwen3-0.6B's shape with 4,096 tokens."""
    assert kv_bytes(QWEN3_06B, LoadSettings(n_ctx=4096, kv_type=kv_type)) == mib * MIB


def test_a_sequences_cells_are_rounded_up() -> None:
    """llama.cpp gives each sequence a multiple of 256 cells."""
    assert kv_bytes(QWEN3_06B, LoadSettings(n_ctx=4000)) == kv_bytes(QWEN3_06B, LoadSettings(n_ctx=4096))


@given(st.integers(256, 32_768), st.integers(1, 32))
def test_more_context_or_more_sequences_need_more(n_ctx: int, n_parallel: int) -> None:
    """The estimate never falls as settings grow, and is more than the weights."""
    need = need_bytes(QWEN3_06B, LoadSettings(n_ctx=n_ctx, n_parallel=n_parallel))
    assert need > QWEN3_06B.weights_bytes
    assert need_bytes(QWEN3_06B, LoadSettings(n_ctx=n_ctx + 256, n_parallel=n_parallel)) > need
    assert need_bytes(QWEN3_06B, LoadSettings(n_ctx=n_ctx, n_parallel=n_parallel + 1)) > need


@given(st.integers(0, 20 * 10**9), st.integers(1, 32))
def test_auto_parallel_is_the_most_that_fits(limit: int, most: int) -> None:
    """One more sequence would not fit, or is not allowed; one is always given."""
    n_parallel = auto_parallel(QWEN3_06B, 4096, "f16", limit, most)
    assert 1 <= n_parallel <= most
    if n_parallel > 1:
        assert need_bytes(QWEN3_06B, LoadSettings(n_ctx=4096, n_parallel=n_parallel)) <= limit
    if n_parallel < most:
        assert need_bytes(QWEN3_06B, LoadSettings(n_ctx=4096, n_parallel=n_parallel + 1)) > limit


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_parts_of_the_estimate_are_the_whole() -> None:
    """As the ledger falls back to it."""
    settings = LoadSettings(n_ctx=4096, n_parallel=4, kv_type="q8_0")
    need = estimated_need(QWEN3_06B, settings)
    assert need.ram_bytes == need_bytes(QWEN3_06B, settings)
    assert need.devices[0].kv_bytes == kv_bytes(QWEN3_06B, settings)
    assert need.process_bytes > 0


def test_without_control_groups_it_is_the_machines_memory(tmp_path: Path) -> None:
    """As on macOS."""
    assert total_ram_bytes(tmp_path) > 2**27


def test_the_smallest_limit_on_the_way_up_counts(tmp_path: Path) -> None:
    """Version 2: a parent's limit binds its children, and "max" is none."""
    write(tmp_path / "proc/self/cgroup", "0::/user/session\n")
    write(tmp_path / "sys/fs/cgroup/user/session/memory.max", "max\n")
    write(tmp_path / "sys/fs/cgroup/user/memory.max", f"{64 * MIB}\n")
    write(tmp_path / "sys/fs/cgroup/memory.max", f"{96 * MIB}\n")
    assert total_ram_bytes(tmp_path) == 64 * MIB


def test_a_container_sees_its_limit_at_the_root(tmp_path: Path) -> None:
    """Version 1: the group's path is the host's, and its folder is not there inside the container."""
    write(tmp_path / "proc/self/cgroup", "4:memory:/docker/abc\n1:cpu:/\n0::/\n")
    write(tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes", f"{64 * MIB}\n")
    assert total_ram_bytes(tmp_path) == 64 * MIB


def meminfo(root: Path, mib: int) -> None:
    write(root / "proc/meminfo", f"MemTotal: 1 kB\nMemAvailable:    {mib * 1024} kB\nHugePages_Total:       0\n")


def test_without_a_limit_available_is_what_the_kernel_says(tmp_path: Path) -> None:
    """MemAvailable, which counts what it would drop."""
    meminfo(tmp_path, 500)
    assert available_ram_bytes(tmp_path) == 500 * MIB


def test_where_nothing_tells_all_is_available(tmp_path: Path) -> None:
    """As on macOS."""
    assert available_ram_bytes(tmp_path) == total_ram_bytes(tmp_path)


def test_what_a_control_group_has_left_is_available(tmp_path: Path) -> None:
    """The limit less what is used; cached files do not count as used."""
    meminfo(tmp_path, 500)
    write(tmp_path / "proc/self/cgroup", "0::/user\n")
    group = tmp_path / "sys/fs/cgroup/user"
    write(group / "memory.max", f"{300 * MIB}\n")
    write(group / "memory.current", f"{250 * MIB}\n")
    write(group / "memory.stat", f"anon 1\nfile 2\ninactive_file {20 * MIB}\nactive_file {10 * MIB}\n")
    assert available_ram_bytes(tmp_path) == 80 * MIB
    meminfo(tmp_path, 60)
    assert available_ram_bytes(tmp_path) == 60 * MIB


def test_version_one_counts_as_well(tmp_path: Path) -> None:
    """Other names for the same; a group over its limit has nothing left."""
    meminfo(tmp_path, 500)
    write(tmp_path / "proc/self/cgroup", "4:memory:/docker/abc\n")
    group = tmp_path / "sys/fs/cgroup/memory"
    write(group / "memory.limit_in_bytes", f"{100 * MIB}\n")
    write(group / "memory.usage_in_bytes", f"{90 * MIB}\n")
    write(group / "memory.stat", f"inactive_file 7\ntotal_inactive_file {5 * MIB}\ntotal_active_file {MIB}\n")
    assert available_ram_bytes(tmp_path) == 16 * MIB
    write(group / "memory.usage_in_bytes", f"{200 * MIB}\n")
    assert available_ram_bytes(tmp_path) == 0


def test_kills_for_lack_of_memory_are_counted_by_the_system(tmp_path: Path) -> None:
    """By its own line, not one that begins alike; none where it does not tell."""
    assert n_oom_kills(tmp_path) == 0
    write(tmp_path / "proc/vmstat", "nr_free_pages 5\noom_kill_other 9\noom_kill 3\npgfault 7\n")
    assert n_oom_kills(tmp_path) == 3


def test_what_no_file_backs_is_what_is_resident_less_what_is_shared(tmp_path: Path) -> None:
    """A mapped model is not counted; nor is a process that is gone."""
    assert anon_bytes(1, tmp_path) == 0
    write(tmp_path / "proc/1/statm", "1000 300 200 1 0 400 0\n")
    assert anon_bytes(1, tmp_path) == 100 * os.sysconf("SC_PAGE_SIZE")
