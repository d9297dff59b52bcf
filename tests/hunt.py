"""Searches for models to import, over GGUF files made for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ggufwriter import GgufWriter

from beastd.library.importing.find import find_models
from beastd.library.importing.found import Found, Skipped

TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


class Ggufs:
    """The bytes of small GGUF files."""

    def __init__(self) -> None:
        self.writer = GgufWriter()

    def model(self, file_type: int = 15, **keys: Any) -> bytes:
        """A model; 15 is q4_k_m. Keys are strings of metadata, dots as double underscores; ``n_embd`` its width."""
        n_embd = keys.pop("n_embd", 64)
        pairs = [*self.writer.model(embedding_length=n_embd), self.writer.pair("general.file_type", "u32", file_type)]
        pairs += [self.writer.pair(key.replace("__", "."), "str", value) for key, value in keys.items()]
        query = self.writer.tensor("blk.0.attn_q.weight", (n_embd, 4), offset=n_embd * 40)
        return self.writer.file(pairs, [self.writer.tensor("token_embd.weight", (n_embd, 10)), query])

    def shards(self, n: int = 2) -> list[bytes]:
        """The files of a split model."""
        found = []
        for i in range(n):
            split = [("split.no", "u16", i), ("split.count", "u16", n), ("split.tensors.count", "i32", n)]
            head = self.writer.model() if i == 0 else [self.writer.pair("general.architecture", "str", "llama")]
            pairs = [*head, *(self.writer.pair(*pair) for pair in split)]
            name, n_out = (f"blk.{i - 1}.attn_q.weight", 4) if i else ("token_embd.weight", 10)
            found.append(self.writer.file(pairs, [self.writer.tensor(name, (64, n_out))]))
        return found

    def adapter(self, n_embd: int = 64, title: str = "Cub Pirate") -> bytes:
        """A LoRA for ``model``."""
        keys = {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora"}
        pairs = [self.writer.pair(key, "str", value) for key, value in (keys | {"general.name": title}).items()]
        pairs.append(self.writer.pair("adapter.lora.alpha", "f32", 8.0))
        a = self.writer.tensor("blk.0.attn_q.weight.lora_a", (n_embd, 2))
        b = self.writer.tensor("blk.0.attn_q.weight.lora_b", (2, 4), offset=n_embd * 8)
        return self.writer.file(pairs, [a, b])

    def projector(self, file_type: int = 1) -> bytes:
        """An mmproj file."""
        pairs = [
            self.writer.pair(f"general.{key}", "str", it) for key, it in (("architecture", "clip"), ("type", "mmproj"))
        ]
        pairs.append(self.writer.pair("general.file_type", "u32", file_type))
        return self.writer.file(pairs, [self.writer.tensor("v.patch_embd.weight", (8, 8))])


class Hunt:
    """What a search found."""

    def __init__(self, path: Path, *, gguf_template: bool = False) -> None:
        self.all = list(find_models(path, gguf_template=gguf_template))
        self.found = {it.name.short: it for it in self.all if isinstance(it, Found)}
        self.skipped = {str(it.source): it.reason for it in self.all if isinstance(it, Skipped)}

    @property
    def only(self) -> Found:
        """The one model."""
        assert len(self.found) == 1, self.all
        return next(iter(self.found.values()))

    @property
    def reason(self) -> str:
        """Why the one thing was skipped."""
        assert len(self.skipped) == len(self.all) == 1, self.all
        return next(iter(self.skipped.values()))
