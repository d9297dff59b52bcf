"""The one writer of a models folder: models put, copied and removed, and blobs that nothing names any more dropped."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec.structs import replace

from beastd.errors import BadRequest, BeastError, Conflict, ReadOnly
from beastd.registry.description import describe
from beastd.registry.modelfile import AdapterFields, Registered, dump
from beastd.registry.places import Folder, find_place, find_places, new_path

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


class Keeper:
    """Changes the user's own models folder. Every verb leaves the old state or the new one, wherever it is cut off."""

    def __init__(self, registry: Registry, store: Store, oldest_job_s: Callable[[], float]) -> None:
        """``oldest_job_s``: wall time from which on blobs may belong to work under way, and are left alone."""
        self._registry = registry
        self._store = store
        self._oldest_job_s = oldest_job_s
        self._folder = Folder(store.root)

    def put(self, name: ModelName, fields: Fields) -> Model:
        """Write a model's description, new or in place of the old one, and drop the blobs that only that one used.

        Raises ReadOnly, DiskFull, BadModel (the fields make no model), BeastError (a blob it names has gone).
        """
        _check_file_name(name)
        with self._store.writing():
            place = find_place(name, [self._folder])
            path = place.path if place else new_path(name, self._store.root)
            text = dump(fields)
            new = describe(text, path, self._registry.locator)
            for file in (file for _, files in new.files() for file in files):
                if not file.exists():
                    raise BeastError(f"{file}, which {name.short} is made of, has gone meanwhile; try again")
            old = self._digests(path)
            self._store.write(path, text)
            self._drop_unused(old - new.digests())
        return self._registry.get(name)

    def write_text(self, place: Place, text: str) -> None:
        """Replace a model's description by a text that somebody edited, as it is. Raises as ``put``."""
        self.check_own(place)
        new = describe(text, place.path, self._registry.locator)
        with self._store.writing():
            old = self._digests(place.path)
            self._store.write(place.path, text)
            self._drop_unused(old - new.digests())

    def copy(self, model: Model, name: ModelName) -> Model:
        """Give a model a second name. Raises Conflict where that is taken by another model."""
        taken = self._registry.find(name)
        if taken is not None and not taken.is_builtin:
            raise Conflict(f"there is a model '{name.short}' already; remove it first (`beast rm {name.short}`)")
        return self.put(name, self.portable(model))

    def remove(self, name: ModelName) -> int:
        """Forget a model, sound or broken, and drop the blobs that only it used; returns their bytes.

        Raises ReadOnly, ModelNotFound.
        """
        place = self._registry.place(name)
        self.check_own(place)
        with self._store.writing():
            digests = self._digests(place.path)
            self._store.remove(place.path)
            return self._drop_unused(digests)

    def portable(self, model: Model) -> Fields:
        """A model's fields with its files named so that a description anywhere means the same."""
        return portable(model, self._registry.locator.name)

    def references(self) -> set[str]:
        """Digests that some description in the folder mentions: also a broken one, whose blobs may be wanted yet."""
        places, problems = find_places([self._folder])
        paths = [*(place.path for place in places.values()), *(it.path for it in problems if it.path.is_file())]
        return set[str]().union(*map(self._digests, paths))

    def _digests(self, path: Path) -> set[str]:
        with suppress(OSError):
            return set(_DIGEST.findall(path.read_text(errors="replace")))
        return set()

    def _drop_unused(self, digests: Iterable[str]) -> int:
        """Drop those that nothing mentions and no work under way may have just brought; what stays is for prune."""
        n_bytes = 0
        unused = set(digests)
        if unused:
            unused -= self.references()
        for digest in unused:
            with suppress(FileNotFoundError):
                found = self._store.blob(digest).stat()
                if found.st_ctime < self._oldest_job_s():
                    self._store.drop(digest)
                    n_bytes += found.st_size
        return n_bytes

    def check_own(self, place: Place) -> None:
        """Raises ReadOnly for a model that is not this user's to change."""
        name = place.name.short
        if place.is_builtin:
            raise ReadOnly(f"{name} is built in and stays as it is; `beast cp {name} NAME` makes a copy to change")
        if place.folder.path != self._store.root:
            raise ReadOnly(
                f"{name} is in {place.folder.path}, which is shared; `beast cp {name} NAME` makes a copy to change"
            )


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


def _check_file_name(name: ModelName) -> None:
    for part in (name.host, name.namespace, name.name, name.tag):
        if part.lower().endswith(".yaml"):
            raise BadRequest(f"'{part}' would be taken for a description; a name may not end in .yaml")
