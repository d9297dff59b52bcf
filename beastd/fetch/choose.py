"""Which quantization to take when none is named. Pure: sizes, needs and the budget come in as arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from beastd.quants import ALIASES, QUANT_TYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from beastd.fetch.listing import Candidate

_ORDER = {name: rank for rank, name in enumerate(QUANT_TYPES)}
_SPELLINGS = ALIASES | {"mxfp4": "mxfp4_moe", "nvfp4": "q4_k_s", "q8": "q8_0", "q6": "q6_k", "q5": "q5_0", "q4": "q4_0"}
_BEST_DEFAULT, _LEAST_COMFORTABLE = _ORDER["q8_0"], _ORDER["q4_k_m"]


@dataclass(frozen=True, slots=True)
class Memory:
    """What the machine has, and what each candidate would take of it."""

    budget_bytes: int
    n_ctx: int
    need_bytes: Callable[[Candidate], int]


@dataclass(frozen=True, slots=True)
class Choice:
    """The candidate taken, and why."""

    candidate: Candidate
    need_bytes: int
    fits: bool
    why: str


def quality(name: str) -> int:
    """The place of a quantization among all, the best first; the larger mixes (_l, _xl) count as the usual one."""
    base = name.removeprefix("ud-")
    stem = base.removesuffix("_xl").removesuffix("_l")
    for spelling in (base, f"{stem}_l", f"{stem}_m", stem, base.rpartition("_")[0]):
        known = _SPELLINGS.get(spelling, spelling)
        if known in _ORDER:
            return _ORDER[known]
    return len(_ORDER)


def choose(candidates: Sequence[Candidate], memory: Memory, preferred: str | None = None) -> Choice:
    """The candidate to take when people name none. There must be one.

    The preferred one, if it fits. Else the best, up to q8_0 and down to q4_k_m, that takes at most half of the
    memory: more quality is not worth its slowness, nor the room other models would have. Else the best that fits at
    all. Else the smallest, marked as not fitting. What is better than q8_0 (f16, f32) counts only where nothing
    else is offered.
    """
    ranked = sorted(candidates, key=lambda it: (quality(it.name), -it.n_bytes))
    usual = [it for it in ranked if quality(it.name) >= _BEST_DEFAULT] or ranked
    for it in candidates:
        if it.name == preferred and memory.need_bytes(it) <= memory.budget_bytes:
            return _choice(it, memory, "the variant recommended for this model")
    comfortable = [it for it in usual if quality(it.name) <= _LEAST_COMFORTABLE]
    for offered, share in ((comfortable, 2), (usual, 1)):
        for it in offered:
            if memory.need_bytes(it) * share <= memory.budget_bytes:
                return _choice(it, memory, _best(it, usual, memory, is_half=share == 2))
    return _choice(min(candidates, key=lambda it: it.n_bytes), memory, f"the smallest of {len(candidates)}")


def judge(candidate: Candidate, memory: Memory) -> Choice:
    """The candidate somebody named."""
    return _choice(candidate, memory, "as asked for")


def size_text(n_bytes: int) -> str:
    """A number of bytes for people, in powers of 1000."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes} bytes"


def _choice(candidate: Candidate, memory: Memory, reason: str) -> Choice:
    need = memory.need_bytes(candidate)
    fits = need <= memory.budget_bytes
    text = f"{candidate.label} ({size_text(candidate.n_bytes)}): {reason}"
    if not fits:
        text += f"; with {memory.n_ctx} tokens of context it needs {size_text(need)}, more than the "
        text += f"{size_text(memory.budget_bytes)} of memory that models may take"
    return Choice(candidate, need, fits, text)


def _best(taken: Candidate, offered: Sequence[Candidate], memory: Memory, *, is_half: bool) -> str:
    if len(offered) == 1:
        return "the only one offered"
    share = "half of " if is_half else ""
    text = f"the best of {len(offered)} that fits {share}{size_text(memory.budget_bytes)} of memory "
    text += f"with {memory.n_ctx} tokens of context"
    better = list(offered[: offered.index(taken)])
    if better:
        text += f"; {better[-1].label} would need {size_text(memory.need_bytes(better[-1]))}"
    return text
