"""A hub that huggingface_hub talks to in this process, and fetches from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from fakehub import FakeHub
from fetching import Pull, order
from huggingface_hub import constants

from beastd.fetch.order import Fetched, FileSource, HubSource, UrlSource
from beastd.fetch.pull import fetch
from beastd.registry.store import Store
from beastd.tool import Progress


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """An empty hub, with nobody logged in and nothing cached."""
    with FakeHub() as hub:
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf" / "token"))
        yield hub
        huggingface_hub.close_session()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


@pytest.fixture
def progress() -> list[Progress]:
    """What the pulls of a test told."""
    return []


@pytest.fixture
def pull(store: Store, progress: list[Progress]) -> Pull:
    """Fetch in this process, into ``store``: ``pull(source, budget_bytes=...)``."""

    def run(source: HubSource | UrlSource | FileSource, **changes: object) -> Fetched:
        return fetch(order(store, source, **changes), progress.append)

    return run
