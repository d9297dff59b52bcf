"""The GGUF layers of one of Ollama's models: which of them Beast can run together, and in what order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from beastd.errors import BadModel
from beastd.library.importing.filenames import slug, unique
from beastd.registry.adapters import check_adapter
from beastd.registry.modelfile import AdapterFields

if TYPE_CHECKING:
    from beastd.library.importing.ollamastore import Layer, OllamaStore
    from beastd.registry.header import Header

_VISION = ("v.", "mm.")
"""Beginnings of tensors' names in projectors; Ollama has kept them inside some models."""


def in_order(store: OllamaStore, layers: list[Layer]) -> list[Layer]:
    """A model's layers in the order of its shards, which a manifest does not keep. Raises BadModel."""
    if len(layers) == 1:
        return layers
    numbers = [store.header(layer).metadata.get("split.no") for layer in layers]
    if sorted(map(str, numbers)) != sorted(map(str, range(len(layers)))):
        raise BadModel(f"its {len(layers)} model layers are not the shards of one model; pull it again")
    return [layers[numbers.index(i)] for i in range(len(layers))]


def adapters_of(store: OllamaStore, layers: list[Layer], base: Header) -> dict[str, str | AdapterFields]:
    """Adapters, each named by its title; they are always on, as in Ollama. Raises BadModel: one does not fit."""
    found: dict[str, str | AdapterFields] = {}
    for layer in layers:
        header = store.header(layer)
        check_adapter(header, base)
        title = header.metadata.get("general.name")
        name = unique(slug(title if isinstance(title, str) else "") or "adapter", found)
        found[name] = AdapterFields(str(store.blob(layer)), applied=True)
    return found


def draft_of(store: OllamaStore, layers: list[Layer], n_vocab: int) -> tuple[Layer | None, list[str]]:
    """The draft model, if it is one file with the model's vocabulary; and a note where it is left out."""
    if not layers:
        return None, []
    if len(layers) > 1:
        return None, [f"its draft model left out: it is split into {len(layers)} files"]
    try:
        n_tokens = store.header(layers[0]).shape().n_vocab
    except BadModel as e:
        return None, [f"its draft model left out: {e.message}"]
    if n_tokens != n_vocab:
        return None, [f"its draft model left out: it has {n_tokens} tokens, the model {n_vocab}"]
    return layers[0], []


def projector_of(store: OllamaStore, layers: list[Layer]) -> tuple[Layer | None, list[str]]:
    """The first projector, and a note where there are more. Raises BadModel: it is no GGUF."""
    if not layers:
        return None, []
    store.header(layers[0])
    n_more = len(layers) - 1
    return layers[0], [f"{n_more} of its {len(layers)} projectors left out: a model has one"] if n_more else []


def vision_note(base: Header) -> list[str]:
    """What is to be said of a model that holds its projector's tensors itself."""
    has_vision = any(tensor.name.startswith(_VISION) for tensor in base.tensors)
    return ["its GGUF holds the image part in the same file, which llama.cpp may refuse to load"] if has_vision else []
