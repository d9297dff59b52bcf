"""What one worker is to hold: the base model's files, shape and load settings, under the key that identifies it."""

from __future__ import annotations

from dataclasses import dataclass

from beastd import contract, ipc


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """One base model to load; at most one worker lives per key."""

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
    shape: contract.ModelShape
    settings: ipc.LoadSettings
    """How to load it; its n_ctx is what the request needs at least, its n_parallel is concrete (not 0)."""

    @property
    def label(self) -> str:
        """Name and variant, as messages show them."""
        return f"{self.name} ({self.variant})" if self.variant else self.name
