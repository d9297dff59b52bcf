"""The PARAMETER instructions of a Modelfile as options of a request."""

from __future__ import annotations

from typing import Any

import msgspec

from beastd.contract import Options
from beastd.errors import Unsupported
from beastd.nearest import did_you_mean
from beastd.registry.ollamafile.instructions import Instruction

_MACHINE = "it is set for the machine: remove the line, and use config.yaml's "
_GONE = "Ollama ignores it, too: remove the line"
_IN_FILE = "the GGUF file says it: remove the line"
_REFUSED = {
    "num_keep": "Beast never shifts the context, so there is nothing to keep: remove the line",
    "num_batch": f"{_MACHINE}batch",
    "num_gpu": f"{_MACHINE}gpu_layers",
    "num_thread": f"{_MACHINE}threads",
    "use_mmap": f"{_MACHINE}mmap",
    "main_gpu": "a model uses the GPUs that beastd sees: remove the line, and choose them with CUDA_VISIBLE_DEVICES",
    "tfs_z": f"tail-free sampling is gone from llama.cpp; min_p is near to it. {_GONE}",
    "logit_bias": "it takes a table: use a YAML description",
    "num_gqa": _IN_FILE,
    "rope_frequency_base": _IN_FILE,
    "rope_frequency_scale": _IN_FILE,
    "embedding_only": _IN_FILE,
    **dict.fromkeys(("penalize_newline", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mlock", "numa"), _GONE),
}
"""Parameters that Ollama takes or took, and Beast does not: why, or what to do."""

_LISTS = ("stop", "dry_sequence_breakers")
"""Those that may be given again."""


class Parameters:
    """The parameters of one file."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._lines: dict[str, int] = {}

    def add(self, instruction: Instruction) -> None:
        """Take one more. Raises BadModel, and Unsupported for what Beast has elsewhere or not at all."""
        name = instruction.head
        if name in _REFUSED:
            raise Unsupported(f"{instruction}: {name}: {_REFUSED[name]}")
        if name not in Options.__struct_fields__:
            raise instruction.broken(
                f"there is no parameter '{name[:40]}'{did_you_mean(name, Options.__struct_fields__)}"
            )
        if name in _LISTS:
            self._set(instruction, [*self._values.get(name, ()), instruction.value])
        elif name in self._values:
            raise instruction.broken(f"{name} is given on line {self._lines[name]} already; leave one of them")
        else:
            self._set(instruction, instruction.value)

    def _set(self, instruction: Instruction, value: str | list[str]) -> None:
        name = instruction.head
        try:
            options = msgspec.convert({name: value}, Options, strict=False)
        except msgspec.ValidationError as error:
            problem = str(error).partition(" - at ")[0]
            raise instruction.broken(f"{name} cannot be {instruction.value[:40]!r}: {problem}") from error
        self._values[name] = getattr(options, name)
        if self._values[name] is None:
            raise instruction.broken(f"{name} cannot be {instruction.value[:40]!r}; leave the line out for its default")
        self._lines[name] = instruction.line

    def options(self) -> Options:
        """All of them."""
        return Options(**self._values)
