"""Turns a chat into the text a model was trained on, and shortens a chat that is too long."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from msgspec import structs

from beastd.contract import Message
from beastd.engine.detokenizer import THINK_START
from beastd.engine.metering import LimitExceeded, Meter
from beastd.engine.sandbox import Refusal, Sandbox, strftime_at
from beastd.errors import BadModel, BadRequest, ContextExceeded

PLAIN_TEMPLATE = "{{ messages | map(attribute='content') | join('\n') }}"
"""For a model whose file has no chat template: the contents, a line each, and nothing about roles.

Such a model was not trained on any chat format, so none is guessed; it continues the text.
"""

MAX_SOURCE_CHARS = 128 * 1024
_MAX_DETAIL_CHARS = 500
_UNITS = 2**20
"""Work every rendering may do, in a Meter's units; each character of the chat adds some."""
_UNITS_PER_CHAR = 32
_CONTINUE_HERE = "\ue000\ue001continue\ue001\ue000"
"""Marks the end of an unfinished answer in the rendered text: private-use characters, no whitespace to strip."""
_THINKING = re.compile(r"\benable_thinking\b|<think>")


class ChatTemplate:
    """A compiled chat template: Jinja as Hugging Face's ``apply_chat_template`` runs it, in our sandbox."""

    def __init__(self, source: str, *, bos: str, eos: str, fault: type[BadModel] | type[BadRequest] = BadModel) -> None:
        """Compile; ``bos`` and ``eos`` are the texts of those tokens.

        Raises ``fault`` for a broken template: ``BadModel`` where it is the model's, ``BadRequest`` where a request
        brought it.
        """
        if len(source) > MAX_SOURCE_CHARS:
            raise fault(f"the chat template has {len(source)} characters; at most {MAX_SOURCE_CHARS} are taken")
        self.knows_thinking = _THINKING.search(source) is not None
        """The template mentions thinking: answers may begin with a thought."""
        self._fault = fault
        self._tokens = {"bos_token": bos, "eos_token": eos}
        self._sandbox = Sandbox(Meter(_UNITS))
        with _errors_of("compiled", fault):
            self._template = self._sandbox.compile_metered(source)

    def render(
        self, messages: Sequence[Message], *, think: bool | str | None = None, now: datetime | None = None
    ) -> str:
        """The prompt for these messages.

        It ends where the answer begins; a last message of the assistant is continued instead, as with llama-server's
        prefill. ``think`` None leaves thinking to the template; a word is the effort asked for. ``now`` is the time
        for templates that write the date. Raises ``BadRequest`` if the template refuses the chat, its ``fault`` if
        it is broken or asks for more work than rendering may take.
        """
        variables = {"tools": None, **self._tokens, **_thinking(think), **_clock(now or datetime.now())}
        if messages and messages[-1].role == "assistant" and not messages[-1].tool_calls:
            return self._continued(messages, variables)
        return self._render(messages, variables, add_generation_prompt=True)

    def _continued(self, messages: Sequence[Message], variables: dict[str, Any]) -> str:
        """The chat up to the end of its last message, which is unfinished: the thought if that is all there is."""
        *before, last = messages
        if last.content or not last.thinking:
            marked = structs.replace(last, content=last.content + _CONTINUE_HERE)
        else:
            marked = structs.replace(last, thinking=last.thinking + _CONTINUE_HERE)
        rendered = self._render([*before, marked], variables, add_generation_prompt=False)
        text, mark, _ = rendered.rpartition(_CONTINUE_HERE)
        if mark:
            return text
        return self._render(before, variables, add_generation_prompt=True) + last.content

    def _render(self, messages: Sequence[Message], variables: dict[str, Any], *, add_generation_prompt: bool) -> str:
        chat = [_as_dict(message) for message in messages]
        n_chars = sum(len(str(value)) for message in chat for value in message.values())
        self._sandbox.meter = Meter(_UNITS + _UNITS_PER_CHAR * n_chars)
        with _errors_of("rendered", self._fault):
            return self._template.render(messages=chat, add_generation_prompt=add_generation_prompt, **variables)


def opens_thinking(prompt: str) -> bool:
    """Whether the template itself opened the thought, so that the answer begins inside of it."""
    return prompt.rstrip().endswith(THINK_START)


@contextmanager
def _errors_of(done: str, fault: type[BadModel] | type[BadRequest]) -> Iterator[None]:
    """Translate whatever a template can raise: it is foreign code, so that is anything."""
    try:
        yield
    except Refusal as error:
        said = str(error)[:_MAX_DETAIL_CHARS]
        raise BadRequest(f"the chat template refuses these messages: {said}") from error
    except Exception as error:
        detail = str(error) if isinstance(error, LimitExceeded) else f"{type(error).__name__}: {error}"
        remedy = "give the model another template" if fault is BadModel else "mend the request's template"
        raise fault(f"the chat template cannot be {done}: {detail[:_MAX_DETAIL_CHARS]}; {remedy}") from error


def _thinking(think: bool | str | None) -> dict[str, Any]:
    """The variables by which templates are told about thinking; some say ``thinking`` for ``enable_thinking``."""
    if think is None:
        return {}
    switches = {"enable_thinking": bool(think), "thinking": bool(think)}
    return {**switches, "reasoning_effort": think} if isinstance(think, str) else switches


def _clock(now: datetime) -> dict[str, Any]:
    """The time, for templates that write it; Firefunction's wants it, and its functions, as text."""
    return {"strftime_now": strftime_at(now), "datetime": f"{now:%b %d %Y %H:%M:%S}", "functions": ""}


def _as_dict(message: Message) -> dict[str, Any]:
    """The message as templates know it: absent parts are absent keys."""
    parts: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.thinking:
        parts |= {"reasoning_content": message.thinking, "thinking": message.thinking}
    if message.tool_calls:
        parts["tool_calls"] = message.tool_calls
    if message.tool_name:
        parts["name"] = message.tool_name
    if message.tool_call_id:
        parts["tool_call_id"] = message.tool_call_id
    return parts


def fit(
    messages: Sequence[Message], n_limit: int, count: Callable[[Sequence[Message]], int]
) -> tuple[list[Message], int]:
    """The chat without its oldest turns, so that ``count`` (tokens of its prompt) is at most ``n_limit``.

    Returns the messages kept, and how many were dropped: as few turns as possible. A turn is a user's message and
    all up to the next one; system messages and the last turn always stay. Takes O(log turns) counts. Raises
    ``ContextExceeded`` with both numbers if the last turn alone is too long.
    """
    turns = _turns(messages)
    least, most = 0, turns[-1]
    n_tokens = count(messages)
    if n_tokens <= n_limit:
        return list(messages), 0
    if most == 0 or (n_tokens := count(_from_turn(messages, turns, most))) > n_limit:
        raise ContextExceeded(
            f"the prompt has {n_tokens} tokens even with the last message alone, and only {n_limit} fit the context:"
            " shorten it or ask for a larger num_ctx"
        )
    while most - least > 1:
        middle = (least + most) // 2
        if count(_from_turn(messages, turns, middle)) <= n_limit:
            most = middle
        else:
            least = middle
    kept = _from_turn(messages, turns, most)
    return kept, len(messages) - len(kept)


def _turns(messages: Sequence[Message]) -> list[int]:
    """For each message the number of its turn. What comes before the first user's message is turn 0."""
    turns: list[int] = []
    turn = 0
    has_begun = False
    for message in messages:
        turn += has_begun and message.role == "user"
        has_begun |= message.role != "system"
        turns.append(turn)
    return turns


def _from_turn(messages: Sequence[Message], turns: Sequence[int], first: int) -> list[Message]:
    """The messages of turn ``first`` and later, and all system messages."""
    return [message for message, turn in zip(messages, turns, strict=True) if turn >= first or message.role == "system"]
