"""What a chat is: model, settings and messages; and its life on disk."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from beastd.errors import BadRequest
from beastd.paths import ensure_dir

SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


@dataclass(slots=True)
class Conversation:
    """A chat as it stands. ``extra`` holds other fields of the API's chat request, such as ``format``."""

    model: str
    system: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    messages: list[dict[str, str]] = field(default_factory=list)

    def request(self, question: str) -> dict[str, Any]:
        """The body for /api/chat that asks ``question`` next."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        messages = [*system, *self.messages, {"role": "user", "content": question}]
        body = {"model": self.model, "messages": messages, "stream": True, **self.extra}
        return {**body, "options": self.options} if self.options else body

    def add(self, question: str, answer: str) -> None:
        """Keep a turn. One without an answer is forgotten: no model expects two questions in a row."""
        if answer:
            self.messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


class ChatFolder:
    """Saved chats, a JSON file each."""

    def __init__(self, state_dir: Path) -> None:
        self._dir = state_dir / "chats"

    def names(self) -> list[str]:
        """What has been saved."""
        return sorted(path.stem for path in self._dir.glob("*.json"))

    def save(self, name: str, conversation: Conversation) -> Path:
        """Write the chat under ``name``, replacing an older one whole; returns the file.

        Raises:
            BadRequest: the name cannot be a file's, or the disk refuses.
        """
        path = self._path(name)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            ensure_dir(self._dir)
            with temporary.open("w", encoding="utf-8") as file:
                json.dump(asdict(conversation), file, ensure_ascii=False, indent=2)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            raise BadRequest(f"cannot save the chat in {path}: {error.strerror}") from error
        return path

    def try_load(self, name: str) -> Conversation | None:
        """The chat saved under ``name``; None when there is none.

        Raises:
            BadRequest: its file is not a chat.
        """
        if not SAFE_NAME.fullmatch(name) or not self._path(name).exists():
            return None
        try:
            return Conversation(**json.loads(self._path(name).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise BadRequest(f"{self._path(name)} is not a saved chat: {error}") from error

    def _path(self, name: str) -> Path:
        if not SAFE_NAME.fullmatch(name):
            raise BadRequest(f"{name!r} cannot name a chat: use letters, digits, '.', '_' and '-', at most 64")
        return self._dir / f"{name}.json"
