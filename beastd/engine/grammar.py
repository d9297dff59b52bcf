"""Grammars that constrain an answer: JSON and JSON Schema, through llama.cpp's GBNF sampler."""

from __future__ import annotations

import ctypes
import json
import weakref
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
from llama_cpp.llama_grammar import JSON_GBNF, json_schema_to_gbnf

from beastd.engine.llama import FloatArray
from beastd.errors import BadRequest

MAX_SCHEMA_BYTES = 256 * 1024
_TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


def to_gbnf(answer_format: str | dict[str, Any]) -> str | None:
    """The GBNF for a request's ``format``: "json", a JSON Schema, or nothing for "".

    Raises ``BadRequest`` for another word, and for a schema that cannot be turned into a grammar.
    """
    if answer_format == "":
        return None
    if answer_format == "json":
        return str(JSON_GBNF)
    if isinstance(answer_format, str):
        raise BadRequest(f'format {answer_format!r} is not known; use "json" or a JSON Schema object')
    schema = json.dumps(answer_format)
    if len(schema) > MAX_SCHEMA_BYTES:
        raise BadRequest(f"the JSON Schema in format has {len(schema)} bytes; at most {MAX_SCHEMA_BYTES} are taken")
    try:
        return str(json_schema_to_gbnf(schema))
    except Exception as error:  # the converter raises anything, RecursionError included
        raise BadRequest(f"the JSON Schema in format cannot be turned into a grammar: {error!r}") from error


class Grammar:
    """llama.cpp's grammar sampler for one answer. Remembers what was accepted."""

    def __init__(self, vocab: lib.llama_vocab_p, n_vocab: int, gbnf: str) -> None:
        """Raise ``BadRequest`` when llama.cpp does not parse the grammar."""
        self._sampler = lib.llama_sampler_init_grammar(vocab, gbnf.encode(), b"root")
        if not self._sampler:
            raise BadRequest("llama.cpp cannot parse the grammar made from format; simplify the JSON Schema")
        weakref.finalize(self, lib.llama_sampler_free, self._sampler)
        self._all = np.zeros(n_vocab, _TOKEN_DATA)
        self._all["id"] = np.arange(n_vocab)
        self._one = np.zeros(1, _TOKEN_DATA)

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
