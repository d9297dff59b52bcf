"""The perplexity tool on the real Cub: llama-perplexity's numbers, or one clear error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from toolrun import run_tool

from beastd.engine.perplexity import perplexity
from beastd.errors import BadModel, BadRequest
from beastd.ipc import Adapter
from beastd.registry.registry import BUILTIN_DIR
from beastd.tool import Done, Failed, Progress
from beastd.toolorders import PerplexityOrder

CUB = BUILTIN_DIR / "cub"
DRAFT = str(CUB / "cub-draft-f16.gguf")
TEXT = "".join(
    f"The {animal} had {n} {thing}s. One day it lost one, and then there were {n - 1}.\n"
    for n, (animal, thing) in enumerate(
        [(animal, thing) for animal in ("bear", "fox", "owl", "cat") for thing in ("ball", "hat", "cake")], start=2
    )
)
PPL, STDERR, CHUNKS = 56.0008, 12.16769, 4
"""What llama-perplexity of the installed llama.cpp says of the draft model and the text (-c 64 -b 256)."""


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def order(text: Path, **fields: object) -> PerplexityOrder:
    given = {"paths": [DRAFT], "label": "cub:latest", "text": str(text), "n_ctx": 64} | fields
    return PerplexityOrder(**given)  # type: ignore[arg-type]


def measured(text: Path, **fields: object) -> dict[str, float]:
    """Measure in this process."""
    return perplexity(order(text, **fields), lambda _: None)


def test_the_numbers_are_llama_perplexity_s(text):
    """Perplexity, its error and the chunks, with the running estimate on the way."""
    progress, ending = run_tool("beastd.engine.perplexity", order(text, n_batch=256))
    assert isinstance(ending, Done)
    assert ending.result["perplexity"] == pytest.approx(PPL, rel=1e-3)
    assert ending.result["stderr"] == pytest.approx(STDERR, rel=1e-3)
    n_chunks = ending.result["n_chunks"]
    assert (n_chunks, ending.result["n_ctx"]) == (CHUNKS, 64)
    assert ending.result["n_tokens"] == n_chunks * 31, "the second half, but for its first, which nothing scores"
    steps = [told.completed for told in progress if told.total == n_chunks * 64]
    assert steps == sorted(steps)
    assert steps[-1] == n_chunks * 64
    assert progress[-1].unit == "tokens"
    assert progress[-1].status == f"perplexity {ending.result['perplexity']:.4f} ± {ending.result['stderr']:.4f}"


@pytest.mark.parametrize("n_batch", [512, 64, 24])
def test_how_many_tokens_are_computed_at_once_does_not_matter(text, n_batch):
    """Several chunks, one, or a part of one: the estimate is the same."""
    assert measured(text, n_batch=n_batch)["perplexity"] == pytest.approx(PPL, rel=2e-3)


def test_fewer_chunks_can_be_asked_for(text):
    """Only the beginning of the text is measured then."""
    assert measured(text, n_chunks=2)["n_chunks"] == 2


def test_an_adapter_counts(text):
    """The pirate expects other words."""
    cub = {"paths": [str(CUB / "cub-q8_0.gguf")], "n_chunks": 3}
    adapter = Adapter(str(CUB / "cub-pirate-lora-f16.gguf"), 1.0)
    plain, pirate = (measured(text, adapters=adapters, **cub) for adapters in ([], [adapter]))
    assert pirate["perplexity"] != pytest.approx(plain["perplexity"], rel=0.02)


def test_shards_are_one_model(text):
    """Cub's two f16 files, measured as one."""
    shards = [str(CUB / f"cub-f16-0000{i}-of-00002.gguf") for i in (1, 2)]
    whole = measured(text, paths=[str(CUB / "cub-q8_0.gguf")], n_chunks=2)["perplexity"]
    assert measured(text, paths=shards, n_chunks=2)["perplexity"] == pytest.approx(whole, rel=0.05)


def test_a_text_shorter_than_a_chunk_is_refused(text):
    """With its length in tokens."""
    with pytest.raises(BadRequest, match=r"has \d+ tokens, fewer than one chunk of 4096"):
        measured(text, n_ctx=4096)


@pytest.mark.parametrize("fields", [{"n_ctx": 2}, {"n_batch": 0}, {"n_chunks": 0}])
def test_senseless_sizes_are_refused(text, fields):
    """Before the model is loaded."""
    with pytest.raises(BadRequest, match="at least"):
        measured(text, **fields)


def test_a_missing_text_is_named(tmp_path):
    """The path is quoted."""
    with pytest.raises(BadRequest, match=r"nowhere\.txt"):
        measured(tmp_path / "nowhere.txt")


@pytest.mark.parametrize("damage", [lambda raw: b"", lambda raw: raw[: len(raw) // 2], lambda raw: b"x" * 100])
def test_a_broken_model_fails_in_one_message(tmp_path, text, damage: Callable[[bytes], bytes]):
    """Empty, cut short or nonsense: the tool says which model."""
    path = tmp_path / "broken.gguf"
    path.write_bytes(damage(Path(DRAFT).read_bytes()))
    progress, ending = run_tool("beastd.engine.perplexity", order(text, paths=[str(path)]))
    assert isinstance(ending, Failed)
    assert (ending.failure.code, "cub:latest" in ending.failure.message) == ("bad_model", True)
    assert all(isinstance(told, Progress) for told in progress)


def test_weights_that_predict_no_numbers_are_said_to_be_broken(tmp_path, text):
    """NaN in the model becomes an error, never a result."""
    raw = bytearray(Path(DRAFT).read_bytes())
    raw[-(len(raw) // 4) :] = b"\xff" * (len(raw) // 4)  # 0xffff is a NaN in f16
    path = tmp_path / "nan.gguf"
    path.write_bytes(raw)
    with pytest.raises(BadModel, match="no numbers"):
        measured(text, paths=[str(path)], n_chunks=1)
