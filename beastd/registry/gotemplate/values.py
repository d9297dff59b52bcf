"""What a template's values are: the data Ollama gives to a template, as Jinja expressions whose kind is known.

The fields are those of ``template/template.go`` and ``api/types.go``; a value's kind says how Go would print it,
which differs from Python for everything but text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What a value is; the text says it to people."""

    ROOT = "the template's data"
    TEXT = "a text"
    ASCII = "a text of ASCII characters"
    NUMBER = "a number"
    BYTES = "a text's length in bytes"
    TRUTH = "a truth value"
    NIL = "nil"
    ANY = "a value of JSON"
    MIXED = "a value of one kind or another"
    LIST = "a list"
    MAP = "a JSON object"
    MESSAGES = "the list of messages"
    MESSAGE = "a message"
    CALLS = "a list of tool calls"
    CALL = "a tool call"
    CALL_FUNCTION = "a called function"
    TOOLS = "the list of tools"
    TOOL = "a tool"
    TOOL_FUNCTION = "a tool's function"
    PARAMETERS = "a function's parameters"
    PROPERTIES = "the properties of parameters"
    PROPERTY = "a property"


@dataclass(frozen=True, slots=True)
class Value:
    """A Jinja expression, which can stand in any other one, and what it gives."""

    jinja: str
    kind: Kind
    constant: str | None = None
    """The text itself, where the template says it."""
    length: str | None = None
    """The expression of its length, where that is had without making it."""


ELEMENTS = {Kind.MESSAGES: Kind.MESSAGE, Kind.CALLS: Kind.CALL, Kind.TOOLS: Kind.TOOL, Kind.LIST: Kind.ANY}
"""A list's kind → its elements'."""
ENTRIES = {Kind.MAP: Kind.ANY, Kind.PROPERTIES: Kind.PROPERTY}
"""A map's kind → its values'."""
TEXTS = frozenset({Kind.TEXT, Kind.ASCII})

_ALWAYS = {
    # Ollama's ThinkValue: a word is a level, plain true the medium one
    "Think": Value("(enable_thinking | default(false))", Kind.TRUTH),
    "IsThinkSet": Value("(enable_thinking is defined)", Kind.TRUTH),
    "ThinkLevel": Value(
        "(reasoning_effort | default('medium' if enable_thinking | default(false) else ''))", Kind.TEXT
    ),
}
CHAT_ROOT = _ALWAYS | {
    "System": Value("chat.system", Kind.TEXT),
    "Messages": Value("chat.messages", Kind.MESSAGES),
    "Tools": Value("(tools or [])", Kind.TOOLS),
    "Response": Value("''", Kind.TEXT),
}
"""``.`` of a template that goes through the messages itself; Jinja's ``chat`` is set up by ``frames``."""
TURN_ROOT = _ALWAYS | {
    "System": Value("turn.system", Kind.TEXT),
    "Prompt": Value("turn.prompt", Kind.TEXT),
    "Response": Value("turn.response", Kind.TEXT),
}
"""``.`` of a template that writes one turn."""
ONCE_KNOWN = ("Prompt", "Messages", "Tools", "Suffix", "First", "Query", "Document", "Instruction", "Context", "Images")
"""Fields that some version of Ollama passes in some case; where there are none, they are nil."""

FIELDS: dict[Kind, dict[str, tuple[str, Kind]]] = {
    Kind.MESSAGE: {
        "Role": ("{}.role", Kind.ASCII),
        "Content": ("{}.content", Kind.TEXT),
        "Thinking": ("({}.thinking or '')", Kind.TEXT),
        "Images": ("({}.images or [])", Kind.LIST),
        "ToolCalls": ("({}.tool_calls or [])", Kind.CALLS),
        "ToolName": ("({}.name or '')", Kind.TEXT),
        "ToolCallID": ("({}.tool_call_id or '')", Kind.TEXT),
    },
    Kind.CALL: {"ID": ("({}.id or '')", Kind.TEXT), "Function": ("{}.function", Kind.CALL_FUNCTION)},
    Kind.CALL_FUNCTION: {
        "Index": ("({}['index'] or 0)", Kind.NUMBER),
        "Name": ("({}.name or '')", Kind.TEXT),
        "Arguments": ("({}.arguments or {{}})", Kind.MAP),
    },
    Kind.TOOL: {"Type": ("({}.type or '')", Kind.TEXT), "Function": ("{}.function", Kind.TOOL_FUNCTION)},
    Kind.TOOL_FUNCTION: {
        "Name": ("({}.name or '')", Kind.TEXT),
        "Description": ("({}.description or '')", Kind.TEXT),
        "Parameters": ("{}.parameters", Kind.PARAMETERS),
    },
    Kind.PARAMETERS: {
        "Type": ("({}.type or '')", Kind.TEXT),
        "Required": ("({}.required or [])", Kind.LIST),
        "Properties": ("({}.properties or {{}})", Kind.PROPERTIES),
    },
    Kind.PROPERTY: {
        "Type": ("([{0}.type] if {0}.type is string else {0}.type)", Kind.LIST),
        "Description": ("({}.description or '')", Kind.TEXT),
        "Enum": ("({}.enum or [])", Kind.LIST),
    },
}
"""A structure's kind → its fields: how Beast's engine knows them, and their kinds."""

_AS_JSON = frozenset({Kind.MAP, Kind.TOOLS, Kind.TOOL, Kind.TOOL_FUNCTION, Kind.PROPERTIES})
"""What has a String method in Ollama that writes JSON."""
_SIMPLE = frozenset({*TEXTS, Kind.NUMBER, Kind.TRUTH, Kind.ANY, Kind.NIL})
_UNSAFE = re.compile(r"[\\'\x00-\x1f\x7f-\xa0\u2028\u2029\ud800-\udfff\ufeff]")
_SHORT = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def quoted(text: str) -> str:
    """A Jinja string constant."""

    def escape(match: re.Match[str]) -> str:
        return _SHORT.get(match[0], f"\\u{ord(match[0]):04x}")

    return f"'{_UNSAFE.sub(escape, text)}'"


def printed(value: Value) -> str | None:
    """The expression of the text Go prints for the value; None if Jinja cannot make it."""
    match value.kind:
        case Kind.TEXT | Kind.ASCII | Kind.NUMBER:
            return value.jinja
        case Kind.TRUTH:
            return f"('true' if {value.jinja} else 'false')"
        case Kind.NIL:
            return "'<no value>'"
        case Kind.ANY:
            return _printed_any(value.jinja)
    return as_json(value) if value.kind in _AS_JSON else None


def _printed_any(jinja: str) -> str:
    """For JSON's values: Go prints its numbers, which are floating, with an exponent from a million on."""
    return (
        f"({jinja} if {jinja} is string else 'true' if {jinja} is sameas true else 'false' if {jinja} is sameas false"
        f" else '<no value>' if {jinja} is none or {jinja} is not defined"
        f" else {jinja} if {jinja} is integer and -1000000 < {jinja} < 1000000"
        " else raise_exception('a tool call has an argument that this template cannot print'))"
    )


def as_json(value: Value) -> str | None:
    """The expression of the JSON Go writes for the value, or None: sorted, without blanks, safe inside of HTML."""
    if value.kind not in _SIMPLE | _AS_JSON | {Kind.LIST}:
        return None
    is_sorted = value.kind in (Kind.MAP, Kind.ANY)
    jinja = f"({value.jinja} | tojson(separators=(',', ':'), sort_keys={'true' if is_sorted else 'false'})"
    for unsafe in "<>&\u2028\u2029":
        jinja += f" | replace({quoted(unsafe)}, '\\\\u{ord(unsafe):04x}')"
    return jinja + ")"
