"""Shell completion of model names: it asks a daemon that runs already, and never starts or waits for one."""

from __future__ import annotations

from beastctl import daemon
from beastctl.client import Client
from beastd.errors import BeastError

LIMIT_S = 0.3
"""A person at the Tab key does not wait longer."""


def model_names(incomplete: str) -> list[str]:
    """Names of models and their variants and adapters that begin with ``incomplete``."""
    try:
        models = Client(daemon.current_paths().socket).get("/api/tags", timeout_s=LIMIT_S)["models"]
    except (BeastError, KeyError):
        return []
    names = [name for model in models for name in _spellings(model)]
    return [name for name in names if name.startswith(incomplete)]


def _spellings(model: dict[str, object]) -> list[str]:
    name = str(model["name"]).removesuffix(":latest")
    variants = model.get("variants")
    adapters = model.get("adapters")
    with_variant = [f"{name}@{variant['name']}" for variant in variants] if isinstance(variants, list) else []
    with_adapter = [f"{name}+{adapter}" for adapter in adapters] if isinstance(adapters, list) else []
    return [name, *with_variant, *with_adapter]
