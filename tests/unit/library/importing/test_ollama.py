"""Models in Ollama's store: everything a manifest says comes along, or is told."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hunt import TEMPLATE, Ggufs, Hunt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ollamashop import MANIFEST, MANIFEST_LIST, OllamaShop

from beastd.contract import Message, Options
from beastd.library.importing.ollamaparams import options_of
from beastd.registry.gotemplate import to_jinja
from beastd.registry.modelfile import AdapterFields, dump, parse_modelfile

GO = "{{ if .System }}<s>{{ .System }}</s>{{ end }}<u>{{ .Prompt }}</u>{{ .Response }}"
UNTRANSLATABLE = "{{ template `nowhere` . }}"


def weights(shop: OllamaShop, ggufs: Ggufs, **keys: Any) -> dict[str, Any]:
    """The model layer."""
    return shop.layer("model", ggufs.model(**keys))


def path_of(shop: OllamaShop, layer: dict[str, Any]) -> str:
    return str(shop.root / "blobs" / layer["digest"].replace(":", "-"))


# --- what comes along ---


def test_everything_a_model_says_of_itself_comes_along(shop: OllamaShop, ggufs: Ggufs) -> None:
    """And reads back as written: what is found is a sound modelfile."""
    model, adapter = weights(shop, ggufs), shop.layer("adapter", ggufs.adapter())
    projector, draft = shop.layer("projector", ggufs.projector()), shop.layer("draft", ggufs.model(1))
    texts = [
        shop.layer("template", GO),
        shop.layer("system", "You are Cub.\n"),
        shop.layer("license", "Licence one"),
        shop.layer("license", "Licence two"),
        shop.layer("params", {"temperature": 1, "stop": ["</u>"], "num_ctx": 4096, "top_k": 40.0}),
        shop.layer("messages", [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]),
    ]
    shop.model("cub/q4", [model, adapter, projector, draft, *texts])
    found = Hunt(shop.root).only
    fields = found.fields
    files = {kind: path_of(shop, it) for kind, it in (("m", model), ("a", adapter), ("p", projector), ("d", draft))}
    assert found.name.short == "cub:q4"
    assert found.notes == []
    assert fields.variants == {"q4_k_m": files["m"]}
    assert fields.adapters == {"cub-pirate": AdapterFields(files["a"], applied=True)}
    assert (fields.projector, fields.draft) == (files["p"], files["d"])
    assert fields.template == to_jinja(GO)
    assert fields.system == "You are Cub.\n"
    assert fields.license == "Licence one\n\nLicence two"
    assert fields.parameters == Options(temperature=1.0, stop=["</u>"], num_ctx=4096, top_k=40)
    assert fields.messages == [Message(role="user", content="hi"), Message(role="assistant", content="ho")]
    assert fields.origin == "ollama:registry.ollama.ai/library/cub:q4"
    assert fields.sha256 == {path: path[-64:] for path in files.values()}
    assert parse_modelfile(dump(fields), "dumped")[0] == fields


def test_a_model_of_weights_alone_needs_nothing_else(shop: OllamaShop, ggufs: Ggufs) -> None:
    """Its GGUF's own template goes on holding; empty layers say nothing."""
    shop.model("cub/latest", [weights(shop, ggufs), shop.layer("system", ""), shop.layer("template", "")])
    found = Hunt(shop.root).only
    assert (found.name.short, found.fields.template, found.fields.system) == ("cub", None, None)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("registry.ollama.ai/library/llama3.2/1b", "llama3.2:1b"),
        ("registry.ollama.ai/someone/llama/latest", "someone/llama"),
        ("ollama.com/library/llama/latest", "llama"),
        ("hf.co/bartowski/Llama-3.2-1B-GGUF/Q4_K_M", "hf.co/bartowski/Llama-3.2-1B-GGUF:Q4_K_M"),
        ("localhost:5000/me/llama/v1", "localhost:5000/me/llama:v1"),
    ],
)
def test_places_of_manifests_are_names(shop: OllamaShop, ggufs: Ggufs, place: str, name: str) -> None:
    shop.model(place, [weights(shop, ggufs)])
    assert Hunt(shop.root).only.name.short == name


def test_the_store_is_found_from_its_parent(shop: OllamaShop, ggufs: Ggufs) -> None:
    shop.model("cub/latest", [weights(shop, ggufs)])
    assert list(Hunt(shop.root.parent).found) == ["cub"]


def test_models_that_share_a_blob_are_both_found(shop: OllamaShop, ggufs: Ggufs) -> None:
    shop.model("cub/latest", [weights(shop, ggufs)])
    shop.model("cub/polite", [weights(shop, ggufs), shop.layer("system", "Be polite.")])
    hunt = Hunt(shop.root)
    assert set(hunt.found) == {"cub", "cub:polite"}
    assert hunt.found["cub"].fields.variants == hunt.found["cub:polite"].fields.variants


def test_shards_are_ordered_by_their_number_not_their_layer(shop: OllamaShop, ggufs: Ggufs) -> None:
    layers = [shop.layer("model", data) for data in ggufs.shards(3)]
    shop.model("big/latest", [layers[2], layers[0], layers[1]])
    assert Hunt(shop.root).only.fields.variants == {"f32": [path_of(shop, layer) for layer in layers]}


def test_new_manifests_are_links_to_blobs_and_win(shop: OllamaShop, ggufs: Ggufs) -> None:
    """manifests-v2, under the registry's new name; the old manifest of the same model is not read."""
    shop.model("cub/latest", [weights(shop, ggufs), shop.layer("system", "old")])
    place = shop.write("ollama.com/library/cub/latest", {}, "manifests-v2")
    new = shop.layer("json", shop.manifest([weights(shop, ggufs), shop.layer("system", "new")]))
    place.unlink()
    place.symlink_to(os.path.relpath(path_of(shop, new), place.parent))
    assert Hunt(shop.root).only.fields.system == "new"


@pytest.mark.parametrize("is_reference", [True, False])
def test_of_a_list_of_builds_the_gguf_is_taken(shop: OllamaShop, ggufs: Ggufs, is_reference: bool) -> None:
    build = shop.manifest([weights(shop, ggufs)])
    entry = {"mediaType": MANIFEST, "digest": shop.layer("json", build)["digest"]} if is_reference else build
    mlx = {"mediaType": MANIFEST, "runner": "mlx", "digest": "sha256:" + "0" * 64}
    shop.write("cub/latest", {"mediaType": MANIFEST_LIST, "manifests": [mlx, {**entry, "runner": "llamacpp"}]})
    assert list(Hunt(shop.root).only.fields.variants) == ["q4_k_m"]
    shop.write("cub/latest", {"mediaType": MANIFEST_LIST, "manifests": [mlx]})
    assert "no GGUF build (it has mlx)" in Hunt(shop.root).reason


# --- templates ---


def test_a_template_without_equivalent_is_skipped_with_advice_or_replaced(shop: OllamaShop, ggufs: Ggufs) -> None:
    """The GGUF's own takes its place only when that was asked for, and it is said."""
    model = weights(shop, ggufs, tokenizer__chat_template=TEMPLATE)
    shop.model("cub/latest", [model, shop.layer("template", UNTRANSLATABLE)])
    assert "--gguf-template" in Hunt(shop.root).reason
    found = Hunt(shop.root, gguf_template=True).only
    assert found.fields.template is None
    assert "inside its GGUF is used instead" in found.notes[0]


def test_a_renderer_is_code_of_ollamas_and_stands_above_the_template(shop: OllamaShop, ggufs: Ggufs) -> None:
    model = weights(shop, ggufs, tokenizer__chat_template=TEMPLATE)
    config = {"renderer": "qwen3-coder", "parser": "qwen3-coder", "requires": "0.12.0"}
    shop.model("cub/latest", [model, shop.layer("template", "{{ .Prompt }}")], config)
    assert "renderer 'qwen3-coder'" in Hunt(shop.root).reason
    notes = Hunt(shop.root, gguf_template=True).only.notes
    assert any("parser 'qwen3-coder' left out" in note for note in notes)


def test_without_any_usable_template_a_model_is_skipped(shop: OllamaShop, ggufs: Ggufs) -> None:
    shop.model("cub/latest", [weights(shop, ggufs), shop.layer("template", UNTRANSLATABLE)])
    assert "no chat template either" in Hunt(shop.root, gguf_template=True).reason


# --- parameters ---


def test_parameters_beast_does_not_have_are_told_with_their_values() -> None:
    given = {"num_gpu": 20, "use_mmap": True, "num_keep": 4, "tfs_z": 1, "draft_num_predict": 4, "mirostat": 1}
    options, notes = options_of(given | {"temperature": "0.5", "seed": None, "top_p": 7, "stop": "x" * 2000})
    assert options == Options(temperature=0.5)
    assert len(notes) == 8
    assert notes[0] == "num_gpu 20 left out: it is set for the machine, in config.yaml: gpu_layers"
    assert "draft_num_predict 4 left out: Beast has no such parameter" in notes
    assert any(note.startswith("top_p 7 left out: Beast cannot take this value") for note in notes)
    assert max(map(len, notes)) < 150


def test_ten_thousand_unknown_parameters_make_a_short_list() -> None:
    _, notes = options_of({f"p{i}": i for i in range(10_000)})
    assert len(notes) < 100
    assert "more parameters left out" in notes[-1]


def test_what_ollama_took_from_the_models_makers_is_below_its_params(shop: OllamaShop, ggufs: Ggufs) -> None:
    config = {"generation_defaults": {"temperature": 0.6, "top_k": 20}}
    shop.model("cub/latest", [weights(shop, ggufs), shop.layer("params", {"temperature": 1})], config)
    assert Hunt(shop.root).only.fields.parameters == Options(temperature=1.0, top_k=20)


# --- what is left out, and said ---


def test_layers_beast_has_nothing_for_are_told(shop: OllamaShop, ggufs: Ggufs) -> None:
    """A deprecated one, one of the future, and a draft of another vocabulary."""
    layers = [weights(shop, ggufs), shop.layer("embed", "x"), shop.layer("hologram\n", "x")]
    other = shop.layer("draft", ggufs.writer.file(tensors=[ggufs.writer.tensor("token_embd.weight", (64, 20))]))
    shop.model(
        "cub/latest", [*layers, other, shop.layer("projector", ggufs.projector()), layers[0] | {"mediaType": "x"}]
    )
    found = Hunt(shop.root).only
    assert found.fields.draft is None
    assert len(found.notes) == 4
    assert all(note.isprintable() and "left out" in note for note in found.notes)


def test_an_image_part_inside_the_model_is_told(shop: OllamaShop, ggufs: Ggufs) -> None:
    tensors = [ggufs.writer.tensor("token_embd.weight", (64, 10)), ggufs.writer.tensor("v.x", (8, 8), offset=2560)]
    shop.model("cub/latest", [shop.layer("model", ggufs.writer.file(tensors=tensors))])
    assert "llama.cpp may refuse" in Hunt(shop.root).only.notes[0]


@pytest.mark.parametrize(
    ("config", "kinds", "reason"),
    [
        ({"remote_host": "https://ollama.com:443", "remote_model": "gpt-oss:120b"}, [], "runs on https://ollama.com"),
        ({"remote_host": "\x1b[2J" + "x" * 5000}, [], "runs on \\x1b[2Jxx"),
        ({}, [], "no model layer"),
        ({"model_format": "safetensors"}, ["tensor"], "safetensors"),
        ({"model_format": None}, ["tensor"], "'tensors'"),
    ],
)
def test_what_is_no_local_gguf_is_skipped(
    shop: OllamaShop, config: dict[str, Any], kinds: list[str], reason: str
) -> None:
    shop.model("cloud/latest", [shop.layer(kind, "x") for kind in kinds], config)
    assert reason in Hunt(shop.root).reason
    assert len(Hunt(shop.root).reason) < 200


def test_an_adapter_of_another_model_skips_the_model(shop: OllamaShop, ggufs: Ggufs) -> None:
    """Without it the model would be another."""
    shop.model("cub/latest", [weights(shop, ggufs), shop.layer("adapter", ggufs.adapter(n_embd=128))])
    assert "made for another model" in Hunt(shop.root).reason


def test_texts_too_long_for_a_description_are_refused(shop: OllamaShop, ggufs: Ggufs) -> None:
    layers = [weights(shop, ggufs), *(shop.layer("license", f"{i}" + "x" * 100_000) for i in range(3))]
    shop.model("cub/latest", layers)
    assert "take more than" in Hunt(shop.root).reason


# --- hostile and broken stores ---

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KINDS = ["model", "params", "messages", "template", "system", "license", "adapter", "projector", "draft", "json"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(KINDS), JSON), max_size=6), JSON, JSON)
def test_whatever_is_in_a_store_the_end_is_found_or_skipped(
    shop: OllamaShop, ggufs: Ggufs, layers: list[tuple[str, Any]], config: Any, anything: Any
) -> None:
    """Layers of any JSON, a config of any, and manifests with one field of any."""
    sound = shop.manifest([weights(shop, ggufs), *(shop.layer(kind, json.dumps(it)) for kind, it in layers)])
    places = [shop.write("a/latest", sound | {"config": shop.layer("config", json.dumps(config))})]
    places += [shop.write(f"b/{key}", sound | {key: anything}) for key in ("layers", "mediaType", "config")]
    hunt = Hunt(shop.root)
    assert len(hunt.all) == len(places)
    assert all(reason.isprintable() for reason in hunt.skipped.values())


def digests() -> list[Any]:
    return ["", "sha256:..", "sha256:../../../../etc/passwd", "sha256-" + "g" * 64, "md5:" + "a" * 64, "sha256:\n"]


@pytest.mark.parametrize("digest", [*digests(), "sha256:" + "a" * 63, f"/etc/{'a' * 64}", "sha256:" + "a" * 65])
def test_a_digest_that_is_none_is_refused(shop: OllamaShop, ggufs: Ggufs, digest: str) -> None:
    """No file outside blobs can be named."""
    shop.model("cub/latest", [weights(shop, ggufs) | {"digest": digest}])
    assert "is no digest" in Hunt(shop.root).reason


@pytest.mark.parametrize("what", ["missing", "cut", "grown", "folder", "not GGUF", "bad header"])
def test_a_blob_that_is_not_what_the_manifest_says_is_skipped(shop: OllamaShop, ggufs: Ggufs, what: str) -> None:
    layer = weights(shop, ggufs)
    path, data = Path(path_of(shop, layer)), ggufs.model()
    path.unlink()
    if what == "folder":
        path.mkdir()
    elif what != "missing":
        broken = {"cut": data[:-1], "grown": data + b"x", "not GGUF": bytes(len(data))}
        path.write_bytes(broken.get(what, data[:100] + b"\xff" * (len(data) - 100)))
    shop.model("cub/latest", [layer])
    shop.model("good/latest", [shop.layer("model", ggufs.model(7))])
    hunt = Hunt(shop.root)
    assert list(hunt.found) == ["good"]
    assert len(hunt.skipped) == 1


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'{"layers": {}}',
        b'{"layers": [7]}',
        b'{"layers": [{"mediaType": 1}]}',
        b'{"config": null}',
        b'{"layers": [{"size": 1e400}]}',
        b'{"layers": [{"size": "many"}]}',
        b'{"x": ' + b"[" * 500_000 + b"]" * 500_000 + b"}",
        b'{"layers": ' + b"[" * 100_000,
        b'{"mediaType": "x", "y": "' + b"y" * 2**20 + b'"}',
        b'{"mediaType": "application/vnd.ollama.manifest.list.v2+json", "manifests": [{"runner": "ollama"}]}',
    ],
)
def test_a_hostile_manifest_hides_no_other(shop: OllamaShop, ggufs: Ggufs, manifest: bytes) -> None:
    place = shop.write("bad/latest", manifest)
    shop.model("good/latest", [weights(shop, ggufs)])
    hunt = Hunt(shop.root)
    assert list(hunt.found) == ["good"]
    assert list(hunt.skipped) == [str(place)]
    assert len(hunt.skipped[str(place)]) < 600


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("params", b"[1]"),
        ("params", b"\xff"),
        ("params", b'{"a": ' + b"[" * 100_000),
        ("messages", b'[{"role": "emperor"}]'),
        ("messages", b'[{"role": "user", "images": ["aGk="]}]'),
        ("system", b"\xff\xfe"),
        ("template", b"x" * 300_000),
        ("template", b"{{ if }}"),
        ("license", b"\x80"),
        ("adapter", b"ggla"),
        ("projector", b"GGUF"),
        ("config", b"not json"),
    ],
)
def test_a_broken_layer_skips_its_model(shop: OllamaShop, ggufs: Ggufs, kind: str, content: bytes) -> None:
    manifest = shop.manifest([weights(shop, ggufs)])
    layer = {**shop.layer("x", content), "mediaType": f"application/vnd.ollama.image.{kind}"}
    manifest |= {"config": layer} if kind == "config" else {"layers": [*manifest["layers"], layer]}
    shop.write("bad/latest", manifest)
    assert Hunt(shop.root).reason.isprintable()


def test_too_many_layers_are_refused(shop: OllamaShop, ggufs: Ggufs) -> None:
    shop.model("big/latest", [weights(shop, ggufs)] * 2000)
    assert "2000 layers" in Hunt(shop.root).reason


def test_shards_that_are_none_are_refused(shop: OllamaShop, ggufs: Ggufs) -> None:
    """Two whole models, or one shard twice."""
    shard = shop.layer("model", ggufs.shards()[0])
    shop.model("two/latest", [weights(shop, ggufs), shop.layer("model", ggufs.model(7))])
    shop.model("twice/latest", [shard, shard])
    reasons = Hunt(shop.root).skipped.values()
    assert len(reasons) == 2
    assert all("not the shards of one model" in reason for reason in reasons)


def test_links_out_of_the_store_are_refused(shop: OllamaShop, tmp_path: Path) -> None:
    """As Ollama refuses them; and a link to itself ends."""
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    folder = shop.write("cub/latest", {}).parent
    (folder / "out").symlink_to(secret)
    (folder / "self").symlink_to("self")
    (folder / "up").symlink_to(shop.root)
    (folder / "latest").unlink()
    os.mkfifo(folder / "pipe")
    hunt = Hunt(shop.root)
    assert hunt.found == {}
    assert {Path(source).name for source in hunt.skipped} == {"out", "self", "up", "pipe"}
    assert "leads out" in hunt.skipped[str(folder / "out")]


def test_places_that_are_no_names_are_skipped(shop: OllamaShop, ggufs: Ggufs) -> None:
    """Too short, foreign characters, a line break; hidden files of the system are passed over."""
    good = shop.manifest([weights(shop, ggufs)])
    for place in ("loose", "registry.ollama.ai/library/a b/latest", "registry.ollama.ai/library/x/y\nz", "h/n/m/.DS"):
        shop.write(place, good)
    hunt = Hunt(shop.root)
    assert hunt.found == {}
    assert len(hunt.all) == 3
    assert all(f"{source}{reason}".isprintable() for source, reason in hunt.skipped.items())
    assert all("HOST/NAMESPACE/MODEL/TAG" in reason for reason in hunt.skipped.values())
