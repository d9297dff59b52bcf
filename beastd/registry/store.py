"""The files of a models folder that Beast writes: blobs named by their content, descriptions, and unfinished work.

    NAME.yaml, NAME/TAG.yaml ...    descriptions (``places``), each written whole or not at all
    .blobs/sha256-HEX               finished files: verified, read-only, never changed, shared between models
    .partial/                       downloads and conversions under way; no model ever names a file here

The order of writing keeps every crash harmless: a blob is there before a description names it, and goes only after
the last description that named it.
"""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_IMODE, S_ISREG
from typing import TYPE_CHECKING

from beastd.durable import is_writable, move, sync_folder, translated, write_atomically
from beastd.errors import ReadOnly

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOBS = ".blobs"
PARTIAL = ".partial"

_BLOB = re.compile(r"sha256-(?P<hex>[0-9a-f]{64})")


class Store:
    """One models folder. Its owner serializes changes with ``writing``; reading needs no lock."""

    def __init__(self, root: Path) -> None:
        self.root = root

    # --- blobs ---

    def blob(self, digest: str) -> Path:
        """Where the file with this digest (64 lower-case hex digits) is, or would be."""
        return self.root / BLOBS / f"sha256-{digest}"

    def claim(self, digest: str) -> bool:
        """Whether the blob is there. It counts as new from now, so that it is not dropped before a model names it.

        What counts is the time of its inode's last change; that of its content says whether it is what it was. A blob
        that has another name elsewhere is not taken for its digest: who has that name may have changed it.
        """
        try:
            blob = self.blob(digest)
            found = blob.lstat()
            if found.st_nlink > 1 or not S_ISREG(found.st_mode):
                return False
            blob.chmod(S_IMODE(found.st_mode))
        except FileNotFoundError:
            return False
        except OSError as e:
            raise translated(e, f"cannot use {self.blob(digest)}") from e
        return True

    def keep(self, file: Path, digest: str) -> Path:
        """Make a finished file of ``.partial`` the blob of its digest, which the caller has verified.

        One that is there already wins: they are the same. Raises DiskFull, ReadOnly, BeastError.
        """
        target = self.blob(digest)
        try:
            self._make(target.parent)
            if self.claim(digest):
                file.unlink()
            else:
                descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    if os.fstat(descriptor).st_nlink == 1:  # else it is somebody else's file too
                        os.fchmod(descriptor, 0o444)
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                move(file, target)
        except OSError as e:
            raise translated(e, f"cannot keep {target}") from e
        return target

    def blobs(self) -> dict[str, int]:
        """Digest → bytes of every blob."""
        found = {}
        with suppress(FileNotFoundError), os.scandir(self.root / BLOBS) as entries:
            for entry in entries:
                match = _BLOB.fullmatch(entry.name)
                with suppress(FileNotFoundError):  # it may go while we look
                    if match:
                        found[match["hex"]] = entry.stat().st_size
        return found

    def drop(self, digest: str) -> None:
        """Remove a blob that nothing names; fine if it is gone."""
        try:
            self.blob(digest).unlink(missing_ok=True)
        except OSError as e:
            raise translated(e, f"cannot remove {self.blob(digest)}") from e

    # --- unfinished work ---

    def partial(self, key: str) -> Path:
        """A file for unfinished work; the key (a plain file name) finds it again. Raises as ``write``."""
        folder = self.root / PARTIAL
        try:
            self._make(folder)
        except OSError as e:
            raise translated(e, f"cannot make {folder}") from e
        return folder / key

    def partials(self) -> list[Path]:
        """All files of unfinished work."""
        with suppress(FileNotFoundError):
            return sorted((self.root / PARTIAL).iterdir())
        return []

    # --- descriptions ---

    def write(self, path: Path, text: str) -> None:
        """Write a description, whole. Raises DiskFull, ReadOnly, BeastError; the old one is intact then."""
        try:
            self._make(path.parent)
        except OSError as e:
            raise translated(e, f"cannot make {path.parent}") from e
        write_atomically(path, text.encode())

    def remove(self, path: Path) -> None:
        """Remove a description, and the folders of its name that are empty then."""
        try:
            path.unlink(missing_ok=True)
            folder = path.parent
            sync_folder(folder)
            while folder != self.root and not any(folder.iterdir()):
                folder.rmdir()
                folder = folder.parent
        except OSError as e:
            raise translated(e, f"cannot remove {path}") from e

    # --- who may write ---

    @property
    def is_writable(self) -> bool:
        """Whether this user may change the folder (or make it, where it is missing)."""
        return is_writable(self.root)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep other processes that write here out, for a moment. Raises ReadOnly."""
        try:
            self.root.mkdir(mode=0o755, parents=True, exist_ok=True)
            lock = os.open(self.root / ".lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as e:
            raise ReadOnly(f"the models folder {self.root} cannot be changed: {e.strerror}") from e
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _make(self, folder: Path) -> None:
        if not folder.is_dir():
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            sync_folder(folder.parent)
