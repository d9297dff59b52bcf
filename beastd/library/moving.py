"""The whole models folder moved to another place, so that a crash at any point leaves the old one whole or the new.

Everything is brought to the new place first: by hard links within one file system, else by copies whose blobs are
verified. Only then is the new place committed to (the configuration is written), and only then is the old one removed.
No rename of the folder: between it and the commit there would be a moment in which the folder is at neither place.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from stat import S_IMODE

from beastd.durable import sync_folder, translated
from beastd.errors import BadModel, BeastError, Conflict
from beastd.library.copying import Copying, check_room
from beastd.library.moveplan import LOCK, MARK, Tree, check_movable, tree
from beastd.registry.locate import digest_of
from beastd.registry.store import Store
from beastd.tool import Progress, Report


def move_store(
    source: Path, target: Path, commit: Callable[[], None], report: Report, is_cancelled: Callable[[], bool]
) -> int:
    """Move a models folder; ``target`` is missing or empty. Returns the bytes of its files.

    ``commit`` makes the new place the one in force. Nobody may work on models meanwhile; writers of descriptions are
    held off while what changed since the copy is brought after, and until the old folder is gone. What of that cannot
    be removed is told and stays. Raises Conflict, BadModel (a blob is damaged), DiskFull, ReadOnly, Cancelled: the old
    folder is as it was then, and of the new one nothing is left (but if ``commit`` fails, it stays too, whole).
    """
    try:
        source = source.resolve()
        found = tree(source)
        check_movable(source, found)
        is_new = _claim(source, target)
        move = _Move(source, target.resolve(), Copying(report, is_cancelled, found.n_bytes))
        try:
            move.prepare(found)
            move.bring(found)
            with Store(source).writing():
                move.bring(tree(source))
                move.seal()
                _commit(commit, move)
                left = move.remove_source()
        except BaseException:
            if not move.is_sealed:
                _clear(target, is_ours=is_new)
            raise
    except OSError as e:
        raise translated(e, f"cannot move {source} to {target}") from e
    if left:
        report(Progress(status=f"the models are in {target} now; {left} could not be removed, remove it by hand"))
    return found.n_bytes


def _claim(source: Path, target: Path) -> bool:
    """Make the target, or take an empty one or what a move from this source left; whether it is made here."""
    real = target.resolve()
    if real.is_relative_to(source) or source.is_relative_to(real):
        raise Conflict(f"{target} and {source} are the same, or one is inside the other; choose a folder elsewhere")
    is_new = not real.exists()
    real.mkdir(mode=0o755, parents=True, exist_ok=True)
    mark, whose = real / MARK, os.fsencode(source) + b"\n"
    if mark.is_file() and whose.startswith(mark.read_bytes()):  # a torn mark is a beginning of it
        _clear(real, is_ours=False)
    if any(real.iterdir()):
        raise Conflict(f"{target} is not empty; name a folder that is, or that is not there yet")
    with mark.open("xb") as stream:
        stream.write(whose)
        stream.flush()
        os.fsync(stream.fileno())
    sync_folder(real)
    return is_new


def _clear(target: Path, *, is_ours: bool) -> None:
    """Remove what is in the target, its mark last, so that a cut-off clearing can be gone on with."""
    with suppress(OSError):
        for entry in sorted(target.iterdir(), key=lambda it: it.name == MARK):
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        if is_ours:
            target.rmdir()


def _commit(commit: Callable[[], None], move: _Move) -> None:
    try:
        commit()
    except BeastError as e:
        e.message += f"; {move.source} is as it was, and its copy {move.target} may be removed"
        raise


class _Move:
    """One move under way."""

    def __init__(self, source: Path, target: Path, copying: Copying) -> None:
        self.source = source
        self.target = target
        self.is_sealed = False
        """Whether the target is whole, and must not be cleared any more."""
        self._copying = copying
        self._can_link = False
        self._brought = Tree({}, {}, {})

    def prepare(self, found: Tree) -> None:
        """Find out whether files can be linked, else whether they fit. Raises DiskFull."""
        self._can_link = self._try_link()
        if not self._can_link:
            check_room(self.target, found.n_bytes, f"the models folder {self.source}")

    def bring(self, found: Tree) -> None:
        """Make the target what the source is, as far as it is not yet. A second time brings what changed since."""
        old, self._brought = self._brought, found
        for name in old.files.keys() | old.links.keys():
            if found.files.get(name) != old.files.get(name) or found.links.get(name) != old.links.get(name):
                (self.target / name).unlink()
        for name in sorted(found.folders.keys() - old.folders.keys()):
            (self.target / name).mkdir()
        for name in sorted(old.folders.keys() - found.folders.keys(), reverse=True):
            (self.target / name).rmdir()
        for name, text in found.links.items():
            if old.links.get(name) != text:
                (self.target / name).symlink_to(text)
        for name, stamp in found.files.items():
            if old.files.get(name) != stamp:
                self._bring_file(name)

    def seal(self) -> None:
        """Make all of it durable, and the target a models folder like any other."""
        for name, mode in self._brought.folders.items():
            (self.target / name).chmod(mode)
            sync_folder(self.target / name)
        self._copying.check()
        (self.target / MARK).unlink()
        self.is_sealed = True
        sync_folder(self.target)
        sync_folder(self.target.parent)

    def remove_source(self) -> Path | None:
        """Remove the old folder, descriptions first: no model is ever seen there without its blobs.

        Returns what could not be removed.
        """
        names = sorted(self._brought.files.keys() | self._brought.links.keys(), key=lambda it: not it.endswith(".yaml"))
        try:
            for name in names:
                (self.source / name).unlink(missing_ok=True)
            for name in sorted(self._brought.folders, reverse=True):
                (self.source / name).rmdir()
            (self.source / LOCK).unlink(missing_ok=True)
            self.source.rmdir()
        except OSError:
            return self.source
        return None

    def _try_link(self) -> bool:
        lock, probe = self.source / LOCK, self.target / f"{MARK}-probe"
        with Store(self.source).writing():
            pass  # makes the lock file, where none is yet
        try:
            os.link(lock, probe)
        except OSError:  # another file system, or one that has no hard links
            return False
        probe.unlink()
        return True

    def _bring_file(self, name: str) -> None:
        source, target = self.source / name, self.target / name
        self._copying.check()
        if self._can_link:
            os.link(source, target)
            self._copying.count(source.stat().st_size, "linking files")
            return
        digest = self._copy(source, target)
        if digest_of(source) not in {None, digest}:
            raise BadModel(f"{source} is damaged: its sha256 is {digest}; remove the models that use it, or pull again")

    def _copy(self, source: Path, target: Path) -> str:
        with source.open("rb", buffering=0) as old, target.open("xb", buffering=0) as new:
            was = os.fstat(old.fileno())
            try:
                digest = self._copying.copy(old.fileno(), new.fileno(), was.st_size, f"copying {source.name[:40]}")
            except EOFError as e:
                raise Conflict(f"{source} was changed while it was copied; try again when nobody uses it") from e
            os.fchmod(new.fileno(), S_IMODE(was.st_mode))
            os.utime(new.fileno(), ns=(was.st_atime_ns, was.st_mtime_ns))  # descriptions remember some files' times
            os.fsync(new.fileno())
        return digest
