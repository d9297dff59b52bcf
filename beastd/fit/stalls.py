"""Where the model that is asked about lies: here, or at a source it could be pulled from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Protocol

import msgspec

from beastd.contract import ModelShape
from beastd.errors import BadModel
from beastd.fetch.order import FetchOrder, FileSource, HubSource, Peeked, PeekOrder, UrlSource
from beastd.fit.contract import Download
from beastd.jobs.process import run_tool
from beastd.registry.gguf import read_shards
from beastd.registry.models import Resolved, Variant
from beastd.registry.registry import Registry

TOOL = "beastd.fetch.peek"
IsHopeful = Callable[[int], bool]
"""Whether a variant whose file is smaller by so many bytes may fit."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A variant that could be loaded."""

    variant: str
    digest: str
    paths: tuple[str, ...]
    shape: ModelShape


class Stall(Protocol):
    """A model's variants."""

    name: str
    """The model's, as a command takes it, without variant."""
    asked: Candidate

    @property
    def download(self) -> Download | None:
        """What a pull would take; None for a model that is here."""

    def named(self, variant: str) -> str:
        """What a command calls one of its variants."""

    async def smaller(self, is_hopeful: IsHopeful) -> list[Candidate]:
        """Smaller variants than the one asked for, the largest first; of far ones, the likeliest to fit alone."""


class Here:
    """A model of the registry."""

    download: Download | None = None

    def __init__(self, registry: Registry, resolved: Resolved) -> None:
        """Raises BadModel. Blocks."""
        self.name = resolved.model.name.short
        self._registry = registry
        self._resolved = resolved
        self.asked = self._candidate(resolved.variant)

    def named(self, variant: str) -> str:
        """With the variant after @."""
        return f"{self.name}@{variant}"

    async def smaller(self, is_hopeful: IsHopeful) -> list[Candidate]:  # noqa: ARG002 - all of them are at hand
        """Every usable one."""
        most = self._resolved.variant.size_bytes
        usable = [it for it in self._resolved.model.variants.values() if not it.problem and it.size_bytes < most]
        found = []
        for variant in sorted(usable, key=lambda it: -it.size_bytes):
            try:
                found.append(self._candidate(variant))
            except BadModel:  # it is no way out, and nobody asked for it
                continue
        return found

    def _candidate(self, variant: Variant) -> Candidate:
        return Candidate(
            variant.name, variant.digest, tuple(map(str, variant.files)), self._registry.shape(variant.files)
        )


@dataclass(slots=True)
class Hatch:
    """How far models are looked at."""

    order: FetchOrder
    """What a pull would be told."""
    log: Path
    env: Mapping[str, str]
    folders: list[Path] = field(default_factory=list)
    """Made for stand-ins, and to be removed."""

    async def peek(self, source: HubSource | UrlSource | FileSource) -> Peeked:
        """Look. Raises what the tool raises."""
        folder = Path(mkdtemp(prefix="beast-fit-"))
        self.folders.append(folder)
        order = PeekOrder(fetch=msgspec.structs.replace(self.order, source=source), folder=str(folder))
        return msgspec.convert(await run_tool(TOOL, order, lambda _: None, self.log, self.env), Peeked)


class Far:
    """A model that a pull would bring."""

    def __init__(self, name: str, peeked: Peeked, hatch: Hatch) -> None:
        self.name = name
        self._source = hatch.order.source
        self._peeked = peeked
        self._hatch = hatch
        self.asked = _candidate_of(peeked)
        free, missing = peeked.free_bytes, peeked.missing_bytes
        self.download = Download(
            file=peeked.file,
            size_bytes=peeked.size_bytes,
            missing_bytes=missing,
            disk_free_bytes=free,
            has_room=missing <= free,
        )

    def named(self, variant: str) -> str:
        """As pull takes it: of a repository, the file's quantization or the file itself."""
        if not isinstance(self._source, HubSource) or variant == self._peeked.name:
            return self.name
        if self._source.variants is not None:
            return f"{self.name.partition('@')[0]}@{variant}"
        return f"hf.co/{self._source.repo}/{self._peeked.offered[variant][0]}"

    async def smaller(self, is_hopeful: IsHopeful) -> list[Candidate]:
        """One, which costs another look."""
        if not isinstance(self._source, HubSource):
            return []
        most = self._peeked.size_bytes
        offered: Sequence[tuple[str, tuple[str, int]]] = sorted(
            (it for it in self._peeked.offered.items() if 0 < it[1][1] < most), key=lambda it: -it[1][1]
        )
        hopeful = [it for it in offered if is_hopeful(most - it[1][1])] or offered[-1:]
        if not hopeful:
            return []
        variant, (file, _) = hopeful[0]
        source = HubSource(repo=self._source.repo, revision=self._source.revision, file=file)
        return [replace(_candidate_of(await self._hatch.peek(source)), variant=variant)]


def _candidate_of(peeked: Peeked) -> Candidate:
    shape = read_shards([Path(path) for path in peeked.paths]).shape()
    return Candidate(peeked.name, peeked.digest, tuple(peeked.paths), shape)
