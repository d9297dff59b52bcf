"""sandbox: a hostile chat template ends with an error, and takes little time and memory until then."""

from __future__ import annotations

import contextlib
import tracemalloc

import pytest

from beastd.contract import Message
from beastd.engine.prompt import ChatTemplate
from beastd.errors import BadModel

CHAT = [Message(role="user", content="hello " * 20)]

SIXTY = "{% for i in range(60) %}"
FOR_EVER = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "nested loops over text": "{% set s = 'a' * 90000 %}{% for a in s %}{% for b in s %}{% endfor %}{% endfor %}",
    "filtered loop": "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
    "recursive loop": "{% for a in [1, 1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
    "macro without end": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "branching macro": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "block that contains itself": "{% block b %}{{ self.b() }}{% endblock %}",
    "lists of lists printed": "{% set n = namespace(x=[1]) %}" + SIXTY + "{% set n.x = [n.x, n.x] %}{% endfor %}",
    "dicts of dicts": "{% set n = namespace(x=1) %}" + SIXTY + "{% set n.x = {1: n.x, 2: n.x} %}{% endfor %}",
    "tuples compared": "{% set n = namespace(x=1, y=1) %}{% for i in range(60) %}{% set n.x = (n.x, n.x) %}"
    "{% set n.y = (n.y, n.y) %}{% endfor %}{{ n.x == n.y }}",
    "dict()": "{% set n = namespace(x=1) %}" + SIXTY + "{% set n.x = dict(a=n.x, b=n.x) %}{% endfor %}",
    "power": "{{ 9 ** 9 ** 9 ** 9 }}",
    "long products": "{{ " + "9 ** 80 * " * 9 + "1 }}",
    "squares": "{% set n = namespace(x=9) %}" + SIXTY + "{% set n.x = n.x * n.x %}{% endfor %}{{ n.x }}",
}
TOO_MUCH = {
    "text multiplied": "{{ 'a' * 10**9 }}",
    "text multiplied from the left": "{{ 10**9 * 'a' }}",
    "list multiplied": "{% set x = [1] * 10**9 %}",
    "wide %": "{{ '%1000000000d' % 1 }}",
    "wide format": "{{ '{:>1000000000}'.format(1) }}",
    "wide nested format": "{{ '{:>{}}'.format(1, 1000000000) }}",
    "many fields": "{% set s = 'a' * 500000 %}{{ ('{0}' * 100000).format(s) }}",
    "format_map": "{{ '{a:>1000000000}'.format_map({'a': 1}) }}",
    "format filter": "{{ '%1000000000d' | format(1) }}",
    "center": "{{ 'a' | center(10**9) }}",
    "center method": "{{ 'a'.center(10**9) }}",
    "indent": "{{ 'a\nb' | indent(10**9) }}",
    "replace": "{% set s = 'a' * 500000 %}{{ s | replace('a', s) }}",
    "replace method": "{% set s = 'a' * 500000 %}{{ s.replace('a', s) }}",
    "join": "{% set s = 'a' * 500000 %}{{ range(90000) | join(s) }}",
    "join method": "{% set s = 'a' * 500000 %}{{ s.join('a' * 90000) }}",
    "repeated text joined": "{% set s = 'a' * 500000 %}{{ ([s] * 90000) | join }}",
    "repeated text printed": "{% set s = 'a' * 500000 %}{{ [s] * 90000 }}",
    "views printed": "{% set s = 'a' * 500000 %}{{ {1: [s] * 90000}.values() }}",
    "text doubled with +": "{% set n = namespace(x='ab') %}" + SIXTY + "{% set n.x = n.x + n.x %}{% endfor %}",
    "text doubled with ~": "{% set n = namespace(x='ab') %}" + SIXTY + "{% set n.x = n.x ~ n.x %}{% endfor %}",
    "text doubled in a block": "{% set n = namespace(x='ab') %}{% for i in range(60) %}"
    "{% set y %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = y %}{% endfor %}",
    "text doubled by a macro": "{% macro m(x) %}{{ x }}{{ x }}{% endmacro %}{% set n = namespace(x='ab') %}"
    "{% for i in range(60) %}{% set n.x = m(n.x) %}{% endfor %}",
    "many copies": "{% set s = 'a' * 500000 %}" + "".join("{% set " + f"s{i}" + " = s[1:] %}" for i in range(500)),
    "printed again and again": "{% set s = 'a' * 500000 %}{% for i in range(90000) %}{{ s }}{% endfor %}",
    "indented json": "{{ messages | tojson(indent=10**9) }}",
    "text indent of json": "{% set s = 'a' * 500000 %}{{ messages | tojson(indent=s) }}",
    "json separators": "{% set s = 'a' * 500000 %}{{ range(9000) | list | tojson(separators=(s, s)) }}",
    "deep json": "{% set n = namespace(x=1) %}{% for i in range(900) %}{% set n.x = [n.x] %}{% endfor %}"
    "{{ ([n.x] * 90) | tojson(indent=32) }}",
    "huge range": "{% for i in range(10**9) %}{% endfor %}",
    "rounding": "{{ 5 | round(-(10**9)) }}",
    "lorem ipsum": "{{ lipsum(10**9) }}",
    "batches": "{{ [1] | batch(10**9, 1) | list }}",
    "long date": "{{ strftime_now('%1000000000d') }}",
    "sum of lists": "{{ ([[1] * 900] * 100) | sum(start=[]) }}",
}
ESCAPES = {
    "class": "{{ ''.__class__ }}",
    "class by item": "{{ ''['__class__'] }}",
    "class by filter": "{{ '' | attr('__class__') }}",
    "class by map": "{{ ['a'] | map(attribute='__class__') | first }}",
    "class by format": "{{ '{0.__class__}'.format(1) }}",
    "method resolution order": "{{ dict.mro() }}",
    "keys from dict": "{{ dict.fromkeys(range(9)) }}",
    "globals": "{{ raise_exception.__globals__ }}",
    "undeclared closure": "{{ messages.append.__self__ }}",
    "environment": "{{ self._TemplateReference__context }}",
    "format of a function": "{{ '{0.__globals__}'.format(raise_exception) }}",
    "encode": "{{ 'a'.encode('idna') }}",
}
BROKEN = {
    "syntax": "{% if %}",
    "unknown filter": "{{ 1 | nonsense }}",
    "unknown tag": "{% do 1 %}",
    "undefined": "{{ nothing.at_all }}",
    "division": "{{ 1 / 0 }}",
    "wrong type": "{{ 1 + 'a' }}",
    "includes": "{% include 'other' %}",
    "deep parentheses": "{{ " + "(" * 5000 + ")" * 5000 + " }}",
    "long sum": "{{ " + "1+" * 20000 + "1 }}",
    "deep lists": "{{ " + "[" * 5000 + "]" * 5000 + " }}",
    "deep conditions": "{% if 1 %}" * 200 + "{% endif %}" * 200,
    "too long": " " * 300_000,
}


def fails(source: str) -> None:
    with pytest.raises(BadModel):
        ChatTemplate(source, bos="", eos="").render(CHAT)


@pytest.mark.parametrize("source", FOR_EVER.values(), ids=FOR_EVER.keys())
def test_endless_work_ends(source: str) -> None:
    """Whatever would take hours is stopped by the meter."""
    fails(source)


@pytest.mark.parametrize("source", TOO_MUCH.values(), ids=TOO_MUCH.keys())
def test_memory_stays_bounded(source: str) -> None:
    """Whatever would take gigabytes is refused before it is made."""
    tracemalloc.start()
    try:
        fails(source)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 64 * 2**20


@pytest.mark.parametrize("source", ESCAPES.values(), ids=ESCAPES.keys())
def test_python_objects_are_out_of_reach(source: str) -> None:
    """Reaching for what is not on the list finds nothing, or is an error."""
    with contextlib.suppress(BadModel):
        assert ChatTemplate(source, bos="", eos="").render(CHAT) == ""


@pytest.mark.parametrize("source", BROKEN.values(), ids=BROKEN.keys())
def test_broken_templates_are_the_models_fault(source: str) -> None:
    """Syntax errors, undefined names and failing operations are one typed error."""
    fails(source)


def test_objects_do_not_tell_where_they_are() -> None:
    """A namespace prints without its values."""
    template = ChatTemplate("{% set n = namespace(x=1) %}{{ n }}", bos="", eos="")
    assert template.render(CHAT) == "<namespace>"


def test_a_template_serves_again_after_it_was_stopped() -> None:
    """Every rendering starts with a full meter."""
    source = (
        "{% if messages | length > 1 %}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    )
    template = ChatTemplate(source + "{% endif %}ok", bos="", eos="")
    with pytest.raises(BadModel, match=r"loops too often|processor time"):
        template.render(CHAT * 2)
    assert template.render(CHAT) == "ok"


def test_long_chats_get_more_work() -> None:
    """What a rendering may do grows with the chat: templates that build up text of megabytes are fine."""
    source = (
        "{% set n = namespace(x='') %}{% for m in messages %}{% set n.x = n.x + m.content + '|' %}{% endfor %}{{ n.x }}"
    )
    chat = [Message(role="user", content=f"{i} " * 50_000) for i in range(10)]
    assert ChatTemplate(source, bos="", eos="").render(chat) == "".join(message.content + "|" for message in chat)
