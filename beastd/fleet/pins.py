"""Which models `beast pin` has pinned, remembered for later daemons."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from beastd.durable import write_atomically

_log = logging.getLogger(__name__)


class Pins:
    """A set of names in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.names = _read(file)

    def change(self, name: str, *, is_pinned: bool) -> None:
        """Add or remove a name, for good."""
        others = frozenset(it for it in self.names if it.lower() != name.lower())
        self.names = others | {name} if is_pinned else others
        write_atomically(self._file, json.dumps(sorted(self.names)).encode())


def _read(file: Path) -> frozenset[str]:
    try:
        data = json.loads(file.read_bytes())
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError) as error:
        _log.warning("no pins: cannot read %s (%s)", file, error)
        return frozenset()
    return frozenset(name for name in data if isinstance(name, str)) if isinstance(data, list) else frozenset()
