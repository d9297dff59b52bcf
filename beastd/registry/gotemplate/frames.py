"""The Jinja around a translated template: what Ollama does with the messages before a template sees them."""

from __future__ import annotations

from collections.abc import Sequence

_INDENT = "    "

_COLLATED = """\
{%- set chat = namespace(messages=messages, role='', is_collated=true) %}
{%- set chat.system = messages | selectattr('role', 'equalto', 'system') | map(attribute='content') | join('\\n\\n') %}
{%- for message in messages %}
    {%- if message.role == chat.role and message.role != 'tool' %}
        {%- set chat.is_collated = false %}
    {%- endif %}
    {%- set chat.role = message.role %}
{%- endfor %}
{%- if not chat.is_collated %}
    {%- set chat.messages = [] %}
    {%- for message in messages %}
        {%- set last = chat.messages[-1] if chat.messages else none %}
        {%- if last and last.role == message.role and message.role != 'tool' %}
            {%- set merged = dict(last, content=last.content ~ '\\n\\n' ~ message.content) %}
            {%- set chat.messages = chat.messages[:-1] + [merged] %}
        {%- else %}
            {%- set chat.messages = chat.messages + [message] %}
        {%- endif %}
    {%- endfor %}
{%- endif %}"""
"""Messages of one role in a row become one, but not a tool's (``collate``); most chats have none such."""

_TURNS = """\
{%- set turn = namespace(system='', prompt='', response='') %}
{%- for message in chat.messages %}
    {%- if message.role == 'tool' or message.tool_calls %}
        {{- raise_exception('it has no place for calls of tools and their answers') }}
    {%- endif %}
    {%- if turn.response and message.role == 'user' or (turn.prompt or turn.response) and message.role == 'system' %}"""
_NEXT_TURN = """\
        {%- set turn.system = '' %}
        {%- set turn.prompt = '' %}
        {%- set turn.response = '' %}
    {%- endif %}
    {%- if message.role == 'system' %}
        {%- set turn.system = message.content %}
    {%- elif message.role == 'user' %}
        {%- set turn.prompt = message.content %}
    {%- else %}
        {%- set turn.response = message.content %}
    {%- endif %}
{%- endfor %}"""
_VARIABLES = "{%- set v = namespace() %}"
"""Go's variables: those set inside of a Jinja loop would end with it."""


def chat_frame(body: Sequence[str]) -> str:
    """For a template that goes through the messages itself."""
    return "\n".join((_COLLATED, _VARIABLES, *body))


def turns_frame(turn: Sequence[str], last_turn: Sequence[str]) -> str:
    """For a template that writes one turn, executed for each; the last stops at the answer."""
    indented = (2 * _INDENT + line for line in turn)
    return "\n".join((_COLLATED, _VARIABLES, _TURNS, *indented, _NEXT_TURN, *last_turn))
