"""Models in ordinary folders and in LM Studio's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hunt import Ggufs, Hunt

from beastd.library.importing.walk import MAX_DEPTH, gguf_files
from beastd.registry.modelfile import AdapterFields

Put = Callable[[str, bytes], Path]
CUB = Path(__file__).parents[4] / "beastd" / "builtin" / "cub"


def test_one_file_is_one_model_whatever_is_beside_it(put: Put, ggufs: Ggufs) -> None:
    """The file alone, under an absolute path; its quantization is the variant."""
    path = put("Qwen3-0.6B-Q8_0.gguf", ggufs.model(7))
    put("Qwen3-0.6B-Q4_K_M.gguf", ggufs.model())
    found = Hunt(path).only
    assert found.name.short == "qwen3-0.6b"
    assert found.fields.variants == {"q8_0": str(path)}
    assert found.source == path


def test_the_header_tells_the_variant_where_the_name_does_not(put: Put, ggufs: Ggufs) -> None:
    assert list(Hunt(put("tiny.gguf", ggufs.model(17))).only.fields.variants) == ["q5_k_m"]


def test_any_shard_stands_for_the_whole_split_model(put: Put, ggufs: Ggufs) -> None:
    paths = [str(put(f"big-F32-0000{i}-of-00002.gguf", data)) for i, data in enumerate(ggufs.shards(), 1)]
    assert Hunt(Path(paths[1])).only.fields.variants == {"f32": paths}


def test_a_split_model_with_a_shard_missing_is_skipped_by_name(put: Put, ggufs: Ggufs) -> None:
    path = put("big-F32-00001-of-00002.gguf", ggufs.shards()[0])
    assert "big-F32-00002-of-00002.gguf" in Hunt(path.parent).reason


def test_quantizations_in_one_folder_are_variants_of_one_model(put: Put, ggufs: Ggufs, tmp_path: Path) -> None:
    """The best first; q4_k_m is the default."""
    for name, file_type in (("Q2_K", 10), ("Q8_0", 7), ("Q4_K_M", 15)):
        put(f"tiny-{name}.gguf", ggufs.model(file_type))
    found = Hunt(tmp_path).only
    assert list(found.fields.variants) == ["q8_0", "q4_k_m", "q2_k"]
    assert found.fields.default == "q4_k_m"
    assert found.source == tmp_path


def test_folders_named_for_a_quantization_are_one_place(put: Put, ggufs: Ggufs, tmp_path: Path) -> None:
    put("tiny/Q8_0/tiny-Q8_0.gguf", ggufs.model(7))
    put("tiny/Q2_K/tiny-Q2_K.gguf", ggufs.model(10))
    assert list(Hunt(tmp_path).only.fields.variants) == ["q8_0", "q2_k"]


def test_the_same_quantization_twice_is_two_variants_and_said(put: Put, ggufs: Ggufs, tmp_path: Path) -> None:
    put("tiny-Q8_0.gguf", ggufs.model(7))
    put("tiny.Q8_0.gguf", ggufs.model(7))
    found = Hunt(tmp_path).only
    assert list(found.fields.variants) == ["q8_0", "q8_0-2"]
    assert "q8_0-2" in found.notes[0]


def test_models_of_different_size_are_no_variants_of_each_other(put: Put, ggufs: Ggufs, tmp_path: Path) -> None:
    """Even when their files call them the same: then the second has a tag."""
    put("tiny-Q8_0.gguf", ggufs.model(7))
    put("tiny-Q2_K.gguf", ggufs.model(10, n_embd=128))
    hunt = Hunt(tmp_path)
    assert len(hunt.found) == 2
    assert sum(len(it.notes) for it in hunt.found.values()) == 1


def test_two_folders_with_a_model_of_one_name_give_two_names(put: Put, ggufs: Ggufs, tmp_path: Path) -> None:
    put("a/tiny-Q8_0.gguf", ggufs.model(7))
    put("b/tiny-Q2_K.gguf", ggufs.model(10))
    hunt = Hunt(tmp_path)
    assert list(hunt.found) == ["tiny", "tiny:b"]
    assert "called tiny:b" in hunt.found["tiny:b"].notes[0]


def test_one_file_under_two_names_is_taken_once(put: Put, ggufs: Ggufs, tmp_path: Path) -> None:
    path = put("a-Q8_0.gguf", ggufs.model(7))
    (tmp_path / "b-Q8_0.gguf").symlink_to(path)
    os.link(path, tmp_path / "c-Q8_0.gguf")
    hunt = Hunt(tmp_path)
    assert list(hunt.found) == ["a"]
    assert all("the same file as" in reason for reason in hunt.skipped.values())
    assert len(hunt.skipped) == 2


def test_an_adapter_goes_to_the_model_beside_it_that_it_fits(put: Put, ggufs: Ggufs, tmp_path: Path) -> None:
    """It is not on by itself: nobody said so."""
    put("tiny-Q8_0.gguf", ggufs.model(7))
    put("wide-Q8_0.gguf", ggufs.model(7, n_embd=128))
    lora = put("tiny-pirate-lora-f16.gguf", ggufs.adapter())
    hunt = Hunt(tmp_path)
    assert hunt.found["tiny"].fields.adapters == {"pirate": AdapterFields(str(lora))}
    assert hunt.found["wide"].fields.adapters == {}


@pytest.mark.parametrize("others", [[], [("a-Q8_0.gguf", 128)], [("a-Q8_0.gguf", 64), ("b-Q8_0.gguf", 64)]])
def test_an_adapter_of_no_certain_model_is_skipped_with_advice(
    put: Put, ggufs: Ggufs, tmp_path: Path, others: list[tuple[str, int]]
) -> None:
    """Alone, beside a model that it does not fit, or beside two that it fits."""
    lora = put("lora.gguf", ggufs.adapter())
    for name, n_embd in others:
        put(name, ggufs.model(7, n_embd=n_embd))
    hunt = Hunt(tmp_path)
    assert len(hunt.found) == len(others)
    assert f"beast adapter add NAME {lora} --base MODEL" in hunt.skipped[str(lora)]


def test_a_projector_goes_to_the_model_beside_it(put: Put, ggufs: Ggufs, tmp_path: Path) -> None:
    """Of several, f16; the others are told."""
    put("seer-Q8_0.gguf", ggufs.model(7))
    put("mmproj-F32.gguf", ggufs.projector(0))
    f16 = put("mmproj-F16.gguf", ggufs.projector())
    found = Hunt(tmp_path).only
    assert found.fields.projector == str(f16)
    assert "mmproj-F32.gguf left out" in found.notes[0]


def test_a_projector_among_several_models_goes_by_its_name(put: Put, ggufs: Ggufs, tmp_path: Path) -> None:
    put("seer-Q8_0.gguf", ggufs.model(7))
    put("seer-big-Q8_0.gguf", ggufs.model(7))
    named, nameless = put("mmproj-seer-big-F16.gguf", ggufs.projector()), put("mmproj.gguf", ggufs.projector())
    hunt = Hunt(tmp_path)
    assert {name: it.fields.projector for name, it in hunt.found.items()} == {"seer": None, "seer-big": str(named)}
    assert "several models are beside it" in hunt.skipped[str(nameless)]


def test_a_broken_file_hides_no_other(put: Put, ggufs: Ggufs, tmp_path: Path) -> None:
    put("good-Q8_0.gguf", ggufs.model(7))
    cut, pipe = put("cut-Q8_0.gguf", ggufs.model(7)[:600]), tmp_path / "pipe.gguf"
    other, gone = put("text.gguf", b"not a model at all, but text"), tmp_path / "gone.gguf"
    gone.symlink_to(tmp_path / "nowhere")
    os.mkfifo(pipe)
    hunt = Hunt(tmp_path)
    assert list(hunt.found) == ["good"]
    assert set(hunt.skipped) == {str(path) for path in (cut, other, gone, pipe)}
    assert "not a GGUF file" in hunt.skipped[str(other)]
    assert not any(reason.startswith("/") for reason in hunt.skipped.values()), "the source is not told twice"


def test_links_between_folders_are_followed_once(put: Put, ggufs: Ggufs, tmp_path: Path) -> None:
    """Loops end, and a folder on another disk is found."""
    put("disk/tiny-Q8_0.gguf", ggufs.model(7))
    root = tmp_path / "models"
    root.mkdir()
    (root / "there").symlink_to(tmp_path / "disk")
    (root / "loop").symlink_to(root)
    (tmp_path / "disk" / "back").symlink_to(root)
    (root / "self").symlink_to("self")
    assert list(Hunt(root).found) == ["tiny"]


def test_hidden_folders_are_not_entered(put: Put, ggufs: Ggufs, tmp_path: Path) -> None:
    put(".cache/tiny-Q8_0.gguf", ggufs.model(7))
    put("._tiny-Q8_0.gguf", b"what macOS leaves on other disks")
    assert Hunt(tmp_path).all == []


def test_a_tree_too_large_or_deep_is_cut_off_and_said(put: Put, ggufs: Ggufs, tmp_path: Path) -> None:
    deep = "/".join("d" * (MAX_DEPTH + 1))
    put(f"deep/{deep}/tiny.gguf", ggufs.model())
    assert "folders deep" in Hunt(tmp_path / "deep").reason
    for i in range(10):
        put(f"wide/{i}.gguf", b"")
    tree = gguf_files(tmp_path / "wide", max_entries=5)
    assert len(tree.files) == 5
    assert "5 entries" in tree.skipped[0].reason


def test_names_no_description_can_hold_are_skipped(put: Put, ggufs: Ggufs, tmp_path: Path) -> None:
    """Their raw bytes get into no message."""
    put("fine-Q8_0.gguf", ggufs.model(7))
    put("line\nbreak.gguf", ggufs.model())
    (tmp_path / os.fsdecode(b"\xff\xfe.gguf")).write_bytes(ggufs.model())
    hunt = Hunt(tmp_path)
    assert list(hunt.found) == ["fine"]
    skipped = [it for it in hunt.all if it not in hunt.found.values()]
    assert len(skipped) == 2
    assert all(f"{it.source} {it.reason}".isprintable() for it in skipped)  # type: ignore[union-attr]


@pytest.mark.parametrize("what", ["nowhere", "pipe"])
def test_a_path_that_is_nothing_is_skipped(tmp_path: Path, what: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "check the path" in Hunt(tmp_path / what).reason


@pytest.mark.parametrize("root", ["any/place", "home/.lmstudio/models", ".cache/lm-studio/models"])
def test_in_lm_studios_folder_the_publisher_is_the_namespace(put: Put, ggufs: Ggufs, tmp_path: Path, root: str) -> None:
    """By its place, or by its layout wherever it is."""
    put(f"{root}/lmstudio-community/Tiny-GGUF/Tiny-Q8_0.gguf", ggufs.model(7))
    put(f"{root}/lmstudio-community/Tiny-GGUF/Tiny-Q2_K.gguf", ggufs.model(10))
    put(f"{root}/lmstudio-community/Tiny-GGUF/mmproj-model-f16.gguf", ggufs.projector())
    put(f"{root}/Other/Tiny-GGUF/ggml-model-f16.gguf", ggufs.model(1))
    hunt = Hunt(tmp_path / root)
    assert set(hunt.found) == {"lmstudio-community/tiny", "other/tiny"}
    tiny = hunt.found["lmstudio-community/tiny"]
    assert list(tiny.fields.variants) == ["q8_0", "q2_k"]
    assert tiny.fields.projector


def test_lm_studios_home_leads_to_its_models(put: Put, ggufs: Ggufs, tmp_path: Path) -> None:
    put(".lmstudio/models/me/tiny/a/b/tiny-Q8_0.gguf", ggufs.model(7))
    put(".lmstudio/models/loose-Q8_0.gguf", ggufs.model(7))
    put(".lmstudio/.internal/x.gguf", b"")
    assert list(Hunt(tmp_path / ".lmstudio").found) == ["loose", "me/tiny"]


def test_cubs_own_folder_makes_cub_and_its_draft() -> None:
    """Real files: four variants, one of them split, and the adapter that fits only the larger model."""
    hunt = Hunt(CUB)
    assert set(hunt.found) == {"cub", "cub-draft"}
    cub = hunt.found["cub"].fields
    assert list(cub.variants) == ["f16", "q8_0", "q4_k_m", "q2_k"]
    assert cub.default == "q4_k_m"
    assert cub.adapters == {"pirate": AdapterFields(str(CUB / "cub-pirate-lora-f16.gguf"))}
    assert hunt.skipped == {}
