"""Runs one change of a models folder in a process that is killed at its Nth write: ``python dying.py ROOT VERB N``.

Every system call that changes a file counts. Exit status 0: the change was done before the Nth; -9: it was not.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

CHANGES = ("write", "fsync", "replace", "rename", "link", "unlink", "remove", "mkdir", "rmdir", "chmod", "fchmod")


OLD, NEW = b"old", b"new file"
"""The file of the model that is there, and one that came and no model names yet."""


def die_at(nth: int) -> None:
    """From now on, kill this process just before its nth change of a file."""
    n_left = nth

    def count() -> None:
        nonlocal n_left
        n_left -= 1
        if n_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def change(*args: Any, **kwargs: Any) -> Any:
            count()
            return real(*args, **kwargs)

        return change

    real_open = os.open

    def opened(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & (os.O_CREAT | os.O_TRUNC):
            count()
        return real_open(path, flags, *args, **kwargs)

    for name in CHANGES:
        setattr(os, name, dying(getattr(os, name)))
    os.open = opened


def change(root: Path, verb: str, nth: int) -> None:
    from beastd.registry.keeper import Keeper
    from beastd.registry.modelfile import Fields
    from beastd.registry.names import parse_name
    from beastd.registry.registry import Registry
    from beastd.registry.store import Store

    store = Store(root / "models")
    registry = Registry([store.root], root / "facts.json", root / "builtin")
    keeper = Keeper(registry, store, lambda: float("inf"))
    old, new = (sha256(content).hexdigest() for content in (OLD, NEW))
    model, name = registry.find(parse_name("me/model")), parse_name("me/model")
    die_at(nth)
    if verb == "keep":
        store.keep(root / "models" / ".partial" / "came", new)
    elif verb == "create":
        keeper.put(parse_name("Host/ns/other:tag"), lambda _: Fields(variants={"q": f"sha256:{old}"}, system="Hi"))
    elif verb == "replace":
        keeper.put(name, lambda _: Fields(variants={"q": f"sha256:{new}"}))
    elif verb == "copy":
        assert model
        keeper.copy(model, parse_name("me/copy"))
    else:
        assert verb == "remove"
        keeper.remove(name)


if __name__ == "__main__":
    change(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
