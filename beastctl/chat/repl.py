"""The loop of the chat: read a line, answer it or obey it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory

from beastctl import ask, daemon, render
from beastctl.chat.conversation import ChatFolder, Conversation
from beastctl.chat.slash import NAMES, SETTINGS, Slash, unquoted
from beastctl.client import Client
from beastctl.commands.show import PARTS
from beastctl.complete import model_names
from beastctl.live import quiet_keyboard
from beastctl.options import OPTIONS
from beastd.errors import BeastError
from beastd.paths import Paths, ensure_dir

WORDS: Mapping[str, Iterable[str]] = {
    "": NAMES,
    "/set": SETTINGS,
    "/set parameter": OPTIONS,
    "/set format": ("json", "none"),
    "/show": PARTS,
}
"""What is before the cursor → what may come next."""


class SlashCompleter(Completer):
    """Completes slash commands, their words, parameters, saved chats and models."""

    def __init__(self, folder: ChatFolder) -> None:
        self._folder = folder

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:  # noqa: ARG002
        """Words that may stand at the cursor."""
        before = document.text_before_cursor
        if before.startswith("/"):
            *earlier, word = before.split(" ")
            for candidate in self._candidates(earlier, word):
                if candidate.startswith(word):
                    yield Completion(candidate, start_position=-len(word))

    def _candidates(self, earlier: list[str], word: str) -> Iterable[str]:
        before = " ".join(earlier)
        if before == "/save":
            return self._folder.names()
        if before == "/load":
            return [*self._folder.names(), *model_names(word)]
        return WORDS.get(before, ())


def is_open(text: str) -> bool:
    '''The text has begun a """ block that it has not ended, so Enter means a new line.'''
    begins = text.lstrip().startswith('"""') or text.startswith('/set system """')
    return begins and text.count('"""') % 2 == 1


class Repl:
    """One chat at the terminal, from the model's load to /bye."""

    def __init__(self, conversation: Conversation, paths: Paths, *, is_verbose: bool, is_plain: bool) -> None:
        self.conversation = conversation
        self.is_verbose = is_verbose
        self._is_plain = is_plain
        self._paths = paths
        folder = ChatFolder(paths.state_dir)
        self._slash = Slash(self, folder, print)
        self._session: PromptSession[str] = PromptSession(
            history=FileHistory(str(ensure_dir(paths.state_dir) / "history")),
            completer=SlashCompleter(folder),
            complete_while_typing=False,
            multiline=Condition(lambda: is_open(get_app().current_buffer.text)),
            prompt_continuation="... ",
            enable_open_in_editor=True,
            placeholder=FormattedText([("fg:ansibrightblack", "Send a message (/? for help)")]),
        )

    def run(self) -> None:
        """Load the model, then answer until Ctrl-D or /bye."""
        render.say(f"{self.load_model(self.conversation.model)} is ready; /? helps, Ctrl-D leaves")
        is_over = False
        while not is_over:
            try:
                is_over = self._obey(self._session.prompt(">>> ").strip())
            except KeyboardInterrupt:
                continue
            except EOFError:
                is_over = True

    def _obey(self, line: str) -> bool:
        """Answer a line or run its command; True when the chat is over."""
        if line.startswith("/"):
            return not self._slash.run(line)
        if line:
            self._answer(unquoted(line) if line.startswith('"""') else line)
        return False

    def model_info(self) -> dict[str, Any]:
        """What /api/show says of the chat's model."""
        return self._client().post("/api/show", {"model": self.conversation.model})

    def load_model(self, name: str) -> str:
        """Have a model loaded, showing a bar; what to call it. Ctrl-C gives up, with KeyboardInterrupt."""
        with quiet_keyboard():
            answer = ask.load(self._client(), name, self.conversation.extra.get("keep_alive"))
        if answer.is_interrupted:
            raise KeyboardInterrupt
        return str(answer.final["model"] or "the built-in model")

    def _answer(self, question: str) -> None:
        request = self.conversation.request(question)
        try:
            with ExitStack() as until_done:
                is_plain = self._is_plain or "format" in request
                make_screen = ask.plain_screen if is_plain else lambda: ask.live_screen(until_done)
                answer = ask.ask(self._client(), "/api/chat", request, make_screen)
        except BeastError as error:
            render.say(error.message)
            return
        self.conversation.add(question, answer.text)
        if self.is_verbose and answer.final:
            print("\n" + render.timings(answer.final), file=sys.stderr)
        print()

    def _client(self) -> Client:
        return daemon.ensure_running(self._paths, render.say)
