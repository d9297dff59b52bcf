"""What the library tells of models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from beastd.contract import Options
    from beastd.ipc import Adapter
    from beastd.registry.modelfile import AdapterFile
    from beastd.registry.names import ModelName


@dataclass(frozen=True, slots=True)
class Variant:
    """One quantization of a model."""

    name: str
    path: Path
    """The file, or the first of its shards."""
    size_bytes: int
    """All shards."""
    digest: str
    """64 hex digits: the sha256 its description declares, else one over the files' names, sizes and times."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model whose description is sound and whose files exist. No GGUF was opened for it."""

    name: ModelName
    variants: dict[str, Variant]
    """In the description's order."""
    default: Variant
    adapters: dict[str, AdapterFile]
    draft: Path | None
    parameters: Options
    template: str | None
    system: str | None
    license: str | None
    description: str | None
    source: str
    """The description's text."""
    digest: str
    """64 hex digits over the description and its files' sizes and times. As Ollama's, it changes with any of them."""
    modified_at: datetime
    is_builtin: bool


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
    """A description that is no usable model, and why."""

    path: Path
    message: str


@dataclass(frozen=True, slots=True)
class Listing:
    """All models by name, and what could not be read beside them."""

    models: list[Model]
    problems: list[Problem]
