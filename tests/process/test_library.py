"""The library over its socket: models made, copied, changed and removed by Ollama's clients and by Beast's own."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from harness import RunningDaemon, UnixConnection

from beastd.registry.registry import BUILTIN_DIR

CUB = BUILTIN_DIR / "cub"
Q2 = CUB / "cub-q2_k.gguf"
LORA = CUB / "cub-pirate-lora-f16.gguf"


def post(daemon: RunningDaemon, path: str, body: dict[str, Any], status: int = 200) -> Any:
    found, reply = daemon.request("POST", path, body)
    assert found == status, reply
    return reply


def delete(daemon: RunningDaemon, model: str, status: int = 200) -> Any:
    found, reply = daemon.request("DELETE", "/api/delete", {"model": model})
    assert found == status, reply
    return reply


def tag(daemon: RunningDaemon, name: str) -> dict[str, Any]:
    return next(model for model in daemon.get("/api/tags")["models"] if model["name"] == name)


def names(daemon: RunningDaemon) -> set[str]:
    return {model["name"] for model in daemon.get("/api/tags")["models"]}


def answer(daemon: RunningDaemon, model: str, **request: Any) -> dict[str, Any]:
    body = {"model": model, "prompt": "Why is the sky blue?", "stream": False, "keep_alive": 0, **request}
    body["options"] = {"temperature": 0, "num_predict": 24, "speculative": "off"}
    return post(daemon, "/api/generate", body)


def blob(daemon: RunningDaemon, path: Path) -> str:
    digest = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    status, _ = daemon.request("POST", f"/api/blobs/{digest}", path.read_bytes())
    assert status in {200, 201}
    return digest


def test_a_model_of_a_model_is_created_shown_copied_and_removed(daemon):
    """Parameters and system go over the base's; its files are shared, not copied."""
    reply = post(
        daemon,
        "/api/create",
        {"model": "sailor", "from": "cub@q2_k+pirate", "system": "Be brief.", "parameters": {"top_k": 3}},
    )
    assert (reply["status"], reply["model"]) == ("success", "sailor:latest")
    shown = post(daemon, "/api/show", {"model": "sailor"})
    assert shown["system"] == "Be brief."
    assert "top_k                          3" in shown["parameters"]
    assert "temperature                    0.5" in shown["parameters"]
    assert shown["variant"] == "q2_k"
    assert shown["adapters"] == [{"name": "pirate", "scale": 1.0, "applied": True}]
    post(daemon, "/api/copy", {"source": "sailor", "destination": "crew/sailor:v2"})
    assert answer(daemon, "crew/sailor:v2")["response"] == answer(daemon, "sailor")["response"]
    plain = answer(daemon, "cub@q2_k", system="Be brief.")["response"]
    assert answer(daemon, "sailor")["response"] != plain
    assert answer(daemon, "sailor+pirate*0")["response"] == plain
    assert delete(daemon, "sailor")["removed"] == "sailor"
    delete(daemon, "crew/sailor:v2")
    assert names(daemon) == {"cub:latest"}
    assert delete(daemon, "sailor", 404)["code"] == "model_not_found"
    assert delete(daemon, "cub", 403)["code"] == "read_only"


def test_a_model_is_made_of_posted_blobs_as_ollamas_clients_do(daemon):
    """The blob goes with the last model that names it."""
    digest, lora = blob(daemon, Q2), blob(daemon, LORA)
    assert daemon.request("HEAD", f"/api/blobs/{digest}")[0] == 200
    assert daemon.request("HEAD", f"/api/blobs/sha256:{'0' * 64}")[0] == 404
    template = "{{ if .System }}S:{{ .System }}\n{{ end }}U:{{ .Prompt }}\nA:{{ .Response }}"
    body = {"model": "posted", "files": {"q2.gguf": digest}, "adapters": {"l.gguf": lora}, "template": template}
    post(daemon, "/api/create", body)
    shown = post(daemon, "/api/show", {"model": "posted"})
    assert [it["name"] for it in shown["variants"]] == ["q2_k"]
    assert shown["adapters"][0]["applied"]
    assert answer(daemon, "posted")["done"]
    blobs = daemon.home / "models" / ".blobs"
    assert len(list(blobs.iterdir())) == 2
    assert delete(daemon, "posted")["bytes"] == Q2.stat().st_size + LORA.stat().st_size
    assert list(blobs.iterdir()) == []


def test_a_blob_that_is_not_what_its_address_says_is_refused(daemon):
    """And leaves nothing."""
    status, reply = daemon.request("POST", f"/api/blobs/sha256:{'1' * 64}", b"something else")
    assert (status, reply["code"]) == (400, "bad_request")
    assert daemon.request("POST", "/api/blobs/sha256:../../x", b"x")[0] in {400, 404}
    assert list((daemon.home / "models" / ".partial").iterdir()) == []


def test_a_blob_whose_client_leaves_half_way_is_forgotten(daemon):
    """Nothing half-written is ever visible."""
    connection = UnixConnection(daemon.socket)
    connection.putrequest("POST", f"/api/blobs/sha256:{'2' * 64}")
    connection.putheader("Content-Length", "1000000")
    connection.endheaders(b"x" * 5000)
    connection.close()
    assert daemon.request("HEAD", f"/api/blobs/sha256:{'2' * 64}")[0] == 404
    for _ in range(100):
        if not list((daemon.home / "models" / ".partial").iterdir()):
            return
        daemon.get("/healthz")
    raise AssertionError("the upload was left over")


def test_ollamas_own_client_makes_and_removes_models(daemon, start_daemon, free_port):
    """The unchanged client, over TCP."""
    import ollama

    start_daemon("--tcp", f"127.0.0.1:{free_port}")
    client = ollama.Client(f"http://127.0.0.1:{free_port}")
    with closing(client._client):
        _use(client)


def _use(client: Any) -> None:
    import ollama

    digest = client.create_blob(Q2)
    assert (
        client.create("mine", files={"q2.gguf": digest}, system="Hi", parameters={"temperature": 0.1}).status
        == "success"
    )
    statuses = [part.status for part in client.create("other", from_="mine", license="MIT", stream=True)]
    assert statuses[-1] == "success"
    assert client.copy("mine", "third").status == "success"
    assert client.show("third").parameters is not None
    assert client.delete("mine").status == "success"
    assert {model.model for model in client.list().models} == {"cub:latest", "other:latest", "third:latest"}
    with pytest.raises(ollama.ResponseError, match="Unix socket"):
        client.create("path", from_="/etc/passwd")


MODELFILE = """# a comment
FROM {file}
PARAMETER temperature 0.1
PARAMETER stop "<end>"
SYSTEM \"\"\"You are
a bear.\"\"\"
ADAPTER {adapter}
MESSAGE user Hello
MESSAGE assistant Growl
LICENSE MIT
"""


def test_a_modelfile_in_either_syntax_makes_the_same_model(daemon, tmp_path):
    """Files stay where they are, relative paths begin where the modelfile is."""
    (tmp_path / "bear.gguf").write_bytes(Q2.read_bytes())
    (tmp_path / "lora.gguf").write_bytes(LORA.read_bytes())
    text = MODELFILE.format(file="./bear.gguf", adapter="./lora.gguf")
    post(daemon, "/api/create", {"model": "a", "modelfile": text, "folder": str(tmp_path)})
    yaml = (
        "variants: {q2_k: bear.gguf}\nadapters: {lora: {path: lora.gguf, applied: true}}\nlicense: MIT\n"
        "parameters: {temperature: 0.1, stop: [<end>]}\nsystem: |-\n  You are\n  a bear.\n"
        "messages: [{role: user, content: Hello}, {role: assistant, content: Growl}]\n"
    )
    post(daemon, "/api/create", {"model": "b", "modelfile": yaml, "folder": str(tmp_path)})
    shown = [post(daemon, "/api/show", {"model": name}) for name in "ab"]
    for field in ("modelfile", "system", "parameters", "license", "messages"):
        assert shown[0][field] == shown[1][field]
    assert tag(daemon, "a:latest")["variants"][0]["bits_per_weight"] == 3.424
    # The second may find the first one's KV on disk, which was rounded in another batch: they part ways in the end.
    assert answer(daemon, "a")["response"][:30] == answer(daemon, "b")["response"][:30]
    (tmp_path / "bear.gguf").write_bytes(Q2.read_bytes() + b"x")
    problems = {Path(it["path"]).stem: it["error"] for it in daemon.get("/api/tags")["problems"]}
    assert "bear.gguf has changed since it was registered" in problems["a"]
    assert "beast import" in post(daemon, "/api/generate", {"model": "a", "prompt": "x"}, 422)["error"]
    (tmp_path / "bear.gguf").unlink()
    assert "No such file" in post(daemon, "/api/show", {"model": "b"}, 422)["error"]
    delete(daemon, "a")
    delete(daemon, "b")


@pytest.mark.parametrize(
    ("modelfile", "told"),
    [
        ("variants:\n  q: gone.gguf\n", "gone.gguf"),
        ("from: cub\nparameters:\n  temprature: 1\n", "line 3: parameters.temprature: .*did you mean 'temperature'"),
        ("from: nothing-like-it\n", "model 'nothing-like-it' not found"),
        ("system: x\n", "would have no file"),
        ("from: cub\nvariants: {q: lora.gguf}\n", "adapter, not a model"),
        ("from: cub\nadapters: {q: q2.gguf}\n", "q2.gguf"),
        ('FROM cub\nTEMPLATE """{{ call .Messages }}"""\n', "call"),
        ("FROM cub\nPARAMETER num_gpu 3\n", "num_gpu"),
    ],
)
def test_a_wrong_modelfile_is_told_and_makes_nothing(daemon, tmp_path, modelfile, told):
    """The line and the field, or the file that is wrong."""
    (tmp_path / "lora.gguf").write_bytes(LORA.read_bytes())
    (tmp_path / "q2.gguf").write_bytes(Q2.read_bytes())
    _, reply = daemon.request(
        "POST", "/api/create", {"model": "wrong", "modelfile": modelfile, "folder": str(tmp_path)}
    )
    import re

    assert re.search(told, reply["error"]), reply
    assert "wrong:latest" not in names(daemon)


def test_variants_are_made_measured_and_removed_one_by_one(daemon):
    """They belong to one model; a built-in one gets a description of the user's own that goes before it."""
    post(daemon, "/api/copy", {"source": "cub", "destination": "vary"})
    assert post(daemon, "/api/quantize", {"model": "vary", "types": ["q8_0"]}, 409)["code"] == "conflict"
    reply = post(daemon, "/api/quantize", {"model": "vary@f16", "types": ["Q4_0", "iq4_nl"], "stream": False})
    assert [it["name"] for it in reply["variants"]] == ["q4_0", "iq4_nl"]
    made = {it["name"]: it for it in tag(daemon, "vary:latest")["variants"]}
    assert list(made) == ["q8_0", "q4_k_m", "q2_k", "f16", "q4_0", "iq4_nl"]
    assert 4 < made["q4_0"]["bits_per_weight"] < 5.5
    assert answer(daemon, "vary@iq4_nl")["variant"] == "iq4_nl"
    assert (
        post(daemon, "/api/quantize", {"model": "vary@q2_k", "types": ["q4_1"], "stream": False}, 400)["code"]
        == "bad_request"
    )
    assert "did you mean" in post(daemon, "/api/quantize", {"model": "vary", "types": ["q4_k_x"]}, 400)["error"]
    removed = delete(daemon, "vary@q4_0")
    assert (removed["removed"], removed["bytes"]) == ("vary@q4_0", made["q4_0"]["size"])
    assert "q4_0" not in [it["name"] for it in tag(daemon, "vary:latest")["variants"]]
    delete(daemon, "vary")


def test_perplexity_tells_what_a_variant_costs(daemon, tmp_path):
    """The finer one predicts better."""
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a little bear who lived in the forest. " * 60)
    found = [
        post(
            daemon, "/api/perplexity", {"model": name, "file": str(text), "n_ctx": 128, "n_chunks": 2, "stream": False}
        )
        for name in ("cub@f16", "cub@q2_k")
    ]
    assert found[0]["perplexity"] < found[1]["perplexity"]
    assert found[1]["variant"] == "q2_k"


def test_an_adapter_is_added_checked_and_removed(daemon, tmp_path):
    """Its name follows the model's after a +."""
    post(daemon, "/api/copy", {"source": "cub", "destination": "wolf"})
    body = {"name": "sea", "source": str(LORA), "base": "wolf", "scale": 0.5, "copy": True, "stream": False}
    assert post(daemon, "/api/adapters", body)["model"] == "wolf:latest+sea"
    assert tag(daemon, "wolf:latest")["adapters"][1] == {"name": "sea", "scale": 0.5, "applied": False}
    half = answer(daemon, "wolf@q2_k+sea")["response"]
    assert half == answer(daemon, "cub@q2_k+pirate*0.5")["response"]
    assert post(daemon, "/api/adapters", body, 409)["code"] == "conflict"
    wrong = {"name": "no", "source": str(Q2), "base": "wolf"}
    assert post(daemon, "/api/adapters", wrong, 422)["code"] == "bad_model"
    delete(daemon, "wolf+sea")
    assert [it["name"] for it in tag(daemon, "wolf:latest")["adapters"]] == ["pirate"]
    delete(daemon, "wolf")


def test_a_removed_adapter_leaves_its_model_loaded(daemon):
    """The worker gives up the adapter alone, and its model answers on."""
    post(daemon, "/api/copy", {"source": "cub", "destination": "wolf"})
    body = {"name": "sea", "source": str(LORA), "base": "wolf", "copy": True, "stream": False}
    post(daemon, "/api/adapters", body)
    answer(daemon, "wolf@q2_k+sea", keep_alive=60)
    (before,) = daemon.get("/api/fleet")["workers"]
    delete(daemon, "wolf+sea")
    answer(daemon, "wolf@q2_k", keep_alive=60)
    (after,) = daemon.get("/api/fleet")["workers"]
    assert after["pid"] == before["pid"]
    assert eventually(lambda: n_adapters(daemon) == 0)
    delete(daemon, "wolf")


def n_adapters(daemon: RunningDaemon) -> int:
    return sum(worker["stats"]["n_adapters"] for worker in daemon.get("/api/fleet")["workers"])


def eventually(condition: Callable[[], object], limit_s: float = 30) -> bool:
    give_up = time.monotonic() + limit_s
    while not condition() and time.monotonic() < give_up:
        time.sleep(0.05)
    return bool(condition())


def test_a_modelfile_is_edited_whole_or_not_at_all(daemon):
    """What a person wrote stays as it was written, comments and all."""
    post(daemon, "/api/copy", {"source": "cub", "destination": "edited"})
    text = post(daemon, "/api/show", {"model": "edited"})["modelfile"]
    broken = post(daemon, "/api/edit", {"model": "edited", "modelfile": text + "sistem: x\n"}, 422)
    assert "did you mean 'system'" in broken["error"]
    assert post(daemon, "/api/show", {"model": "edited"})["modelfile"] == text
    post(daemon, "/api/edit", {"model": "edited", "modelfile": "# mine\n" + text + "system: New\n"})
    shown = post(daemon, "/api/show", {"model": "edited"})
    assert (shown["system"], shown["modelfile"][:6]) == ("New", "# mine")
    assert post(daemon, "/api/edit", {"model": "cub", "modelfile": text}, 403)["code"] == "read_only"
    delete(daemon, "edited")


def test_a_job_goes_on_without_its_client_is_joined_and_cancelled(daemon):
    """Cancelling leaves the model as it was."""
    post(daemon, "/api/copy", {"source": "cub", "destination": "jobs"})
    body = {"model": "jobs", "types": ["iq4_xs", "q3_k_s", "q3_k_l", "q5_1", "q6_k", "q5_k_m", "q5_k_s", "q4_1"]}
    stream = daemon.stream("/api/quantize", body)
    id_ = next(stream)["job"]
    stream.close()
    joined = daemon.stream("/api/quantize", body)
    assert next(joined)["job"] == id_
    info = next(job for job in daemon.get("/api/jobs")["jobs"] if job["id"] == id_)
    assert (info["kind"], info["subject"], info["state"]) == ("quantize", "jobs", "running")
    assert daemon.request("DELETE", f"/api/jobs/{id_}?if_alone=true")[1] == {"cancelled": False}
    assert daemon.request("DELETE", f"/api/jobs/{id_}")[1] == {"cancelled": True}
    assert list(joined)[-1]["code"] == "cancelled"
    assert daemon.get("/api/jobs/none")["code"] == "model_not_found"
    assert "q4_1" not in [it["name"] for it in tag(daemon, "jobs:latest")["variants"]]
    delete(daemon, "jobs")


def test_what_takes_space_is_told_and_what_nothing_uses_is_pruned(daemon):
    """A dry run removes nothing."""
    digest = blob(daemon, LORA)
    post(daemon, "/api/create", {"model": "space", "files": {"m.gguf": blob(daemon, Q2)}})
    used = daemon.get("/api/du")
    assert (used["blob_bytes"], used["unused_bytes"]) == (Q2.stat().st_size + LORA.stat().st_size, LORA.stat().st_size)
    space = next(it for it in used["models"] if it["name"] == "space")
    assert (space["own_bytes"], space["shared_bytes"], space["outside_bytes"]) == (Q2.stat().st_size, 0, 0)
    dry = post(daemon, "/api/prune", {"dry_run": True})
    assert [Path(it["path"]).name for it in dry["removed"]] == [digest.replace(":", "-")]
    assert post(daemon, "/api/prune", {})["bytes"] == LORA.stat().st_size
    assert daemon.get("/api/du")["unused_bytes"] == 0
    delete(daemon, "space")


def test_a_bundle_takes_a_model_to_another_machine(daemon, start_daemon, tmp_path):
    """With its files, adapter and description, in one file."""
    post(daemon, "/api/create", {"model": "me/trip:v1", "from": "cub@q2_k+pirate", "system": "Travel."})
    file = tmp_path / "trip.beast"
    post(daemon, "/api/export", {"model": "me/trip:v1@q2_k", "file": str(file)})
    assert post(daemon, "/api/export", {"model": "me/trip:v1@q2_k", "file": str(file)}, 409)["code"] == "conflict"
    elsewhere = start_daemon()
    reply = post(elsewhere, "/api/import", {"paths": [str(file)], "stream": False})
    assert [it["name"] for it in reply["imported"]] == ["me/trip:v1"]
    assert answer(elsewhere, "me/trip:v1")["response"] == answer(daemon, "me/trip:v1")["response"]
    delete(daemon, "me/trip:v1")


def test_a_shared_folder_is_read_by_those_who_may_not_write_it(start_daemon, tmp_path):
    """The first folder that can be written is one's own; the others are searched after it."""
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "ours.yaml").write_text(f"variants: {{q2_k: {Q2}}}\n")
    daemon = start_daemon(BEAST_MODELS=f"{tmp_path / 'mine'}:{shared}")
    assert names(daemon) == {"cub:latest", "ours:latest"}
    assert delete(daemon, "ours", 403)["code"] == "read_only"
    post(daemon, "/api/copy", {"source": "ours", "destination": "mine"})
    assert (tmp_path / "mine" / "mine.yaml").is_file()


def test_the_store_is_moved_whole_and_found_again(start_daemon, beast_home, tmp_path):
    """The daemon stops for it; the next one finds it in the configuration."""
    daemon = start_daemon()
    post(daemon, "/api/create", {"model": "moved", "files": {"m.gguf": blob(daemon, Q2)}})
    target = tmp_path / "elsewhere"
    assert answer(daemon, "moved", keep_alive="5m")["done"]
    assert len(daemon.worker_pids()) == 1, "a loaded model that nobody uses is no hindrance"
    assert post(daemon, "/api/move", {"folder": str(target)})["folder"] == str(target)
    assert daemon.process.wait(30) == 0
    again = start_daemon()
    assert names(again) == {"cub:latest", "moved:latest"}
    assert answer(again, "moved")["done"]
    assert not (beast_home / "models").exists()


def test_many_at_once_leave_a_sound_library(daemon):
    """Creates, copies, removals and quantizations of one model by many clients: each ends, none is half done."""
    errors: list[object] = []

    def work(n: int) -> None:
        try:
            for _ in range(4):
                daemon.request("POST", "/api/create", {"model": f"crowd{n % 3}", "from": "cub@q2_k"})
                daemon.request("POST", "/api/copy", {"source": f"crowd{n % 3}", "destination": f"copy{n % 4}"})
                daemon.request("DELETE", "/api/delete", {"model": f"copy{(n + 1) % 4}"})
                daemon.request("DELETE", "/api/delete", {"model": f"crowd{(n + 1) % 3}"})
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert daemon.get("/api/tags")["problems"] == []
    for name in names(daemon) - {"cub:latest"}:
        delete(daemon, name)
    leftovers = [path for path in (daemon.home / "models").rglob("*") if path.is_file() and path.name != ".lock"]
    assert leftovers == [], json.dumps([str(path) for path in leftovers])


def test_names_of_package_files_lead_nowhere_else(daemon, start_daemon, free_port, tmp_path):
    """Over TCP no file of the machine can be named, however it is written."""
    secret = tmp_path / "secret.gguf"
    secret.write_bytes(Q2.read_bytes())
    for name in (f"builtin:{secret}", f"builtin:/{secret}", "builtin:../../x.gguf", "builtin:"):
        reply = post(
            daemon, "/api/create", {"model": "x", "modelfile": f"variants: {{q: '{name}'}}", "stream": False}, 422
        )
        assert "a file's path is expected" in reply["error"]


def test_ollamas_go_client_is_understood(daemon):
    """It sends fields it has no value for."""
    body = {"model": "cub", "system": "", "template": "", "options": None, "name": "cub"}
    assert post(daemon, "/api/show", body)["variant"] == "q8_0"
    assert post(daemon, "/api/create", {"model": "", "name": "by-name", "from": "cub"})["model"] == "by-name:latest"
    delete(daemon, "by-name")
    assert "cub is built in" in post(daemon, "/api/pull", {"model": "cub"}, 400)["error"]
    pull = {"model": "nothing-like-it", "insecure": False, "username": "", "password": "", "name": ""}
    assert post(daemon, "/api/pull", pull, 404)["code"] == "model_not_found"


def test_parts_of_names_that_have_no_meaning_are_refused(daemon):
    """Not ignored."""
    for path, body in (
        ("/api/copy", {"source": "cub@q2_k", "destination": "x"}),
        ("/api/edit", {"model": "cub@q2_k", "modelfile": ""}),
        ("/api/export", {"model": "cub+pirate", "file": "/nowhere/x"}),
        ("/api/quantize", {"model": "cub+pirate", "types": ["q4_0"], "stream": False}),
    ):
        assert "names a" in post(daemon, path, body, 400)["error"]


def test_import_by_link_and_by_copy_take_what_links_lead_to(daemon, tmp_path):
    """The hub's cache is made of links. What is linked stays the user's file."""
    (tmp_path / "blobs").mkdir()
    real = tmp_path / "blobs" / "abc"
    real.write_bytes(Q2.read_bytes())
    (tmp_path / "m-q2_k.gguf").symlink_to("blobs/abc")
    for mode in ("link", "copy"):
        body = {"paths": [str(tmp_path / "m-q2_k.gguf")], "mode": mode, "save_as": mode, "stream": False}
        reply = post(daemon, "/api/import", body)
        assert [it["name"] for it in reply["imported"]] == [mode], reply
    assert real.stat().st_mode & 0o200
    with real.open("ab") as file:
        file.write(b"x")
    problems = {Path(it["path"]).stem for it in daemon.get("/api/tags")["problems"]}
    assert problems <= {"link"}
    delete(daemon, "link")
    delete(daemon, "copy")


def test_a_split_model_is_imported_by_copy(daemon):
    """All its shards."""
    first = CUB / "cub-f16-00001-of-00002.gguf"
    shards = [path.read_bytes() for path in (first, CUB / "cub-f16-00002-of-00002.gguf")]
    folder = daemon.home / "split"
    folder.mkdir()
    for path, data in zip((first, CUB / "cub-f16-00002-of-00002.gguf"), shards, strict=True):
        (folder / path.name).write_bytes(data)
    reply = post(daemon, "/api/import", {"paths": [str(folder)], "mode": "copy", "save_as": "split", "stream": False})
    assert [it["name"] for it in reply["imported"]] == ["split"], reply
    for path in folder.iterdir():
        path.unlink()
    assert answer(daemon, "split")["done"]
    delete(daemon, "split")


def test_clients_that_leave_their_uploads_harm_no_file(daemon):
    """Their descriptors are others' the next moment."""
    digest = "sha256:" + hashlib.sha256(Q2.read_bytes()).hexdigest()
    for n in range(30):
        connection = UnixConnection(daemon.socket)
        connection.putrequest("POST", f"/api/blobs/sha256:{n:064x}")
        connection.putheader("Content-Length", str(64 * 2**20))
        connection.endheaders(b"y" * (2**20 + n * 4096))
        connection.close()
        if n % 10 == 0:
            assert blob(daemon, Q2) == digest
    stored = daemon.home / "models" / ".blobs" / digest.replace(":", "-")
    assert stored.read_bytes() == Q2.read_bytes()
    post(daemon, "/api/prune", {"partial_age_s": 0})
