"""The catalog of models known by short name: which repository each is pulled from, and how its makers want it run.

One file a family (``modelfiles/qwen3.yaml`` is ``qwen3``), one tag a size:

    description: Qwen3, models that can think before they answer
    license: apache-2.0                    # an SPDX identifier, or what the licence is usually called
    parameters: {temperature: 0.6}         # the makers' advice, named as in a request's options
    default: 4b                            # the tag that a bare name means
    tags:
      4b:
        repo: Qwen/Qwen3-4B-GGUF           # on the Hugging Face hub
        context: 40960                     # tokens the model was made for
        n_params: 4B
        variants: {q4_k_m: Qwen3-4B-Q4_K_M.gguf}    # the first shard, if split; left out: whatever the repository has
        default: q4_k_m                    # the variant to take where memory is no question

A tag may have a ``description``, a ``license`` and ``parameters`` of its own, which go before the family's, and a
``template`` where the GGUF has none that is good.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from beastd.contract import Options
from beastd.errors import BadModel
from beastd.nearest import did_you_mean
from beastd.registry.modelfile import Places, converted
from beastd.registry.names import DEFAULT_TAG, ModelName, is_part
from beastd.yamlfile import YamlError, read_yaml

if TYPE_CHECKING:
    from beastd.yamlfile import Trail

_INSTALLED = Path(__file__).parent.parent / "modelfiles"
CATALOG_DIR = _INSTALLED if _INSTALLED.is_dir() else _INSTALLED.parent.parent / "modelfiles"
"""In the installed package, or in the checkout that this file is part of."""

_WORD_GAP = re.compile(r"[^a-z0-9.]+")

_Line = Annotated[str, Meta(pattern=r"^\S[^\n]*\Z", max_length=200)]
_Repo = Annotated[str, Meta(pattern=r"^[\w-][\w.-]*/[\w-][\w.-]*\Z", max_length=200)]
_File = Annotated[str, Meta(pattern=r"^([\w-][\w.-]*/)*[\w-][\w.-]*\.gguf\Z", max_length=300)]


class TagFields(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tag's fields, as written."""

    repo: _Repo
    context: Annotated[int, Meta(ge=1)]
    n_params: _Line
    variants: dict[str, _File] = {}
    default: str | None = None
    parameters: Options = Options()
    license: _Line | None = None
    description: _Line | None = None
    template: str | None = None


class FamilyFields(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A family's fields, as written; each tag is checked by itself, so that its errors name its lines."""

    description: _Line
    license: _Line
    default: str
    tags: dict[str, Any]
    parameters: Options = Options()


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One model that can be pulled by its short name."""

    name: ModelName
    """Family and tag, in lower case."""
    repo: str
    """``user/name`` on the Hugging Face hub."""
    context: int
    """Tokens the model was made for."""
    n_params: str
    """As people write it: 4B."""
    variants: dict[str, str]
    """Variant's name → its file in the repository, or its first shard; empty: whatever the repository has."""
    default: str | None
    """The variant to take where memory is no question; a key of variants, if there are any."""
    parameters: Options
    license: str
    description: str
    template: str | None
    is_default_tag: bool
    """Whether the family's bare name means this one."""


class Catalog:
    """The entries of a folder. A family's file is read once, when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._families: dict[str, tuple[CatalogEntry, ...] | BadModel] = {}

    def find(self, name: ModelName) -> CatalogEntry | None:
        """The entry a name means; a bare name means its family's default tag. Variant and adapters play no part.

        None: it is not of the catalog. Raises BadModel when the family's file is broken.
        """
        if name.host or name.namespace:
            return None
        entries = self._family(name.name.lower())
        if isinstance(entries, BadModel):
            raise entries
        tag = name.tag.lower()
        return next((it for it in entries if it.name.tag == tag or (it.is_default_tag and tag == DEFAULT_TAG)), None)

    def search(self, text: str) -> list[CatalogEntry]:
        """Every entry in which each word of the text occurs, in any case, in name, description, licence or repository.

        Best first: a word that is the name, that begins it, that is a word of the rest, that occurs within one.
        """
        words = text.lower().split()
        ranked = [(_rank(entry, words), entry) for entry in self._entries()]
        found = [(rank, entry) for rank, entry in ranked if rank is not None]
        return [entry for _, entry in sorted(found, key=lambda it: it[0])]

    @property
    def problems(self) -> list[BadModel]:
        """What is wrong with the files that could not be used; their families are missing from ``search``."""
        return [it for it in map(self._family, self._names()) if isinstance(it, BadModel)]

    def _entries(self) -> list[CatalogEntry]:
        families = [it for it in map(self._family, self._names()) if not isinstance(it, BadModel)]
        return [entry for entries in families for entry in entries]

    def _names(self) -> list[str]:
        return sorted(path.stem for path in self._folder.glob("*.yaml"))

    def _family(self, name: str) -> tuple[CatalogEntry, ...] | BadModel:
        if name not in self._families:
            try:
                self._families[name] = _read_family(self._folder / f"{name}.yaml")
            except BadModel as e:
                self._families[name] = e
        return self._families[name]


def load_catalog(folder: Path = CATALOG_DIR) -> Catalog:
    """The catalog of a folder; nothing is read before it is needed."""
    return Catalog(folder)


def _read_family(path: Path) -> tuple[CatalogEntry, ...]:
    """The entries of a file, in its order; none when there is no such file. Raises BadModel."""
    try:
        document = read_yaml(path)
    except FileNotFoundError:
        return ()
    except YamlError as e:
        raise BadModel(f"{path}{f' line {e.line}' if e.line else ''}: {e.message}") from e
    except OSError as e:
        raise BadModel(f"{path}: cannot be read: {e.strerror}") from e
    places = Places(path, document.lines)
    if not _is_name(path.stem):
        raise places.refusal((), "the file's own name must be its family's: lower-case letters, digits and _.-")
    family = converted(places, (), document.data, FamilyFields)
    _check_names(places, ("tags",), family.tags)
    _check_default(places, (), family.default, family.tags)
    return tuple(_entry(places, path.stem, family, tag) for tag in family.tags)


def _entry(places: Places, name: str, family: FamilyFields, tag: str) -> CatalogEntry:
    trail = ("tags", tag)
    fields = converted(places, trail, family.tags[tag], TagFields)
    _check_names(places, (*trail, "variants"), fields.variants)
    if fields.variants:
        _check_default(places, trail, fields.default, fields.variants)
    return CatalogEntry(
        name=ModelName(name, tag),
        repo=fields.repo,
        context=fields.context,
        n_params=fields.n_params,
        variants=fields.variants,
        default=fields.default,
        parameters=msgspec.structs.replace(family.parameters, **msgspec.to_builtins(fields.parameters)),
        license=fields.license or family.license,
        description=fields.description or family.description,
        template=fields.template,
        is_default_tag=tag == family.default,
    )


def _check_names(places: Places, trail: Trail, names: dict[str, Any]) -> None:
    for name in names:
        if not _is_name(name):
            raise places.refusal((*trail, name), "a name here is lower-case letters, digits and _.-")


def _is_name(text: str) -> bool:
    return is_part(text) and text == text.lower()


def _check_default(places: Places, trail: Trail, default: str | None, names: dict[str, Any]) -> None:
    if default is not None and default not in names:
        raise places.refusal((*trail, "default"), f"there is no '{default}'{did_you_mean(default, names)}")


def _rank(entry: CatalogEntry, words: list[str]) -> int | None:
    """How far the words are from the entry's name, 0 best; None when one does not occur."""
    name = f"{entry.name.name}:{entry.name.tag}"
    rest = f"{entry.description} {entry.license} {entry.repo}".lower()
    parts = set(_WORD_GAP.split(f"{name} {rest}"))
    rank = 0
    for word in words:
        if word in (name, entry.name.name, entry.name.tag):
            continue
        if name.startswith(word):
            rank += 1
        elif word in parts:
            rank += 2
        elif word in name or word in rest:
            rank += 3
        else:
            return None
    return rank
