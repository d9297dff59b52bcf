"""Ollama's parameters as Beast's, and in words what Beast has no such parameter for. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from beastd.contract import Options

if TYPE_CHECKING:
    from collections.abc import Mapping

_BY_MACHINE = "it is set for the machine, in config.yaml"
_WITHOUT_EFFECT = "Ollama itself no longer reads it"
_IN_FILE = "the GGUF file says it"
_LEFT_OUT = {
    "num_gpu": f"{_BY_MACHINE}: gpu_layers",
    "num_thread": f"{_BY_MACHINE}: threads",
    "num_batch": f"{_BY_MACHINE}: batch",
    "use_mmap": f"{_BY_MACHINE}: mmap",
    "main_gpu": "Beast spreads a model over the GPUs it sees",
    "num_keep": "Beast never shifts the context, so there is nothing to keep",
    **dict.fromkeys(("num_gqa", "rope_frequency_base", "rope_frequency_scale", "embedding_only"), _IN_FILE),
    **dict.fromkeys(("low_vram", "f16_kv", "logits_all", "vocab_only", "use_mlock", "numa"), _WITHOUT_EFFECT),
    **dict.fromkeys(("penalize_newline", "tfs_z"), _WITHOUT_EFFECT),
}
"""Ollama's ``api.Runner`` and what it has deprecated (``parser/parser.go``) → why Beast does not take it."""
_TYPES = {field.encode_name: field.type for field in msgspec.structs.fields(Options)}
_MAX_NOTES = 64


def options_of(given: Mapping[str, Any]) -> tuple[Options, list[str]]:
    """The options among Ollama's parameters, and a note for each that is left out, with its value."""
    taken: dict[str, Any] = {}
    notes: list[str] = []
    for name, value in given.items():
        if value is None:
            continue
        try:
            taken[name] = _value(name, value)
        except (LookupError, msgspec.ValidationError) as e:
            why = e.args[0] if isinstance(e, LookupError) else f"Beast cannot take this value: {_first_part(e)}"
            notes.append(f"{name[:40]} {_short(value)} left out: {why}")
    if len(notes) > _MAX_NOTES:
        notes[_MAX_NOTES:] = [f"{len(notes) - _MAX_NOTES} more parameters left out"]
    return Options(**taken), notes


def _value(name: str, value: Any) -> Any:
    """The value in the option's own type. Raises LookupError with the reason, or ValidationError."""
    if name not in _TYPES:
        raise LookupError(_LEFT_OUT.get(name, "Beast has no such parameter"))
    if isinstance(value, float) and value.is_integer():  # JSON's 40.0, which Ollama takes for 40
        try:
            return msgspec.convert(int(value), _TYPES[name])
        except msgspec.ValidationError:
            pass
    return msgspec.convert(value, _TYPES[name], strict=False)


def _short(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 40 else f"{text[:40]}…"


def _first_part(error: msgspec.ValidationError) -> str:
    return str(error).partition(" - at ")[0]
