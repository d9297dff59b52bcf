"""A models folder to fill, and processes that die at any write to it."""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from beastd.registry.keeper import Keeper
from beastd.registry.modelfile import Fields
from beastd.registry.models import Model
from beastd.registry.names import parse_name
from beastd.registry.registry import Registry
from beastd.registry.store import Store

WRITES = (
    "write",
    "replace",
    "rename",
    "unlink",
    "mkdir",
    "rmdir",
    "link",
    "symlink",
    "fsync",
    "chmod",
    "fchmod",
    "utime",
)
SURVIVED, DIED = 0, 9


class Shelf:
    """A models folder, files outside it and a built-in model."""

    def __init__(self, root: Path) -> None:
        self.outside, self.builtin = root / "outside", root / "builtin"
        self.outside.mkdir(parents=True, exist_ok=True)
        self.builtin.mkdir(exist_ok=True)
        self.root = root / "models"
        self.use(self.root)

    def use(self, root: Path) -> Shelf:
        """Look at another models folder."""
        self.store = Store(root)
        self.registry = Registry([root], root.parent / "facts.json", self.builtin)
        self.keeper = Keeper(self.registry, self.store, lambda: 0.0)
        return self

    def blob(self, data: bytes) -> str:
        """A file in the store; what descriptions call it."""
        digest = hashlib.sha256(data).hexdigest()
        partial = self.store.partial("arriving")
        partial.write_bytes(data)
        self.store.keep(partial, digest)
        return f"sha256:{digest}"

    def file(self, name: str, data: bytes) -> Path:
        """A file outside the store."""
        path = self.outside / name
        path.write_bytes(data)
        return path

    def put(self, name: str, **fields: Any) -> Model:
        """A model of these fields."""
        return self.keeper.put(parse_name(name), lambda _: Fields(**fields))

    def get(self, name: str) -> Model:
        return self.registry.get(parse_name(name))

    def names(self) -> list[str]:
        """All models."""
        return [str(model.name) for model in self.registry.list().models]

    def contents(self) -> dict[str, Any]:
        """Everything models mean: texts, and what is in each file. Raises where one is broken."""
        listing = self.registry.list()
        assert listing.problems == []
        return {
            str(model.name): (
                model.description.text,
                [[path.read_bytes() for path in files] for _, files in model.description.files()],
            )
            for model in listing.models
        }


def crashes(work: Callable[[], object], *, can_link: bool = True) -> Iterator[int]:
    """Do the work in processes that die in their first write, their second, ... until one does not.

    Yields after each death, for a look at what it left. A write of bytes dies half done.
    """
    for n_left in range(10_000):
        child = os.fork()
        if child == 0:
            try:
                _die_at(n_left, can_link)
                work()
                os._exit(SURVIVED)
            finally:
                os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in {SURVIVED, DIED}
        if status == SURVIVED:
            assert n_left > 3, "the work was watched"
            return
        yield n_left


def _die_at(n_left: int, can_link: bool) -> None:
    left = [n_left]

    def dying(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            if name == "link" and not can_link:
                raise OSError(errno.EXDEV, "another file system")
            is_write = name != "open" or (len(args) > 1 and str(args[1])[0] in "wx")
            left[0] -= is_write
            if left[0] < 0:
                if name == "write":
                    real(args[0], bytes(args[1])[: len(args[1]) // 2])
                os._exit(DIED)
            return real(*args, **more)

        return call

    for name in WRITES:
        setattr(os, name, dying(name, getattr(os, name)))
    io.open = dying("open", io.open)
