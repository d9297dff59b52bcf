"""Beast's model descriptions: one YAML file says which files make a model, and how it wants to be run.

    variants:                # name: path, relative to this file or absolute; the first is the default
      q8_0: cub/cub-q8_0.gguf
      f16: cub/cub-f16-00001-of-00002.gguf
    default: q8_0            # a variant's name
    adapters:                # LoRAs: a path, or a path and its scale
      pirate: {path: cub/cub-pirate-lora-f16.gguf, scale: 1.0}
    draft: cub/cub-draft-f16.gguf
    parameters: {temperature: 0.7}    # names as in a request's options
    template: ...            # a Jinja chat template instead of the file's own
    system: ...
    license: ...
    description: ...
    sha256: {cub/cub-q8_0.gguf: 64 hex digits}

Only ``variants`` is needed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from beastd.contract import Options
from beastd.errors import BadModel
from beastd.nearest import did_you_mean
from beastd.registry.names import is_part

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from beastd.yamlfile import Document, Trail

_PLACE = re.compile(r"(?P<problem>.*) - at `(?P<place>[^`]*)`", re.DOTALL)
_SHA256 = re.compile(r"(sha256[:-])?(?P<hex>[0-9a-fA-F]{64})")


class AdapterFields(Struct, forbid_unknown_fields=True):
    """An adapter in the long form."""

    path: str
    scale: float = 1.0


class Fields(Struct, forbid_unknown_fields=True, kw_only=True):
    """The file's fields, as written."""

    variants: dict[str, str]
    default: str | None = None
    adapters: dict[str, str | AdapterFields] = {}
    draft: str | None = None
    parameters: Options = Options()
    template: str | None = None
    system: str | None = None
    license: str | None = None
    description: str | None = None
    sha256: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """A LoRA file, and the scale it is applied at unless a request says otherwise."""

    path: Path
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Description:
    """A checked description. Its paths are absolute; whether the files exist is the registry's question."""

    source: Path
    variants: dict[str, Path]
    default: str
    """A key of variants."""
    adapters: dict[str, AdapterFile]
    draft: Path | None
    parameters: Options
    template: str | None
    system: str | None
    license: str | None
    description: str | None
    sha256: dict[Path, str]
    """64 lower-case hex digits of some of the files."""
    text: str
    """The file as it is."""
    lines: dict[Trail, int]

    def files(self) -> Iterator[tuple[Trail, Path]]:
        """Every file named, with the field that names it."""
        yield from ((("variants", name), path) for name, path in self.variants.items())
        yield from ((("adapters", name), adapter.path) for name, adapter in self.adapters.items())
        if self.draft is not None:
            yield ("draft",), self.draft

    def where(self, trail: Trail) -> str:
        """Names a field for a message: file, line, field."""
        return _where(self.source, self.lines, trail)


def describe(document: Document, source: Path) -> Description:
    """Check a parsed description; ``source`` is its file, to which paths are relative. Raises BadModel."""
    return _Check(document, source).description()


class _Check:
    """One document being checked."""

    def __init__(self, document: Document, source: Path) -> None:
        self._document = document
        self._source = source

    def description(self) -> Description:
        fields = self._fields()
        self._check_names("variants", fields.variants)
        self._check_names("adapters", fields.adapters)
        found = Description(
            source=self._source,
            variants={name: self._file(("variants", name), path) for name, path in fields.variants.items()},
            default=self._default(fields),
            adapters={name: self._adapter(name, value) for name, value in fields.adapters.items()},
            draft=None if fields.draft is None else self._file(("draft",), fields.draft),
            parameters=fields.parameters,
            template=fields.template,
            system=fields.system,
            license=fields.license,
            description=fields.description,
            sha256={self._file(("sha256", path), path): self._digest(path, it) for path, it in fields.sha256.items()},
            text=self._document.text,
            lines=self._document.lines,
        )
        self._check_digests_have_files(found)
        return found

    def _fields(self) -> Fields:
        data = self._document.data
        self._check_known((), data, Fields)
        self._check_known(("parameters",), data.get("parameters"), Options)
        try:
            return msgspec.convert(data, Fields)
        except msgspec.ValidationError as e:
            place = _PLACE.fullmatch(str(e))
            trail = place["place"].replace("[...]", "").split(".")[1:] if place else ()
            raise self._refusal(tuple(trail), place["problem"] if place else str(e)) from e

    def _check_known(self, trail: Trail, data: Any, known: type[Struct]) -> None:
        for key in data if isinstance(data, dict) else ():
            if key not in known.__struct_fields__:
                hint = did_you_mean(key, known.__struct_fields__)
                raise self._refusal((*trail, key), f"there is no field of this name{hint}")

    def _check_names(self, group: str, names: Iterable[str]) -> None:
        seen: set[str] = set()
        for name in names:
            if not is_part(name) or name.lower() in seen:
                raise self._refusal((group, name), "a name is letters, digits and _.- and differs in more than case")
            seen.add(name.lower())

    def _default(self, fields: Fields) -> str:
        if not fields.variants:
            raise self._refusal(("variants",), "a model needs at least one, as in `q8_0: model-q8_0.gguf`")
        name = fields.default or next(iter(fields.variants))
        if name not in fields.variants:
            hint = did_you_mean(name, fields.variants)
            raise self._refusal(("default",), f"there is no variant '{name}'{hint}")
        return name

    def _adapter(self, name: str, value: str | AdapterFields) -> AdapterFile:
        it = AdapterFields(value) if isinstance(value, str) else value
        return AdapterFile(self._file(("adapters", name), it.path), it.scale)

    def _file(self, trail: Trail, text: str) -> Path:
        if not text or not text.isprintable():
            raise self._refusal(trail, "a file's path is expected")
        return self._source.parent / text

    def _digest(self, path: str, text: str) -> str:
        match = _SHA256.fullmatch(text)
        if match is None:
            raise self._refusal(("sha256", path), "64 hexadecimal digits are expected")
        return match["hex"].lower()

    def _check_digests_have_files(self, found: Description) -> None:
        files = {path for _, path in found.files()}
        for path, written in zip(found.sha256, self._document.data.get("sha256", ()), strict=True):
            if path not in files:
                raise self._refusal(("sha256", written), "no variant, adapter or draft has this file")

    def _refusal(self, trail: Trail, problem: str) -> BadModel:
        return BadModel(f"{_where(self._source, self._document.lines, trail)}: {problem}")


def _where(source: Path, lines: dict[Trail, int], trail: Trail) -> str:
    known = next((trail[:n] for n in range(len(trail), 0, -1) if trail[:n] in lines), None)
    line = f" line {lines[known]}" if known else ""
    return f"{source}{line}" + (f": {'.'.join(trail)}" if trail else "")
