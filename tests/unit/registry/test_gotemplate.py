"""Go templates: what is understood, what is refused and how, and that any text is one or the other.

That the Jinja prints the same is shown by tests/real/test_gotemplate_render.py.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from beastd.contract import Message
from beastd.engine.prompt import ChatTemplate
from beastd.errors import BadModel, BadRequest, BeastError, Unsupported
from beastd.registry.gotemplate import to_jinja

SOURCES = [file.read_text("utf-8") for file in sorted((Path(__file__).parent / "gotemplates").glob("*.gotmpl"))]
USER = [Message(role="user", content="Hi")]


def render(text: str, messages: Sequence[Message] = USER) -> str:
    return ChatTemplate(to_jinja(text), bos="", eos="").render(messages)


# --- the language ---


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("a {{- /* trimmed */ -}} b", "ab"),
        ("a {{/* not\ntrimmed */}} b", "a  b"),
        ("a\n\t {{- `x` -}} \r\n b", "axb"),
        ("{{`a\\n` }}", "a\\n"),
        (r'{{ "\x41é\U0001F600\101\a\"\\" }}', 'Aé\U0001f600A\a"\\'),
        ("{{1}}{{-1}}{{ +2 }}{{ 1.5}}", "1-121.5"),
        ("{{ $x := 1 }}{{ with 2 }}{{ $x = . }}{{ end }}{{ $x }}", "2"),
        ("{{ $x := 1 }}{{ if true }}{{ $x := 2 }}{{ end }}{{ $x }}", "1"),
        ("{{ if $x := `a` }}{{ $x }}{{ else }}{{ $x }}{{ end }}", "a"),
        ("{{ if false }}{{ else if nil }}{{ else if 0 }}{{ else }}x{{ end }}", "x"),
        ("{{ eq 1 2 1 }}{{ ne `a` `b` }}{{ le 1 1 }}{{ or `` `x` }}", "truetruetruex"),
        ("{{ `a` | printf `%s-%s` `b` }}{{ print `a` 1 2 `b` }}", "b-aa1 2b"),
        ("{{ .Document }}{{ .Query.Anything }}", "<no value><no value>"),
        ("{{ (and true $) | not }}", "false"),
        ("{{ range $.Messages }}{{ break }}{{ else }}x{{ end }}{{ range .Tools }}{{ else }}none{{ end }}", "none"),
    ],
)
def test_the_language_is_gos(text, prompt):
    """Strings, numbers, trimming, scopes and functions."""
    assert render(text + "{{ .Response }}") == prompt


def test_the_last_turn_ends_where_the_answer_begins():
    """Whatever stands after it, in its block and after that."""
    chat = [
        Message(role="user", content="A"),
        Message(role="assistant", content="B"),
        Message(role="user", content="C"),
    ]
    assert render("<{{ .Prompt }}>{{ if true }}[{{ .Response }}]{{ end }}.\n", chat) == "<A>[B].\n<C>["


def test_a_template_of_the_prompt_alone_gets_the_answers_behind_it():
    """Ollama adds the response at its end."""
    chat = [
        Message(role="user", content="A"),
        Message(role="assistant", content="B"),
        Message(role="user", content="C"),
    ]
    assert render("<{{ .Prompt }}>", chat) == "<A>B<C>"


def test_a_template_of_turns_refuses_what_it_would_lose():
    """Calls of tools, and what tools answered."""
    for lost in (Message(role="tool", content="12"), Message(role="assistant", tool_calls=[{"function": {}}])):
        with pytest.raises(BadRequest, match="no place for calls of tools"):
            render("{{ .Prompt }}", [*USER, lost, *USER])


def test_what_needs_tools_waits_for_them():
    """The branch is translated and never taken, as Beast passes no tools."""
    text = "{{ range .Tools }}{{ range .Function.Parameters.Properties }}{{ . | toTypeScriptType }}{{ end }}{{ end }}"
    assert render(text + "{{ .Prompt }}") == "Hi"


# --- what is refused ---

BROKEN = {
    "{{": "line 1: an action is not closed",
    "\n{{ .Prompt ": "line 2: an action is not closed",
    "{{ }}": "a value is expected, not '}}'",
    "{{/* x }}": "the comment is not closed",
    "{{ /* x */ }}": "'/' is not understood here",
    "{{ .Prompt! }}": "'!' is not understood after .Prompt",
    "{{ é€ }}": "'€' is not understood after é",
    '{{ "a }}': "is not understood here",
    r'{{ "\q" }}': r"the escape \q is not understood",
    r'{{ "\ud800" }}': "the escape",
    "{{ end }}": "{{ end }} has no block",
    "{{ else }}": "{{ else }} has no block",
    "{{ if true }}": "line 1: {{ if }} has no {{ end }}",
    "x\n{{ range .Messages }}{{ else }}{{ else }}{{ end }}": "line 2: {{ range }} has no {{ end }}",
    "{{ if true }}{{ end x }}": "}} is expected, not 'x'",
    "{{ if }}{{ end }}": "a value is expected",
    "{{ break }}": "{{ break }} stands in no range",
    "{{ .Prompt .System }}": ".Prompt is no function and takes no arguments",
    "{{ `a` | .Prompt }}": ".Prompt is no function",
    "{{ (not true }}": "a parenthesis is not closed",
    "{{ not true) }}": "}} is expected, not ')'",
    '{{ "a"`b` }}': "}} is expected, not 'b'",
    "{{ if true }}{{ else with true }}{{ end }}": "}} is expected, not 'with'",
    "{{ $x }}": "there is no variable $x here",
    "{{ $last := 1 }}{{ $lost }}": "there is no variable $lost here (did you mean '$last'?)",
    "{{ $x = 1 }}": "there is no variable $x here",
    "{{ range $x, 1 := .Messages }}{{ end }}": "a variable is expected",
    "{{ range $x, $y .Messages }}{{ end }}": "a range's variables are set with :=",
    "{{ upper .Prompt }}": "there is no function upper",
    "{{ prinf `x` }}": "there is no function prinf (did you mean 'printf'?)",
    "{{ len 1 }}": "len: a number has no length",
    "{{ eq 1 }}": "eq: it takes at least 2 arguments, not 1",
    "{{ eq 1 `a` }}": "eq: a number is not compared with a text",
    "{{ lt true false }}": "lt: it compares numbers or texts",
    "{{ index .Prompt 1 }}": "index: a text is not indexed by a number",
    "{{ printf `x` 1 }}": "printf: it has more arguments than its format",
    "{{ .Sytem }}": "the template's data has no field .Sytem (did you mean 'System'?)",
    "{{ range .Messages }}{{ .Contents }}{{ end }}": "a message has no field .Contents (did you mean 'Content'?)",
    "{{ .Prompt.Text }}": "a text has no field .Text",
    "{{ message.content }}{% endfor %}": "it looks like Jinja",
    "x" * (256 * 1024 + 1): "at most 262144 are taken",
}


@pytest.mark.parametrize(("text", "problem"), BROKEN.items(), ids=[text[:40] for text in BROKEN])
def test_what_go_would_refuse_is_broken(text, problem):
    """A bad model, by line."""
    with pytest.raises(BadModel, match=re.escape(problem)) as caught:
        to_jinja(text)
    assert "template" in caught.value.message
    assert len(caught.value.message) < 300


NO_EQUAL = {
    '{{ define "x" }}{{ end }}': "{{ define }}, a named template",
    'x\n\n{{ template "x" . }}': "line 3: {{ template }}",
    '{{ block "x" . }}{{ end }}': "{{ block }}",
    "{{ yesterdayDate }}": "the function yesterdayDate",
    "{{ html .Prompt }}": "the function html",
    "{{ 'a' }}": "the character constant 'a'",
    "{{ 1.Prompt }}": "1.Prompt is not a plain decimal number",
    "{{ 0x10 }}": "0x10 is not a plain decimal number",
    "{{ 010 }}": "010 is not a plain decimal number",
    "{{ ($x := 1) }}": "a variable is set inside of parentheses",
    "{{ range $i, $m = .Messages }}{{ end }}": "with = for its variables",
    "{{ range 3 }}{{ end }}": "a range over a number",
    "{{ range $.Messages }}{{ range .ToolCalls }}{{ else }}{{ break }}{{ end }}{{ end }}": "{{ break }} in the else",
    "{{ $x := 1 }}{{ range $x := .Messages }}{{ else }}{{ $x }}{{ end }}": "a list is printed in Go's notation",
    "{{ $x := 1 }}{{ $x = `a` }}": "the variable $x holds a number, then a text",
    "{{ .Messages }}": "the list of messages is printed in Go's notation",
    "{{ range .Messages }}{{ . }}{{ end }}": "a message is printed in Go's notation",
    "{{ . }}": "the template's data is printed",
    "{{ or .Messages .Prompt }}": "a value of one kind or another is printed",
    "{{ json .Messages }}": "json writes the list of messages with Go's names of fields",
    "{{ if eq (len .Prompt) 5 }}{{ end }}": "counts the bytes of a text",
    "{{ slice .Prompt 1 }}": "cuts a text at its bytes",
    "{{ printf `%q` .Prompt }}": "formats with '%q'",
    "{{ printf .Prompt }}": "takes its format from a value",
    "{{ print .Messages }}": "print prints the list of messages",
    "{{ $x := print .Response }}": ".Response is used in an expression",
    "{{ if .System }}{{ .Response }}{{ else }}x{{ end }}": ".Response stands in a block that has an else",
    "{{ if true }}" * 65 + "{{ end }}" * 65: "more than 64 blocks",
    "{{ range $.Messages }}" * 13 + "{{ end }}" * 13: "more than 12 ranges",
    "{{ not " + "(" * 33 + "true" + ")" * 33 + " }}": "more than 32 parentheses and pipes",
    "{{ 1" + " | not" * 33 + " }}": "more than 32 parentheses and pipes",
    "{{ .Prompt }}" * 4000: "characters of Jinja",
}


@pytest.mark.parametrize(("text", "construct"), NO_EQUAL.items(), ids=[text[:40] for text in NO_EQUAL])
def test_what_has_no_equal_in_jinja_is_unsupported(text, construct):
    """By line and construct; nothing is left out in silence."""
    with pytest.raises(Unsupported, match=re.escape(construct)) as caught:
        to_jinja(text)
    assert "write the template without it" in caught.value.message


def test_errors_name_the_line_of_the_file():
    """A template that begins on the file's fifth line."""
    with pytest.raises(BadModel, match=r"^Modelfile line 6: "):
        to_jinja("\n{{ end }}", "Modelfile", 5)


# --- any text ---

PIECES = [
    *(
        "{{",
        "}}",
        "{{- ",
        " -}}",
        "{{/*",
        "*/}}",
        "{{ end }}",
        "{{ else }}",
        "{{ else if ",
        "{{ if ",
        "{{ with ",
        " }}",
    ),
    *("{{ range $i, $m := .Messages }}", "{{ range .ToolCalls }}", "{{ break }}", "{{ $x := ", "{{ $x = ", "$x", "$"),
    *(".Role", ".Content", ".System", ".Prompt", ".Response", ".Messages", ".Tools", ".Function.Arguments", ".", " "),
    *("eq ", "and ", "or ", "not ", "len ", "slice ", "index ", "json ", "print ", "printf ", "currentDate", "(", ")"),
    *("|", ",", ":=", "=", "1", "-1", '"a"', '"%s"', "`", "true", "nil", "\n", "text", "'", "\\", "{%", "{#", "é"),
]


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """A template that has lost a piece, or has one too many."""
    text = draw(st.sampled_from(SOURCES))
    start, end = sorted(draw(st.tuples(st.integers(0, len(text)), st.integers(0, len(text)))))
    return text[:start] + draw(st.sampled_from(["", *PIECES])) + text[min(end, start + draw(st.integers(0, 20))) :]


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.text() | st.lists(st.sampled_from(PIECES), max_size=40).map("".join) | damaged())
@example("{{ if 1 }}" * 64 + "{{ end }}" * 64)
@example("{{ range $.Messages }}" * 12 + "{{ end }}" * 12)
@example("{{ not " + "(" * 32 + "true" + ")" * 32 + " }}")
@example("{{ with .Messages }}{{ index " + "(index " * 30 + "." + " 0)" * 30 + " 0 }}{{ end }}")
def test_any_text_is_translated_or_refused(text):
    """Nothing but an error of ours; and what is translated, the engine compiles."""
    try:
        source = to_jinja(text)
    except (BadModel, Unsupported):
        return
    template = ChatTemplate(source, bos="", eos="")
    with contextlib.suppress(BeastError):
        template.render(USER)


def test_a_value_used_over_and_over_does_not_double_the_jinja():
    """What is named is written once."""
    text = (
        "{{ $x := `a` }}" + "{{ $x = print $x $x }}" * 100 + "{{ with $x }}" * 20 + "{{ print . . }}" + "{{ end }}" * 20
    )
    assert len(to_jinja(text)) < 30_000


@pytest.mark.parametrize(
    "piece", ["{{", "{{/*", '{{ "', "{{ `", " {{- ", "}}", "\n", "{{ if 1 }}", "{{ .", "(", "{{ (", "| ", "$x "]
)
def test_a_quarter_megabyte_of_anything_is_refused_or_translated(piece):
    """Were the work to grow with the square of the length, this would not end."""
    for text in (piece * (256 * 1024 // len(piece)), "{{ " + piece * (250 * 1024 // len(piece))):
        with suppress(BadModel, Unsupported):
            to_jinja(text)
