"""What the names of files tell: the model, its quantization, its adapters. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from beastd.fetch.listing import Candidate, RemoteFile, quant_of, stem
from beastd.registry.names import MAX_PART_CHARS

if TYPE_CHECKING:
    from collections.abc import Container
    from pathlib import Path

_FOREIGN = re.compile(r"[^a-z0-9_.-]+")
_RUN = re.compile(r"(?<=[-.])[-.]+")
_SAYS_NOTHING = re.compile(r"|(ggml-)?model|ggml|gguf|sha256-[0-9a-f]{64}")
"""Stems that many models have: ``model.gguf``, ``ggml-model-q4_0.gguf``, a blob's digest."""
_GGUF_END = re.compile(r"[-_.]gguf$")


def slug(text: str) -> str:
    """A text as a part of a model's name (``names.is_part``), lower case; empty when nothing of it is left."""
    plain = _RUN.sub("", _FOREIGN.sub("-", text.lower())).lstrip("-.")
    return plain[:MAX_PART_CHARS].rstrip("-.")


def stem_of(file: str) -> str:
    """A file's name without ending, shard number and quantization, as a part of a name; may be empty."""
    return slug(stem(Candidate("", (RemoteFile(file, None, None),))))


def folder_stem(folder: str) -> str:
    """A folder's or repository's name without quantization and a closing "-GGUF"; may be empty."""
    return slug(_GGUF_END.sub("", stem_of(folder)))


def model_stem(path: Path, title: str) -> str:
    """The name a model's file suggests; where that says nothing, its title (``general.name``), else its folder."""
    for text in (stem_of(path.name), slug(title), folder_stem(path.parent.name)):
        if not _SAYS_NOTHING.fullmatch(text):
            return text
    return "model"


def adapter_stem(path: Path, model: str) -> str:
    """The name an adapter's file suggests, without what it shares with its model: cub-pirate-lora.gguf is "pirate"."""
    whole = stem_of(path.name)
    return slug(whole.removeprefix(f"{model}-").removesuffix("-lora")) or whole or "adapter"


def is_quant_folder(name: str) -> bool:
    """Whether a folder is named for a quantization alone, as repositories have one for each."""
    return bool(quant_of(f"{name}.gguf")) and not stem_of(name)


def unique(name: str, taken: Container[str]) -> str:
    """The name, numbered if it is taken already: q4_k_m-2."""
    n, found = 1, name
    while found in taken:
        n += 1
        found = f"{name[: MAX_PART_CHARS - 6]}-{n}"
    return found
