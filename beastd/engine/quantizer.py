"""Calls llama.cpp's quantizer for one order: dry run, real run, and what its errors mean.

Functions and structs are llama-cpp-python's low-level bindings, named as in ``llama.h``; what is set in them is what
``tools/quantize/quantize.cpp`` sets.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib

from beastd.engine.imatrix import ImportanceMatrix, read_imatrix
from beastd.engine.quantlog import Plan, parse_plan, parse_step
from beastd.engine.threads import default_threads
from beastd.errors import BadModel, BadRequest, BeastError, Unsupported
from beastd.quants import COPY, OVERRIDE_TYPES, QuantType, quant_type
from beastd.tool import Progress, Report
from beastd.toolorders import QuantizeOrder

_WORK_BYTES = 2**30
"""Rows held in memory at once; the result does not depend on it."""
_LOG_ERROR = 4


class WriteFailed(Exception):
    """llama.cpp could not write the file; it does not tell why."""


class Quantizer:
    """One order for ``llama_model_quantize``, and everything that must live as long as its calls."""

    def __init__(self, order: QuantizeOrder, source: str) -> None:
        """``source`` is the file to read: of a split model, its first shard, properly named.

        Raises BadRequest, BadModel.
        """
        self._order = order
        self._source = os.fsencode(source)
        self._type = quant_type(order.type)
        imatrix = read_imatrix(Path(order.imatrix)) if order.imatrix else None
        self._params = _params(order, self._type)
        if imatrix:
            self._rows, self._params.imatrix = _imatrix_array(imatrix)
            self._params.kv_overrides = _imatrix_facts(Path(order.imatrix or "").name, imatrix)
        lib.llama_backend_init()

    def plan(self) -> Plan:
        """What ``run`` would do. Raises as it."""
        log: list[str] = []
        self._params.dry_run = True
        self._call(log.append)
        return parse_plan("".join(log))

    def run(self, report: Report) -> None:
        """Write the file, telling of each tensor.

        Raises BadRequest, Unsupported, BadModel, and WriteFailed.
        """
        status = f"quantizing {self._order.label} to {self._type.name}"
        total = 0

        def on_log(text: str) -> None:
            nonlocal total
            if step := parse_step(text):
                begun, total = step
                report(Progress(status=status, completed=begun - 1, total=total, unit="tensors"))

        self._params.dry_run = False
        self._call(on_log)
        report(Progress(status=status, completed=total, total=total, unit="tensors"))

    def _call(self, on_log: Callable[[str], None]) -> None:
        errors: deque[str] = deque(maxlen=4)

        def on_text(level: int, text: bytes, _user_data: object) -> None:
            line = text.decode("utf-8", "replace")
            sys.stderr.write(line)
            if level == _LOG_ERROR:
                errors.append(line.strip())
            on_log(line)

        callback = lib.llama_log_callback(on_text)
        lib.llama_log_set(callback, ctypes.c_void_p(0))
        code = lib.llama_model_quantize(self._source, os.fsencode(self._order.out), ctypes.byref(self._params))
        lib.llama_log_set(_no_log, ctypes.c_void_p(0))
        if code != 0:
            raise _error(self._order.label, self._type, "; ".join(errors))


@lib.llama_log_callback  # type: ignore[untyped-decorator]
def _no_log(_level: int, _text: bytes, _user_data: object) -> None:
    """Stands in once a call's own callback is gone: calling a collected one is a segmentation fault."""


def _params(order: QuantizeOrder, wanted: QuantType) -> Any:
    params = lib.llama_model_quantize_default_params()
    params.nthread = order.n_threads or default_threads()
    params.ftype = wanted.file_type
    params.only_copy = wanted.name == COPY
    params.allow_requantize = order.allow_requantize
    params.max_buf_size = _WORK_BYTES
    if order.output_type:
        params.output_tensor_type = _override(order.output_type)
    if order.embedding_type:
        params.token_embedding_type = _override(order.embedding_type)
    return params


def _override(name: str) -> int:
    if name.lower() not in OVERRIDE_TYPES:
        raise BadRequest(f"'{name[:40]}' is no type for one tensor alone; choose from {', '.join(OVERRIDE_TYPES)}")
    return OVERRIDE_TYPES[name.lower()]


def _imatrix_array(imatrix: ImportanceMatrix) -> tuple[list[Any], Any]:
    """(what must be kept alive, the array), ended by an entry without a name."""
    rows = [(name.encode(), values) for name, values in imatrix.weights.items()]
    array = (lib.llama_model_imatrix_data * (len(rows) + 1))()
    for entry, (name, values) in zip(array, rows, strict=False):
        entry.name, entry.size = name, values.size
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    return rows, array


def _imatrix_facts(file_name: str, imatrix: ImportanceMatrix) -> Any:
    """Metadata that llama-quantize leaves about the matrix; ended by an empty key."""
    facts: dict[str, str | int] = {"file": file_name}
    if imatrix.dataset:
        facts["dataset"] = imatrix.dataset
    facts["entries_count"] = len(imatrix.weights)
    if imatrix.n_chunks:
        facts["chunks_count"] = imatrix.n_chunks
    array = (lib.llama_model_kv_override * (len(facts) + 1))()
    for entry, (key, value) in zip(array, facts.items(), strict=False):
        entry.key = f"quantize.imatrix.{key}".encode()
        if isinstance(value, str):
            entry.tag, entry.value.val_str = lib.LLAMA_KV_OVERRIDE_TYPE_STR, value.encode()[:127]
        else:
            entry.tag, entry.value.val_i64 = lib.LLAMA_KV_OVERRIDE_TYPE_INT, value
    return array


def _error(label: str, wanted: QuantType, reason: str) -> BeastError | WriteFailed:
    """What the exception that llama.cpp logged means; the texts are those of ``src/llama-quant.cpp``."""
    what = f"{label} cannot be quantized to {wanted.name}"
    if "iostream" in reason or "basic_ios" in reason:
        return WriteFailed(reason)
    if "requires an imatrix" in reason or "Missing importance matrix" in reason:
        return BadRequest(
            f"{what} without an importance matrix for all its tensors: make one with llama-imatrix and give it as "
            f"imatrix, or choose a larger type"
        )
    if "imatrix size" in reason:
        return BadRequest(f"{what}: the importance matrix was made for another model ({reason})")
    if "no tensor type fallback" in reason:
        return Unsupported(f"{what}: its rows are no whole blocks of that type; choose another, such as q8_0 or q4_0")
    if "validation failed" in reason:
        return BadModel(f"{what}: its weights hold values that are no numbers; get or convert the model again")
    return BadModel(f"{what}: {reason or 'llama.cpp gave no reason'}")
