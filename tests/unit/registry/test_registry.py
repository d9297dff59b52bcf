"""Finding models: names to files, the user's before the built-in ones, and nothing hidden by a broken one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from beastd.errors import BadModel, BadRequest, ModelNotFound
from beastd.ipc import Adapter
from beastd.registry.registry import Registry

MODEL = "variants: {q8_0: model.gguf, q4: model.gguf}\nadapters: {pirate: {path: lora.gguf, scale: 0.5}}\n"


class Library:
    """Two folders of models to fill, and the registry over them."""

    def __init__(self, root: Path, gguf_bytes: bytes) -> None:
        self.builtin, self.user = root / "builtin", root / "models"
        self._gguf_bytes = gguf_bytes
        self.facts = root / "facts.json"
        self.registry = Registry([self.user], self.facts, self.builtin)

    def add(self, path: Path, text: str = MODEL) -> Path:
        """Write a description, and the files it may name beside it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        for name in ("model.gguf", "lora.gguf"):
            (path.parent / name).write_bytes(self._gguf_bytes)
        return path

    def names(self) -> list[str]:
        return [str(model.name) for model in self.registry.list().models]


@pytest.fixture
def library(tmp_path, gguf) -> Library:
    return Library(tmp_path, gguf.file())


def test_places_give_names(library):
    """The layout of the folder is the name of the model."""
    for place in ("a.yaml", "b/v1.yaml", "b/v2.yaml", "me/c/latest.yaml", "host/me/d/x.yaml"):
        library.add(library.user / place)
    assert library.names() == ["a:latest", "b:v1", "b:v2", "host/me/d:x", "me/c:latest"]
    assert library.registry.resolve("ME/C", "").model.name.namespace == "me"


def test_without_a_models_folder_there_are_the_built_in_models(library):
    """Nothing has to be made first."""
    library.add(library.builtin / "cub.yaml")
    listing = library.registry.list()
    assert [(str(model.name), model.is_builtin) for model in listing.models] == [("cub:latest", True)]
    assert listing.problems == []


def test_a_users_model_hides_a_built_in_one(library):
    """The same name, in any case, is the user's."""
    library.add(library.builtin / "cub.yaml")
    library.add(library.user / "Cub.yaml", "variants: {mine: model.gguf}")
    assert library.names() == ["Cub:latest"]
    assert library.registry.resolve("cub", "").variant.name == "mine"


def test_an_empty_name_is_the_default_model(library):
    """`beast run` with no name has an answer."""
    library.add(library.builtin / "cub.yaml")
    assert str(library.registry.resolve("", "cub").name) == "cub:latest"


def test_variants_and_adapters_are_resolved_in_the_models_spelling(library):
    """Case does not count; the scale asked for wins over the model's."""
    library.add(library.user / "m.yaml")
    found = library.registry.resolve("M@Q4+PIRATE", "")
    assert (str(found.name), found.variant.name) == ("m:latest@q4+pirate", "q4")
    path = str(library.user / "lora.gguf")
    assert found.adapters == [Adapter(path, 0.5)]
    assert library.registry.resolve("m+pirate*2", "").adapters == [Adapter(path, 2.0)]
    assert library.registry.resolve("m", "").variant.name == "q8_0"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("nodel", "model 'nodel' not found; did you mean model"),
        ("zzzz", "model 'zzzz' not found; `beast list` shows all"),
        ("model:v9", "model 'model:v9' not found"),
        ("model@q9", r"model 'model' has no variant 'q9'; it has q8_0, q4"),
        ("model+poet", r"model 'model' has no adapter 'poet'; it has pirate"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(library, asked, message):
    """The next step is in the message."""
    library.add(library.user / "model.yaml")
    with pytest.raises(ModelNotFound, match=message):
        library.registry.resolve(asked, "")


def test_what_is_no_name_is_a_bad_request(library):
    """A path is never taken for a name."""
    with pytest.raises(BadRequest, match="is not a model name"):
        library.registry.resolve("../../etc/passwd", "")


def test_a_broken_description_hides_no_other_model(library):
    """It is listed as a problem, and told in full when it is asked for."""
    library.add(library.user / "good.yaml")
    broken = {
        "yaml.yaml": "variants: [",
        "field.yaml": "variants: {q: model.gguf}\nfoo: 1",
        "file.yaml": "variants:\n  q: gone.gguf",
        "shard.yaml": "variants: {q: m-00002-of-00002.gguf}",
        "pipe.yaml": "",
    }
    for name, text in broken.items():
        library.add(library.user / name, text)
    (library.user / "pipe.yaml").unlink()
    os.mkfifo(library.user / "pipe.yaml")
    listing = library.registry.list()
    assert [str(model.name) for model in listing.models] == ["file:latest", "good:latest"]
    assert listing.models[0].variants["q"].problem
    assert {problem.path.name for problem in listing.problems} == set(broken)
    for problem in listing.problems:
        assert str(problem.path) in problem.message
        with pytest.raises(BadModel):
            library.registry.resolve(problem.path.stem, "")
    missing = next(problem.message for problem in listing.problems if problem.path.name == "file.yaml")
    assert "file.yaml line 2: variants.q: cannot read" in missing
    assert "gone.gguf" in missing


def test_places_that_are_no_names_are_problems(library):
    """A file that was meant to be a model is not skipped without a word."""
    for place in ("a b.yaml", "x:y.yaml", "m.yaml", "m/latest.yaml"):
        library.add(library.user / place)
    listing = library.registry.list()
    assert [str(model.name) for model in listing.models] == ["m:latest"]
    assert {problem.path.relative_to(library.user).as_posix() for problem in listing.problems} == {
        "a b.yaml",
        "x:y.yaml",
        "m/latest.yaml",
    }


def test_hidden_files_deep_folders_and_links_to_folders_are_not_searched(library, tmp_path):
    """A search ends, wherever a link leads."""
    library.add(library.user / "m.yaml")
    library.add(library.user / ".git" / "x.yaml")
    library.add(library.user / "a" / "b" / "c" / "d" / "e.yaml")
    (library.user / "loop").symlink_to(library.user)
    assert library.names() == ["m:latest"]
    assert library.registry.list().problems == []


def test_a_change_of_a_file_is_seen(library):
    """No answer is older than the files: descriptions, sizes, digests and headers."""
    path = library.add(library.user / "m.yaml")
    before = library.registry.resolve("m", "").model
    header = library.registry.header((library.user / "model.gguf",))
    assert library.registry.header((library.user / "model.gguf",)) is header
    path.write_text(MODEL + "system: New.\n")
    with (library.user / "model.gguf").open("ab") as stream:
        stream.write(b"more")
    after = library.registry.resolve("m", "").model
    assert (before.fields.system, after.fields.system) == (None, "New.")
    assert after.variants["q8_0"].size_bytes == before.variants["q8_0"].size_bytes + 4
    assert after.variants["q8_0"].digest != before.variants["q8_0"].digest
    assert len({before.digest, after.digest}) == 2
    assert library.registry.header((library.user / "model.gguf",)).size_bytes == header.size_bytes + 4


def test_a_digest_is_stable_while_nothing_changes(library):
    """It identifies a model across daemons; a declared one is taken as it is."""
    library.add(library.user / "m.yaml", MODEL + f"sha256: {{model.gguf: {'ab' * 32}}}")
    first = library.registry.resolve("m", "").model
    assert Registry([library.user], library.facts, library.builtin).resolve("m", "").model.digest == first.digest
    assert len(first.digest) == 64
    assert first.variants["q4"].digest == "ab" * 32


def test_listing_opens_no_gguf(library):
    """A thousand large models are listed by their file sizes; what is in a file is told when it is asked for."""
    library.add(library.user / "m.yaml")
    (library.user / "model.gguf").write_bytes(b"not a GGUF")
    assert library.names() == ["m:latest"]
    with pytest.raises(BadModel, match="not a GGUF"):
        library.registry.shape((library.user / "model.gguf",))


def test_the_package_has_cub(tmp_path):
    """The built-in model is whole: every file its description names is there and is what it says."""
    registry = Registry([], tmp_path / "facts.json")
    cub = registry.resolve("cub+pirate", "").model
    assert list(cub.variants) == ["q8_0", "q4_k_m", "q2_k", "f16"]
    assert cub.default.name == "q8_0"
    for variant in cub.variants.values():
        assert registry.header(variant.files).quantization.lower() == variant.name
    assert registry.header((cub.adapters["pirate"].path,)).is_adapter
    assert cub.description.draft is not None
    assert registry.shape((cub.description.draft,)).n_vocab == registry.shape(cub.variants["q8_0"].files).n_vocab
    assert "Built with Llama" in (cub.fields.license or "")
