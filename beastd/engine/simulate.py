"""The tool that tells what loading a model would take, without taking it.

    python -P -m beastd.engine.simulate       (``toolorders`` has the order and the result)

Each case goes the worker's own way to a loaded model, but llama.cpp is told to allocate nothing. What a worker takes
besides its buffers (interpreter, libraries, vocabulary, graphs) this process takes too, and measures.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

import msgspec

import beastd.engine.engine
import beastd.engine.outbox  # noqa: F401
from beastd.contract import RAM, DeviceNeed, MemoryNeed
from beastd.engine.breakdown import device_needs, gpus
from beastd.engine.intake import Intake
from beastd.engine.llama import Llama
from beastd.engine.memory import give_back, held
from beastd.errors import BeastError, LoadFailed
from beastd.ipc import Failure, Load
from beastd.tool import Progress, Report, serve
from beastd.toolorders import Outcome, SimulateCase, Simulated, SimulateOrder

_NICE = 19
"""Loaded models go on undisturbed."""
_MOST_CELLS = 2**23
"""llama.cpp's bookkeeping of a KV cell, some 60 bytes, is allocated even now."""
_USE_BYTES = 6 * 2**20
"""What a worker takes besides once it has answered: code of the kernels, stacks of threads, samplers, texts."""


def simulate(order: SimulateOrder, report: Report) -> dict[str, Any]:
    """Tell it for each case; returns ``Simulated`` as a dict. A case that cannot be loaded hinders no other."""
    outcomes: list[Outcome] = []
    for case in order.cases:
        report(
            Progress(status=f"measuring {case.label}", completed=len(outcomes), total=len(order.cases), unit="models")
        )
        outcomes.append(_outcome(case))
    result: dict[str, Any] = msgspec.to_builtins(Simulated(outcomes=outcomes, gpus=gpus()))
    return result


def _outcome(case: SimulateCase) -> Outcome:
    try:
        return Outcome(need=_need(case))
    except BeastError as e:
        return Outcome(failure=Failure(e.code, e.message))


def _need(case: SimulateCase) -> MemoryNeed:
    if (n_cells := case.settings.n_ctx * case.settings.n_parallel) > _MOST_CELLS:
        raise LoadFailed(f"{case.label}: {n_cells} tokens of context in all are too many to simulate; ask for fewer")
    load = Load(paths=case.paths, label=case.label, settings=case.settings)
    give_back()  # the next measurement must not start from what the last case has freed
    llama = Llama(load, lambda _: None, is_simulated=True)
    try:
        intake = Intake(llama, load.template)
        needs = device_needs(llama.handle)
        # Logits are allocated even now, and so is the state of recurrent layers.
        output_bytes = llama.logged_bytes("output")
        # With the first draft the buffer grows.
        most_output_bytes = output_bytes * (llama.n_seq_max + llama.n_draftable) // llama.n_seq_max
        taken = held().resident_bytes - output_bytes - llama.logged_bytes("RS")
        needs = _with_output(needs, most_output_bytes)
        if load.settings.mtp:
            needs = _with_head(needs, llama)
        del intake
    finally:
        llama.close(keeps_model=False)
    return MemoryNeed(devices=needs, process_bytes=taken + _USE_BYTES)


def _with_head(needs: list[DeviceNeed], llama: Llama) -> list[DeviceNeed]:
    """The same with the context of the model's own head, which shares its weights, and the states that go there."""
    n_before = llama.logged_bytes("output")
    context = llama.make_head_context()
    heads = {need.device: need for need in device_needs(context)}
    llama.free_head_context(context)
    # Of each token, as llama.cpp gives them and as it takes them.
    state_bytes = 2 * 4 * llama.n_batch * llama.n_state
    found = [_sum(need, heads.get(need.device)) for need in needs]
    return _with_output(found, llama.logged_bytes("output") - n_before + state_bytes)


def _sum(need: DeviceNeed, head: DeviceNeed | None) -> DeviceNeed:
    if head is None:
        return need
    kv_bytes, compute_bytes = need.kv_bytes + head.kv_bytes, need.compute_bytes + head.compute_bytes
    return msgspec.structs.replace(need, kv_bytes=kv_bytes, compute_bytes=compute_bytes)


def _with_output(needs: list[DeviceNeed], output_bytes: int) -> list[DeviceNeed]:
    ram, *rest = needs
    assert ram.device == RAM, "it comes first"
    return [msgspec.structs.replace(ram, compute_bytes=ram.compute_bytes + output_bytes), *rest]


if __name__ == "__main__":
    with suppress(OSError):
        os.nice(_NICE)
    serve(SimulateOrder, simulate)
