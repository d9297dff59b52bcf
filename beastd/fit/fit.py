"""Whether a model fits: a pure decision over needs and budgets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from msgspec import structs

from beastd.contract import RAM, MemoryNeed

CTX_STEP = 256
"""llama.cpp rounds the cells of a sequence up to this."""

Answer = Literal["fits", "smaller", "no"]


@dataclass(frozen=True, slots=True)
class Option:
    """One way to load a model."""

    variant: str
    n_ctx: int
    """Tokens of one sequence."""
    n_parallel: int
    kv_type: str
    need: MemoryNeed

    @property
    def weights_bytes(self) -> int:
        """On all devices: of variants, the larger is the better."""
        return sum(it.weights_bytes for it in self.need.devices)


@dataclass(frozen=True, slots=True)
class Budget:
    """What models may take on each device, in bytes."""

    ram_bytes: int
    gpu_bytes: Mapping[str, int]

    def of(self, device: str) -> int:
        """A device's; none on one that is not known."""
        return self.ram_bytes if device == RAM else self.gpu_bytes.get(device, 0)

    def has_room_for(self, need: MemoryNeed) -> bool:
        """Whether it stays within the budget everywhere."""
        return not self.over(need)

    def over(self, need: MemoryNeed) -> dict[str, int]:
        """Device → bytes beyond its budget, where there are any."""
        taken = {RAM: need.ram_bytes, **need.gpu_bytes}
        return {device: n - self.of(device) for device, n in taken.items() if n > self.of(device)}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an option fits, and what does instead."""

    answer: Answer
    asked: Option
    instead: list[Option]
    """What fits, the best first; empty where it fits as asked, and where nothing does."""
    least: Option
    """What takes least of all that was tried."""


def judge(asked: Option, others: Sequence[Option], budget: Budget) -> Verdict:
    """The verdict over what was asked for, and whatever else was tried."""
    least = min([asked, *others], key=lambda it: it.need.ram_bytes + sum(it.need.gpu_bytes.values()))
    if budget.has_room_for(asked.need):
        return Verdict("fits", asked, [], least)
    fitting = [it for it in others if budget.has_room_for(it.need)]
    return Verdict("smaller" if fitting else "no", asked, list(_best_first(asked, fitting)), least)


def largest_context(small: Option, large: Option, budget: Budget) -> int | None:
    """The most tokens a sequence can have, by what two contexts of one variant take; None when the small one is over.

    What is taken grows linearly in between. It is a whole number of ``CTX_STEP``, or the small one's own.
    """
    if not budget.has_room_for(small.need):
        return None
    if budget.has_room_for(large.need):
        return large.n_ctx
    room = min(_share(small.need, large.need, device, budget.of(device)) for device in budget.over(large.need))
    n_ctx = small.n_ctx + int((large.n_ctx - small.n_ctx) * room)
    return max(small.n_ctx, n_ctx // CTX_STEP * CTX_STEP)


def with_weights(option: Option, variant: str, less_bytes: int) -> Option:
    """A guess at a smaller variant, whose file is so much less: the weights of every device shrink by one share."""
    share = max(0.0, 1 - less_bytes / max(1, option.weights_bytes))
    devices = [structs.replace(it, weights_bytes=int(it.weights_bytes * share)) for it in option.need.devices]
    need = MemoryNeed(devices=devices, process_bytes=option.need.process_bytes)
    return replace(option, variant=variant, need=need)


def _share(small: MemoryNeed, large: MemoryNeed, device: str, budget_bytes: int) -> float:
    """How far from the small need to the large one a device's budget reaches, 0 to 1."""
    low, high = (it.ram_bytes if device == RAM else it.gpu_bytes.get(device, 0) for it in (small, large))
    return max(0.0, (budget_bytes - low) / max(1, high - low))


def _best_first(asked: Option, fitting: Sequence[Option]) -> Iterator[Option]:
    """The best variant with all that was asked for, then the asked one with less, then the best of both being less."""

    def is_full(it: Option) -> bool:
        return (it.n_ctx, it.n_parallel) == (asked.n_ctx, asked.n_parallel)

    kinds = (
        [it for it in fitting if is_full(it)],
        [it for it in fitting if it.variant == asked.variant and it.n_parallel < asked.n_parallel],
        [it for it in fitting if it.variant == asked.variant and it.n_parallel == asked.n_parallel],
    )
    found = [max(kind, key=lambda it: (it.weights_bytes, it.n_ctx)) for kind in kinds if kind]
    yield from found or [max(fitting, key=lambda it: (it.weights_bytes, it.n_ctx))] if fitting else []
