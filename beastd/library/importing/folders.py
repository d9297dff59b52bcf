"""Models in ordinary folders: one GGUF file, any tree of them, and LM Studio's publisher/repository/file.gguf."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from beastd.library.importing.assemble import assemble
from beastd.library.importing.filenames import is_quant_folder, slug, unique
from beastd.library.importing.found import Found, Skipped
from beastd.library.importing.pieces import shards_beside
from beastd.library.importing.walk import gguf_files
from beastd.registry.names import ModelName

if TYPE_CHECKING:
    from collections.abc import Iterator

    from beastd.library.importing.assemble import Group
    from beastd.library.importing.walk import Tree

_LM_STUDIO = (".lmstudio", "lm-studio")
"""Its folder: in the home folder since 0.3.6, in ``~/.cache`` before."""


def find_in_file(path: Path) -> Iterator[Found | Skipped]:
    """The model of one file, or of all shards when it is one of them; what is beside it is not looked at."""
    groups, skipped = assemble(shards_beside(path))
    yield from skipped
    yield from (Found(ModelName(group.stem), group.fields(), path, group.notes) for group in groups)


def find_in_folder(root: Path) -> Iterator[Found | Skipped]:
    """The models of a tree. Files of one folder make one model where their names differ in quantization alone.

    In LM Studio's models folder (by its place, or as every file is two folders deep) the publisher is the namespace.
    """
    lm_studio = lm_studio_models(root)
    tree = gguf_files(lm_studio or root)
    has_publishers = lm_studio is not None or _is_by_publisher(tree)
    yield from tree.skipped
    taken: dict[ModelName, Path] = {}
    for home, files in _by_home(tree).items():
        groups, skipped = assemble(files)
        yield from skipped
        namespace = _publisher(tree.root, home) if has_publishers else ""
        yield from (_named(group, namespace, home, taken) for group in groups)


def lm_studio_models(path: Path) -> Path | None:
    """LM Studio's models folder, when the path is that or its parent."""
    if path.name in _LM_STUDIO and os.path.isdir(path / "models"):  # noqa: PTH112 (Path's raises PermissionError)
        return path / "models"
    return path if path.name == "models" and path.parent.name in _LM_STUDIO else None


def _is_by_publisher(tree: Tree) -> bool:
    return bool(tree.files) and all(len(file.relative_to(tree.root).parts) == 3 for file in tree.files)


def _publisher(root: Path, home: Path) -> str:
    parts = home.relative_to(root).parts
    return slug(parts[0]) if len(parts) > 1 else ""


def _by_home(tree: Tree) -> dict[Path, list[Path]]:
    """Files by their folder; one named for a quantization alone counts as the folder it is in."""
    homes: defaultdict[Path, list[Path]] = defaultdict(list)
    for file in tree.files:
        home = file.parent
        while home != tree.root and is_quant_folder(home.name):
            home = home.parent
        homes[home].append(file)
    return homes


def _named(group: Group, namespace: str, home: Path, taken: dict[ModelName, Path]) -> Found:
    """Two models that their files call the same: the later one's folder becomes its tag."""
    name, notes = ModelName(group.stem, namespace=namespace), list(group.notes)
    if name in taken:
        tags = {other.tag for other in taken if ModelName(other.name, namespace=other.namespace) == name}
        other, tag = taken[name], unique(slug(home.name) or "other", tags)
        name = ModelName(group.stem, tag, namespace)
        notes.append(f"called {name.short}, since {other} is called {group.stem} too")
    taken[name] = group.source
    return Found(name, group.fields(), group.source, notes)
