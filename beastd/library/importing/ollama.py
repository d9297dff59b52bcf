"""Models in Ollama's store, under the names they have there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from beastd.errors import BeastError
from beastd.library.importing.found import Found, Skipped, plain, skipped
from beastd.library.importing.ollamalayers import OllamaModel
from beastd.library.importing.ollamastore import MAX_MANIFESTS, OllamaStore
from beastd.registry.names import ModelName, is_host, is_part

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_OWN_HOSTS = ("registry.ollama.ai", "ollama.com")
"""Two names of Ollama's own registry (``isDefaultPublicHost``)."""
_OWN_NAMESPACE = "library"


def ollama_models(path: Path) -> Path | None:
    """Ollama's models folder, when the path is that or its parent (``.ollama``)."""
    for folder in (path, path / "models"):
        has_manifests = any(_is_folder(folder / name) for name in ("manifests", "manifests-v2"))
        if has_manifests and _is_folder(folder / "blobs"):
            return folder
    return None


def find_in_ollama(root: Path, *, gguf_template: bool) -> Iterator[Found | Skipped]:
    """Every model of a store; one that cannot be imported hides no other."""
    store, seen, n = OllamaStore(root), set[ModelName](), 0
    for n, (parts, path) in enumerate(store.manifests(), 1):  # noqa: B007
        name = name_of(parts)
        if name is None:
            yield Skipped(*_unnamed(path, root))
        elif name not in seen:
            seen.add(name)
            yield _found(store, name, parts, path, gguf_template=gguf_template)
    if n == MAX_MANIFESTS:
        yield Skipped(root, f"it has {MAX_MANIFESTS} manifests or more; those after {path} are left out")


def name_of(parts: tuple[str, ...]) -> ModelName | None:
    """The name of the model whose manifest has this place: HOST/NAMESPACE/MODEL/TAG; None if it can have none."""
    if len(parts) != 4 or not is_host(parts[0]) or not all(map(is_part, parts[1:])):
        return None
    host, namespace, name, tag = parts
    if host.lower() not in _OWN_HOSTS:
        return ModelName(name, tag, namespace, host)
    return ModelName(name, tag, "" if namespace.lower() == _OWN_NAMESPACE else namespace)


def _found(
    store: OllamaStore, name: ModelName, parts: tuple[str, ...], path: Path, *, gguf_template: bool
) -> Found | Skipped:
    try:
        model = OllamaModel(store, store.read_manifest(path))
        *above, tag = parts
        fields = model.fields(f"ollama:{'/'.join(above)}:{tag}", gguf_template=gguf_template)
    except BeastError as e:
        return skipped(path, e)
    return Found(name, fields, path, [plain(note) for note in model.notes])


def _unnamed(path: Path, root: Path) -> tuple[Path, str]:
    """A file whose place is no name; its own path only where that can be shown."""
    place = ascii(str(path.relative_to(root)))[1:-1][:200]
    reason = "is no model's manifest: its place is not HOST/NAMESPACE/MODEL/TAG"
    return (path, reason) if str(path).isprintable() else (root, f"{place} {reason}")


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 (Path's raises PermissionError)
