"""The options a request may carry: one table for the flags of `run`, `/set parameter` and their completion."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer

from beastd.errors import BadRequest


class Priority(StrEnum):
    """What goes first where not all requests can."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class Speculative(StrEnum):
    """Where drafted tokens come from."""

    AUTO = "auto"
    OFF = "off"
    NGRAM = "ngram"
    DRAFT = "draft"


@dataclass(frozen=True, slots=True)
class Option:
    """One field of the API's ``options``: its name there, the type of its value, and what it does."""

    name: str
    kind: type[int] | type[float] | type[bool] | type[Speculative] | type[list[str]] | type[dict[str, float]]
    group: str
    help: str

    def parse(self, words: list[str]) -> Any:
        """The value written as ``words`` (one for each item of a list, ``TOKEN=VALUE`` for each of a mapping).

        Raises:
            BadRequest: the words are not a value of this option.
        """
        try:
            if self.kind == list[str]:
                return list(words)
            if self.kind == dict[str, float]:
                return dict(_bias(word) for word in words)
            (word,) = words
            return _BOOLEANS[word.lower()] if self.kind is bool else self.kind(word)  # type: ignore[arg-type]
        except (ValueError, KeyError) as error:
            wanted = _WANTED[self.kind]
            raise BadRequest(f"{' '.join(words)!r} is not a value for {self.name}: it takes {wanted}") from error


_BOOLEANS: Mapping[str, bool] = {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}
_WANTED: Mapping[object, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Speculative: f"one of {', '.join(Speculative)}",
    list[str]: "one or more texts",
    dict[str, float]: "TOKEN=VALUE, once or more",
}


def _bias(word: str) -> tuple[str, float]:
    token, _, value = word.rpartition("=")
    if not token:
        raise ValueError(word)
    return token, float(value)


SPEED = "Speed"
LENGTH = "Length and repeatability"
CHOICE = "Choice of the next token"
REPEATS = "Against repetition"

OPTIONS: Mapping[str, Option] = {
    option.name: option
    for option in (
        Option("num_ctx", int, LENGTH, "Tokens the prompt and the answer may take together."),
        Option("num_predict", int, LENGTH, "Most tokens to answer with; -1: up to the context's end."),
        Option("seed", int, LENGTH, "The same seed gives the same answer; -1 draws one."),
        Option("stop", list[str], LENGTH, "Text that ends the answer. May be repeated."),
        Option("ignore_eos", bool, LENGTH, "Go on where the model would end."),
        Option("temperature", float, CHOICE, "0 always takes the likeliest token; higher is wilder."),
        Option("top_k", int, CHOICE, "Only the K likeliest tokens; 0: all."),
        Option("top_p", float, CHOICE, "Only the likeliest tokens that hold this much probability together."),
        Option("min_p", float, CHOICE, "Only tokens at least this likely, relative to the likeliest."),
        Option("typical_p", float, CHOICE, "Locally typical sampling; 1 is off."),
        Option("xtc_probability", float, CHOICE, "Chance to drop the likeliest tokens (XTC); 0 is off."),
        Option("xtc_threshold", float, CHOICE, "Probability from which XTC may drop a token."),
        Option("mirostat", int, CHOICE, "2 steers for constant surprise instead of cutting; 0 is off."),
        Option("mirostat_tau", float, CHOICE, "Surprise Mirostat aims at."),
        Option("mirostat_eta", float, CHOICE, "How fast Mirostat corrects."),
        Option("logit_bias", dict[str, float], CHOICE, "TOKEN=VALUE added to a token's logit. May be repeated."),
        Option("repeat_last_n", int, REPEATS, "Tokens the penalties look back over; 0: off, -1: all."),
        Option("repeat_penalty", float, REPEATS, "Divides the logits of tokens used lately; 1 is off."),
        Option("presence_penalty", float, REPEATS, "Taken from the logit of each token used lately."),
        Option("frequency_penalty", float, REPEATS, "Taken once for each time a token was used lately."),
        Option("dry_multiplier", float, REPEATS, "Strength of DRY, which breaks repeated phrases; 0 is off."),
        Option("dry_base", float, REPEATS, "How fast DRY grows with the length of the phrase."),
        Option("dry_allowed_length", int, REPEATS, "Longest phrase DRY lets repeat."),
        Option("dry_penalty_last_n", int, REPEATS, "Tokens DRY looks back over; -1: all."),
        Option("dry_sequence_breakers", list[str], REPEATS, "Text that ends a phrase for DRY. May be repeated."),
        Option("speculative", Speculative, SPEED, "Where drafted tokens come from."),
    )
}


def find(name: str) -> Option:
    """The option of that name; dashes count as underscores.

    Raises:
        BadRequest: there is none; with the nearest names.
    """
    from difflib import get_close_matches

    known = name.replace("-", "_")
    if known not in OPTIONS:
        near = get_close_matches(known, OPTIONS, 3)
        raise BadRequest(f"no parameter is named {name!r}" + (f"; did you mean {' or '.join(near)}?" if near else ""))
    return OPTIONS[known]


def as_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a typer command one flag for each option in place of its ``**options``, which gets those that were set."""

    def call(**values: Any) -> None:
        given = {name: value for name in OPTIONS if (value := values.pop(name)) not in (None, [])}
        if "logit_bias" in given:
            given["logit_bias"] = OPTIONS["logit_bias"].parse(given["logit_bias"])
        command(**values, **given)

    signature = inspect.signature(command, eval_str=True)
    own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    call.__signature__ = signature.replace(parameters=[*own, *map(_flag, OPTIONS.values())])  # type: ignore[attr-defined]
    call.__doc__ = command.__doc__
    return call


def _flag(option: Option) -> inspect.Parameter:
    dashed = "--" + option.name.replace("_", "-")
    names = f"{dashed}/--no-{dashed[2:]}" if option.kind is bool else dashed
    info = typer.Option(names, help=option.help, rich_help_panel=option.group, show_default=False)
    kind = list[str] if option.kind in (list[str], dict[str, float]) else option.kind
    annotation = Annotated[kind | None, info]  # type: ignore[valid-type]
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
