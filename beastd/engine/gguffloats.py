"""Reads GGUF files of float tensors that are no models, with llama.cpp's own header reader (``ggml/include/gguf.h``).

Numbers and texts of its metadata are asked for by key; tensors are copied out of the mapped file, within its bounds.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from llama_cpp._ggml import libggml

from beastd.errors import BadModel

FloatArray = npt.NDArray[np.float32]

_U32, _STRING, _ARRAY = 4, 8, 9
"""``enum gguf_type``."""
_F32 = 0
"""``enum ggml_type``."""


class _InitParams(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


def _function(name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(libggml, name)
    function.restype, function.argtypes = result, arguments
    return function


_p, _i64, _size, _int, _text = ctypes.c_void_p, ctypes.c_int64, ctypes.c_size_t, ctypes.c_int, ctypes.c_char_p
_init_from_file = _function("gguf_init_from_file", _p, _text, _InitParams)
_free = _function("gguf_free", None, _p)
_find_key = _function("gguf_find_key", _i64, _p, _text)
_kv_type = _function("gguf_get_kv_type", _int, _p, _i64)
_val_u32 = _function("gguf_get_val_u32", ctypes.c_uint32, _p, _i64)
_arr_type = _function("gguf_get_arr_type", _int, _p, _i64)
_arr_n = _function("gguf_get_arr_n", _size, _p, _i64)
_arr_str = _function("gguf_get_arr_str", _text, _p, _i64, _size)
_n_tensors = _function("gguf_get_n_tensors", _i64, _p)
_data_offset = _function("gguf_get_data_offset", _size, _p)
_tensor_name = _function("gguf_get_tensor_name", _text, _p, _i64)
_tensor_type = _function("gguf_get_tensor_type", _int, _p, _i64)
_tensor_offset = _function("gguf_get_tensor_offset", _size, _p, _i64)
_tensor_size = _function("gguf_get_tensor_size", _size, _p, _i64)


class FloatFile:
    """An open GGUF file whose tensors are 32-bit floats."""

    def __init__(self, handle: ctypes.c_void_p, path: Path) -> None:
        self._handle = handle
        self._path = path
        self._bytes = np.memmap(path, np.uint8, "r")

    def number(self, key: str) -> int | None:
        """A 32-bit count of the metadata; None when it is not there as one."""
        at = _find_key(self._handle, key.encode())
        return int(_val_u32(self._handle, at)) if at >= 0 and _kv_type(self._handle, at) == _U32 else None

    def texts(self, key: str) -> list[str] | None:
        """A list of texts of the metadata; None when it is not there as one."""
        at = _find_key(self._handle, key.encode())
        if at < 0 or _kv_type(self._handle, at) != _ARRAY or _arr_type(self._handle, at) != _STRING:
            return None
        return [_arr_str(self._handle, at, i).decode("utf-8", "replace") for i in range(_arr_n(self._handle, at))]

    def tensors(self) -> dict[str, FloatArray]:
        """Every tensor, flat, by name. Raises BadModel for one that holds no floats, or leaves the file."""
        start = _data_offset(self._handle)
        return dict(self._tensor(start, i) for i in range(_n_tensors(self._handle)))

    def _tensor(self, start: int, i: int) -> tuple[str, FloatArray]:
        name = _tensor_name(self._handle, i).decode("utf-8", "replace")
        begin, n_bytes = start + _tensor_offset(self._handle, i), _tensor_size(self._handle, i)
        if _tensor_type(self._handle, i) != _F32 or begin + n_bytes > self._bytes.size:
            raise BadModel(f"{self._path}: '{name}' holds no 32-bit floats, or the file was cut short; make it again")
        return name, np.frombuffer(self._bytes[begin : begin + n_bytes].tobytes(), np.float32)


@contextmanager
def open_floats(path: Path) -> Iterator[FloatFile]:
    """Open a file for the time of a block. Raises BadModel when its header is broken, OSError when it is gone."""
    handle = _init_from_file(os.fsencode(path), _InitParams(no_alloc=True, ctx=None))
    if not handle:
        raise BadModel(f"{path} is a broken GGUF file; make it again, or get it again")
    try:
        yield FloatFile(ctypes.c_void_p(handle), path)
    finally:
        _free(handle)
