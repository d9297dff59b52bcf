"""Grammars that constrain an answer: JSON and JSON Schema, through llama.cpp's GBNF sampler."""

from __future__ import annotations

import ctypes
import json
import weakref
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
from llama_cpp.llama_grammar import JSON_GBNF, SchemaConverter

from beastd.engine import patterns
from beastd.engine.llama import FloatArray
from beastd.engine.metering import LimitExceeded, Meter
from beastd.errors import BadRequest

MAX_SCHEMA_BYTES = 256 * 1024
MAX_GBNF_CHARS = 256 * 1024
MAX_REPETITIONS = 1000
"""llama.cpp parses no more optional ones (``MAX_REPETITION_THRESHOLD`` in ``llama-grammar.cpp``)."""
MAX_PATTERN_CHARS = 2048
MAX_NAME_CHARS = 2048
"""Of a rule: the names of all properties that lead to it."""
MAX_NESTING = 128
_COUNTS = ("minItems", "maxItems", "minLength", "maxLength")
_TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


def to_gbnf(answer_format: str | dict[str, Any]) -> str | None:
    """The GBNF for a request's ``format``: "json", a JSON Schema, or nothing for "".

    Raises ``BadRequest`` for another word, and for a schema that cannot be turned into a grammar of bounded size.
    """
    if answer_format == "":
        return None
    if answer_format == "json":
        return str(JSON_GBNF)
    if isinstance(answer_format, str):
        raise BadRequest(f'format {answer_format!r} is not known; use "json" or a JSON Schema object')
    try:
        return _Converter().gbnf(answer_format)
    except BadRequest:
        raise
    except LimitExceeded as error:
        raise BadRequest(f"the JSON Schema in format is too large for a grammar: {error}; simplify it") from error
    except RecursionError as error:
        raise BadRequest("the JSON Schema in format nests too deeply or has too many optional properties") from error
    except Exception as error:  # the converter raises anything
        raise BadRequest(f"the JSON Schema in format cannot be turned into a grammar: {error!r:.500}") from error


class _Converter(SchemaConverter):  # type: ignore[misc]
    """llama.cpp's converter, which trusts its schema, made to end: each rule is charged, each repetition checked.

    One that is small can ask for a huge grammar: by a count, by references to references, by clashing names.
    """

    def __init__(self) -> None:
        super().__init__(prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False)
        self._meter = Meter(MAX_GBNF_CHARS)
        self._n_open = 0

    def gbnf(self, schema: dict[str, Any]) -> str:
        """The grammar. Raises anything."""
        text = json.dumps(schema)
        if len(text) > MAX_SCHEMA_BYTES:
            raise BadRequest(f"the JSON Schema in format has {len(text)} bytes; at most {MAX_SCHEMA_BYTES} are taken")
        self.visit(self.resolve_refs(json.loads(text), "stdin"), "")  # which writes into its schema
        return str(self.format_grammar())

    def visit(self, schema: object, name: str) -> str:
        """The name of the rule for a part of the schema."""
        if self._n_open == MAX_NESTING:
            raise BadRequest(f"the JSON Schema in format nests more than {MAX_NESTING} deep; simplify it")
        if len(name) > MAX_NAME_CHARS:
            raise BadRequest(f"the JSON Schema in format has names of more than {MAX_NAME_CHARS} characters together")
        if not isinstance(schema, dict):
            raise BadRequest(f"format: a schema is an object, not {schema!r:.80}")
        self._meter.charge()
        _check_repetitions(schema)
        self._n_open += 1
        rule = str(super().visit(schema, name))
        self._n_open -= 1
        return rule

    def _add_rule(self, name: str, rule: str) -> str:
        n_rules = len(self._rules)
        key = str(super()._add_rule(name, rule))
        self._meter.charge(len(key) + len(rule) if len(self._rules) > n_rules else 1)
        return key


def _check_repetitions(schema: dict[str, Any]) -> None:
    """Raise ``BadRequest`` for a count or a pattern that would repeat something too often."""
    for field in _COUNTS:
        count = schema.get(field, 0)
        if not isinstance(count, int) or not 0 <= count <= MAX_REPETITIONS:
            raise BadRequest(f"format: {field} is {count!r:.80}; it must be a whole number up to {MAX_REPETITIONS}")
    pattern = schema.get("pattern")
    if not isinstance(pattern, str):
        return
    if len(pattern) > MAX_PATTERN_CHARS:
        raise BadRequest(f"format: a pattern has {len(pattern)} characters; at most {MAX_PATTERN_CHARS} are taken")
    try:
        cost = patterns.cost(pattern[1:-1])  # between ^ and $
    except patterns.PatternRefused as error:
        raise BadRequest(f"format: the pattern {pattern[:80]!r} cannot be used: {error}") from error
    if cost > 2 * MAX_REPETITIONS:
        raise BadRequest(f"format: the pattern {pattern[:80]!r} repeats too much: write it with fewer repetitions")


class Grammar:
    """llama.cpp's grammar sampler for one answer. Remembers what was accepted."""

    def __init__(self, vocab: lib.llama_vocab_p, n_vocab: int, gbnf: str) -> None:
        """Raise ``BadRequest`` when llama.cpp does not parse the grammar."""
        self._gbnf = gbnf.encode()
        self._bind(vocab)
        self._all = np.zeros(n_vocab, _TOKEN_DATA)
        self._all["id"] = np.arange(n_vocab)
        self._one = np.zeros(1, _TOKEN_DATA)

    def renew(self, vocab: lib.llama_vocab_p, accepted: list[int]) -> None:
        """Another copy of the model took the place of the one before, with a vocabulary handle of its own.

        ``accepted`` are all the tokens accepted so far.
        """
        self._free()
        self._bind(vocab)
        for token in accepted:
            self.accept(token)

    def _bind(self, vocab: lib.llama_vocab_p) -> None:
        self._sampler = lib.llama_sampler_init_grammar(vocab, self._gbnf, b"root")
        if not self._sampler:
            raise BadRequest("llama.cpp cannot parse the grammar made from format; simplify the JSON Schema")
        self._free = weakref.finalize(self, lib.llama_sampler_free, self._sampler)

    def is_allowed(self, token: int) -> bool:
        """Whether the grammar lets this token come next."""
        self._one[0] = (token, 0.0, 0.0)
        self._apply(self._one)
        return bool(self._one["logit"][0] > -np.inf)

    def mask(self, logits: FloatArray) -> None:
        """Set every token that may not come next to -inf, in place. Costs milliseconds at large vocabularies."""
        self._all["logit"] = logits
        self._apply(self._all)
        logits[:] = self._all["logit"]

    def accept(self, token: int) -> None:
        """The token was chosen. It must be allowed: llama.cpp aborts otherwise."""
        lib.llama_sampler_accept(self._sampler, token)

    def _apply(self, candidates: np.ndarray[Any, np.dtype[np.void]]) -> None:
        array = lib.llama_token_data_array(
            data=ctypes.cast(candidates.ctypes.data, ctypes.POINTER(lib.llama_token_data)),
            size=len(candidates),
            selected=-1,
            sorted=False,
        )
        lib.llama_sampler_apply(self._sampler, ctypes.byref(array))
