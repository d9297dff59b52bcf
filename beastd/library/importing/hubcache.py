"""Models in the Hugging Face cache: models--USER--REPO/snapshots/COMMIT, its files links into the repository's blobs.

The layout is huggingface_hub's ("Understand caching" in its guides): ``refs/main`` holds the commit of the branch, a
snapshot only the files somebody asked for, and a blob of a large file is named by the file's sha256.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec.structs import replace

from beastd.library.importing.assemble import assemble
from beastd.library.importing.filenames import folder_stem
from beastd.library.importing.found import Found, Skipped
from beastd.library.importing.walk import gguf_files
from beastd.registry.names import DEFAULT_TAG, ModelName, is_part

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from beastd.library.importing.assemble import Group
    from beastd.library.importing.walk import Tree

HOST = "hf.co"
MAX_REPOS = 10_000

_PREFIX = "models--"
_SHA256 = re.compile(r"[0-9a-f]{64}")


def hub_cache(path: Path) -> Path | None:
    """The folder of repositories, when the path is that, one repository of it, or the HF_HOME it is in."""
    for folder in (path, path / "hub"):
        with suppress(OSError), os.scandir(folder) as entries:
            if any(entry.name.startswith(_PREFIX) for entry in entries):
                return folder
    return path if _is_repo(path) else None


def find_in_hub_cache(path: Path) -> Iterator[Found | Skipped]:
    """The models of a cache, or of one repository of it."""
    repos = [path] if _is_repo(path) else _repos(path)
    for repo in repos[:MAX_REPOS]:
        yield from _find_in_repo(repo)
    if len(repos) > MAX_REPOS:
        yield Skipped(path, f"it holds {len(repos)} repositories; those after {repos[MAX_REPOS - 1].name} are left out")


def _repos(cache: Path) -> list[Path]:
    with os.scandir(cache) as entries:
        names = sorted(entry.name for entry in entries if entry.name.startswith(_PREFIX) and entry.name.isprintable())
    return [cache / name for name in names if os.path.isdir(cache / name)]  # noqa: PTH112 (Path's raises PermissionError)


def _is_repo(path: Path) -> bool:
    return path.name.startswith(_PREFIX) and os.path.isdir(path / "snapshots")  # noqa: PTH112


def _find_in_repo(repo: Path) -> Iterator[Found | Skipped]:
    user, dashes, name = repo.name.removeprefix(_PREFIX).partition("--")
    if not (is_part(user) and is_part(name)) or "--" in name:
        reason = "its name is not that of a repository" if dashes else "its repository has no owner"
        yield Skipped(repo, f"{reason}, so it can have no hf.co name; import its snapshot's folder")
        return
    trees = [gguf_files(snapshot) for snapshot in _snapshots(repo)]
    for tree in trees:
        yield from tree.skipped
    chosen = next((tree for tree in trees if tree.files), None)
    if chosen is None:
        yield Skipped(repo, "it holds no GGUF files; Beast runs no other format")
        return
    groups, skipped = assemble(chosen.files)
    yield from skipped
    yield from _older(trees, chosen)
    plain = _plain(groups, name)
    for group in groups:
        tag = DEFAULT_TAG if group is plain else group.stem
        origin = f"{HOST}/{user}/{name}@{chosen.root.name}"
        fields = replace(group.fields(), origin=origin, sha256=_digests(group))
        yield Found(ModelName(name, tag, user, HOST), fields, group.source, group.notes)


def _snapshots(repo: Path) -> list[Path]:
    """The commit of ``main`` first, then the newest."""
    main = ""
    with suppress(OSError, UnicodeDecodeError), (repo / "refs" / "main").open("rb") as file:
        main = file.read(64).decode().strip()
    with suppress(OSError), os.scandir(repo / "snapshots") as entries:
        found = sorted((entry.name != main, -entry.stat().st_mtime, entry.name) for entry in entries if entry.is_dir())
        return [repo / "snapshots" / name for *_, name in found if is_part(name)]
    return []


def _older(trees: list[Tree], chosen: Tree) -> Iterator[Skipped]:
    """Files that only another snapshot has: of another revision, they are no variants of this model for certain."""
    known = {file.relative_to(chosen.root) for file in chosen.files}
    for tree in trees:
        for file in tree.files:
            if file.relative_to(tree.root) not in known:
                yield Skipped(file, f"it is of another revision than {chosen.root.name[:12]}; import it by itself")


def _plain(groups: list[Group], repo: str) -> Group | None:
    """The model that the repository is named after, which needs no tag: the only one, or that of the same name."""
    if len(groups) == 1:
        return groups[0]
    return next((group for group in groups if group.stem == folder_stem(repo)), None)


def _digests(group: Group) -> dict[str, str]:
    """File → sha256, where the blob it links to is named by that."""
    files = [file for piece in group.variants.values() for file in piece.files]
    files += [piece.file for piece in group.adapters.values()]
    files += [group.projector.file] if group.projector else []
    found = {}
    for file in files:
        with suppress(OSError):
            blob = file.readlink().name
            if _SHA256.fullmatch(blob):
                found[str(file)] = blob
    return found
