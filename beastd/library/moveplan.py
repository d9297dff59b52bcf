"""What is in a models folder that is to be moved, and whether all of it means the same elsewhere."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from stat import S_IMODE, S_ISDIR, S_ISLNK, S_ISREG

from beastd.errors import BadModel, Conflict
from beastd.registry.modelfile import file_names, parse_modelfile
from beastd.yamlfile import YamlError, read_text

LOCK = ".lock"
"""The store's lock, which every folder has of its own."""
MARK = ".moving"
"""A folder with this file, which names the source, is what a move left that was cut off: it may be cleared."""
N_NAMED = 3

Stamp = tuple[int, int, int]
"""Inode, bytes and time of a file: as long as they stay, so does its content."""


@dataclass(frozen=True, slots=True)
class Tree:
    """What is in a folder, by path below it."""

    files: dict[str, Stamp]
    links: dict[str, str]
    """Symbolic links, and where they lead."""
    folders: dict[str, int]
    """And their modes; a folder comes before those in it."""

    @property
    def n_bytes(self) -> int:
        """All files."""
        return sum(n_bytes for _, n_bytes, _ in self.files.values())


def tree(root: Path) -> Tree:
    """Look through a folder; one that is missing is empty. Raises OSError, Conflict for what is no file."""
    found = Tree({}, {}, {})
    for folder, folders, names in os.walk(root, onerror=_raise):
        for path in (Path(folder, name) for name in (*folders, *names)):
            name, stat = path.relative_to(root).as_posix(), path.lstat()
            if S_ISLNK(stat.st_mode):
                found.links[name] = os.readlink(path)  # noqa: PTH115
            elif S_ISDIR(stat.st_mode):
                found.folders[name] = S_IMODE(stat.st_mode)
            elif not S_ISREG(stat.st_mode):
                raise Conflict(f"{path} is no file and cannot be moved; remove it first")
            elif name not in {LOCK, MARK}:
                found.files[name] = stat.st_ino, stat.st_size, stat.st_mtime_ns
    return found


def check_movable(root: Path, found: Tree) -> None:
    """Raises Conflict when some path, in a description or a symbolic link, would lead elsewhere after a move.

    Such are relative paths out of the folder and absolute ones into it. They are refused, not rewritten: descriptions
    are people's own text, and only they know what the path should say.
    """
    broken = [f"{name}: {text}" for name, text in found.links.items() if _breaks(root, root / name, text)]
    for name in found.files:
        if name.endswith(".yaml"):
            broken += [f"{name}: {text}" for text in _named(root / name) if _breaks(root, root / name, text)]
    if broken:
        more = f" and {len(broken) - N_NAMED} more" if len(broken) > N_NAMED else ""
        raise Conflict(
            f"these would name other files after a move: {', '.join(broken[:N_NAMED])}{more}; write paths out of the "
            f"models folder from / on, and paths inside it relative (`beast edit`), then move it"
        )


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _named(description: Path) -> list[str]:
    """The paths in a description. One that cannot be read is broken, and stays so."""
    try:
        names = file_names(parse_modelfile(read_text(description), description)[0])
    except (BadModel, YamlError):
        return []
    return [name for name in names if not name.startswith(("sha256:", "sha256-", "builtin:"))]


def _breaks(root: Path, where: Path, text: str) -> bool:
    """Whether a path written in ``where`` is relative and leads out of the folder, or absolute and into it."""
    path = Path(os.path.normpath(where.parent / text))
    if Path(text).is_absolute():
        return any(it.is_relative_to(root) for it in (path, path.parent.resolve()))
    return not path.is_relative_to(root)
