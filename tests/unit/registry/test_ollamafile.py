"""Ollama's Modelfiles: what they mean to Beast, and that nothing in them is dropped in silence.

The cases of the syntax follow Ollama's own (``parser/parser_test.go``).
"""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from beastd.contract import Message, Options
from beastd.errors import BadModel, BeastError, Unsupported
from beastd.registry.gotemplate import to_jinja
from beastd.registry.modelfile import AdapterFields, Fields, dump, parse_modelfile
from beastd.registry.ollamafile import adapter_name, looks_like_ollamafile, parse_ollamafile

FULL = '''\
# a comment
FROM ./cub-q8_0.gguf
  from ./mmproj.gguf
ADAPTER ./loras/Pirate LoRA.gguf 0.5
ADAPTER ./poet.gguf
DRAFT ./cub-draft.gguf
parameter temperature 0.7
PARAMETER stop "### User: "
PARAMETER stop <|im_end|>
PARAMETER num_ctx 8192
TEMPLATE """{{ .System }}
{{ .Prompt }}"""
SYSTEM """
You are a "cub".
# not a comment
"""

MESSAGE user Hello!
MESSAGE assistant """Hi
there."""
LICENSE MIT
LICENSE "and more"
REQUIRES v0.14.0
'''


def parse(text: str) -> Fields:
    return parse_ollamafile(text, "Modelfile")


def test_every_instruction_has_its_place():
    """All that Ollama's syntax can say, as a description."""
    assert parse(FULL) == Fields(
        from_="./cub-q8_0.gguf",
        projector="./mmproj.gguf",
        adapters={
            "pirate-lora": AdapterFields("./loras/Pirate LoRA.gguf", 0.5, applied=True),
            "poet": AdapterFields("./poet.gguf", applied=True),
        },
        draft="./cub-draft.gguf",
        parameters=Options(temperature=0.7, num_ctx=8192, stop=["### User: ", "<|im_end|>"]),
        template=to_jinja("{{ .System }}\n{{ .Prompt }}"),
        system='\nYou are a "cub".\n# not a comment\n',
        messages=[Message(role="user", content="Hello!"), Message(role="assistant", content="Hi\nthere.")],
        license="MIT\n\nand more",
    )


def test_the_description_can_be_written_as_yaml():
    """And reads back the same."""
    assert parse_modelfile(dump(parse(FULL)), "file")[0] == parse(FULL)


@pytest.mark.parametrize(
    ("text", "system"),
    [
        ('SYSTEM """\nThis is\nmultiline.\n"""', "\nThis is\nmultiline.\n"),
        ('SYSTEM """This is\nmultiline."""   \n', "This is\nmultiline."),
        ('SYSTEM """with "quotes"."""', 'with "quotes".'),
        ('SYSTEM """"""', ""),
        ('SYSTEM ""', ""),
        ('SYSTEM "\'"', "'"),
        ('SYSTEM """\'\'"\'""\'""\'"\'\'\'\'\'""\'""\'"""', "''\"'\"\"'\"\"'\"'''''\"\"'\"\"'"),
        ('SYSTEM "one\ntwo"', "one\ntwo"),
        ('SYSTEM "one" two"', 'one" two'),
        ("SYSTEM   spaced   out  ", "spaced   out"),
        ("\tsystem\ttabs", "tabs"),
        ("SYSTEM no # comment", "no # comment"),
        ("SYSTEM one\r\nLICENSE x\r\n", "one"),
        ('SYSTEM """one\r\n\r\ntwo"""\r\n', "one\r\n\r\ntwo"),
        ("SYSTEM „Grüße“\u3000 – 你好", "„Grüße“\u3000 – 你好"),
    ],
)
def test_values_are_quoted_as_in_ollama(text, system):
    """One or three quotes, over lines; without any, the line without its blanks."""
    assert parse(f"FROM foo\n{text}").system == system


@pytest.mark.parametrize(
    "text", ["FROM foo", "\ufeffFROM foo", "from   foo  ", 'FROM "foo"', 'FROM """foo"""', "\n\n FROM foo"]
)
def test_from_is_all_a_model_needs(text):
    """However it is written."""
    assert parse(text) == Fields(from_="foo")


@pytest.mark.parametrize(
    "name", ["llama3:7b-instruct-q4_K_M", "/path/to/model/fp16.bin", "hf.co/user/repo:Q4_K_M", "FOO  BAR"]
)
def test_from_is_kept_as_written(name):
    """A name or a path: which, is for the maker of the model to see."""
    assert parse(f"FROM {name}").from_ == name


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("top_k 40", Options(top_k=40)),
        ("top_p 1", Options(top_p=1.0)),
        ("seed -1", Options(seed=-1)),
        ("num_predict -2", Options(num_predict=-2)),
        ("mirostat 2", Options(mirostat=2)),
        ("ignore_eos true", Options(ignore_eos=True)),
        ("stop a\nPARAMETER stop b", Options(stop=["a", "b"])),
        ('stop """### User:\n"""', Options(stop=["### User:\n"])),
        ("dry_sequence_breakers x\nPARAMETER dry_sequence_breakers y", Options(dry_sequence_breakers=["x", "y"])),
    ],
)
def test_parameters_have_the_types_of_options(line, options):
    """Numbers, truth values and lists, of text."""
    assert parse(f"FROM foo\nPARAMETER {line}").parameters == options


REFUSED = {
    "": "no FROM; say which",
    "SYSTEM x": "no FROM",
    "FROM": "line 1: FROM: it needs a value",
    "FROM foo\nFORM ./x.gguf": "line 2: 'FORM' is no instruction (did you mean 'FROM'?)",
    "FROM: foo": "'FROM' is no instruction",
    "FROM foo\nUSER me": "line 2: 'USER' is no instruction",
    "FROM foo\n{}": "'{}' is no instruction",
    "FROM a\nFROM b\nFROM c": "line 3: FROM: a second FROM, the projector, is given on line 2 already",
    "FROM a-00001-of-00002.gguf\nFROM a-00002-of-00002.gguf": "name only the first",
    'FROM "a\nb"': "a file's path on one line",
    "FROM a\nADAPTER": "ADAPTER: it needs a value",
    "FROM a\nDRAFT b\nDRAFT c": "DRAFT: it is given on line 2 already",
    "DRAFT ./a\nFROM ./a": "line 1: DRAFT: a model is no draft of itself",
    "FROM a\nSYSTEM x\nSYSTEM y": "line 3: SYSTEM: it is given on line 2 already",
    'FROM a\nSYSTEM """x': 'line 2: SYSTEM: the value has no end; close it with """',
    'FROM a\nSYSTEM "': "the value has no end",
    'FROM a\nSYSTEM """x""\n\n': "the value has no end",
    "FROM a\nTEMPLATE {{ .Sytem }}": "line 2: the template's data has no field .Sytem (did you mean 'System'?)",
    'FROM a\n\nTEMPLATE """x\n{{ end }}"""': "Modelfile line 4: {{ end }}",
    "FROM a\nTEMPLATE {% if x %}{{ y }}{% endif %}": "it looks like Jinja",
    "FROM a\nTEMPLATE {{ html .Prompt }}": "line 2: the function html has no equal",
    "FROM a\nPARAMETER": "it needs a name and a value",
    "FROM a\nPARAMETER top_k": "it needs a name and a value",
    "FROM a\nPARAMETER tmperature 1": "there is no parameter 'tmperature' (did you mean 'temperature'?)",
    "FROM a\nPARAMETER top_k 1 # or 2": "line 2: PARAMETER: top_k cannot be '1 # or 2'",
    "FROM a\nPARAMETER top_k null": "top_k cannot be 'null'",
    "FROM a\nPARAMETER top_p 2": "top_p cannot be '2': Expected `float` <= 1.0",
    "FROM a\nPARAMETER temperature nan": "temperature cannot be 'nan'",
    "FROM a\nPARAMETER mirostat 1": "mirostat cannot be '1'",
    "FROM a\nPARAMETER top_k 1\nPARAMETER top_k 2": "line 3: PARAMETER: top_k is given on line 2 already",
    "FROM a\nPARAMETER num_gpu 99": "num_gpu: it is set for the machine: remove the line, and use config.yaml's gpu",
    "FROM a\nPARAMETER num_keep 4": "Beast never shifts the context",
    "FROM a\nPARAMETER penalize_newline false": "Ollama ignores it, too: remove the line",
    "FROM a\nPARAMETER logit_bias x": "use a YAML description",
    "FROM a\nMESSAGE user": "it needs a role and a value",
    "FROM a\nMESSAGE badguy hello": "'badguy' is no role; there are system, user, assistant",
    "FROM a\nREQUIRES soon": "'soon' is no version of Ollama",
    "FROM a\nRENDERER qwen3-vl": "RENDERER: 'qwen3-vl' is code inside of Ollama",
    "FROM a\nPARSER harmony": "PARSER: 'harmony' is code inside of Ollama",
    "FROM " + "a" * 2**20: "at most 1048576 are taken",
    "FROM a\n" + "LICENSE x\n" * 10_000: "may have 10000 instructions",
}


@pytest.mark.parametrize(("text", "problem"), REFUSED.items(), ids=[text[:40] for text in REFUSED])
def test_what_cannot_be_followed_is_refused(text, problem):
    """By file, line and instruction."""
    with pytest.raises((BadModel, Unsupported)) as caught:
        parse(text)
    assert problem in caught.value.message
    assert caught.value.message.startswith("Modelfile")
    assert len(caught.value.message) < 400


def test_what_ollama_has_and_beast_has_not_is_unsupported():
    """Not a broken file."""
    for line in ("PARAMETER num_gpu 1", "RENDERER x", "PARSER y", "TEMPLATE {{ yesterdayDate }}"):
        with pytest.raises(Unsupported):
            parse(f"FROM a\n{line}")


@pytest.mark.parametrize(
    ("line", "path", "scale"),
    [
        ("lora.gguf", "lora.gguf", 1.0),
        ("lora.gguf 0.25", "lora.gguf", 0.25),
        ("my lora.gguf -2", "my lora.gguf", -2.0),
        ('"lora 2"', "lora 2", 1.0),
        ("7", "7", 1.0),
    ],
)
def test_an_adapter_may_have_a_scale(line, path, scale):
    """A number after its path; a path in quotes is a path to its end."""
    [adapter] = parse(f"FROM a\nADAPTER {line}").adapters.values()
    assert adapter == AdapterFields(path, scale, applied=True)


def test_adapters_are_named_after_their_files():
    """No two the same, and each a name that can be asked for."""
    text = "FROM a\n" + "\n".join(
        f"ADAPTER {path}" for path in ("x/Lo Ra.gguf", "y/lo-ra.gguf", "lo_ra.bin", "/", "a..b.x")
    )
    assert list(parse(text).adapters) == ["lo-ra", "lo-ra-2", "lo_ra", "adapter", "a-b"]
    assert adapter_name("é" * 300) == "adapter"
    assert len(adapter_name("a" * 300)) == 80


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        (FULL, True),
        ("\n\n# from: x\n  from model\n", True),
        ("FORM ./typo.gguf", True),
        ("from: model\n", False),
        ("from : model\n", False),
        ("FROM: model\n", False),
        ("# FROM x\nvariants:\n  q8_0: a.gguf\ntemplate: |\n  FROM here\n", False),
        ("---\nfrom: x\n", False),
        ("{from: x}", False),
        ("", False),
    ],
)
def test_a_modelfile_is_told_from_yaml(text, is_one):
    """By its first line that says something."""
    assert looks_like_ollamafile(text) is is_one


WORDS = [
    "FROM ",
    "PARAMETER ",
    "stop ",
    "SYSTEM ",
    "MESSAGE user ",
    "TEMPLATE ",
    "ADAPTER ",
    "LICENSE ",
    "REQUIRES ",
    "DRAFT ",
]
PIECES = [*WORDS, '"""', '"', "\n", "\r\n", "\r", " ", "# ", "{{ .Prompt }}", "0.5", "x", "\ufeff", "\0", "\u3000"]


@given(st.text() | st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=30).map("".join))
@example("\ufeff")
@example('FROM a\nSYSTEM """""')
def test_any_text_is_parsed_or_refused(text):
    """Nothing but an error of ours, and what is parsed can be kept."""
    looks_like_ollamafile(text)
    try:
        fields = parse(text)
    except BeastError:
        return
    assert parse_modelfile(dump(fields), "file")[0] == fields


@pytest.mark.parametrize(
    "line", ['"', '"""\n', '" \n', "\n", " \n", "# \n", "FROM x\n", 'SYSTEM "x\n', "LICENSE x\n", "ADAPTER x 1\n"]
)
def test_a_megabyte_of_anything_is_read_or_refused(line):
    """Were the work to grow with the square of the length, this would not end."""
    with suppress(BeastError):
        parse("FROM a\n" + line * (2**20 // len(line) - 10))


@settings(max_examples=50)
@given(st.text(st.characters(exclude_characters='"\r', exclude_categories=("Cs",)), max_size=80))
def test_a_quoted_value_is_what_stands_in_the_quotes(value):
    """Whatever it holds."""
    assert parse(f'FROM a\nSYSTEM """{value}"""\n').system == value
