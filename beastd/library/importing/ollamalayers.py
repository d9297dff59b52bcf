"""Turns the layers of one of Ollama's models into the fields of a description.

What each layer means is read from ``GetModel`` in Ollama's ``server/images.go`` and ``ConfigV2`` in
``types/model/config.go``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

from beastd.contract import Message, Options
from beastd.errors import BadModel, Unsupported
from beastd.library.importing.ollamaparams import options_of
from beastd.library.importing.ollamaparts import adapters_of, draft_of, in_order, projector_of, vision_note
from beastd.library.importing.ollamastore import Layer, digest_hex
from beastd.registry.gguf import read_shards
from beastd.registry.gotemplate import to_jinja
from beastd.registry.modelfile import Fields, dump
from beastd.yamlfile import MAX_FILE_BYTES

if TYPE_CHECKING:
    from beastd.library.importing.ollamastore import Manifest, OllamaStore
    from beastd.registry.header import Header

MAX_TEXT_BYTES = 128 * 1024
MAX_LAYERS = 1024

_PREFIX = "application/vnd.ollama.image."
_KNOWN = {"model", "adapter", "projector", "draft", "template", "prompt", "system", "params", "messages", "license"}


class Config(Struct, frozen=True):
    """The few fields of a model's config that matter here."""

    model_format: str | None = None
    renderer: str | None = None
    parser: str | None = None
    remote_host: str | None = None
    remote_model: str | None = None
    generation_defaults: dict[str, Any] | None = None


class OllamaModel:
    """One model being translated."""

    def __init__(self, store: OllamaStore, manifest: Manifest) -> None:
        """Raises BadModel, Unsupported: it is no model that Beast could run."""
        layers = manifest.layers or []
        if len(layers) > MAX_LAYERS:
            raise Unsupported(f"it has {len(layers)} layers; only models in MLX's format have so many")
        self._store = store
        self._kinds = [(layer.media_type.removeprefix(_PREFIX), layer) for layer in layers]
        self._config = store.json(manifest.config, Config) if manifest.config.digest else Config()
        self.notes: list[str] = []
        self._check_is_local_gguf()

    def fields(self, origin: str, *, gguf_template: bool) -> Fields:
        """The description. Raises BadModel, Unsupported."""
        store = self._store
        shards = in_order(store, self._of("model"))
        base = read_shards([store.blob(layer) for layer in shards])
        draft, draft_notes = draft_of(store, self._of("draft"), base.shape().n_vocab)
        projector, projector_notes = projector_of(store, self._of("projector"))
        paths = [str(store.blob(layer)) for layer in shards]
        adapters = adapters_of(store, self._of("adapter"), base)
        self.notes += [*vision_note(base), *draft_notes, *projector_notes]
        found = Fields(
            variants={base.quantization.lower(): paths[0] if len(paths) == 1 else paths},
            adapters=adapters,
            draft=str(store.blob(draft)) if draft else None,
            projector=str(store.blob(projector)) if projector else None,
            parameters=self._parameters(),
            template=self._template(base, gguf_template=gguf_template),
            system=self._text("system"),
            messages=self._messages(),
            license="\n\n".join(self._texts("license")) or None,
            origin=origin,
        )
        used = [*shards, *self._of("adapter"), *(layer for layer in (draft, projector) if layer)]
        found.sha256 = {str(store.blob(layer)): digest_hex(layer) for layer in used}
        self._note_the_rest()
        if len(dump(found).encode()) > MAX_FILE_BYTES:
            raise Unsupported(f"its texts (template, system, messages, license) take more than {MAX_FILE_BYTES} bytes")
        return found

    def _check_is_local_gguf(self) -> None:
        config = self._config
        if config.remote_host or config.remote_model:
            host = (config.remote_host or "a server")[:80]
            raise Unsupported(f"it runs on {host}, not on this machine: there is no file")
        if config.model_format not in (None, "", "gguf") or self._of("tensor"):
            name = config.model_format or "tensors"
            raise Unsupported(f"its weights are in the format '{name[:40]}'; Beast runs GGUF: pull it as GGUF")
        if not self._of("model"):
            raise Unsupported("it has no model layer: it runs in Ollama's cloud, or is no language model")

    # --- texts ---

    def _template(self, base: Header, *, gguf_template: bool) -> str | None:
        text, renderer = self._text("template") or self._text("prompt"), self._config.renderer
        if renderer:
            problem = f"its prompt is made by code inside Ollama (renderer '{renderer[:40]}')"
        elif text is None:
            return None
        else:
            try:
                return to_jinja(text)
            except (BadModel, Unsupported) as e:
                problem = f"its template cannot be translated: {e.message}"
        if base.chat_template is None:
            raise Unsupported(f"{problem}; its GGUF has no chat template either: `beast create` it with one of yours")
        if not gguf_template:
            raise Unsupported(f"{problem}; `--gguf-template` imports it with the chat template inside its GGUF")
        self.notes.append(f"{problem}; the chat template inside its GGUF is used instead")
        return None

    def _parameters(self) -> Options:
        """Ollama's own defaults of the model, and over them what its Modelfile set."""
        given = dict(self._config.generation_defaults or {})
        for layer in self._of("params"):
            given |= self._store.json(layer, dict[str, Any])
        options, notes = options_of(given)
        self.notes += notes
        return options

    def _messages(self) -> list[Message]:
        layers = self._of("messages")
        messages = self._store.json(layers[-1], list[Message]) if layers else []
        if any(message.images for message in messages):
            raise Unsupported("its messages hold images, which Beast does not take yet")
        return messages

    def _text(self, kind: str) -> str | None:
        """The last layer of a kind wins, as in Ollama; an empty one is none."""
        texts = self._texts(kind)
        return texts[-1] if texts and texts[-1] else None

    def _texts(self, kind: str) -> list[str]:
        return [self._store.text(layer, MAX_TEXT_BYTES) for layer in self._of(kind)]

    # --- what does not come along ---

    def _note_the_rest(self) -> None:
        if self._config.parser:
            name = self._config.parser[:40]
            self.notes.append(
                f"parser '{name}' left out: it is code inside Ollama, which reads thoughts and tool calls"
            )
        others = {kind for kind, _ in self._kinds} - _KNOWN
        self.notes += [f"layer of type '{kind[:60]}' left out: Beast has nothing like it" for kind in sorted(others)]

    def _of(self, kind: str) -> list[Layer]:
        return [layer for it, layer in self._kinds if it == kind]
