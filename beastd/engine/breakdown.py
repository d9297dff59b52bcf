"""What llama.cpp takes on each device, simulated or real, and which GPUs it sees.

With simulated allocation its log tells of the compute buffers only: those of weights and KV cache are empty stand-ins.
``llama_get_memory_breakdown`` (``src/llama-ext.h``) tells all of it, to the byte, but gives a C++ map: a red-black
tree, walked here by its node layout, which the C++ libraries have not changed for decades.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from typing import Any

import llama_cpp.llama_cpp as lib

from beastd.contract import RAM, DeviceNeed, Gpu
from beastd.errors import ToolFailed

_IS_LIBCXX = sys.platform == "darwin"
"""LLVM's C++ library, with a layout of its own; elsewhere GNU's."""
_MOST_NODES = 256
_GPU_TYPES = (1, 2)
"""ggml_backend_dev_type: a GPU with memory of its own, or with the host's."""


class _Node(ctypes.Structure):
    """A node of the map: buffer type → bytes. GNU's begins with colour and parent, LLVM's ends with them."""


_Link = ctypes.POINTER(_Node)
_LINKS = ("left", "right", "parent", "colour") if _IS_LIBCXX else ("colour", "parent", "left", "right")
_Node._fields_ = [
    *((name, ctypes.c_size_t if name == "colour" else _Link) for name in _LINKS),
    ("buffer_type", ctypes.c_void_p),
    ("model", ctypes.c_size_t),
    ("context", ctypes.c_size_t),
    ("compute", ctypes.c_size_t),
]


class _Map(ctypes.Structure):
    """``std::map``; returned by value, so only its root and size may be believed."""

    _fields_ = (
        [("begin", ctypes.c_void_p), ("root", _Link), ("n", ctypes.c_size_t)]
        if _IS_LIBCXX
        else [
            ("compare", ctypes.c_size_t),
            ("colour", ctypes.c_size_t),
            ("root", _Link),
            ("first", ctypes.c_void_p),
            ("last", ctypes.c_void_p),
            ("n", ctypes.c_size_t),
        ]
    )


def device_needs(context: lib.llama_context_p) -> list[DeviceNeed]:
    """What the context and its model take on each device, RAM first. Raises ToolFailed for an unknown llama.cpp."""
    needs = {RAM: DeviceNeed(device=RAM)}
    for node in _nodes(context):
        device = _device(node.buffer_type)
        known = needs.get(device, DeviceNeed(device=device))
        needs[device] = DeviceNeed(
            device=device,
            weights_bytes=known.weights_bytes + node.model,
            kv_bytes=known.kv_bytes + node.context,
            compute_bytes=known.compute_bytes + node.compute,
        )
    return list(needs.values())


def gpus() -> list[Gpu]:
    """Every GPU this build of llama.cpp can use."""
    devices = [_call("ggml_backend_dev_get", ctypes.c_void_p, i) for i in range(_call("ggml_backend_dev_count"))]
    return [_gpu(device) for device in devices if _call("ggml_backend_dev_type", ctypes.c_int, device) in _GPU_TYPES]


def _nodes(context: lib.llama_context_p) -> list[_Node]:
    try:
        found = _call("_Z26llama_get_memory_breakdownPK13llama_context", _Map, context)
    except AttributeError as e:
        raise ToolFailed("this llama.cpp does not tell what memory it takes") from e
    nodes = list(_walk(found.root)) if 0 < found.n <= _MOST_NODES else []
    if not nodes or len(nodes) != found.n:
        raise ToolFailed("this llama.cpp tells what memory it takes in a form that is not known")
    return nodes


def _walk(link: ctypes._Pointer[_Node]) -> Iterator[_Node]:
    if link:
        yield from _walk(link.contents.left)
        yield link.contents
        yield from _walk(link.contents.right)


def _device(buffer_type: int) -> str:
    """Where buffers of a type lie: main memory for all that the CPU reads, and for its own repacked weights."""
    device = _call("ggml_backend_buft_get_device", ctypes.c_void_p, buffer_type)
    is_host = _call("ggml_backend_buft_is_host", ctypes.c_bool, buffer_type)
    if is_host or not device or _call("ggml_backend_dev_type", ctypes.c_int, device) not in _GPU_TYPES:
        return RAM
    return _text("ggml_backend_dev_name", device)


def _gpu(device: int) -> Gpu:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _call("ggml_backend_dev_memory", None, device, ctypes.byref(free), ctypes.byref(total))
    return Gpu(
        name=_text("ggml_backend_dev_name", device),
        description=_text("ggml_backend_dev_description", device),
        total_bytes=total.value,
        free_bytes=free.value,
    )


def _text(function: str, device: int) -> str:
    return str(_call(function, ctypes.c_char_p, device).decode("utf-8", "replace"))


def _call(name: str, kind: object = ctypes.c_size_t, *args: object) -> Any:
    function = getattr(lib._lib, name)
    function.restype = kind
    return function(*(ctypes.c_void_p(it) if isinstance(it, int) else it for it in args))
