"""Makes Ollama's models folders by hand, as its sources define them, sound or broken at one place."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

IMAGE = "application/vnd.ollama.image."
CONFIG = "application/vnd.docker.container.image.v1+json"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
MANIFEST_LIST = "application/vnd.ollama.manifest.list.v2+json"

Layer = dict[str, Any]


class OllamaShop:
    """A models folder to fill."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "blobs").mkdir(parents=True)
        (root / "manifests").mkdir()

    def blob(self, content: bytes | Path) -> str:
        """Put a blob there; returns its digest as manifests write it."""
        data = content.read_bytes() if isinstance(content, Path) else content
        digest = sha256(data).hexdigest()
        (self.root / "blobs" / f"sha256-{digest}").write_bytes(data)
        return f"sha256:{digest}"

    def layer(self, kind: str, content: bytes | str | Path | list[Any] | dict[str, Any], **changes: Any) -> Layer:
        """A layer and its blob; lists and mappings are written as JSON."""
        if isinstance(content, list | dict):
            content = json.dumps(content)
        data = content.encode() if isinstance(content, str) else content
        size = data.stat().st_size if isinstance(data, Path) else len(data)
        media_type = CONFIG if kind == "config" else f"{IMAGE}{kind}"
        return {"mediaType": media_type, "digest": self.blob(data), "size": size, **changes}

    def manifest(self, layers: list[Layer], config: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        """A manifest as Ollama writes it."""
        config_layer = self.layer("config", {"model_format": "gguf", **(config or {})})
        return {"schemaVersion": 2, "mediaType": MANIFEST, "config": config_layer, "layers": layers, **changes}

    def model(self, place: str, layers: list[Layer], config: dict[str, Any] | None = None) -> Path:
        """A model at HOST/NAMESPACE/MODEL/TAG; ``library`` models by MODEL/TAG."""
        return self.write(place, self.manifest(layers, config))

    def write(self, place: str, manifest: object, tree: str = "manifests") -> Path:
        """Any manifest at a place: JSON, or bytes as they are."""
        full = f"registry.ollama.ai/library/{place}" if place.count("/") == 1 else place
        path = self.root / tree / full
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode())
        return path
