"""Slash commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from beastctl.chat.conversation import ChatFolder, Conversation
from beastctl.chat.slash import HELP, NAMES, Slash
from beastd.errors import ModelNotFound


class FakeHost:
    def __init__(self) -> None:
        self.conversation = Conversation("cub", extra={"truncate": True})
        self.is_verbose = False

    def model_info(self) -> dict[str, Any]:
        return {"parameters": "temperature 0.7", "system": "", "license": "MIT", "details": {"family": "llama"}}

    def load_model(self, name: str) -> str:
        if name == "unknown":
            raise ModelNotFound("no model unknown")
        return f"{name}:latest"


class Chat:
    """A host, its slash commands, and what they said."""

    def __init__(self, state_dir: Path) -> None:
        self.host = FakeHost()
        self.said: list[str] = []
        self._slash = Slash(self.host, ChatFolder(state_dir), self.said.append)

    def run(self, line: str) -> str:
        assert self._slash.run(line)
        return self.said[-1]

    def leaves(self, line: str) -> bool:
        return not self._slash.run(line)


@pytest.fixture
def chat(tmp_path: Path) -> Chat:
    return Chat(tmp_path)


def test_parameters_are_set_with_their_types(chat: Chat) -> None:
    """Numbers are numbers, quoted lists are lists; dashes are fine."""
    chat.run("/set parameter temperature 0.2")
    chat.run("/set parameter top-k 7")
    chat.run('/set parameter stop "the end" x')
    assert chat.host.conversation.options == {"temperature": 0.2, "top_k": 7, "stop": ["the end", "x"]}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("/set parameter heat 1", "no parameter is named 'heat'"),
        ("/set parameter top_k many", "top_k: it takes a whole number"),
        ('/set parameter stop "x', "close the quotes"),
        ("/set parameter", "usage"),
        ("/set format xml", "usage"),
        ("/set", "usage"),
        ("/show everything", "usage"),
        ("/save ../x", "cannot name a chat"),
        ("/load unknown", "no model unknown"),
        ("/load", "usage"),
        ("/dance", "there is no command /dance"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(chat: Chat, line: str, complaint: str) -> None:
    """The chat goes on after a mistake."""
    assert complaint in chat.run(line)
    assert chat.host.conversation == Conversation("cub", extra={"truncate": True})


def test_system_may_have_several_lines(chat: Chat) -> None:
    """Triple quotes are not part of it."""
    chat.run('/set system """\nbe brief\nbe kind\n"""')
    assert chat.host.conversation.system == "be brief\nbe kind"
    assert chat.run("/show system") == "be brief\nbe kind"


def test_format_and_timings_go_on_and_off(chat: Chat) -> None:
    """Each has its way back."""
    chat.run("/set format json")
    assert chat.host.conversation.extra == {"truncate": True, "format": "json"}
    chat.run("/set format none")
    assert chat.host.conversation.extra == {"truncate": True}
    chat.run("/set verbose")
    assert chat.host.is_verbose
    chat.run("/set quiet")
    assert not chat.host.is_verbose


def test_show_tells_of_model_and_chat(chat: Chat) -> None:
    """Parameters of both, and what is missing is said to be."""
    chat.run("/set parameter seed 3")
    assert "temperature 0.7" in chat.run("/show parameters")
    assert "seed" in chat.said[-1]
    assert "llama" in chat.run("/show")
    assert chat.run("/show template") == "no template"


def test_a_saved_chat_is_loaded_before_a_model_of_that_name(chat: Chat) -> None:
    """/load brings back a chat; other names are models, and begin anew with the same settings."""
    chat.host.conversation.add("hi", "hello")
    chat.run("/save talk")
    chat.run("/clear")
    assert chat.host.conversation.messages == []
    assert chat.run("/load talk") == "cub:latest, 2 messages of talk"
    assert len(chat.host.conversation.messages) == 2
    chat.run("/load bear")
    assert chat.host.conversation == Conversation("bear", extra={"truncate": True})


def test_help_names_every_command(chat: Chat) -> None:
    """What can be completed is explained."""
    assert all(name in chat.run("/?") for name in NAMES)
    assert all(usage in chat.run("/help") for usage in HELP)


def test_bye_ends_the_chat(chat: Chat) -> None:
    """And nothing else does."""
    assert chat.leaves("/bye")
    assert not chat.leaves("/byebye")
