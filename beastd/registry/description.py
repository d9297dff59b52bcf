"""A model's description: a modelfile whose names and files are checked, with the paths they stand for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from beastd.errors import BadModel
from beastd.nearest import did_you_mean
from beastd.registry.gguf import MAX_SPLITS, shard_paths
from beastd.registry.locate import digest_of
from beastd.registry.modelfile import AdapterFields, parse_modelfile
from beastd.registry.names import is_part

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from beastd.registry.locate import Locator
    from beastd.registry.modelfile import Fields, Places, Registered
    from beastd.yamlfile import Trail

Files = tuple["Path", ...]
"""A GGUF: one file, or its shards in order."""

_SHA256 = re.compile(r"(sha256[:-])?(?P<hex>[0-9a-fA-F]{64})")


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """A LoRA file, the scale it is applied at unless a request says otherwise, and whether it is on by itself."""

    path: Path
    scale: float = 1.0
    is_applied: bool = False


@dataclass(frozen=True, slots=True)
class Description:
    """A checked description. Its paths are absolute; whether the files exist is the registry's question."""

    fields: Fields
    """As written."""
    variants: dict[str, Files]
    default: str
    """A key of variants."""
    adapters: dict[str, AdapterFile]
    draft: Path | None
    projector: Path | None
    sha256: dict[Path, str]
    """64 lower-case hex digits of some of the files."""
    registered: dict[Path, Registered]
    text: str
    """The file as it is."""
    places: Places

    def files(self) -> Iterator[tuple[Trail, Files]]:
        """Every GGUF named, with the field that names it."""
        yield from ((("variants", name), files) for name, files in self.variants.items())
        yield from ((("adapters", name), (adapter.path,)) for name, adapter in self.adapters.items())
        if self.draft is not None:
            yield ("draft",), (self.draft,)
        if self.projector is not None:
            yield ("projector",), (self.projector,)

    def digests(self) -> set[str]:
        """Digests of the blobs it names."""
        found = (digest_of(path) for _, files in self.files() for path in files)
        return {digest for digest in found if digest}


def describe(text: str, source: Path, locator: Locator) -> Description:
    """Check a description's text; ``source`` is its file, to which paths are relative. Raises BadModel."""
    fields, places = parse_modelfile(text, source)
    return _Check(fields, places, source.parent, locator).description(text)


class _Check:
    """One description being checked."""

    def __init__(self, fields: Fields, places: Places, folder: Path, locator: Locator) -> None:
        self._fields = fields
        self._refusal = places.refusal
        self._places = places
        self._folder = folder
        self._locator = locator

    def description(self, text: str) -> Description:
        fields = self._fields
        if fields.from_ is not None:
            raise self._refusal(("from",), "only `beast create -f FILE` reads this field; here, name files in variants")
        self._check_names("variants", fields.variants)
        self._check_names("adapters", fields.adapters)
        found = Description(
            fields=fields,
            variants={name: self._shards(("variants", name), value) for name, value in fields.variants.items()},
            default=self._default(),
            adapters={name: self._adapter(name, value) for name, value in fields.adapters.items()},
            draft=None if fields.draft is None else self._file(("draft",), fields.draft),
            projector=None if fields.projector is None else self._file(("projector",), fields.projector),
            sha256={self._file(("sha256", it), it): self._digest(it, digest) for it, digest in fields.sha256.items()},
            registered={self._file(("registered", it), it): was for it, was in fields.registered.items()},
            text=text,
            places=self._places,
        )
        self._check_facts_have_files(found)
        return found

    def _check_names(self, group: str, names: Iterable[str]) -> None:
        seen: set[str] = set()
        for name in names:
            if not is_part(name) or name.lower() in seen:
                raise self._refusal((group, name), "a name is letters, digits and _.- and differs in more than case")
            seen.add(name.lower())

    def _default(self) -> str:
        variants = self._fields.variants
        if not variants:
            raise self._refusal(("variants",), "a model needs at least one, as in `q8_0: model-q8_0.gguf`")
        name = self._fields.default or next(iter(variants))
        if name not in variants:
            raise self._refusal(("default",), f"there is no variant '{name}'{did_you_mean(name, variants)}")
        return name

    def _adapter(self, name: str, value: str | AdapterFields) -> AdapterFile:
        it = AdapterFields(value) if isinstance(value, str) else value
        return AdapterFile(self._file(("adapters", name), it.path), it.scale, it.applied)

    def _shards(self, trail: Trail, value: str | list[str]) -> Files:
        if isinstance(value, str):
            try:
                return tuple(shard_paths(self._file(trail, value)))
            except BadModel as e:
                raise self._refusal(trail, e.message) from e
        if not 1 <= len(value) <= MAX_SPLITS:
            raise self._refusal(trail, f"a list of files has at least one, and at most {MAX_SPLITS}")
        return tuple(self._file(trail, text) for text in value)

    def _file(self, trail: Trail, text: str) -> Path:
        path = self._locator.path(text, self._folder)
        if path is None:
            raise self._refusal(trail, "a file's path is expected, or sha256: and 64 hexadecimal digits")
        return path

    def _digest(self, path: str, text: str) -> str:
        match = _SHA256.fullmatch(text)
        if match is None:
            raise self._refusal(("sha256", path), "64 hexadecimal digits are expected")
        return match["hex"].lower()

    def _check_facts_have_files(self, found: Description) -> None:
        files = {path for _, paths in found.files() for path in paths}
        for group, paths, written in (
            ("sha256", found.sha256, self._fields.sha256),
            ("registered", found.registered, self._fields.registered),
        ):
            for path, name in zip(paths, written, strict=True):
                if path not in files:
                    raise self._refusal((group, name), "no variant, adapter or draft has this file")
