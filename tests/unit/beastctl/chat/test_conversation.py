"""A chat and its life on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beastctl.chat.conversation import ChatFolder, Conversation
from beastd.errors import BadRequest


def test_a_request_carries_settings_and_all_that_was_said() -> None:
    """System message first, then the turns, then the question."""
    chat = Conversation("cub", system="be brief", options={"seed": 1}, extra={"format": "json", "truncate": True})
    chat.add("hi", "hello")
    assert chat.request("more") == {
        "model": "cub",
        "stream": True,
        "format": "json",
        "truncate": True,
        "options": {"seed": 1},
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "hello"},
            {"role": "user", "content": "more"},
        ],
    }


def test_a_question_without_an_answer_is_forgotten() -> None:
    """The next one does not follow an unanswered one."""
    chat = Conversation("cub")
    chat.add("hi", "")
    assert chat.messages == []


def test_a_saved_chat_comes_back_as_it_was(tmp_path: Path) -> None:
    """All of it: model, settings, messages; saving again replaces it and leaves nothing else behind."""
    folder = ChatFolder(tmp_path)
    chat = Conversation("cub@q8_0", "s", {"stop": ["x"]}, {"truncate": True}, [{"role": "user", "content": "ü"}])
    folder.save("one", Conversation("other"))
    folder.save("one", chat)
    assert folder.try_load("one") == chat
    assert folder.names() == ["one"]
    assert [path.name for path in (tmp_path / "chats").iterdir()] == ["one.json"]


@given(st.text())
def test_a_name_is_refused_or_stays_in_the_folder(name: str) -> None:
    """No name reaches another place."""
    folder = ChatFolder(Path("/nowhere"))
    assert folder.try_load(name) is None
    for bad in (f"../{name}", f"/{name}", f"{name}/x", f".{name}", ""):
        with pytest.raises(BadRequest, match="cannot name a chat"):
            folder.save(bad, Conversation("cub"))


@pytest.mark.parametrize("content", ["{", "[]", '{"model": "cub", "colour": 1}'])
def test_a_file_that_is_no_chat_is_named(tmp_path: Path, content: str) -> None:
    """A broken file is an error, not a crash."""
    ChatFolder(tmp_path).save("one", Conversation("cub")).write_text(content)
    with pytest.raises(BadRequest, match=r"one\.json is not a saved chat"):
        ChatFolder(tmp_path).try_load("one")
