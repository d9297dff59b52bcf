"""The table of request options."""

from __future__ import annotations

import types
import typing
from enum import EnumType
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from beastctl.options import OPTIONS, as_flags, find
from beastd.contract import Options
from beastd.errors import BadRequest


def kinds_of(annotation: Any) -> set[Any]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return {kind for part in typing.get_args(annotation) for kind in kinds_of(part)}
    if typing.get_origin(annotation) is typing.Literal:
        values = typing.get_args(annotation)
        return {frozenset(values), *(type(value) for value in values)}
    return {annotation}


def test_the_table_has_every_option_of_the_api_and_no_other() -> None:
    """Flags and /set follow the contract."""
    assert set(OPTIONS) == set(Options.__struct_fields__)


def test_each_option_has_the_type_the_api_takes() -> None:
    """A value that parses here has the right type there."""
    hints = typing.get_type_hints(Options)
    for option in OPTIONS.values():
        kind = frozenset(option.kind) if isinstance(option.kind, EnumType) else option.kind
        assert kind in kinds_of(hints[option.name]), option.name


@pytest.mark.parametrize(
    ("name", "words", "value"),
    [
        ("temperature", ["0.5"], 0.5),
        ("top_k", ["40"], 40),
        ("ignore_eos", ["Yes"], True),
        ("speculative", ["off"], "off"),
        ("stop", ["a b", "c"], ["a b", "c"]),
        ("logit_bias", ["a=b=2", "7=-1.5"], {"a=b": 2.0, "7": -1.5}),
    ],
)
def test_words_become_values(name: str, words: list[str], value: object) -> None:
    """Each kind is read as people write it."""
    assert OPTIONS[name].parse(words) == value


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("temperature", ["hot"]),
        ("speculative", ["ngrm"]),
        ("top_k", ["1.5"]),
        ("ignore_eos", ["maybe"]),
        ("logit_bias", ["5"]),
        ("seed", []),
        ("seed", ["1", "2"]),
    ],
)
def test_a_wrong_value_is_refused_by_name(name: str, words: list[str]) -> None:
    """The error names the option and what it takes."""
    with pytest.raises(BadRequest, match=f"{name}: it takes"):
        OPTIONS[name].parse(words)


def test_dashes_are_underscores_and_unknown_names_get_a_hint() -> None:
    """What was meant is named."""
    assert find("top-k").name == "top_k"
    with pytest.raises(BadRequest, match="temperature"):
        find("temprature")


def test_flags_hand_over_only_what_was_given() -> None:
    """An option that was not set is left to the model."""
    seen: dict[str, Any] = {}

    @as_flags
    def command(word: str, **options: Any) -> None:
        seen.update(options, word=word)

    app = typer.Typer()
    app.command()(command)
    arguments = ["hi", "--top-k", "5", "--stop", "x", "--stop", "y", "--no-ignore-eos", "--logit-bias", "3=-100"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    expected = {"word": "hi", "top_k": 5, "stop": ["x", "y"], "ignore_eos": False, "logit_bias": {"3": -100.0}}
    assert seen == expected
