"""The tool that simulates loads, on the real Cub: the sizes llama.cpp really takes, and no memory spent for them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import tiny_models
from toolrun import run_tool

from beastd.contract import RAM, MemoryNeed
from beastd.engine.breakdown import device_needs
from beastd.engine.llama import Llama
from beastd.engine.memory import held
from beastd.engine.mtp import Heads
from beastd.engine.pages import unload_pages
from beastd.fleet.memory import kv_bytes
from beastd.ipc import Load, LoadSettings
from beastd.registry.gguf import read_shards
from beastd.registry.registry import BUILTIN_DIR
from beastd.tool import Done
from beastd.toolorders import Outcome, SimulateCase, Simulated, SimulateOrder

CUB = BUILTIN_DIR / "cub"
F16 = [str(CUB / f"cub-f16-0000{i}-of-00002.gguf") for i in (1, 2)]
Q4 = [str(CUB / "cub-q4_k_m.gguf")]
MIB = 2**20


def case(paths: list[str] = Q4, **settings: object) -> SimulateCase:
    given = {"n_ctx": 2048, "n_parallel": 2} | settings
    return SimulateCase(paths=paths, label="cub:latest", settings=LoadSettings(**given))  # type: ignore[arg-type]


def outcomes(*cases: SimulateCase) -> list[Outcome]:
    _, ending = run_tool("beastd.engine.simulate", SimulateOrder(cases=list(cases)))
    assert isinstance(ending, Done)
    return msgspec.convert(ending.result, Simulated).outcomes


def needs(*cases: SimulateCase) -> list[MemoryNeed]:
    found = [it.need for it in outcomes(*cases)]
    assert None not in found
    return found  # type: ignore[return-value]


def output_bytes(llama: Llama, n_rows: int) -> int:
    """What logits of so many rows take."""
    return 4 * n_rows * llama.n_vocab


@pytest.mark.parametrize(
    ("paths", "how"), [(F16, {}), (Q4, {}), (Q4, {"kv_layout": "unified", "n_parallel": 1, "n_sequences": 8})]
)
def test_weights_kv_and_compute_are_what_llama_cpp_takes(paths: list[str], how: dict[str, object]) -> None:
    """The simulated sizes are those of a model that was really loaded, shards and all, to the byte."""
    asked = case(paths, mmap=False, **how)
    (need,) = needs(asked)
    llama = Llama(Load(paths=paths, label="cub", settings=asked.settings), lambda _: None)
    (real,) = device_needs(llama.handle)
    (ram,) = need.devices
    assert ram.device == RAM
    assert (ram.weights_bytes, ram.kv_bytes) == (real.weights_bytes, real.kv_bytes)
    n_rows = llama.n_seq_max + llama.n_draftable  # the buffer grows with the first draft
    assert ram.compute_bytes - real.compute_bytes == pytest.approx(output_bytes(llama, n_rows), rel=0.05)
    assert llama.logged_bytes("output") > 0
    llama.close(keeps_model=False)


def test_a_head_of_its_own_takes_a_context_more(tmp_path: Path) -> None:
    """As large as one of a model with its layers; the weights are there only once."""
    path = str(tiny_models.write("mtp", tmp_path / "m.gguf"))
    asked = case([path], mtp=True, mmap=False)
    need, without = needs(asked, case([path], mmap=False))
    llama = Llama(Load(paths=[path], label="tiny", settings=asked.settings), lambda _: None)
    heads = Heads(llama)
    (real,), (own,) = device_needs(llama.handle), device_needs(heads.handle)
    (ram,) = need.devices
    assert ram.weights_bytes == real.weights_bytes > without.devices[0].weights_bytes
    assert ram.kv_bytes == real.kv_bytes + own.kv_bytes
    assert real.kv_bytes == tiny_models.N_LAYER * own.kv_bytes
    state_bytes = 2 * 4 * llama.n_batch * tiny_models.N_EMBD
    assert ram.compute_bytes == real.compute_bytes + own.compute_bytes + state_bytes
    heads.close()
    llama.close(keeps_model=False)


def test_the_parts_add_up_and_are_each_what_they_say() -> None:
    """Weights are the file's tensors, the KV cache follows context, sequences and type, the sum is the RAM."""
    plain, long, wide, small = needs(case(), case(n_ctx=4096), case(n_parallel=4), case(kv_type="q8_0"))
    shape = read_shards([Path(path) for path in Q4]).shape()
    (ram,) = plain.devices
    assert ram.weights_bytes == pytest.approx(Path(Q4[0]).stat().st_size, rel=0.02)
    assert ram.kv_bytes == kv_bytes(shape, case().settings)
    assert long.devices[0].kv_bytes == wide.devices[0].kv_bytes == 2 * ram.kv_bytes
    assert small.devices[0].kv_bytes * 32 == ram.kv_bytes * 17
    assert long.devices[0].compute_bytes > ram.compute_bytes
    assert plain.ram_bytes == ram.weights_bytes + ram.kv_bytes + ram.compute_bytes + plain.process_bytes
    assert 30 * MIB < plain.process_bytes < 120 * MIB


def test_the_order_of_cases_changes_nothing() -> None:
    """What one case leaves behind in the process is not counted for the next."""
    first, *_, last = needs(case(n_parallel=1), case(F16, n_parallel=16), case(n_parallel=1))
    assert first.devices == last.devices
    assert last.process_bytes == pytest.approx(first.process_bytes, abs=3 * MIB)


def test_more_than_any_memory_is_told_without_taking_it() -> None:
    """Forty gigabytes of KV cache; and what is beyond all sense is a failure at once."""
    told, refused = outcomes(case(n_ctx=2**20, n_parallel=4), case(n_ctx=2**20, n_parallel=100))
    assert told.need is not None
    assert told.need.devices[0].kv_bytes > 40 * 10**9
    assert told.need.process_bytes < 10**9
    assert refused.failure is not None
    assert refused.failure.code == "load_failed"


def test_a_broken_file_is_a_failure_in_its_place(tmp_path: Path) -> None:
    """Garbage, nothing, and half a model hinder no other."""
    garbage, half = tmp_path / "garbage.gguf", tmp_path / "half.gguf"
    garbage.write_bytes(b"no model at all" * 1000)
    half.write_bytes(Path(Q4[0]).read_bytes()[:100_000])
    paths = [[str(garbage)], Q4, [str(tmp_path / "none.gguf")], [str(half)], F16[:1]]
    found = outcomes(*(case(it) for it in paths))
    assert [it.failure.code if it.failure else None for it in found] == ["bad_model", None, *["bad_model"] * 3]
    assert found[0].failure is not None
    assert "cannot load cub:latest" in found[0].failure.message


def test_a_stand_in_with_nothing_but_the_header_will_do(tmp_path: Path) -> None:
    """As before a download: the same answer from a file that is all hole."""
    stand_in = tmp_path / "stand-in.gguf"
    with stand_in.open("wb") as stream:
        stream.write(Path(Q4[0]).read_bytes()[: 2**20])
        stream.truncate(Path(Q4[0]).stat().st_size)
    real, simulated = needs(case(), case([str(stand_in)]))
    assert simulated.devices == real.devices
    assert stand_in.stat().st_blocks * 512 < 2 * 2**20, "no weight was read or written"


def test_repacked_weights_are_held_once() -> None:
    """The mapped originals are not resident after the load: giving them back once more changes little."""
    settings = LoadSettings(n_ctx=256)
    llama = Llama(Load(paths=Q4, label="cub", settings=settings), lambda _: None)
    if not any(name == "CPU_REPACK" for name, _ in llama._log.buffer_bytes):
        pytest.skip("this CPU repacks nothing")
    before = held().resident_bytes
    unload_pages(Q4)
    assert before - held().resident_bytes < 2 * MIB
    llama.warm_up()
    llama.close(keeps_model=False)
