"""Names of files, as the daemon understands them: it has a working directory of its own."""

from __future__ import annotations

from pathlib import Path

_STARTS = ("/", "./", "../", "~")
"""What begins like this is a path, whether or not it is there."""


def absolute(path: str) -> str:
    """The same path from the root on, ``~`` resolved."""
    return str(Path(path).expanduser().absolute())


def path_of(text: str) -> str | None:
    """The full path ``text`` means, if it means one: ``file:PATH``, a file that is there, or what looks like either.

    A folder is only meant by what looks like a path: one named as a model, beside us, must not hide the model.
    """
    if text.startswith("file:"):
        return absolute(text.removeprefix("file:").removeprefix("//"))
    is_like_file = text.startswith(_STARTS) or text in {".", ".."} or (text.endswith(".gguf") and "/" not in text)
    return absolute(text) if is_like_file or Path(text).is_file() else None
