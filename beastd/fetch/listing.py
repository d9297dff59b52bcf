"""What a repository offers: its GGUF files grouped into candidates, each named by its quantization. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from beastd.errors import BadRequest, ModelNotFound
from beastd.nearest import near
from beastd.registry.gguf import MAX_SPLITS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_SPLIT = re.compile(r"(?P<stem>.+)-(?P<no>[0-9]{5})-of-(?P<n>[0-9]{5})(?P<end>\.gguf)", re.IGNORECASE)
_QUANT = re.compile(
    r"(?<![a-z0-9])(ud-)?([it]?q[1-8](_([0-9]|k|s|m|l|xl|xs|xxs|nl))*|bf16|fp?16|fp?32|mxfp4(_moe)?|nvfp4)(?![a-z0-9])"
)
"""How file names spell quantizations: llama.cpp's own names, and what repositories made of them (UD-Q4_K_XL)."""
_NO_MODEL = re.compile(r"imatrix|(^|[/_.-])mtp[/_.-]")
"""Importance matrices, and heads that draft for a model beside them."""
_DROPPED = re.compile(r"q4_0_[48]_[48]")
_SPELLINGS = {"fp16": "f16", "fp32": "f32"}
_MOST_NAMED = 12
"""Names in a message."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as the source announces it."""

    name: str
    size_bytes: int | None
    """None: the server is still to say."""
    digest: str | None
    """sha256: 64 lower-case hex digits."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One model file that could be taken, whole or as all its shards in order."""

    name: str
    """The quantization in lower case; empty where the file's name tells none."""
    parts: tuple[RemoteFile, ...]

    @property
    def file(self) -> str:
        """The file, or the first shard."""
        return self.parts[0].name

    @property
    def n_bytes(self) -> int:
        """All parts."""
        return sum(part.size_bytes or 0 for part in self.parts)

    @property
    def label(self) -> str:
        """What people call it."""
        return self.name or PurePosixPath(self.file).name


def quant_of(file: str) -> str:
    """The quantization a file's name tells, else its folder's; in lower case, empty when neither does."""
    path = PurePosixPath(file.lower())
    for text in (path.name, path.parent.name):
        found = [match[0] for match in _QUANT.finditer(text)]
        if found:
            return _SPELLINGS.get(found[-1], found[-1])
    return ""


def is_projector(file: str) -> bool:
    """Whether this is the part of a model that sees images, by llama.cpp's custom of naming it."""
    return "mmproj" in PurePosixPath(file.lower()).name


def projectors(files: Iterable[RemoteFile]) -> list[str]:
    """The mmproj files."""
    return sorted(file.name for file in files if _is_gguf(file.name) and is_projector(file.name))


def models(files: Iterable[RemoteFile]) -> list[Candidate]:
    """All that may be models: no projectors, drafts or importance matrices, no split files with a shard missing.

    Also none of the repacked types (Q4_0_4_4) that llama.cpp reads no more.
    """
    usual = (file for file in files if not is_projector(file.name) and not _NO_MODEL.search(file.name.lower()))
    return [candidate for candidate in _grouped(usual) if not _DROPPED.fullmatch(candidate.name)]


def split_name(name: str) -> tuple[str, int, int] | None:
    """A shard's first shard's name, its number and their count; None for a whole file."""
    match = _SPLIT.fullmatch(name)
    if match is None or not 1 <= int(match["no"]) <= int(match["n"]) <= MAX_SPLITS:
        return None
    return f"{match['stem']}-00001-of-{match['n']}{match['end']}", int(match["no"]), int(match["n"])


def shard_names(first: str) -> list[str]:
    """Every shard's name, given the first's; a whole file's own."""
    split = split_name(first)
    if split is None:
        return [first]
    return [first.replace("-00001-of-", f"-{i:05d}-of-") for i in range(1, split[2] + 1)]


def named(files: Sequence[RemoteFile], file: str, repo: str) -> Candidate:
    """The candidate of a file's name, of any kind. Raises ModelNotFound that tells the nearest."""
    split = split_name(file)
    first = split[0] if split else file
    for candidate in _grouped(files):
        if candidate.file == first:
            return candidate
    names = [candidate.file for candidate in _grouped(files)]
    hint = near(file, names) or sorted(names)[:_MOST_NAMED]
    raise ModelNotFound(f"{repo} has no file '{file[:200]}'; {_offer(hint)}")


def with_quant(candidates: Sequence[Candidate], quant: str, repo: str) -> Candidate:
    """The candidate of a quantization, in any case. Raises ModelNotFound, or BadRequest where several have it."""
    wanted = _SPELLINGS.get(quant.lower(), quant.lower())
    found = [candidate for candidate in candidates if candidate.name == wanted]
    found = found or [candidate for candidate in candidates if candidate.name == f"ud-{wanted}"]
    if not found:
        names = [candidate.label for candidate in candidates]
        raise ModelNotFound(f"{repo} has no '{quant[:80]}'; {_offer(names[:_MOST_NAMED])}")
    if len(found) > 1:
        raise several(found, repo)
    return found[0]


def several(candidates: Sequence[Candidate], repo: str) -> BadRequest:
    """The refusal to pick among different models."""
    names = [candidate.file for candidate in candidates][:_MOST_NAMED]
    return BadRequest(f"{repo} holds several models; name one's file: {', '.join(names)}")


def stem(candidate: Candidate) -> str:
    """The file's name without its quantization: the same for all quantizations of one model."""
    name = PurePosixPath(candidate.file.lower()).name
    split = _SPLIT.fullmatch(name)
    name = split["stem"] if split else name.removesuffix(".gguf")
    return _QUANT.sub("", name).strip("-_.")


def _grouped(files: Iterable[RemoteFile]) -> list[Candidate]:
    by_name = {file.name: file for file in files if _is_gguf(file.name)}
    found = []
    for name in sorted(by_name):
        split = split_name(name)
        if split is None or split[1] == 1:
            parts = [by_name.get(shard) for shard in shard_names(name)]
            if all(parts):
                found.append(Candidate(quant_of(name), tuple(part for part in parts if part)))
    return found


def _is_gguf(name: str) -> bool:
    return name.lower().endswith(".gguf") and name.isprintable()


def _offer(names: Sequence[str]) -> str:
    return f"there is {', '.join(names)}" if names else "it has no GGUF files; look for a repository that has"
