"""The one writer of a models folder: models put, copied and removed, and blobs that nothing names any more dropped."""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec.structs import replace

from beastd.durable import translated
from beastd.errors import BadModel, BadRequest, BeastError, Conflict, ReadOnly
from beastd.registry.description import describe
from beastd.registry.modelfile import AdapterFields, Registered, dump, file_names
from beastd.registry.places import Folder, find_place, find_places, new_path
from beastd.yamlfile import MAX_FILE_BYTES, YamlError, read_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from beastd.registry.modelfile import Fields
    from beastd.registry.models import Model
    from beastd.registry.names import ModelName
    from beastd.registry.places import Place
    from beastd.registry.registry import Registry
    from beastd.registry.store import Store

_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")

_log = logging.getLogger(__name__)


class Keeper:
    """Changes the user's own models folder. Every verb leaves the old state or the new one, wherever it is cut off.

    Verbs block: for the disk, and for other processes that write to the same folder. They are safe in any thread.
    """

    def __init__(self, registry: Registry, store: Store, oldest_job_s: Callable[[], float]) -> None:
        """``oldest_job_s``: wall time from which on blobs may belong to work under way, and are left alone."""
        self._registry = registry
        self._store = store
        self._oldest_job_s = oldest_job_s
        self._folder = Folder(store.root)

    def put(self, name: ModelName, make: Callable[[Model | None], Fields]) -> Model:
        """Write a model's description and drop the blobs that only the old one used.

        ``make`` gives its fields; it is told the model that has the name now (or None), which nobody changes meanwhile.
        Raises ReadOnly, DiskFull, BadModel (the fields make no model), BeastError (a file has gone), what make raises.
        """
        _check_file_name(name)
        with self._store.writing():
            place = find_place(name, [self._folder])
            fields = _without_stale(make(self._known(name)))
            self._write(place.path if place else new_path(name, self._store.root), dump(fields))
        return self._registry.get(name)

    def write_text(self, place: Place, text: str, was: str | None) -> None:
        """Replace a model's description by a text that somebody edited, as it is.

        Raises as ``put``, and Conflict if it is not ``was`` any more.
        """
        self.check_own(place)
        with self._store.writing():
            if was is not None and _text(place.path) != was:
                raise Conflict(f"{place.name.short} was changed meanwhile; look at it again before you edit it")
            self._write(place.path, text)

    def copy(self, model: Model, name: ModelName) -> Model:
        """Give a model a second name. Raises Conflict where that is taken by another model."""

        def copied(taken: Model | None) -> Fields:
            if taken is not None:
                raise Conflict(f"there is a model '{name.short}' already; remove it first (`beast rm {name.short}`)")
            return self.portable(model)

        return self.put(name, copied)

    def remove(self, name: ModelName) -> int:
        """Forget a model, sound or broken, and drop the blobs that only it used; returns their bytes.

        Raises ReadOnly, ModelNotFound.
        """
        place = self._registry.place(name)
        self.check_own(place)
        with self._store.writing():
            digests = self._named_by(place.path)
            self._store.remove(place.path)
            return self._drop_unused(digests)

    def portable(self, model: Model) -> Fields:
        """A model's fields with its files named so that a description anywhere means the same."""
        return portable(model, self._registry.locator.name)

    def references(self) -> set[str]:
        """Digests that some description in the folder mentions, also a broken one: its blobs may be wanted yet.

        Raises BeastError when one cannot be read: then nobody knows what it mentions.
        """
        places, problems = find_places([self._folder])
        unknown = next((it for it in problems if it.path.is_dir()), None)
        if unknown:
            raise BeastError(f"{unknown.path} {unknown.message}, so nobody knows which files its models need")
        paths = [*(place.path for place in places.values()), *(it.path for it in problems)]
        return set[str]().union(*map(_digests, paths))

    def check_own(self, place: Place) -> None:
        """Raises ReadOnly for a model that is not this user's to change."""
        name = place.name.short
        if place.is_builtin:
            raise ReadOnly(f"{name} is built in and stays as it is; `beast cp {name} NAME` makes a copy to change")
        if place.folder.path != self._store.root:
            raise ReadOnly(
                f"{name} is in {place.folder.path}, which is shared; `beast cp {name} NAME` makes a copy to change"
            )

    def _known(self, name: ModelName) -> Model | None:
        """The model of this name; a broken one is as good as none, for who makes it anew."""
        with suppress(BadModel):
            return self._registry.find(name)
        return None

    def _write(self, path: Path, text: str) -> None:
        if len(text.encode()) > MAX_FILE_BYTES:
            raise BadRequest(f"the modelfile would have {len(text.encode())} bytes; at most {MAX_FILE_BYTES} are read")
        new = describe(text, path, self._registry.locator)
        for file in (file for _, files in new.files() for file in files):
            if not file.exists():
                raise BeastError(f"{file}, which the model is made of, is not there; correct its path, or get the file")
        old = self._named_by(path)
        self._store.write(path, text)
        self._drop_unused(old - new.digests())

    def _named_by(self, path: Path) -> set[str]:
        """Digests in a description that is about to go; none if it cannot be read: what it used is left to prune."""
        try:
            return _digests(path)
        except BeastError:
            return set()

    def _drop_unused(self, digests: Iterable[str]) -> int:
        """Drop those that nothing mentions and no work under way may have just brought; what stays is for prune."""
        n_bytes = 0
        unused = set(digests)
        try:
            unused -= self.references() if unused else set()
        except BeastError as e:
            _log.warning("no blob is dropped: %s", e.message)
            return 0
        blobs = self._store.blobs()
        for digest in unused & blobs.keys():
            if self._store.blob(digest).stat().st_ctime < self._oldest_job_s():
                self._store.drop(digest)
                n_bytes += blobs[digest]
        return n_bytes


def portable(model: Model, name_of: Callable[[Path], str]) -> Fields:
    """The fields with every file called what ``name_of`` calls it."""
    it = model.description

    def named(files: tuple[Path, ...]) -> str | list[str]:
        names = [name_of(file) for file in files]
        return names[0] if len(names) == 1 else names

    return replace(
        it.fields,
        variants={name: named(files) for name, files in it.variants.items()},
        adapters={
            name: AdapterFields(name_of(file.path), file.scale, file.is_applied) for name, file in it.adapters.items()
        },
        draft=name_of(it.draft) if it.draft else None,
        projector=name_of(it.projector) if it.projector else None,
        sha256={name_of(path): digest for path, digest in it.sha256.items()},
        registered={name_of(path): was for path, was in it.registered.items()},
    )


def registered(path: Path) -> Registered:
    """What is to be remembered of a file outside the store. Raises OSError."""
    stat = path.stat()
    return Registered(stat.st_size, stat.st_mtime_ns)


def _without_stale(fields: Fields) -> Fields:
    """The fields without what was remembered of files that they name no more."""
    names = set(file_names(fields))
    return replace(
        fields,
        sha256={name: it for name, it in fields.sha256.items() if name in names},
        registered={name: it for name, it in fields.registered.items() if name in names},
    )


def _digests(path: Path) -> set[str]:
    return set(_DIGEST.findall(_text(path)))


def _text(path: Path) -> str:
    """A description's text, empty if it has gone. Raises BeastError when it cannot be read."""
    try:
        return read_text(path)
    except FileNotFoundError:
        return ""
    except OSError as e:
        raise translated(e, f"cannot read {path}") from e
    except YamlError as e:
        raise BeastError(f"cannot read {path}: {e.message}") from e


def _check_file_name(name: ModelName) -> None:
    for part in (name.host, name.namespace, name.name, name.tag):
        if part.lower().endswith(".yaml"):
            raise BadRequest(f"'{part}' would be taken for a description; a name may not end in .yaml")
