"""Which models exist: the user's, shared ones and the built-in ones, found by name."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from beastd.errors import BadModel, ModelNotFound
from beastd.ipc import Adapter
from beastd.nearest import near
from beastd.registry.cache import Cache, stamp_of
from beastd.registry.description import describe
from beastd.registry.facts import FactsFile
from beastd.registry.gguf import read_shards
from beastd.registry.locate import Locator, digest_of
from beastd.registry.models import Listing, Model, Problem, Resolved, Variant
from beastd.registry.names import DEFAULT_TAG, AdapterName, parse_name
from beastd.registry.places import Folder, find_place, find_places
from beastd.yamlfile import YamlError, read_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from beastd.contract import ModelShape
    from beastd.registry.cache import Stamp
    from beastd.registry.description import Description, Files
    from beastd.registry.facts import Facts
    from beastd.registry.header import Header
    from beastd.registry.names import ModelName
    from beastd.registry.places import Place
    from beastd.yamlfile import Trail

BUILTIN_DIR = Path(__file__).parent.parent / "builtin"
"""The models inside the package."""

HUB_HOSTS = frozenset({"hf.co", "huggingface.co"})
"""Hosts whose tags name quantizations, so that ``hf.co/user/repo:Q4_K_M`` is a variant."""

MAX_CACHED_HEADERS = 32
MAX_CACHED_DESCRIPTIONS = 4096


class Registry:
    """Answers questions about models on disk. Holds nothing but caches: the files are the truth."""

    def __init__(self, models_dirs: Sequence[Path], facts_file: Path, builtin_dir: Path = BUILTIN_DIR) -> None:
        """``models_dirs``: the user's own first, then those shared with others."""
        self._folders = [*(Folder(path) for path in models_dirs), Folder(builtin_dir, is_builtin=True)]
        self.locator = Locator(models_dirs, builtin_dir)
        self._descriptions: Cache[Description] = Cache(MAX_CACHED_DESCRIPTIONS)
        self._headers: Cache[Header] = Cache(MAX_CACHED_HEADERS)
        self._facts = FactsFile(facts_file)

    def list(self) -> Listing:
        """Every model. A broken description becomes a problem and hides no other model. Opens no GGUF.

        A model whose files are missing or were changed is a model, and has problems.
        """
        places, problems = find_places(self._folders)
        models = []
        for place in places.values():
            try:
                models.append(self._model(place))
            except BadModel as e:
                problems.append(Problem(place.path, e.message))
        problems += [Problem(model.place.path, message) for model in models for message in model.problems]
        return Listing(sorted(models, key=lambda model: str(model.name).lower()), problems)

    def find(self, name: ModelName) -> Model | None:
        """The model of this name, its variant and adapters left aside. Raises BadModel for a broken one."""
        place = find_place(name, self._folders)
        return None if place is None else self._model(place)

    def has(self, name: ModelName) -> bool:
        """Whether something, sound or broken, has this name."""
        return find_place(name, self._folders) is not None

    def place(self, name: ModelName) -> Place:
        """Where a model, sound or broken, is described. Raises ModelNotFound, with names that are near."""
        place = find_place(name, self._folders)
        if place is None:
            raise self._not_found(name)
        return place

    def get(self, name: ModelName) -> Model:
        """As ``find``. Raises ModelNotFound, with names that are near."""
        return self._model(self.place(name))

    def resolve(self, text: str, default_model: str, adapters: Sequence[AdapterName] | None = None) -> Resolved:
        """The model, variant and adapters a name stands for; an empty one means the default model.

        ``adapters`` stand in for those in the name and those that are on by themselves.

        Raises BadRequest for what is no name, ModelNotFound for one that nothing has, BadModel for a broken model.
        """
        asked = self.with_hub_tag(parse_name(text or default_model))
        model = self.get(asked)
        wanted = asked.adapters if adapters is None else adapters
        scales = [(spelled_part(model.name, "adapter", it.name, model.adapters), it.scale) for it in wanted]
        variant = spelled_part(model.name, "variant", asked.variant, model.variants) if asked.variant else None
        return Resolved(
            name=replace(model.name, variant=variant, adapters=tuple(AdapterName(*it) for it in scales)),
            model=model,
            variant=_usable(model, model.variants[variant] if variant else model.default),
            adapters=[] if adapters == [] else _adapters(model, dict(scales)),
        )

    def header(self, files: Files) -> Header:
        """The header of a variant, adapter or draft, read if it is not known. Blocks: up to 0.3 s for large ones.

        Raises BadModel.
        """
        return self._headers.get(_stamp(files), lambda: read_shards(files))

    def shape(self, files: Files) -> ModelShape:
        """What decides a variant's memory and limits. Blocks as header does. Raises BadModel."""
        return self.header(files).shape()

    def facts(self, files: Files) -> Facts:
        """What lists tell of a variant. Blocks as header does, the first time. Raises BadModel."""
        return self._facts.get(_stamp(files), lambda: self.header(files))

    def learn(self, model: Model) -> None:
        """Read what lists will tell of a model that is new, so that they need not. Blocks as header does."""
        for variant in model.variants.values():
            with suppress(BadModel):
                self.facts(variant.files)

    def save_facts(self) -> None:
        """Remember facts for the next daemon."""
        self._facts.save()

    def with_hub_tag(self, asked: ModelName) -> ModelName:
        """The name with a hub's tag as its variant: there, tags name quantizations. Unless a model has that tag."""
        is_tagged = asked.host in HUB_HOSTS and asked.tag != DEFAULT_TAG and asked.variant is None
        if is_tagged and find_place(asked, self._folders) is None:
            return replace(asked, tag=DEFAULT_TAG, variant=asked.tag)
        return asked

    def _not_found(self, asked: ModelName) -> ModelNotFound:
        names = near(asked.short, [name.short for name in find_places(self._folders)[0]])
        hint = f"did you mean {' or '.join(names)}? " if names else ""
        return ModelNotFound(f"model '{asked.short}' not found; {hint}`beast list` shows all")

    def _model(self, place: Place) -> Model:
        description = self._description(place.path)
        faults: dict[Trail, str] = {}
        stamps: dict[Trail, Stamp] = {}
        for trail, files in description.files():
            try:
                stamps[trail] = _sound_stamp(files, description)
            except BadModel as e:
                faults[trail] = f"{description.places.where(trail)}: {e.message}"
        variants = {
            key: _variant(("variants", key), files, description, stamps, faults)
            for key, files in description.variants.items()
        }
        path = description.draft
        draft = _variant(("draft",), (path,), description, stamps, faults) if path else None
        known = [*stamp_of([place.path]), *(entry for stamp in stamps.values() for entry in stamp)]
        facts = sorted((Path(file).name, *rest) for file, *rest in known[1:])
        return Model(
            name=place.name,
            place=place,
            description=description,
            variants=variants,
            default=variants[description.default],
            faults=faults,
            digest=_hash([description.text, facts]),
            modified_at=datetime.fromtimestamp(max(mtime_ns for _, _, mtime_ns in known) / 1e9, UTC),
            draft=draft,
        )

    def _description(self, path: Path) -> Description:
        try:
            return self._descriptions.get(stamp_of([path]), lambda: describe(read_text(path), path, self.locator))
        except YamlError as e:
            raise BadModel(f"{path}{f' line {e.line}' if e.line else ''}: {e.message}") from e
        except OSError as e:
            raise BadModel(f"cannot read {path}: {e.strerror}") from e


def _stamp(files: Files) -> Stamp:
    try:
        return stamp_of(files)
    except OSError as e:
        raise BadModel(f"cannot read {e.filename}: {e.strerror}; correct the path, or get the file") from e


def _sound_stamp(files: Files, description: Description) -> Stamp:
    """The files' stamp. Raises BadModel when one is missing, or is not what was registered."""
    stamp = _stamp(files)
    for path, size_bytes, modified_ns in stamp:
        was = description.registered.get(Path(path))
        if was and (was.bytes, was.modified_ns) != (size_bytes, modified_ns):
            raise BadModel(f"{path} has changed since it was registered; `beast import` it again to take it as it is")
    return stamp


def _variant(
    trail: Trail, files: Files, description: Description, stamps: dict[Trail, Stamp], faults: dict[Trail, str]
) -> Variant:
    name = str(trail[-1])
    if trail in faults:
        return Variant(name, files, 0, "", faults[trail])
    stamp = stamps[trail]
    known = [digest_of(path) or description.sha256.get(path) for path in files]
    digest = known[0] if len(known) == 1 else None
    facts = known if all(known) else [(Path(file).name, *rest) for file, *rest in stamp]
    return Variant(name, files, sum(size_bytes for _, size_bytes, _ in stamp), digest or _hash(facts))


def _usable(model: Model, variant: Variant) -> Variant:
    if variant.problem:
        others = [f"@{it.name}" for it in model.variants.values() if not it.problem]
        hint = f" ({', '.join(others)} can be used)" if others else ""
        raise BadModel(variant.problem + hint)
    return variant


def _hash(facts: object) -> str:
    return sha256(json.dumps(facts).encode()).hexdigest()


def _adapters(model: Model, asked: dict[str, float | None]) -> list[Adapter]:
    """Those asked for, else those that are on by themselves; a scale of 0 leaves one out. Raises BadModel."""
    names = asked or {name: None for name, file in model.adapters.items() if file.is_applied}
    for name in names:
        if fault := model.faults.get(("adapters", name)):
            raise BadModel(fault)
    files = {name: model.adapters[name] for name in names}
    scales = {name: files[name].scale if scale is None else scale for name, scale in names.items()}
    return [Adapter(str(file.path), scales[name]) for name, file in files.items() if scales[name]]


def spelled_part(name: ModelName, what: str, asked: str, known: Iterable[str]) -> str:
    """The model's own spelling of a variant or adapter, out of those ``known``. Raises ModelNotFound."""
    known = list(known)
    found = next((it for it in known if it.lower() == asked.lower()), None)
    if found is None:
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise ModelNotFound(f"model '{name.short}' has no {what} '{asked}'; {has}")
    return found
