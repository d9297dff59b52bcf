"""Shell completion of names: it asks a daemon that runs already, and never starts or waits for one."""

from __future__ import annotations

from typing import Any

from beastctl import daemon
from beastctl.client import Client
from beastctl.logtail import worker_logs
from beastd.errors import BeastError

LIMIT_S = 0.3
"""A person at the Tab key does not wait longer."""


def model_names(incomplete: str) -> list[str]:
    """Names of models and their variants and adapters that begin with ``incomplete``."""
    return _beginning(incomplete, [name for model in _asked("/api/tags", "models") for name in _spellings(model)])


def loaded_names(incomplete: str) -> list[str]:
    """Names of loaded models, with the variants that run, that begin with ``incomplete``."""
    loaded = _asked("/api/ps", "models")
    return _beginning(incomplete, [name for it in loaded for name in (_short(it), f"{_short(it)}@{it['variant']}")])


def base_names(incomplete: str) -> list[str]:
    """Names of models alone that begin with ``incomplete``."""
    return _beginning(incomplete, [_short(model) for model in _asked("/api/tags", "models")])


def catalog_names(incomplete: str) -> list[str]:
    """Names of the catalog that begin with ``incomplete``, with the variants it lists once one is asked for."""
    models = _asked("/api/search", "models")
    names = [f"{_short(model)}@{name}" for model in models for name in model["variants"] if "@" in incomplete]
    return _beginning(incomplete, names or [_short(model) for model in models])


def fitting_names(incomplete: str) -> list[str]:
    """Names of models that are here, then of the catalog, that begin with ``incomplete``; each once."""
    return list(dict.fromkeys([*model_names(incomplete), *catalog_names(incomplete)]))


def cached_names(incomplete: str) -> list[str]:
    """Names of models, and of their variants, of whose prompts something is kept, that begin with ``incomplete``."""
    kept = [it for it in _asked("/api/cache", "models") if it["name"]]
    names = [name for it in kept for name in (_short(it), f"{_short(it)}@{it['variant']}")]
    return _beginning(incomplete, list(dict.fromkeys(names)))


def quantizations(incomplete: str) -> list[str]:
    """Names of quantizations that begin with ``incomplete``."""
    return _beginning(incomplete, [made["name"] for made in _asked("/api/quantizations", "types")])


def job_ids(incomplete: str) -> list[str]:
    """Ids of jobs under way that begin with ``incomplete``."""
    running = [job["id"] for job in _asked("/api/jobs", "jobs") if job["state"] == "running"]
    return _beginning(incomplete, running)


def worker_labels(incomplete: str) -> list[str]:
    """Workers that have left a log and whose name begins with ``incomplete``."""
    return _beginning(incomplete, sorted(set(worker_logs(daemon.current_paths().logs_dir).values())))


def _asked(path: str, field: str) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = Client(daemon.current_paths().socket).get(path, timeout_s=LIMIT_S)[field]
    except (BeastError, KeyError):
        return []
    return found


def _beginning(incomplete: str, names: list[str]) -> list[str]:
    return [name for name in names if name.lower().startswith(incomplete.lower())]


def _spellings(model: dict[str, Any]) -> list[str]:
    name = _short(model)
    with_variant = [f"{name}@{variant['name']}" for variant in model.get("variants") or []]
    with_adapter = [f"{name}+{adapter['name']}" for adapter in model.get("adapters") or []]
    return [name, *with_variant, *with_adapter]


def _short(model: dict[str, Any]) -> str:
    return str(model["name"]).removesuffix(":latest")
