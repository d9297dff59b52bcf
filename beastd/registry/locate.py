"""How descriptions name files: by path, by digest in a store, or by their place in the package.

model.gguf, ../x.gguf, /models/y.gguf    a path, relative to the description
sha256:HEX                               a blob of a models folder (``store``)
builtin:cub/cub-q8_0.gguf                a file inside the package, wherever that is installed
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from beastd.registry.store import BLOBS

if TYPE_CHECKING:
    from collections.abc import Sequence

_DIGEST = re.compile(r"sha256[:-](?P<hex>[0-9a-f]{64})")
_BUILTIN = "builtin:"


class Locator:
    """Turns names of files into paths, and back."""

    def __init__(self, roots: Sequence[Path], builtin_dir: Path) -> None:
        """``roots``: the models folders whose blobs may be named, the user's own first."""
        self._roots = roots
        self._builtin_dir = builtin_dir

    def path(self, text: str, folder: Path) -> Path | None:
        """The file a description in ``folder`` names so; None if the text can name none. Opens nothing."""
        if match := _DIGEST.fullmatch(text):
            return self._blob(match["hex"])
        if text.startswith(_BUILTIN):
            inside = text.removeprefix(_BUILTIN)
            is_inside = all(part not in {"", "."} and ".." not in part for part in inside.split("/"))
            return self._builtin_dir / inside if is_inside else None
        return folder / text if text and text.isprintable() else None

    def name(self, path: Path) -> str:
        """What a description, wherever it is, calls this file."""
        digest = digest_of(path)
        if digest and path.parent.parent in self._roots:
            return f"sha256:{digest}"
        if path.is_relative_to(self._builtin_dir):
            return f"{_BUILTIN}{path.relative_to(self._builtin_dir).as_posix()}"
        return str(path)

    def _blob(self, digest: str) -> Path:
        found = [root / BLOBS / f"sha256-{digest}" for root in self._roots]
        return next((path for path in found if path.exists()), found[0])


def digest_of(path: Path) -> str | None:
    """The digest in a blob's name; None for other files."""
    match = _DIGEST.fullmatch(path.name)
    return match["hex"] if match and path.parent.name == BLOBS else None
