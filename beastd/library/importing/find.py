"""Finds the models at a path, whatever program put them there. Reads names and headers; writes nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from beastd.library.importing.folders import find_in_file, find_in_folder
from beastd.library.importing.found import Skipped
from beastd.library.importing.hubcache import find_in_hub_cache, hub_cache
from beastd.library.importing.ollama import find_in_ollama, ollama_models

if TYPE_CHECKING:
    from collections.abc import Iterator

    from beastd.library.importing.found import Found


def find_models(path: Path, *, gguf_template: bool) -> Iterator[Found | Skipped]:
    """Every model at a path, and what is there but cannot be one, each with its reason.

    The path is a GGUF file; Ollama's models folder, or the ``.ollama`` it is in; the Hugging Face cache, one
    repository of it, or the HF_HOME it is in; LM Studio's models folder; or any tree of GGUF files. With
    ``gguf_template`` a model whose Ollama template has no Jinja equivalent comes with its GGUF's own instead of being
    skipped. Reading many headers takes seconds: not for an event loop.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 (resolve() would follow the links that name a model)
    if not str(path).isprintable():
        yield Skipped(path, "its path has characters no description can hold; rename it")
    elif os.path.isfile(path):  # noqa: PTH113 (Path's raises PermissionError)
        yield from find_in_file(path)
    elif not os.path.isdir(path):  # noqa: PTH112
        yield Skipped(path, "it does not exist, cannot be read, or is neither a file nor a folder; check the path")
    elif ollama := ollama_models(path):
        yield from find_in_ollama(ollama, gguf_template=gguf_template)
    elif cache := hub_cache(path):
        yield from find_in_hub_cache(cache)
    else:
        yield from find_in_folder(path)
