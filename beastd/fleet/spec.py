"""What a worker is to hold, and what a request can be answered by."""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec

from beastd import ipc
from beastd.fleet.footprint import Footprint


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """One base model in one quantization, loaded in one way; at most one worker lives per key."""

    key: str
    """Identity of the base, for example "cub:latest@q8_0#<digest>"."""
    name: str
    """For people: "cub:latest"."""
    variant: str
    """The quantization, for people: "q8_0"."""
    paths: tuple[str, ...]
    """The model's file, or all its shards in order."""
    template: str | None
    """Chat template instead of the file's own."""
    settings: ipc.LoadSettings
    """How to load it; its n_ctx is what the request needs at least, its n_parallel is concrete (not 0)."""
    weights: Footprint
    """What the weights take."""
    working: Footprint
    """What KV cache and compute buffers take; given back in sleep."""
    process: Footprint
    """What the process takes besides."""
    digest: str = ""
    """Of the model's file: KV is kept for it across loads; without one it is not."""
    is_exact: bool = False
    """These were simulated by llama.cpp, not estimated."""
    draft: str | None = None
    """File of the small model that proposes tokens; what it takes is counted with the rest."""
    has_auto_parallel: bool = False
    """Fewer sequences at once are better than none, where memory is short."""

    @property
    def label(self) -> str:
        """Name and variant, as messages show them."""
        return f"{self.name} ({self.variant})" if self.variant else self.name

    @property
    def need(self) -> Footprint:
        """What it takes awake."""
        return self.weights + self.working + self.process

    def shaped_as(self, other: WorkerSpec) -> WorkerSpec:
        """This variant with the other's settings: variants of one model share the layout of their KV."""
        if self.settings == other.settings and self.working == other.working:
            return self  # nearly always; a decision asks for many of these
        return replace(self, settings=other.settings, working=other.working)

    def with_context(self, n_ctx: int) -> WorkerSpec:
        """The same for a request that needs no more tokens than this."""
        return replace(self, settings=msgspec.structs.replace(self.settings, n_ctx=n_ctx))

    def with_parallel(self, n_parallel: int) -> WorkerSpec:
        """With room for another number of whole sequences; the KV is nearly all of what changes.

        In a pool of cells as many run at once as before, otherwise this many.
        """
        n_sequences = self.settings.n_sequences if self.settings.kv_layout == "unified" else n_parallel
        settings = msgspec.structs.replace(self.settings, n_parallel=n_parallel, n_sequences=n_sequences)
        return replace(self, settings=settings, working=self.working.times(n_parallel / self.settings.n_parallel))


@dataclass(frozen=True, slots=True)
class Want:
    """What a request can be answered by."""

    rungs: tuple[WorkerSpec, ...]
    """Variants of one model with equal settings, the best first; one alone where the request insists on it."""

    @property
    def best(self) -> WorkerSpec:
        """What the request would have, were there room for everything."""
        return self.rungs[0]

    @property
    def n_ctx(self) -> int:
        """Tokens the request may need."""
        return self.best.settings.n_ctx

    @property
    def keys(self) -> tuple[str, ...]:
        """Of the rungs, the best first."""
        return tuple(rung.key for rung in self.rungs)

    def rung(self, key: str) -> WorkerSpec | None:
        """The rung of this key."""
        return next((rung for rung in self.rungs if rung.key == key), None)
