"""Which models exist: the built-in ones and the user's, found by name."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from beastd.errors import BadModel, ModelNotFound
from beastd.ipc import Adapter
from beastd.nearest import near
from beastd.registry.cache import Cache, stamp_of
from beastd.registry.gguf import read_header, shard_paths
from beastd.registry.modelfile import describe
from beastd.registry.models import Listing, Model, Problem, Resolved, Variant
from beastd.registry.names import AdapterName, parse_name
from beastd.registry.places import find_places
from beastd.yamlfile import YamlError, read_yaml

if TYPE_CHECKING:
    from collections.abc import Iterable

    from beastd.contract import ModelShape
    from beastd.registry.cache import Stamp
    from beastd.registry.header import Header
    from beastd.registry.modelfile import AdapterFile, Description
    from beastd.registry.names import ModelName
    from beastd.registry.places import Place

__all__ = ["BUILTIN_DIR", "Listing", "Model", "Problem", "Registry", "Resolved", "Variant"]

BUILTIN_DIR = Path(__file__).parent.parent / "builtin"
"""The models inside the package."""

MAX_CACHED_HEADERS = 256
MAX_CACHED_DESCRIPTIONS = 4096


class Registry:
    """Answers questions about models on disk. Holds nothing but caches: the files are the truth."""

    def __init__(self, builtin_dir: Path, models_dir: Path) -> None:
        self._builtin_dir = builtin_dir
        self._models_dir = models_dir
        self._descriptions: Cache[Description] = Cache(MAX_CACHED_DESCRIPTIONS)
        self._headers: Cache[Header] = Cache(MAX_CACHED_HEADERS)

    def list(self) -> Listing:
        """Every model. A broken description becomes a problem and hides no other model. Opens no GGUF."""
        places, problems = find_places(self._models_dir, self._builtin_dir)
        models = []
        for place in places.values():
            try:
                models.append(self._model(place))
            except BadModel as e:
                problems.append(Problem(place.path, e.message))
        return Listing(sorted(models, key=lambda model: str(model.name).lower()), problems)

    def resolve(self, text: str, default_model: str) -> Resolved:
        """The model, variant and adapters a name stands for; an empty one means the default model.

        Raises BadRequest for what is no name, ModelNotFound for one that nothing has, BadModel for a broken model.
        """
        asked = parse_name(text or default_model)
        places, _ = find_places(self._models_dir, self._builtin_dir)
        place = places.get(replace(asked, variant=None, adapters=()))
        if place is None:
            raise _not_found(asked, places)
        model = self._model(place)
        adapters = [(_spelled(model, "adapter", it.name, model.adapters), it.scale) for it in asked.adapters]
        variant = _spelled(model, "variant", asked.variant, model.variants) if asked.variant else None
        return Resolved(
            name=replace(model.name, variant=variant, adapters=tuple(AdapterName(*it) for it in adapters)),
            model=model,
            variant=model.variants[variant] if variant else model.default,
            adapters=[_adapter(model.adapters[it], scale) for it, scale in adapters],
        )

    def header(self, path: Path) -> Header:
        """The header of a variant, adapter or draft, read if it is not known. Blocks: up to 0.3 s for large ones.

        Raises BadModel.
        """
        return self._headers.get(_stamp(path), lambda: read_header(path))

    def shape(self, path: Path) -> ModelShape:
        """What decides a variant's memory and limits. Blocks as header does. Raises BadModel."""
        return self.header(path).shape()

    def _model(self, place: Place) -> Model:
        description = self._description(place.path)
        stamps = {path: _stamp(path, description.where(trail)) for trail, path in description.files()}
        files = sorted((Path(file).name, *rest) for stamp in stamps.values() for file, *rest in stamp)
        variants = {key: _variant(key, path, stamps[path], description) for key, path in description.variants.items()}
        modified_ns = max(mtime_ns for stamp in (_stamp(place.path), *stamps.values()) for _, _, mtime_ns in stamp)
        return Model(
            name=place.name,
            variants=variants,
            default=variants[description.default],
            adapters=description.adapters,
            draft=description.draft,
            parameters=description.parameters,
            template=description.template,
            system=description.system,
            license=description.license,
            description=description.description,
            source=description.text,
            digest=_hash([description.text, files]),
            modified_at=datetime.fromtimestamp(modified_ns / 1e9, UTC),
            is_builtin=place.is_builtin,
        )

    def _description(self, path: Path) -> Description:
        try:
            return self._descriptions.get(_stamp(path), lambda: describe(read_yaml(path), path))
        except YamlError as e:
            raise BadModel(f"{path}{f' line {e.line}' if e.line else ''}: {e.message}") from e
        except OSError as e:
            raise BadModel(f"cannot read {path}: {e.strerror}") from e


def _stamp(path: Path, where: str | None = None) -> Stamp:
    """The stamp of a file or all its shards. Raises BadModel, beginning with the field that named it."""
    prefix = f"{where}: " if where else ""
    try:
        return stamp_of(shard_paths(path))
    except OSError as e:
        raise BadModel(f"{prefix}cannot read {e.filename}: {e.strerror}; correct the path, or get the file") from e
    except BadModel as e:
        raise BadModel(prefix + e.message) from e


def _variant(name: str, path: Path, stamp: Stamp, description: Description) -> Variant:
    digest = description.sha256.get(path) or _hash([(Path(file).name, *rest) for file, *rest in stamp])
    return Variant(name, path, sum(size_bytes for _, size_bytes, _ in stamp), digest)


def _hash(facts: object) -> str:
    return sha256(json.dumps(facts).encode()).hexdigest()


def _adapter(file: AdapterFile, scale: float | None) -> Adapter:
    return Adapter(str(file.path), file.scale if scale is None else scale)


def _spelled(model: Model, what: str, asked: str, known: Iterable[str]) -> str:
    """The model's own spelling of a variant or adapter."""
    known = list(known)
    found = next((name for name in known if name.lower() == asked.lower()), None)
    if found is None:
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise ModelNotFound(f"model '{model.name.short}' has no {what} '{asked}'; {has}")
    return found


def _not_found(asked: ModelName, known: Iterable[ModelName]) -> ModelNotFound:
    names = near(asked.short, [name.short for name in known])
    hint = f"did you mean {' or '.join(names)}? " if names else ""
    return ModelNotFound(f"model '{asked.short}' not found; {hint}`beast list` shows all")
