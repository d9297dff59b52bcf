"""What a GGUF header says, and what follows from it for memory and limits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

from beastd.contract import ModelShape
from beastd.errors import BadModel
from beastd.registry.ggml import FILE_TYPES

if TYPE_CHECKING:
    from beastd.registry.ggml import TensorType

MAX_LAYERS = 512
"""llama.cpp's own (``LLAMA_MAX_LAYERS``)."""
MAX_COUNT = 2**31 - 1

_WITH_HEADS = frozenset(
    {
        *("deepseek2", "deepseek32", "glm-dsa", "glm4moe", "hy_v3"),
        *("bailingmoe3", "nemotron_h_moe", "qwen35", "qwen35moe", "qwen3next"),  # recurrent
    }
)
"""Architectures whose heads llama.cpp can compute, and whose KV it can cut after a draft."""
_WINDOWS_IGNORED = frozenset({"phi3"})
"""Architectures whose files name a window that llama.cpp makes nothing of."""
_WINDOWS_ASSUMED = frozenset({"gemma2", "llama4"})
"""Architectures that have a window where the file names none (their ``load_arch_hparams``)."""
_STATES = ("ssm", "wkv", "shortconv", "kda")
"""Groups of keys that only models with recurrent layers have."""

_ARCHITECTURE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""What a name in ``llama-arch.cpp`` is made of, so that keys and messages built from it stay short and plain."""


@dataclass(frozen=True, slots=True)
class Omitted:
    """Stands for a metadata value too large to keep: its elements (bytes, for a string) were counted, not stored."""

    type: str
    n: int


Scalar = int | float | bool | str | Omitted
Value = Scalar | Sequence[Scalar]
"""A metadata value."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: its shape in GGUF's order (fastest dimension first)."""

    name: str
    shape: tuple[int, ...]
    type: TensorType

    @property
    def n_elements(self) -> int:
        """How many weights it has."""
        return prod(self.shape)

    @property
    def n_bytes(self) -> int:
        """How many bytes they take."""
        return self.n_elements // self.type.n_block * self.type.block_bytes


@dataclass(frozen=True)
class Header:
    """The header of one GGUF file, or of all shards of a split one."""

    what: str
    """The file's name, for messages."""
    version: int
    metadata: dict[str, Value]
    tensors: tuple[Tensor, ...]
    size_bytes: int
    """The whole file, or all shards."""

    @property
    def architecture(self) -> str:
        """``general.architecture``, such as "llama"."""
        value = self.metadata.get("general.architecture")
        if not isinstance(value, str) or not _ARCHITECTURE.fullmatch(value):
            raise BadModel(
                f"{self.what} does not say its general.architecture; it is no model file llama.cpp could run"
            )
        return value

    @property
    def is_adapter(self) -> bool:
        """Whether this is a LoRA adapter, which runs only on top of its base model."""
        return self.metadata.get("general.type") == "adapter"

    @property
    def chat_template(self) -> str | None:
        """The model's own Jinja chat template."""
        template = self.metadata.get("tokenizer.chat_template")
        return template if isinstance(template, str) else None

    @property
    def n_splits(self) -> int:
        """Files the model is split into; 1 when it is whole."""
        return max(1, self._count("split.count", 1))

    @cached_property
    def n_params(self) -> int:
        """Weights in all tensors."""
        return sum(tensor.n_elements for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Average over all tensors; 0 without any."""
        return 8 * sum(tensor.n_bytes for tensor in self.tensors) / self.n_params if self.n_params else 0.0

    @property
    def quantization(self) -> str:
        """The file's declared type ("Q4_K_M"), else the type most of its weights have, else "unknown"."""
        declared = self.metadata.get("general.file_type")
        if isinstance(declared, int) and declared in FILE_TYPES:
            return FILE_TYPES[declared]
        weights = Counter[str]()
        for tensor in self.tensors:
            weights[tensor.type.name] += tensor.n_elements
        return weights.most_common(1)[0][0] if weights else "unknown"

    def shape(self) -> ModelShape:
        """What decides memory and limits. Raises BadModel for a file that is no model, or lacks a needed value."""
        if self.is_adapter:
            raise BadModel(f"{self.what} is an adapter, not a model; name it under `adapters` of its base model")
        if not self.tensors:
            raise BadModel(f"{self.what} has no weights, only a vocabulary; use the file of the whole model")
        return ModelShape(
            architecture=self.architecture,
            weights_bytes=self.size_bytes,
            n_params=self.n_params,
            n_layers=self._layers,
            n_embd=self._of_arch("embedding_length"),
            n_vocab=self._n_vocab,
            n_ctx_train=self._of_arch("context_length"),
            kv_elements_per_token=self._kv_elements_per_token,
            has_head=self._has_head,
            is_recurrent=self._is_recurrent,
            has_window=self._has_window,
        )

    @property
    def _layers(self) -> int:
        n_layers = self._of_arch("block_count")
        if n_layers > MAX_LAYERS:
            raise BadModel(f"{self.what}: block_count is {n_layers}; llama.cpp runs at most {MAX_LAYERS} layers")
        return n_layers

    @property
    def _is_recurrent(self) -> bool:
        states = tuple(f"{self.architecture}.{group}." for group in _STATES)
        return any(key.startswith(states) for key in self.metadata)

    @property
    def _has_window(self) -> bool:
        default = int(self.architecture in _WINDOWS_ASSUMED)
        window = self.metadata.get(f"{self.architecture}.attention.sliding_window", default)
        return isinstance(window, int) and window > 0 and self.architecture not in _WINDOWS_IGNORED

    @property
    def _has_head(self) -> bool:
        """A single head: of several, llama.cpp computes the first only for some architectures, and aborts at others."""
        if self._count(f"{self.architecture}.nextn_predict_layers", 0) != 1:
            return False
        head = f"blk.{self._layers - 1}.nextn."
        return self.architecture in _WITH_HEADS and any(tensor.name.startswith(head) for tensor in self.tensors)

    @property
    def _n_vocab(self) -> int:
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        if isinstance(tokens, Omitted):
            return tokens.n
        if isinstance(tokens, list):
            return len(tokens)
        embeddings = (tensor.shape for tensor in self.tensors if tensor.name == "token_embd.weight")
        return next((shape[1] for shape in embeddings if len(shape) > 1), 0)

    @property
    def _kv_elements_per_token(self) -> int:
        """As ``llama_hparams::n_embd_k_gqa`` and ``n_embd_v_gqa``, for layers that attend to the whole context.

        Models that keep less (sliding windows, recurrent layers) need no more than this.
        """
        heads = self._per_layer("attention.head_count", 0)
        n_heads = next((n for n in heads if n), 0)
        if n_heads == 0:
            return 0
        default = self._of_arch("embedding_length") // n_heads
        k = self._count(f"{self.architecture}.attention.key_length", default)
        v = self._count(f"{self.architecture}.attention.value_length", default)
        return sum(self._per_layer("attention.head_count_kv", heads)) * (k + v)

    def _per_layer(self, key: str, default: Value) -> list[int]:
        """A value that is given once for all layers, or for each."""
        n_layers, full_key = self._layers, f"{self.architecture}.{key}"
        value = self.metadata.get(full_key, default)
        counts = value if isinstance(value, list) else [value] * n_layers
        if len(counts) != n_layers:
            raise BadModel(f"{self.what}: {full_key} has {len(counts)} values for {n_layers} layers")
        return [self._as_count(full_key, count) for count in counts]

    def _of_arch(self, key: str) -> int:
        n = self._count(f"{self.architecture}.{key}", None)
        if n < 1:
            raise BadModel(f"{self.what}: {self.architecture}.{key} is {n}, not a positive number")
        return n

    def _count(self, key: str, default: int | None) -> int:
        value = self.metadata.get(key, default)
        if value is None:
            raise BadModel(f"{self.what} does not say its {key}; convert the model again with a current converter")
        return self._as_count(key, value)

    def _as_count(self, key: str, value: Value) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
            raise BadModel(f"{self.what}: {key} is {repr(value)[:40]}, not a count up to {MAX_COUNT}")
        return value
