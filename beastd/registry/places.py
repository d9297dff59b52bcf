"""Where models are described: a model is one YAML file, and its place in a models folder is its name.

    NAME.yaml                      NAME:latest
    NAME/TAG.yaml                  NAME:TAG
    NAMESPACE/NAME/TAG.yaml        NAMESPACE/NAME:TAG
    HOST/NAMESPACE/NAME/TAG.yaml   HOST/NAMESPACE/NAME:TAG

Names ignore case. A user's model hides a built-in one of the same name.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from beastd.registry.models import Problem
from beastd.registry.names import DEFAULT_TAG, ModelName, is_part

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_DEPTH = 4
"""Levels of a name: host, namespace, name, tag."""

Parts = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """The file that describes a model."""

    name: ModelName
    path: Path
    is_builtin: bool


def find_places(models_dir: Path, builtin_dir: Path) -> tuple[dict[ModelName, Place], list[Problem]]:
    """Every name that is described, and what is in the way of others. Looks at file names alone."""
    problems: list[Problem] = []
    users = _places(models_dir, problems, is_builtin=False)
    builtins = _places(builtin_dir, problems, is_builtin=True)
    return users | {name: place for name, place in builtins.items() if name not in users}, problems


def _places(root: Path, problems: list[Problem], *, is_builtin: bool) -> dict[ModelName, Place]:
    found: dict[ModelName, Place] = {}
    for path, parts in _descriptions(str(root), (), problems):
        name = _try_name(parts)
        if name is None:
            problems.append(Problem(path, "its name can not be a model's; rename it to NAME.yaml or NAME/TAG.yaml"))
        elif name in found:
            problems.append(Problem(path, f"{name} is described by {found[name].path} already; remove one of them"))
        else:
            found[name] = Place(name, path, is_builtin)
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
    if not all(is_part(part) for part in parts):
        return None
    *path, name, tag = parts if len(parts) > 1 else (*parts, DEFAULT_TAG)
    return ModelName(name=name, tag=tag, namespace=path[-1] if path else "", host=path[0] if len(path) == 2 else "")
