"""Reads Ollama's models folder: manifests and blobs, each within bounds, and no file outside it by any name in it.

The layout is Ollama's (``manifest/manifest.go``, ``manifest/paths.go``, ``types/model/name.go``):

    manifests/HOST/NAMESPACE/MODEL/TAG       JSON: a config and layers, each a media type, digest and size
    manifests-v2/HOST/NAMESPACE/MODEL/TAG    the same as a link to a blob; it wins over ``manifests``
    blobs/sha256-HEX
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec
from msgspec import Struct

from beastd.errors import BadModel, Unsupported
from beastd.registry.gguf import parse_header

if TYPE_CHECKING:
    from collections.abc import Iterator

    from beastd.registry.header import Header

MAX_JSON_BYTES = 2**20
MAX_MANIFESTS = 10_000

_TREES = ("manifests-v2", "manifests")
_DEPTH = 4
_DIGEST = re.compile(r"sha256[:-](?P<hex>[0-9a-fA-F]{64})")
_LIST = "application/vnd.ollama.manifest.list.v2+json"
_RUNNERS = ("ollama", "llamacpp")
"""Of the builds in a manifest list, those that are GGUF; the other one is MLX's."""

T = TypeVar("T")


class Layer(Struct, frozen=True, rename="camel"):
    """A blob of a model; ``size`` is in bytes, 0 where it was not written down."""

    media_type: str = ""
    digest: str = ""
    size: int = 0


class Manifest(Struct, frozen=True, rename="camel"):
    """A model; or a list of its builds, where each is written out or named by the digest of its own manifest."""

    media_type: str = ""
    config: Layer = Layer()
    layers: list[Layer] | None = None
    manifests: list[Manifest] | None = None
    runner: str = ""
    digest: str = ""


class OllamaStore:
    """One models folder of Ollama's."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def manifests(self) -> Iterator[tuple[tuple[str, ...], Path]]:
        """Every manifest and its place: usually host, namespace, model and tag. Hidden files are none."""
        n_left = MAX_MANIFESTS
        for tree in _TREES:
            for path in _files(str(self.root / tree), _DEPTH):
                if n_left == 0:
                    return
                n_left -= 1
                yield Path(path).relative_to(self.root / tree).parts, Path(path)

    def read_manifest(self, path: Path) -> Manifest:
        """A model's manifest; of a list, that of its GGUF build. Raises BadModel, Unsupported."""
        real = Path(os.path.realpath(path))
        folders = [os.path.realpath(self.root / name) for name in (*_TREES, "blobs")]
        if not any(real.is_relative_to(folder) for folder in folders):
            raise BadModel(f"{path} leads out of Ollama's folder, to {real}; Ollama itself would not take it")
        manifest = _decoded(_read(real, MAX_JSON_BYTES), Manifest, path)
        return self._gguf_build(manifest, path) if manifest.media_type == _LIST else manifest

    def json(self, layer: Layer, kind: type[T]) -> T:
        """What a blob of JSON holds. Raises BadModel."""
        path = self.blob(layer)
        return _decoded(_read(path, MAX_JSON_BYTES), kind, path)

    def text(self, layer: Layer, max_bytes: int) -> str:
        """A blob of text. Raises BadModel."""
        path = self.blob(layer)
        try:
            return _read(path, max_bytes).decode()
        except UnicodeDecodeError as e:
            raise BadModel(f"{path} is not UTF-8 text; pull the model again") from e

    def header(self, layer: Layer) -> Header:
        """The header of one GGUF blob, which may be a shard of several. Raises BadModel."""
        path = self.blob(layer)
        try:
            with path.open("rb") as stream:
                return parse_header(stream, path.stat().st_size, str(path))
        except OSError as e:
            raise BadModel(f"cannot read {path}: {e.strerror}") from e

    def blob(self, layer: Layer) -> Path:
        """A layer's file, which is there and as long as it should be. Raises BadModel."""
        match = _DIGEST.fullmatch(layer.digest)
        if match is None:
            raise BadModel(f"'{layer.digest[:80]}' is no digest; the manifest is broken, pull the model again")
        path = self.root / "blobs" / f"sha256-{match['hex']}"
        if not os.path.isfile(path):  # noqa: PTH113 (Path's raises PermissionError)
            raise BadModel(f"{path} is missing; Ollama has not finished pulling the model, or lost it: pull it again")
        n_bytes = path.stat().st_size
        if layer.size and n_bytes != layer.size:
            raise BadModel(f"{path} has {n_bytes} bytes, its manifest says {layer.size}; pull the model again")
        return path

    def _gguf_build(self, manifest: Manifest, path: Path) -> Manifest:
        builds = manifest.manifests or []
        found = next((it for name in _RUNNERS for it in builds if it.runner.lower() == name), None)
        if found is None:
            names = ", ".join(sorted({it.runner[:20] for it in builds})) or "none"
            raise Unsupported(f"{path} has no GGUF build (it has {names}); Beast runs no other")
        return self.json(Layer(digest=found.digest), Manifest) if found.digest and not found.layers else found


def digest_hex(layer: Layer) -> str:
    """A sound layer's digest: 64 lower-case hex digits."""
    return layer.digest[-64:].lower()


def _files(folder: str, depth: int) -> Iterator[str]:
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                if depth > 1:
                    yield from _files(entry.path, depth - 1)
            else:
                yield entry.path


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        if not path.is_file():  # opening a pipe would wait for ever
            raise BadModel(f"{path} is not a file")
        with path.open("rb") as stream:
            data = stream.read(max_bytes + 1)
    except OSError as e:
        raise BadModel(f"cannot read {path}: {e.strerror}") from e
    if len(data) > max_bytes:
        raise BadModel(f"{path} is larger than {max_bytes} bytes; nothing of its kind is")
    return data


def _decoded(data: bytes, kind: type[T], path: Path) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise BadModel(f"{path} is not what Ollama writes: {str(e)[:200]}; pull the model again") from e
