"""What a search for models finds: a model as its description would be, or why something is none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from beastd.errors import BeastError
    from beastd.registry.modelfile import Fields
    from beastd.registry.names import ModelName


@dataclass(frozen=True, slots=True)
class Found:
    """A model, with every file named by its absolute path. Nothing was written or copied for it."""

    name: ModelName
    fields: Fields
    source: Path
    """The file, folder or manifest it was found as."""
    notes: list[str] = field(default_factory=list)
    """What differs from how its owner had it, for people."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that looked like a model, or a part of one, and is left out."""

    source: Path
    reason: str
    """Why, and what to do."""


def skipped(source: Path, error: BeastError) -> Skipped:
    """What an error says of a file; the path is not told twice."""
    text = error.message
    if text.startswith(f"{source} "):
        text = f"it {text.removeprefix(f'{source} ')}"
    return Skipped(source, plain(text.removeprefix(f"{source}: ")))


def plain(text: str) -> str:
    """A text that may quote a file, safe to show: a line of at most 1000 characters, all printable."""
    return "".join(it if it.isprintable() else ascii(it)[1:-1] for it in text[:1000])
