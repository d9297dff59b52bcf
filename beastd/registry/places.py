"""Where models are described: a model is one YAML file, and its place in a models folder is its name.

    NAME.yaml                      NAME:latest
    NAME/TAG.yaml                  NAME:TAG
    NAMESPACE/NAME/TAG.yaml        NAMESPACE/NAME:TAG
    HOST/NAMESPACE/NAME/TAG.yaml   HOST/NAMESPACE/NAME:TAG

Names ignore case. Folders are searched in order, and the first one that has a name wins: the user's own, folders shared
with others, the built-in one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from beastd.errors import Conflict
from beastd.registry.models import Problem
from beastd.registry.names import DEFAULT_TAG, ModelName, is_host, is_part, spelled_tag

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

MAX_DEPTH = 4
"""Levels of a name: host, namespace, name, tag."""

Parts = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Folder:
    """A models folder."""

    path: Path
    is_builtin: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """The file that describes a model."""

    name: ModelName
    path: Path
    folder: Folder

    @property
    def is_builtin(self) -> bool:
        """Whether it is inside the package."""
        return self.folder.is_builtin


def find_places(folders: Sequence[Folder]) -> tuple[dict[ModelName, Place], list[Problem]]:
    """Every name that is described, and what is in the way of others. Looks at file names alone."""
    problems: list[Problem] = []
    found: dict[ModelName, Place] = {}
    for folder in reversed(folders):
        found |= _places(folder, problems)
    return found, problems


def find_place(name: ModelName, folders: Iterable[Folder]) -> Place | None:
    """The description of one model. Reads the folders on its way, not the whole tree."""
    for folder in folders:
        for parts in _spellings(name):
            path = _path_of(folder.path, parts)
            if path and not path.is_dir():
                found = path.relative_to(folder.path).with_suffix("").parts
                return Place(_try_name(found) or name, path, folder)
    return None


def new_path(name: ModelName, folder: Path) -> Path:
    """Where a new description of this name goes; a folder that is there in another case is used as it is.

    Raises Conflict for a name below a link to a folder.
    """
    *folders, last = _spellings(name)[0]
    for part in folders:
        folder /= _entry(folder, part) or part
        if folder.is_symlink():
            raise Conflict(f"{folder} is a link, and links are not searched for models; choose another name")
    return folder / f"{last}.yaml"


def _spellings(name: ModelName) -> list[Parts]:
    """The parts below a models folder that give this name, the usual ones first."""
    full = tuple(part for part in (name.host, name.namespace, name.name, name.tag) if part)
    is_short = name.tag == DEFAULT_TAG and not name.namespace
    return [(name.name,), full] if is_short else [full]


def _path_of(folder: Path, parts: Parts) -> Path | None:
    *folders, last = parts
    for part in folders:
        entry = _entry(folder, part)
        if entry is None or (folder / entry).is_symlink():  # as a listing does not enter it
            return None
        folder /= entry
    entry = _entry(folder, f"{last}.yaml")
    return folder / entry if entry else None


def _entry(folder: Path, name: str) -> str | None:
    """The folder's entry of that name, whatever its case."""
    if (folder / name).exists():
        return name
    try:
        names = os.listdir(folder)  # noqa: PTH208
    except OSError:
        return None
    return next((it for it in names if it.lower() == name.lower()), None)


def _places(folder: Folder, problems: list[Problem]) -> dict[ModelName, Place]:
    found: dict[ModelName, Place] = {}
    for path, parts in _descriptions(str(folder.path), (), problems):
        name = _try_name(parts)
        if name is None:
            problems.append(Problem(path, "its name can not be a model's; rename it to NAME.yaml or NAME/TAG.yaml"))
        elif name in found:
            problems.append(Problem(path, f"{name} is described by {found[name].path} already; remove one of them"))
        else:
            found[name] = Place(name, path, folder)
    return found


def _descriptions(folder: str, above: Parts, problems: list[Problem]) -> Iterator[tuple[Path, Parts]]:
    """Descriptions with their place below the models folder; hidden folders and links to folders are not entered."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as e:
        if above or not isinstance(e, FileNotFoundError):  # a models folder that was never made is an empty one
            problems.append(Problem(Path(folder), f"cannot be read: {e.strerror}"))
        return
    shown = [entry for entry in entries if not entry.name.startswith(".")]
    yield from ((Path(it.path), (*above, it.name[:-5])) for it in shown if it.name.endswith(".yaml"))
    for entry in shown:
        if len(above) < MAX_DEPTH - 1 and entry.is_dir(follow_symlinks=False):
            yield from _descriptions(entry.path, (*above, entry.name), problems)


def _try_name(parts: Parts) -> ModelName | None:
    """The name a description has by its place in the models folder; None if it can have none."""
    *path, name, tag = parts if len(parts) > 1 else (*parts, DEFAULT_TAG)
    hosts, others = path[:-1], (*path[-1:], name, tag)
    if not all(map(is_part, others)) or not all(map(is_host, hosts)):
        return None
    return ModelName(
        name=name, tag=spelled_tag(tag), namespace=path[-1] if path else "", host=hosts[0] if hosts else ""
    )
