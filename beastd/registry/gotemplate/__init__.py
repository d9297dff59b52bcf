"""Ollama's chat templates, which are Go's, translated into Jinja that prints the same."""

from __future__ import annotations

from beastd.errors import BadModel
from beastd.registry.gotemplate.frames import chat_frame, turns_frame
from beastd.registry.gotemplate.lexer import tokens
from beastd.registry.gotemplate.parser import parse
from beastd.registry.gotemplate.syntax import Origin
from beastd.registry.gotemplate.translator import check_length, translate
from beastd.registry.gotemplate.turns import RESPONSE, before_response, names
from beastd.registry.gotemplate.values import CHAT_ROOT, TURN_ROOT

MAX_TEMPLATE_CHARS = 256 * 1024


def to_jinja(text: str, what: str = "the template", first_line: int = 1) -> str:
    """The Jinja chat template that renders as Ollama executes this Go template (``template.go: Execute``).

    A template that mentions ``.Messages`` gets them all; another one is executed turn by turn. An answer that was
    begun is left open by the engine. ``what`` and ``first_line`` say, for messages, where the template stands. Raises
    BadModel for what Go would refuse, and Unsupported for what has no equal in Jinja, naming line and construct.
    """
    if len(text) > MAX_TEMPLATE_CHARS:
        raise BadModel(f"{what}: the template has {len(text)} characters; at most {MAX_TEMPLATE_CHARS} are taken")
    origin = Origin(what, first_line)
    try:
        jinja = _translated(text, origin)
    except BadModel as error:
        if "{%" not in text:
            raise
        raise BadModel(f"{error.message}; it looks like Jinja, which a YAML description takes as `template`") from error
    check_length(len(jinja), origin)
    return jinja


def _translated(text: str, origin: Origin) -> str:
    statements = parse(tokens(text, origin), origin)
    mentioned = set(names(statements))
    if "messages" in mentioned:
        return chat_frame(translate(statements, CHAT_ROOT, origin))
    if "response" not in mentioned:
        statements = (*statements, RESPONSE)
    last_turn = before_response(statements, origin)
    return turns_frame(translate(statements, TURN_ROOT, origin), translate(last_turn, TURN_ROOT, origin))
