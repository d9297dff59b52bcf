"""The catalog that is shipped: every file loads, and every entry can be what ``beast pull`` is given."""

from __future__ import annotations

import re

import pytest

from beastd.registry.catalog import CATALOG_DIR, CatalogEntry, load_catalog
from beastd.registry.ggml import FILE_TYPES
from beastd.registry.names import parse_name

QUANTIZATIONS = {name.lower() for name in FILE_TYPES.values()}
CATALOG = load_catalog()
ENTRIES = CATALOG.search("")

entries = pytest.mark.parametrize("entry", ENTRIES, ids=lambda it: it.name.base)


def is_quantization(variant: str) -> bool:
    """llama.cpp's names, and Unsloth's mixes of them: ``ud-q4_k_m``, and ``ud-q4_k_xl``, larger than any ``q4_k``."""
    plain = variant.removeprefix("ud-")
    return plain in QUANTIZATIONS or (plain != variant and plain.replace("_xl", "_s") in QUANTIZATIONS)


def quantization_in(file: str) -> str:
    """The quantization that a file's name tells."""
    stem = re.sub(r"-\d{5}-of-\d{5}$", "", file.removesuffix(".gguf")).lower()
    return re.split(r"[-.](?=(?:ud-)?(?:i?q\d|mxfp4|bf16|f16|f32))", stem, maxsplit=1)[-1]


def test_every_file_loads():
    """None is broken, and all are families of their own."""
    assert CATALOG.problems == []
    assert {entry.name.name for entry in ENTRIES} == {path.stem for path in CATALOG_DIR.glob("*")}


def test_there_are_a_few_dozen_models_of_many_families():
    """Enough to begin with."""
    assert len(ENTRIES) >= 50
    assert len({entry.name.name for entry in ENTRIES}) >= 30


@entries
def test_an_entry_is_found_by_its_name(entry: CatalogEntry):
    """As a person types it."""
    assert CATALOG.find(parse_name(entry.name.base)) is entry


@pytest.mark.parametrize("family", sorted({entry.name.name for entry in ENTRIES}))
def test_a_family_has_one_default_tag_and_no_latest(family: str):
    """So that its bare name means one model, and the tag that stands for it no other."""
    tags = [entry for entry in ENTRIES if entry.name.name == family]
    assert len([entry for entry in tags if entry.is_default_tag]) == 1
    assert "latest" not in {entry.name.tag for entry in tags}
    found = CATALOG.find(parse_name(family))
    assert found is not None
    assert found.is_default_tag


@entries
def test_variants_are_quantizations_and_each_names_its_own_file(entry: CatalogEntry):
    """A variant's name is what its file's name tells; ``Q4_K`` alone is llama.cpp's other name for ``Q4_K_M``."""
    assert [name for name in entry.variants if not is_quantization(name)] == []
    for name, file in entry.variants.items():
        assert quantization_in(file) in (name, name.removesuffix("_m"))


@entries
def test_a_model_that_has_a_choice_has_a_default(entry: CatalogEntry):
    """And it is a quantization, also where the repository alone knows which there are."""
    assert entry.default is not None or len(entry.variants) == 1
    assert entry.default is None or is_quantization(entry.default)


@entries
def test_what_people_read_is_there(entry: CatalogEntry):
    """A size as people write it, a context of some use, a licence, and a description that is one line of a table."""
    assert re.fullmatch(r"\d+(\.\d)?[MB]", entry.n_params)
    assert entry.context >= 2048
    assert entry.context % 1024 == 0
    assert re.fullmatch(r"[a-z0-9.-]+", entry.license)
    assert 20 <= len(entry.description) <= 100


def test_no_model_and_no_file_is_listed_twice():
    """A repository has one entry, and a file one variant."""
    repos = [entry.repo.lower() for entry in ENTRIES]
    files = [(entry.repo, file) for entry in ENTRIES for file in entry.variants.values()]
    assert len(set(repos)) == len(repos)
    assert len(set(files)) == len(files)
