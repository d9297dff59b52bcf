"""The commands of the chat that begin with a slash."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from beastctl import options, render
from beastctl.chat.conversation import ChatFolder, Conversation
from beastctl.commands.show import PARTS, describe
from beastd.errors import BadRequest, BeastError

HELP: Mapping[str, str] = {
    "/set parameter NAME VALUE": "set a sampling parameter (Tab completes)",
    "/set system TEXT": "set the system message",
    "/set format json|none": "ask for JSON, or for text again",
    "/set verbose|quiet": "show timings after each answer, or not",
    "/show [PART]": ", ".join(PARTS),
    "/save NAME": "keep this chat on disk",
    "/load NAME|MODEL": "a saved chat, or another model",
    "/clear": "forget what was said",
    "/help, /?": "this text",
    "/bye": "leave (as Ctrl-D does)",
}
KEYS = """
Ctrl-C stops an answer, Ctrl-R searches earlier lines, Ctrl-X Ctrl-E opens an
editor. A message of several lines begins and ends with three double quotes."""
SETTINGS = ("parameter", "system", "format", "verbose", "quiet")
NAMES = ("/set", "/show", "/save", "/load", "/clear", "/help", "/?", "/bye")


class Host(Protocol):
    """What the commands need of the chat they steer."""

    conversation: Conversation
    is_verbose: bool

    def model_info(self) -> dict[str, Any]:
        """What /api/show says of the chat's model."""

    def load_model(self, name: str) -> str:
        """Have a model loaded; what to call it."""


class Slash:
    """Runs slash commands on a chat; each says what it did."""

    def __init__(self, host: Host, folder: ChatFolder, say: Callable[[str], None]) -> None:
        self._host = host
        self._folder = folder
        self._say = say
        self._actions: Mapping[str, Callable[[str], None]] = {
            "/set": self._set,
            "/show": self._show,
            "/save": self._save,
            "/load": self._load,
            "/clear": self._clear,
            "/help": self._help,
            "/?": self._help,
        }

    def run(self, line: str) -> bool:
        """Obey one line that begins with a slash; False when the chat is over."""
        name, _, rest = line.partition(" ")
        if name in {"/bye", "/exit"}:
            return False
        action = self._actions.get(name)
        try:
            if action is None:
                raise BadRequest(f"there is no command {name}; /? lists them")
            action(rest.strip())
        except BeastError as error:
            self._say(error.message)
        return True

    def _set(self, rest: str) -> None:
        what, _, value = rest.partition(" ")
        chat = self._host.conversation
        if what in {"verbose", "quiet"}:
            self._host.is_verbose = what == "verbose"
            self._say("timings are shown after each answer" if what == "verbose" else "timings are not shown")
        elif what == "parameter" and value:
            name, *words = _words(value)
            option = options.find(name)
            chat.options[option.name] = option.parse(words)
            self._say(f"{option.name} is {chat.options[option.name]}")
        elif what == "system" and value:
            chat.system = unquoted(value)
            self._say("the system message is set")
        elif what == "format" and value in {"json", "none"}:
            chat.extra.pop("format", None)
            chat.extra |= {"format": "json"} if value == "json" else {}
            self._say(f"answers are {'JSON' if value == 'json' else 'text'}")
        else:
            raise BadRequest("usage: " + "\n       ".join(line for line in HELP if line.startswith("/set")))

    def _show(self, rest: str) -> None:
        part = rest or "info"
        if part not in PARTS:
            raise BadRequest(f"usage: /show {'|'.join(PARTS)}")
        chat = self._host.conversation
        if part == "system" and chat.system:
            self._say(render.visible(chat.system))
            return
        text = describe(self._host.model_info(), part)
        if part == "parameters" and chat.options:
            text += "\n\nset in this chat:\n" + "\n".join(f"{name:30}{value}" for name, value in chat.options.items())
        self._say(text)

    def _save(self, rest: str) -> None:
        path = self._folder.save(rest, self._host.conversation)
        self._say(f"saved in {path}; `/load {rest}` brings it back")

    def _load(self, rest: str) -> None:
        if not rest:
            raise BadRequest("usage: /load NAME|MODEL; saved chats: " + (", ".join(self._folder.names()) or "none"))
        saved = self._folder.try_load(rest)
        model = self._host.load_model(saved.model if saved else rest)
        self._host.conversation = saved or Conversation(model=rest, extra=self._host.conversation.extra)
        self._say(f"{model}, " + (f"{len(saved.messages)} messages of {rest}" if saved else "a new chat"))

    def _clear(self, rest: str) -> None:  # noqa: ARG002
        self._host.conversation.messages.clear()
        self._say("what was said is forgotten")

    def _help(self, rest: str) -> None:  # noqa: ARG002
        self._say("\n".join(f"  {usage:28}{text}" for usage, text in HELP.items()) + KEYS)


def unquoted(text: str) -> str:
    '''``text`` without the """ around it.'''
    return text.strip().removeprefix('"""').removesuffix('"""').strip("\n")


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise BadRequest(f"{text!r} cannot be read: {error}; close the quotes") from error
