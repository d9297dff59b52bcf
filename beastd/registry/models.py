"""What the library tells of models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from beastd.ipc import Adapter
    from beastd.registry.description import AdapterFile, Description, Files
    from beastd.registry.modelfile import Fields
    from beastd.registry.names import ModelName
    from beastd.registry.places import Place
    from beastd.yamlfile import Trail


@dataclass(frozen=True, slots=True)
class Variant:
    """One quantization of a model."""

    name: str
    files: Files
    """The file, or all its shards in order."""
    size_bytes: int
    """All shards; 0 when one is missing."""
    digest: str
    """64 hex digits: the blob's or the declared sha256, else one over the files' names, sizes and times."""
    problem: str | None = None
    """Why it cannot be used: a file is missing, or is not what was registered."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model whose description is sound. No GGUF was opened for it."""

    name: ModelName
    place: Place
    description: Description
    variants: dict[str, Variant]
    """In the description's order."""
    default: Variant
    faults: dict[Trail, str]
    """Field → what is wrong with its files: one is missing, or is not what was registered."""
    digest: str
    """64 hex digits over the description and its files' sizes and times. As Ollama's, it changes with any of them."""
    modified_at: datetime
    draft: Variant | None = None
    """The small model that proposes tokens, as the one file it is."""

    @property
    def fields(self) -> Fields:
        """The description as written."""
        return self.description.fields

    @property
    def problems(self) -> list[str]:
        """Every fault, as it is told."""
        return list(self.faults.values())

    @property
    def adapters(self) -> dict[str, AdapterFile]:
        """LoRAs by name."""
        return self.description.adapters

    @property
    def is_builtin(self) -> bool:
        """Whether it came inside the package."""
        return self.place.is_builtin


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a name stands for: the files to load and the adapters to apply."""

    name: ModelName
    """As asked for, in the model's own spelling."""
    model: Model
    variant: Variant
    adapters: list[Adapter]


@dataclass(frozen=True, slots=True)
class Problem:
    """A description that is no usable model or lacks some file, and why."""

    path: Path
    message: str


@dataclass(frozen=True, slots=True)
class Listing:
    """All models by name, and what could not be read beside them."""

    models: list[Model]
    problems: list[Problem]
