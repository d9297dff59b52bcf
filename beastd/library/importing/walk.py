"""Lists the GGUF files of a folder tree: bounded, and safe against loops of links."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from beastd.library.importing.found import Skipped

MAX_ENTRIES = 100_000
MAX_DEPTH = 16


@dataclass(slots=True)
class Tree:
    """The GGUF files below a folder, sorted by path, and what could not be looked at."""

    root: Path
    files: list[Path] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def gguf_files(root: Path, max_entries: int = MAX_ENTRIES) -> Tree:
    """Walk a folder. Links to folders are followed, each folder is entered once; hidden files and folders are not."""
    walk = _Walk(root, max_entries)
    walk.enter(str(root), 0)
    walk.tree.files.sort()
    return walk.tree


class _Walk:
    """One walk under way."""

    def __init__(self, root: Path, max_entries: int) -> None:
        self.tree = Tree(root)
        self._n_left = max_entries
        self._max_entries = max_entries
        self._seen: set[tuple[int, int]] = set()

    def enter(self, folder: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            self._skip(folder, f"it is more than {MAX_DEPTH} folders deep; import it by itself")
            return
        for entry in self._entries(folder):
            self._n_left -= 1
            if self._n_left < 0:
                self._skip(folder, f"{self._max_entries} entries were looked at before it; import it by itself")
                return
            self._take(entry, folder, depth)

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            stat = os.stat(folder)  # noqa: PTH116
            if (stat.st_dev, stat.st_ino) in self._seen:
                return []
            self._seen.add((stat.st_dev, stat.st_ino))
            with os.scandir(folder) as entries:
                found = [entry for entry, _ in zip(entries, range(self._n_left + 1), strict=False)]
        except OSError as e:
            self._skip(folder, f"it cannot be read: {e.strerror}")
            return []
        return sorted(found, key=lambda entry: entry.name)

    def _take(self, entry: os.DirEntry[str], folder: str, depth: int) -> None:
        if entry.name.startswith("."):
            return
        is_folder = _is_folder(entry)
        if not is_folder and not entry.name.lower().endswith(".gguf"):
            return
        if not entry.name.isprintable():
            self._skip(folder, f"its entry {ascii(entry.name)[:200]} has characters no description can hold; rename it")
        elif is_folder:
            self.enter(entry.path, depth + 1)
        else:
            self.tree.files.append(Path(entry.path))

    def _skip(self, folder: str, reason: str) -> None:
        self.tree.skipped.append(Skipped(Path(folder), reason))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False
