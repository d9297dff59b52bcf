"""Reads what each GGUF file is: a model, an adapter or a projector, all shards of a split one together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from beastd.errors import BadModel
from beastd.fetch.listing import quant_of, shard_names, split_name
from beastd.library.importing.found import Skipped, skipped
from beastd.registry.gguf import read_shards

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from beastd.registry.header import Header

Kind = Literal["model", "adapter", "projector"]
Build = tuple[str, int, int]
"""Architecture, layers and width: the same for all variants of a model."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One GGUF, and the little that is remembered of its header."""

    files: tuple[Path, ...]
    """All shards in order."""
    kind: Kind
    quant: str
    """The quantization its file's name tells, else its header's; lower case."""
    title: str
    """``general.name``; may be empty."""
    build: Build | None
    """Of a model."""

    @property
    def file(self) -> Path:
        """The file, or the first shard."""
        return self.files[0]


def read_pieces(files: Iterable[Path]) -> Iterator[Piece | Skipped]:
    """Each GGUF once, though it may have several names. A broken one hides no other."""
    seen: dict[tuple[int, int], Path] = {}
    for shards in _whole(list(files)):
        if isinstance(shards, Skipped):
            yield shards
            continue
        twin = _twin(shards[0], seen)
        yield Skipped(shards[0], f"it is the same file as {twin}") if twin else _read(shards)


def kind_of(header: Header) -> Kind:
    """What a GGUF is for; projectors are told as llama.cpp's converter and Ollama (``isProjectorGGUF``) tell them."""
    if header.is_adapter:
        return "adapter"
    is_vision_alone = header.metadata.get("general.architecture") == "clip"
    is_named = header.metadata.get("general.type") in ("mmproj", "projector")
    return "projector" if is_vision_alone or is_named else "model"


def shards_beside(path: Path) -> tuple[Path, ...]:
    """The files of the model that a file is one of, whether they are there or not."""
    split = split_name(path.name)
    return tuple(path.with_name(name) for name in shard_names(split[0])) if split else (path,)


def _whole(files: list[Path]) -> Iterator[tuple[Path, ...] | Skipped]:
    known, done = set(files), set[Path]()
    for path in files:
        shards = shards_beside(path)
        if shards[0] in done:
            continue
        done.add(shards[0])
        missing = [shard.name for shard in shards if shard not in known]
        if missing and len(shards) > 1:
            names = ", ".join(missing[:3])
            yield Skipped(path, f"of its {len(shards)} files {len(missing)} are missing ({names}); get them all")
        else:
            yield shards


def _twin(path: Path, seen: dict[tuple[int, int], Path]) -> Path | None:
    try:
        stat = path.stat()
    except OSError:  # reading it will tell
        return None
    key = (stat.st_dev, stat.st_ino)
    if key in seen:
        return seen[key]
    seen[key] = path
    return None


def _read(files: tuple[Path, ...]) -> Piece | Skipped:
    try:
        header = read_shards(files)
        kind, build = kind_of(header), None
        if kind == "model":
            shape = header.shape()
            build = (shape.architecture, shape.n_layers, shape.n_embd)
    except BadModel as e:
        return skipped(files[0], e)
    title = header.metadata.get("general.name")
    quant = quant_of(files[0].name) or header.quantization.lower()
    return Piece(files, kind, quant, title if isinstance(title, str) else "", build)
