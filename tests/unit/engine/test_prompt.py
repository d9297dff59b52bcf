"""prompt: templates render as Hugging Face's do; a chat too long loses its oldest turns, as few as possible."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beastd.contract import Message
from beastd.engine.prompt import MAX_SOURCE_CHARS, PLAIN_TEMPLATE, ChatTemplate, fit, opens_thinking
from beastd.errors import BadModel, BadRequest, ContextExceeded

CHATML = """{%- for m in messages %}
    {{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""
THINKER = """{%- for m in messages %}
    {{- '<' ~ m.role ~ '>' }}
    {%- if m.reasoning_content %}{{- '<think>' + m.reasoning_content + '</think>' }}{% endif %}
    {{- m.content | trim }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<assistant>' }}{% endif %}
"""
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def chat(*contents: str, roles: Sequence[str] = ("user", "assistant")) -> list[Message]:
    return [Message(role=roles[i % len(roles)], content=content) for i, content in enumerate(contents)]


def render(source: str, messages: Sequence[Message], think: bool | str | None = None) -> str:
    return ChatTemplate(source, bos="<s>", eos="</s>").render(messages, think=think, now=NOW)


# --- rendering ---


def test_the_prompt_ends_where_the_answer_begins() -> None:
    """A generation prompt follows the user's message."""
    expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert render(CHATML, chat("Be brief.", "Hi", roles=("system", "user"))) == expected


def test_an_unfinished_answer_is_continued() -> None:
    """A last message of the assistant stays open, with its whitespace; no other turn is opened."""
    assert render(CHATML, chat("Hi", "Well, ")).endswith("<|im_start|>assistant\nWell, ")
    assert render(THINKER, chat("Hi", " Well, ")) == "<user>Hi<assistant>Well, "


def test_an_empty_answer_is_continued_from_its_start() -> None:
    """Nothing said yet means nothing after the opening."""
    assert render(CHATML, chat("Hi", "")).endswith("<|im_start|>assistant\n")


def test_an_unfinished_thought_is_continued() -> None:
    """A last message that holds a thought alone is continued inside of the thought."""
    messages = [*chat("Hi"), Message(role="assistant", thinking="Hm, ")]
    assert render(THINKER, messages) == "<user>Hi<assistant><think>Hm, "


def test_a_template_that_drops_answers_still_continues_them() -> None:
    """The unfinished answer then follows the generation prompt."""
    questions = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    source = questions + "{% if add_generation_prompt %}A:{% endif %}"
    assert render(source, chat("Hi", "Well")) == "HiA:Well"


def test_templates_know_tokens_and_date() -> None:
    """bos_token, eos_token and strftime_now are there; tools are none."""
    source = "{{ bos_token }}{{ eos_token }}{{ strftime_now('%d %b %Y') }}{{ tools }}{% for t in tools %}{% endfor %}"
    assert render(source, chat("Hi")) == "<s></s>02 Jan 2026None"


@pytest.mark.parametrize(
    ("think", "expected"),
    [(None, "unset,unset,unset"), (True, "True,True,unset"), (False, "False,False,unset"), ("low", "True,True,low")],
)
def test_templates_are_told_about_thinking(think: bool | str | None, expected: str) -> None:
    """Nothing when nothing was asked; a level is an effort, too."""
    names = ("enable_thinking", "thinking", "reasoning_effort")
    source = ",".join("{{ " + name + " if " + name + " is defined else 'unset' }}" for name in names)
    assert render(source, chat("Hi"), think) == expected


@pytest.mark.parametrize(
    ("source", "knows"), [(CHATML, False), (THINKER, True), ("{% if enable_thinking %}{% endif %}", True)]
)
def test_a_template_knows_thinking_if_it_mentions_it(source: str, knows: bool) -> None:
    """By its switch or by its tag."""
    assert ChatTemplate(source, bos="", eos="").knows_thinking is knows


def test_a_thought_opened_by_the_template_is_seen() -> None:
    """Whitespace after the tag does not matter; a closed thought is not open."""
    assert opens_thinking("<assistant><think>\n")
    assert not opens_thinking("<assistant><think>\n\n</think>\n\n")


def test_templates_see_what_belongs_to_tools() -> None:
    """Calls, and the name and id of a tool's answer; what a message has not is not there."""
    messages = [
        Message(role="assistant", tool_calls=[{"function": {"name": "f", "arguments": {"x": 1}}}]),
        Message(role="tool", content="2", tool_name="f", tool_call_id="c1"),
    ]
    source = "{% for m in messages %}{{ m | tojson }};{% endfor %}"
    first, second, _ = render(source, messages).split(";")
    assert json.loads(first) == {"role": "assistant", "content": "", "tool_calls": messages[0].tool_calls}
    assert json.loads(second) == {"role": "tool", "content": "2", "name": "f", "tool_call_id": "c1"}


def test_a_refusal_is_the_requests_fault_and_says_why() -> None:
    """raise_exception's message reaches the client."""
    with pytest.raises(BadRequest, match="refuses these messages: no system role"):
        render("{{ raise_exception('no system role') }}", chat("Hi"))


def test_the_plain_template_is_the_text_alone() -> None:
    """Without a template of the model's own, the contents are the prompt, a line each."""
    assert render(PLAIN_TEMPLATE, chat("Once upon")) == "Once upon"
    assert render(PLAIN_TEMPLATE, chat("one", "two", "three")) == "one\ntwo\nthree"
    assert render(PLAIN_TEMPLATE, chat("one", "two ")) == "one\ntwo "


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(json_values, st.sampled_from([None, 0, 2, 4, "\t"]), st.booleans())
def test_tojson_is_pythons(value: object, indent: int | str | None, is_compact: bool) -> None:
    """As in Hugging Face's environment: neither ASCII nor HTML escapes, indent and separators as given."""
    options = ", separators=(',', ':')" if is_compact else ""
    source = f"{{{{ messages[0].tool_calls[0].x | tojson(indent={indent!r}{options}) }}}}"
    message = Message(role="user", tool_calls=[{"x": value}])
    separators = (",", ":") if is_compact else None
    assert render(source, [message]) == json.dumps(value, ensure_ascii=False, indent=indent, separators=separators)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("'a-b-c'.replace('-', '+')", "a+b+c"),
        ("'a-b-c'.replace('-', '+', 1)", "a+b-c"),
        ("'a-b-c' | replace('-', '')", "abc"),
        ("', '.join(['a', 'b'])", "a, b"),
        ("['a', 1, none] | join('|')", "a|1|None"),
        ("[{'x': 1}, {'x': 2}] | join(',', attribute='x')", "1,2"),
        ("'a\nb' | indent(2)", "a\n  b"),
        ("'a\nb' | indent(2, first=true)", "  a\n  b"),
        ("'{} and {x:>3}'.format(1, x='y')", "1 and   y"),
        ("'a' ~ 1 ~ none ~ nothing", "a1None"),
        ("'ab' * 2 + 'c'", "ababc"),
        ("7 % 3 + 2 ** 3", "9"),
        ("'abc'[::-1] + 'abc'[1:]", "cbabc"),
        ("[1, 2] + [3]", "[1, 2, 3]"),
        ("{'a': 1}.items() | list", "[('a', 1)]"),
        ("range(4) | map('string') | join", "0123"),
        ("(1, 2)[0]", "1"),
        ("'<b>' | safe + '<i>'", "<b><i>"),
        ("'x'.strip().upper().startswith('X')", "True"),
    ],
)
def test_the_sandbox_computes_as_jinja_does(expression: str, expected: str) -> None:
    """What is metered still means the same."""
    assert render("{{ " + expression + " }}", chat("Hi")) == expected


def test_loops_and_blocks_work_in_the_sandbox() -> None:
    """Loop variables, loop control, captured blocks, macros and generation marks."""
    source = (
        "{% macro m(x) %}[{{ x }}]{% endmacro %}"
        "{% for i in [1, 2, 3, 4] %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}"
        "{{ m(i) }}{{ loop.index0 }}{{ loop.last }}{{ loop.length }}{% endfor %}"
        "{% set s %}{{ 'x' }}{% endset %}{{ s }}{% generation %}g{% endgeneration %}"
        "{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}"
    )
    assert render(source, chat("Hi")) == "[1]0False4[3]2False4xga1"


# --- fitting ---

roles = st.lists(st.sampled_from(["system", "user", "assistant", "tool"]), max_size=14)


def size(messages: Sequence[Message]) -> int:
    return 3 + sum(len(message.content) for message in messages)


@given(roles, st.lists(st.integers(1, 9), min_size=15, max_size=15), st.integers(0, 150))
def test_fit_drops_as_few_of_the_oldest_turns_as_it_can(before: list[str], sizes: list[int], n_limit: int) -> None:
    """System messages and the last turn stay, turns go whole and from the front, and one less would not fit."""
    messages = [Message(role=r, content="x" * n) for r, n in zip([*before, "user"], sizes, strict=False)]  # type: ignore[arg-type]
    n_counts = 0

    def count(kept: Sequence[Message]) -> int:
        nonlocal n_counts
        n_counts += 1
        return size(kept)

    chats = [i for i, m in enumerate(messages) if m.role != "system"]
    starts = sorted({chats[0], *(i for i in chats if messages[i].role == "user")})
    options = [[m for i, m in enumerate(messages) if i >= start or m.role == "system"] for start in starts]
    best = next((option for option in options if size(option) <= n_limit), None)
    if best is None:
        with pytest.raises(ContextExceeded, match=rf"{size(options[-1])} tokens.*{n_limit} fit"):
            fit(messages, n_limit, count)
    else:
        kept, n_dropped = fit(messages, n_limit, count)
        assert kept == best
        assert n_dropped == len(messages) - len(best)
    assert n_counts <= 2 + max(len(starts) - 1, 1).bit_length()


def test_fit_keeps_the_system_message_and_drops_answers_with_their_questions() -> None:
    """A chat that lost turns begins with a user's message again."""
    messages = [Message(role="system", content="s"), *chat("q1", "a1", "q2", "a2", "q3")]
    kept, n_dropped = fit(messages, 8, size)
    assert [message.content for message in kept] == ["s", "q3"]
    assert n_dropped == 4


def test_fit_of_an_assistants_opening() -> None:
    """What comes before the first user's message goes with no turn but its own."""
    messages = [Message(role="assistant", content="Welcome!"), *chat("Hi")]
    assert fit(messages, 5, size) == (messages[1:], 1)


# --- whose fault a broken template is ---


@pytest.mark.parametrize("source", ["{% if", "{{ 1 / 0 }}", "{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}"])
def test_a_broken_template_is_the_fault_of_who_brought_it(source: str) -> None:
    """The model's, unless the request has one of its own; compiled or rendered."""

    def run(fault: type[BadModel] | type[BadRequest]) -> str:
        return ChatTemplate(source, bos="", eos="", fault=fault).render(chat("Hi"))

    with pytest.raises(BadModel, match="give the model another template"):
        run(BadModel)
    with pytest.raises(BadRequest, match="mend the request's template"):
        run(BadRequest)


def test_a_template_too_long_is_the_fault_of_who_brought_it() -> None:
    with pytest.raises(BadRequest, match="characters"):
        ChatTemplate("x" * (MAX_SOURCE_CHARS + 1), bos="", eos="", fault=BadRequest)
