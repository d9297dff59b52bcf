"""Models of other programs, imported by a real daemon and run where they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from harness import RunningDaemon, StartDaemon
from ollamashop import OllamaShop

CUB = Path(__file__).parents[2] / "beastd" / "builtin" / "cub"
Q2_K, PIRATE = CUB / "cub-q2_k.gguf", CUB / "cub-pirate-lora-f16.gguf"

CHATML = """{{- if .System }}<|im_start|>system
{{ .System }}<|im_end|>
{{ end }}{{ if .Prompt }}<|im_start|>user
{{ .Prompt }}<|im_end|>
{{ end }}<|im_start|>assistant
{{ .Response }}<|im_end|>
"""
"""Cub's chat format, as a Go template of Ollama's."""
SYSTEM = "You are a bear."
PARAMS = {"temperature": 0, "num_predict": 24, "stop": ["<|im_end|>"], "num_gpu": 20}
QUESTION = [{"role": "user", "content": "What is the capital of Italy?"}]


@pytest.fixture
def shop(tmp_path: Path) -> OllamaShop:
    """Ollama's store with two models of one blob: one with everything a Modelfile can say, one plain."""
    shop = OllamaShop(tmp_path / ".ollama" / "models")
    weights, template = shop.layer("model", Q2_K), shop.layer("template", CHATML)
    texts = [shop.layer("system", SYSTEM), shop.layer("params", PARAMS), shop.layer("license", "Llama Cub.")]
    shop.model("bear/pirate", [weights, template, shop.layer("adapter", PIRATE), *texts])
    shop.model("registry.ollama.ai/me/bear/latest", [weights, template])
    return shop


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """Nothing in the folder may be written, removed or made meanwhile."""
    before = state(folder)
    yield
    assert state(folder) == before


def state(folder: Path) -> dict[str, tuple[int, int]]:
    paths = [Path(parent) / name for parent, _, names in os.walk(folder) for name in names]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}


def bring(daemon: RunningDaemon, path: Path, **fields: Any) -> dict[str, Any]:
    status, reply = daemon.request("POST", "/api/import", {"paths": [str(path)], "stream": False, **fields})
    assert status == 200, reply
    return reply


def ask(daemon: RunningDaemon, model: str, messages: list[dict[str, str]], **options: Any) -> dict[str, Any]:
    body = {"model": model, "messages": messages, "options": options, "stream": False}
    status, reply = daemon.request("POST", "/api/chat", body)
    assert status == 200, reply
    return reply


def test_ollamas_store_is_imported_in_place_and_answers_as_it_did(start_daemon: StartDaemon, shop: OllamaShop) -> None:
    """Template, system message, parameters and adapter hold: the answer is the one Cub gives when told all of it."""
    daemon = start_daemon()
    with unchanged(shop.root):
        reply = bring(daemon, shop.root.parent)
        assert {it["name"]: it["adapters"] for it in reply["imported"]} == {
            "bear:pirate": ["llama-cub-pirate"],
            "me/bear": [],
        }
        assert reply["skipped"] == []
        notes = {it["name"]: it["notes"] for it in reply["imported"]}
        assert any("num_gpu 20 left out" in note for note in notes["bear:pirate"])
        answer = ask(daemon, "bear:pirate", QUESTION)
        told = [{"role": "system", "content": SYSTEM}, *QUESTION]
        wanted = ask(daemon, "cub@q2_k+pirate", told, temperature=0, num_predict=24)
        assert answer["message"]["content"] == wanted["message"]["content"] != ""
        assert answer["prompt_eval_count"] == wanted["prompt_eval_count"]
        assert answer["variant"] == "q2_k"
        plain = ask(daemon, "me/bear", QUESTION, temperature=0, num_predict=24)
        assert (
            plain["message"]["content"]
            == ask(daemon, "cub@q2_k", QUESTION, temperature=0, num_predict=24)["message"]["content"]
        )


def test_a_dry_run_tells_all_and_keeps_nothing(start_daemon: StartDaemon, shop: OllamaShop) -> None:
    daemon = start_daemon()
    before = [it["name"] for it in daemon.get("/api/tags")["models"]]
    assert len(bring(daemon, shop.root, dry_run=True)["imported"]) == 2
    assert [it["name"] for it in daemon.get("/api/tags")["models"]] == before


def test_the_hub_cache_is_imported_under_its_repositorys_name(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """A file that was never finished is told; the sound one runs."""
    repo, commit = tmp_path / "hub" / "models--beast--Cub-GGUF", "c" * 40
    files = {"Cub-Q2_K.gguf": Q2_K.read_bytes(), "Cub-Q8_0.gguf": (CUB / "cub-q8_0.gguf").read_bytes()[:100_000]}
    for name, data in files.items():
        blob, link = repo / "blobs" / sha256(data).hexdigest(), repo / "snapshots" / commit / name
        for folder in (blob.parent, link.parent, repo / "refs"):
            folder.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        link.symlink_to(os.path.relpath(blob, link.parent))
    (repo / "refs" / "main").write_text(commit)
    daemon = start_daemon()
    reply = bring(daemon, tmp_path)
    assert [it["name"] for it in reply["imported"]] == ["hf.co/beast/Cub-GGUF"]
    ((skipped),) = reply["skipped"]
    assert skipped["source"].endswith("Cub-Q8_0.gguf")
    assert ask(daemon, "hf.co/beast/Cub-GGUF:Q2_K", QUESTION, num_predict=8)["variant"] == "q2_k"


def test_a_whole_folder_is_imported_and_again_without_harm(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """Cub's own files as somebody's folder: variants, a split one among them, and the adapter."""
    for file in CUB.glob("*.gguf"):
        (tmp_path / file.name.replace("cub", "bear")).symlink_to(file)
    daemon = start_daemon()
    for _ in range(2):
        reply = bring(daemon, tmp_path)
        assert {it["name"]: it["variants"] for it in reply["imported"]} == {
            "bear": ["f16", "q8_0", "q4_k_m", "q2_k"],
            "bear-draft": ["f16"],
        }
        assert reply["skipped"] == []
    assert ask(daemon, "bear+pirate", QUESTION, num_predict=8)["variant"] == "q4_k_m"
    assert ask(daemon, "bear@f16", QUESTION, num_predict=8)["variant"] == "f16"


def test_a_built_in_model_is_not_hidden_unawares(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """Only on demand; then removing the user's brings it back."""
    (tmp_path / "cub-q2_k.gguf").symlink_to(CUB / "cub-q2_k.gguf")
    daemon = start_daemon()
    ((skipped),) = bring(daemon, tmp_path)["skipped"]
    assert "there is a model 'cub' already; --replace takes this one instead" in skipped["reason"]
    assert bring(daemon, tmp_path, replace=True)["skipped"] == []
    assert ask(daemon, "cub", QUESTION, num_predict=8)["variant"] == "q2_k"


def test_a_changed_file_is_taken_as_it_is_by_importing_it_again(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """As the error says; what was made of the model stays."""
    file = tmp_path / "bear-q2_k.gguf"
    file.write_bytes((CUB / "cub-q2_k.gguf").read_bytes())
    daemon = start_daemon()
    bring(daemon, file)
    shown = daemon.request("POST", "/api/modelfile", {"model": "bear"})[1]["modelfile"]
    daemon.request("POST", "/api/edit", {"model": "bear", "modelfile": shown + "system: Growl.\n"})
    with file.open("ab") as stream:
        stream.write(b"x")
    assert "`beast import` it again" in daemon.request("POST", "/api/show", {"model": "bear"})[1]["error"]
    assert bring(daemon, file)["skipped"] == []
    assert daemon.request("POST", "/api/show", {"model": "bear"})[1]["system"] == "Growl."
