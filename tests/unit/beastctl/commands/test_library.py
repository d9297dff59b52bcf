"""The commands of the library: what they ask of the daemon, what they print where, and how they exit."""

from __future__ import annotations

import fcntl
import io
import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from fakedaemon import FakeDaemon

from beastctl import complete, daemon
from beastctl.client import Client
from beastctl.commands.edit import editor_command
from beastctl.commands.run import is_pullable

Beast = Any
PULLED = {
    "status": "success",
    "job": "pull-1",
    "model": "hf.co/u/r:latest@q4_k_m",
    "why": "q4_k_m: the best that fits 8 GB",
    "fits": True,
    "warnings": ["it reads images, which Beast does not use yet"],
}
STARTED = {"status": "resolving", "job": "pull-1"}
MODEL = {
    "name": "cub:latest",
    "size": 36_200_000,
    "modified_at": "2026-01-01T00:00:00Z",
    "variants": [
        {"name": "q8_0", "size": 36_200_000, "is_default": True, "bits_per_weight": 8.5},
        {"name": "f16", "size": 68_000_000, "is_default": False, "problem": "/m/f16.gguf is gone"},
    ],
    "adapters": [{"name": "pirate", "scale": 0.5, "applied": False}],
    "problems": ["/m/f16.gguf is gone", "the draft is broken"],
}
FOUND = {
    "name": "qwen3:0.6b",
    "description": "Qwen3, small",
    "license": "apache-2.0",
    "context_length": 40960,
    "n_params": "0.6B",
    "repository": "Qwen/Qwen3-0.6B-GGUF",
    "variants": ["q8_0"],
    "installed": True,
}


# --- pull ---


def test_pull_prints_the_name_alone(fake: FakeDaemon, beast: Beast) -> None:
    """Why and warnings are beside the data."""
    fake.says("POST /api/pull", STARTED, PULLED)
    done = beast("pull", "hf.co/u/r", "--as", "r")
    assert (done.status, done.out) == (0, "hf.co/u/r:latest@q4_k_m\n")
    assert done.err.splitlines() == [f"beast: {PULLED['why']}", "beast: it reads images, which Beast does not use yet"]
    assert fake.asked("POST /api/pull") == [{"model": "hf.co/u/r", "save_as": "r"}]


def test_pull_takes_a_file_beside_us(
    fake: FakeDaemon, beast: Beast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its full path."""
    (tmp_path / "m.gguf").touch()
    monkeypatch.chdir(tmp_path)
    fake.says("POST /api/pull", STARTED, PULLED)
    assert beast("pull", "m.gguf", "--sha256", "0" * 64).status == 0
    assert fake.asked("POST /api/pull") == [{"model": f"file:{tmp_path}/m.gguf", "sha256": "0" * 64}]


def test_of_several_pulls_each_is_told(fake: FakeDaemon, beast: Beast) -> None:
    """The one that failed by a line, and by the status; one named twice is pulled once."""
    replies = {"a": [STARTED, PULLED], "b": [STARTED, {"error": "no b", "code": "model_not_found"}]}
    fake.routes["POST /api/pull"] = lambda body: iter(replies[body["model"]])
    done = beast("pull", "a", "b", "a")
    assert (done.status, done.out) == (1, "hf.co/u/r:latest@q4_k_m\n")
    assert "beast: b: no b" in done.err
    assert len(fake.requests) == 2
    done = beast("pull", "a", "b", "--json")
    assert [model["model"] for model in json.loads(done.out)["models"]] == ["hf.co/u/r:latest@q4_k_m"]
    assert beast("pull", "a", "b", "--as", "c").status == 2


def test_what_failed_is_told_last(fake: FakeDaemon, beast: Beast) -> None:
    """After what there is to know of the others."""
    replies = {"a": [{"error": "no a", "code": "model_not_found"}], "b": [STARTED, PULLED]}
    fake.routes["POST /api/pull"] = lambda body: iter(replies[body["model"]])
    assert beast("pull", "a", "b").err.splitlines()[-3:] == [
        f"beast: b: {PULLED['why']}",
        "beast: b: it reads images, which Beast does not use yet",
        "beast: a: no a",
    ]


@pytest.mark.parametrize(
    ("env", "token"),
    [
        ({}, None),
        ({"HF_TOKEN": " "}, None),
        ({"HF_TOKEN": "hf_a\n", "HUGGING_FACE_HUB_TOKEN": "hf_b"}, "hf_a"),
        ({"HUGGING_FACE_HUB_TOKEN": "hf_b"}, "hf_b"),
    ],
)
def test_the_client_s_token_goes_with_what_may_download(
    fake: FakeDaemon, beast: Beast, monkeypatch: pytest.MonkeyPatch, env: dict[str, str], token: str | None
) -> None:
    """And is shown to nobody."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    fake.says("POST /api/pull", STARTED, PULLED)
    fake.says("POST /api/adapters", STARTED, {"status": "success", "model": "m:latest+l", "name": "l"})
    fake.says("POST /api/create", STARTED, CREATED)
    done = [beast("pull", "a"), beast("adapter", "add", "l", "a", "--base", "m"), beast("create", "x", "--from", "a")]
    assert [body.get("token") for _, body in fake.requests] == [token] * 3
    assert not any("hf_" in it.err.replace("hf.co", "") for it in done)


def test_a_detached_pull_prints_its_id(fake: FakeDaemon, beast: Beast) -> None:
    """For `beast jobs`."""
    fake.says("POST /api/pull", STARTED, PULLED)
    assert beast("pull", "-d", "a") == (0, "pull-1\n", "")


# --- search ---


def test_search_shows_a_table_and_its_json(fake: FakeDaemon, beast: Beast) -> None:
    """Words go as one text; nothing found is said."""
    fake.says("GET /api/search", {"models": [FOUND]})
    header, row = beast("search", "qwen", "ä&b").out.splitlines()
    assert fake.asked("GET /api/search") == [{"q": "qwen ä&b"}]
    assert header.split() == ["NAME", "SIZE", "CONTEXT", "LICENSE", "VARIANTS", "DESCRIPTION"]
    assert row.split() == ["qwen3:0.6b", "0.6B", "40960", "apache-2.0", "q8_0", "(here)", "Qwen3,", "small"]
    assert json.loads(beast("search", "--json").out) == {"models": [FOUND]}
    fake.says("GET /api/search", {"models": []})
    done = beast("search", "nothing")
    assert (done.status, done.out) == (0, "")
    assert "'nothing'" in done.err


# --- create, cp, rm, edit ---

CREATED = {"status": "success", "job": "create-1", "model": "mine:latest", "warnings": ["a word"]}


def test_create_reads_the_modelfile_and_says_where_it_is(
    fake: FakeDaemon, beast: Beast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One beside us without -f; Ollama's name comes first."""
    fake.says("POST /api/create", {"status": "x", "job": "create-1"}, CREATED)
    monkeypatch.chdir(tmp_path)
    done = beast("create", "mine")
    assert done.status == 1
    assert "Modelfile" in done.err
    (tmp_path / "modelfile.yaml").write_text("from: cub\n")
    done = beast("create", "mine", "-q", "q4_k_m")
    assert (done.status, done.out, done.err) == (0, "", "beast: a word\nbeast: created mine:latest\n")
    (tmp_path / "Modelfile").write_text("FROM cub\n")
    beast("create", "mine")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "f").write_text("FROM ./x.gguf\n")
    beast("create", "mine", "-f", "sub/f")
    assert fake.asked("POST /api/create") == [
        {"model": "mine", "modelfile": "from: cub\n", "folder": str(tmp_path), "quantize": "q4_k_m"},
        {"model": "mine", "modelfile": "FROM cub\n", "folder": str(tmp_path)},
        {"model": "mine", "modelfile": "FROM ./x.gguf\n", "folder": str(tmp_path / "sub")},
    ]


class Piped:
    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


def test_create_takes_standard_input_and_a_model_alone(
    fake: FakeDaemon, beast: Beast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GGUF file by its full path, a model by its name; what is no text is refused before anything is sent."""
    fake.says("POST /api/create", {"status": "x", "job": "create-1"}, CREATED)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.gguf").write_bytes(b"GGUF\xff")
    monkeypatch.setattr(sys, "stdin", Piped(b"FROM cub"))
    beast("create", "mine", "-f", "-")
    beast("create", "mine", "--from", "cub@f16")
    beast("create", "mine", "--from", "x.gguf")
    assert fake.asked("POST /api/create") == [
        {"model": "mine", "modelfile": "FROM cub", "folder": str(tmp_path)},
        {"model": "mine", "from": "cub@f16"},
        {"model": "mine", "from": str(tmp_path / "x.gguf")},
    ]
    done = beast("create", "mine", "-f", "x.gguf")
    assert done.status == 1
    assert "--from takes a GGUF" in done.err
    assert beast("create", "mine", "-f", "x", "--from", "cub").status == 2


def test_cp_takes_an_empty_reply_for_a_yes(fake: FakeDaemon, beast: Beast) -> None:
    """As Ollama gives one."""
    fake.says("POST /api/copy", {})
    fake.routes["POST /api/copy"] = lambda _: None
    assert beast("cp", "a", "b").status == 0
    assert fake.asked("POST /api/copy") == [{"source": "a", "destination": "b"}]


def test_rm_goes_on_after_a_failure(fake: FakeDaemon, beast: Beast) -> None:
    """Each is told; the status says that one failed."""
    gone = {"error": "no b", "code": "model_not_found"}
    fake.routes["DELETE /api/delete"] = lambda body: gone if body["model"] == "b" else {"removed": "x", "bytes": 5_000}
    done = beast("rm", "a", "b", "c")
    assert (done.status, done.out) == (1, "")
    assert done.err.splitlines() == [
        "beast: removed a, 5 kB are free again",
        "beast: no b",
        "beast: removed c, 5 kB are free again",
    ]


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script that is the person's editor; it does nothing yet."""
    script = tmp_path / "my editor.py"
    script.write_text("")
    monkeypatch.setenv("VISUAL", f"{sys.executable} '{script}'")
    return script


APPEND = "import sys; open(sys.argv[1], 'a').write('system: hi\\n')\n"


def test_edit_sends_what_was_changed(fake: FakeDaemon, beast: Beast, editor: Path) -> None:
    """And nothing when nothing was."""
    fake.says("POST /api/modelfile", {"modelfile": "variants: {a: x}\n", "path": "/m/m.yaml", "builtin": False})
    fake.says("POST /api/edit", {"model": "m"})
    assert "nothing was changed" in beast("edit", "m").err
    assert fake.asked("POST /api/edit") == []
    editor.write_text(APPEND)
    assert beast("edit", "m").err == "beast: changed m\n"
    was = "variants: {a: x}\n"
    assert fake.asked("POST /api/edit") == [{"model": "m", "modelfile": f"{was}system: hi\n", "was": was}]


def test_an_editor_that_removes_the_file_changes_nothing(fake: FakeDaemon, beast: Beast, editor: Path) -> None:
    """One line, and nothing is sent."""
    fake.says("POST /api/modelfile", {"modelfile": "x\n", "path": "/m/m.yaml", "builtin": False})
    editor.write_text("import sys, os; os.remove(sys.argv[1])")
    done = beast("edit", "m")
    assert done == (1, "", "beast: the editor left no file behind, so nothing was changed in m\n")
    assert fake.asked("POST /api/edit") == []


def test_edit_leaves_nothing_behind(fake: FakeDaemon, beast: Beast, editor: Path, tmp_path: Path) -> None:
    """Not what the editor put beside the draft, nor a draft that nobody changed."""
    fake.says("POST /api/modelfile", {"modelfile": "x\n", "path": "/m/m.yaml", "builtin": False})
    fake.says("POST /api/edit", {"model": "m"})
    note = tmp_path / "draft"
    noting = f"import sys, pathlib; pathlib.Path({str(note)!r}).write_text(sys.argv[1])\n"
    for script, status in ((APPEND + "open(sys.argv[1] + '~', 'w')\n", 0), ("raise SystemExit(3)\n", 1)):
        editor.write_text(noting + script)
        assert beast("edit", "m").status == status
        assert not Path(note.read_text()).parent.exists()


def test_edit_loses_no_text(fake: FakeDaemon, beast: Beast, editor: Path) -> None:
    """What the daemon refuses is kept, and where is said."""
    fake.says("POST /api/modelfile", {"modelfile": "x\n", "path": "/m/m.yaml", "builtin": False})
    fake.says("POST /api/edit", {"error": "line 2: no", "code": "bad_model"})
    editor.write_text(APPEND)
    done = beast("edit", "m")
    assert done.status == 1
    assert "line 2: no" in done.err
    kept = Path(done.err.splitlines()[0].rpartition(" ")[2])
    assert kept.read_text() == "x\nsystem: hi\n"
    editor.write_text("raise SystemExit(3)")
    assert "ended with status 3" in beast("edit", "m").err


def test_a_built_in_model_is_not_edited(fake: FakeDaemon, beast: Beast, editor: Path) -> None:
    """Before the work, not after it."""
    fake.says("POST /api/modelfile", {"modelfile": "x\n", "path": "/b/cub.yaml", "builtin": True})
    done = beast("edit", "cub")
    assert done.status == 1
    assert "beast cp cub" in done.err


def test_editors_may_have_arguments() -> None:
    """VISUAL before EDITOR."""
    assert editor_command({"EDITOR": "ed", "VISUAL": "code --wait"}) == ["code", "--wait"]
    assert editor_command({"EDITOR": "ed", "VISUAL": ""}) == ["ed"]


# --- variants and adapters ---

QUANTIZED = {
    "status": "success",
    "job": "quantize-1",
    "model": "m:latest",
    "variants": [{"name": "q4_k_m", "size": 5_000_000, "bits_per_weight": 4.891, "n_fallback": 2, "took_s": 75}],
}


def test_quantize_shows_what_it_made(
    fake: FakeDaemon, beast: Beast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sizes and bits; what fell short is said."""
    monkeypatch.chdir(tmp_path)
    fake.says("POST /api/quantize", {"status": "x", "job": "quantize-1"}, QUANTIZED)
    done = beast("quantize", "m@f16", "q4_k_m", "--imatrix", "i.gguf", "--allow-requantize")
    assert fake.asked("POST /api/quantize") == [
        {
            "model": "m@f16",
            "types": ["q4_k_m"],
            "imatrix": str(tmp_path / "i.gguf"),
            "allow_requantize": True,
        }
    ]
    assert done.out.splitlines()[1].split() == ["m:latest@q4_k_m", "5", "MB", "4.89", "1m15s"]
    assert "q4_k_m: 2 tensors" in done.err
    assert beast("quantize", "m").status == 2


def test_quantize_lists_the_types(fake: FakeDaemon, beast: Beast) -> None:
    """With what each needs."""
    types = [{"name": "iq1_s", "bits": 1.56, "about": "1-bit: extreme loss", "needs_imatrix": True}]
    fake.says("GET /api/quantizations", {"types": types})
    assert (
        beast("quantize", "--list").out.splitlines()[1] == "iq1_s   1.56          1-bit: extreme loss (needs --imatrix)"
    )


def test_perplexity_compares_with_the_first(fake: FakeDaemon, beast: Beast, tmp_path: Path) -> None:
    """One after another, the text last."""
    text = tmp_path / "text.txt"
    text.write_text("words")
    values = {"m@f16": 10.0, "m@q2_k": 12.5}

    def measure(body: dict[str, Any]) -> Any:
        if body["model"] not in values:
            return {"error": "no such model", "code": "model_not_found"}
        found = {"perplexity": values[body["model"]], "stderr": 0.25, "n_tokens": 512, "took_s": 3, "n_ctx": 256}
        return iter([{"status": "x", "job": "p-1"}, {"status": "success", "job": "p-1", **found}])

    fake.routes["POST /api/perplexity"] = measure
    done = beast("perplexity", *values, str(text), "--ctx", "256", "--chunks", "4")
    request = {"file": str(text), "n_ctx": 256, "n_chunks": 4}
    assert fake.asked("POST /api/perplexity") == [{"model": model, **request} for model in values]
    assert [line.split() for line in done.out.splitlines()[1:]] == [
        ["m@f16", "10.0000", "±", "0.2500", "1.0000", "512", "3s"],
        ["m@q2_k", "12.5000", "±", "0.2500", "1.2500", "512", "3s"],
    ]
    partly = beast("perplexity", "m@f16", "m@f17", str(text))
    assert (partly.status, len(partly.out.splitlines())) == (1, 2)
    assert beast("perplexity", str(text)).status == 2
    assert "text file" in beast("perplexity", "m@f16", "m@q2_k").err


def test_adapters_are_added_listed_and_removed(
    fake: FakeDaemon, beast: Beast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file by its full path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "l.gguf").touch()
    fake.says(
        "POST /api/adapters", {"status": "x", "job": "a-1"}, {"status": "success", "model": "m:latest+l", "name": "l"}
    )
    done = beast("adapter", "add", "l", "l.gguf", "--base", "m", "--scale", "0.5", "--applied")
    assert (done.status, done.out) == (0, "m:latest+l\n")
    assert fake.asked("POST /api/adapters") == [
        {"name": "l", "source": str(tmp_path / "l.gguf"), "base": "m", "scale": 0.5, "applied": True}
    ]
    other = {**MODEL, "name": "other:latest"}
    fake.says("GET /api/tags", {"models": [MODEL, other]})
    fake.says("POST /api/show", {"modelfile": ""})
    assert [line.split() for line in beast("adapter", "list", "Cub").out.splitlines()[1:]] == [
        ["cub+pirate", "0.5", "no"]
    ]
    assert len(json.loads(beast("adapter", "list", "--json").out)["adapters"]) == 2
    fake.says("DELETE /api/delete", {"removed": "m+l", "bytes": 0})
    assert beast("adapter", "rm", "l", "--base", "m").status == 0
    assert fake.asked("DELETE /api/delete") == [{"model": "m+l"}]


@pytest.mark.parametrize("scale", ["nan", "inf", "-inf"])
def test_a_scale_is_a_finite_number(fake: FakeDaemon, beast: Beast, scale: str) -> None:
    """Refused before anything is sent."""
    done = beast("adapter", "add", "l", "l.gguf", "--base", "m", "--scale", scale)
    assert done.status == 2
    assert "--scale" in done.err
    assert fake.requests == []


# --- models on this disk ---


def test_import_tells_what_came_and_what_did_not(
    fake: FakeDaemon, beast: Beast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table of the models; notes and reasons beside it; status 1 when there is none."""
    monkeypatch.chdir(tmp_path)
    imported = {
        "name": "x",
        "source": "/m/x.gguf",
        "variants": ["q8_0"],
        "adapters": ["a"],
        "notes": ["num_gpu left out"],
    }
    skipped = {"source": "/m/y.gguf", "reason": "broken"}
    result = {"status": "success", "job": "i", "imported": [imported], "skipped": [skipped]}
    fake.says("POST /api/import", {"status": "x", "job": "i"}, result)
    done = beast("import", "models", "/abs", "--link", "--dry-run", "--as", "x")
    assert fake.asked("POST /api/import") == [
        {"paths": [str(tmp_path / "models"), "/abs"], "mode": "link", "save_as": "x", "dry_run": True}
    ]
    assert done.status == 0
    assert done.out.splitlines()[1].split() == ["x", "q8_0", "a", "/m/x.gguf"]
    assert done.err.splitlines() == [
        "beast: x: num_gpu left out",
        "beast: left out /m/y.gguf: broken",
        "beast: nothing was imported: this was a dry run",
    ]
    fake.says("POST /api/import", {"status": "x", "job": "i"}, {**result, "imported": []})
    assert beast("import", "models").status == 1
    assert beast("import", "models", "--link", "--copy").status == 2


def test_export_and_mv_take_paths_from_here(
    fake: FakeDaemon, beast: Beast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon hears full ones."""
    monkeypatch.chdir(tmp_path)
    started = {"status": "x", "job": "e-1"}
    fake.says("POST /api/export", started, {"status": "success", "file": "/x/m.beast", "size": 5_000_000})
    assert beast("export", "m", "m.beast").err == "beast: wrote /x/m.beast (5 MB)\n"
    assert fake.asked("POST /api/export") == [{"model": "m", "file": str(tmp_path / "m.beast")}]
    fake.says("POST /api/move", started, {"status": "success", "folder": "/x/models", "size": 5_000_000})
    assert "/x/models" in beast("mv", "models").err
    assert fake.asked("POST /api/move") == [{"folder": str(tmp_path / "models")}]


def test_a_bundle_goes_into_a_file(fake: FakeDaemon, beast: Beast) -> None:
    """Never to standard output, nor into a file named "-"."""
    done = beast("export", "m", "-")
    assert done.status == 2
    assert "written to a file" in done.err
    assert fake.requests == []


def test_mv_returns_when_the_daemon_has_gone(
    fake: FakeDaemon, beast: Beast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the next command starts one that knows the new folder."""
    lock = daemon.current_paths().lock_file
    lock.parent.mkdir(parents=True, exist_ok=True)
    # flock belongs to the open file: one opened anew, by the command, sees this one's lock.
    file = lock.open("w")
    file.write("4242")
    file.flush()
    fcntl.flock(file, fcntl.LOCK_EX)
    is_moved = threading.Event()

    def move(_: dict[str, Any]) -> Any:
        is_moved.set()
        return iter([{"status": "x"}, {"status": "success", "folder": "/x", "size": 5_000, "restarts": True}])

    n_waits = 0

    def sleep(_: float) -> None:
        nonlocal n_waits
        n_waits += is_moved.is_set()
        if n_waits == 3:
            file.close()

    fake.routes["POST /api/move"] = move
    monkeypatch.setattr(daemon.time, "sleep", sleep)
    done = beast("mv", str(tmp_path / "x"))
    assert (done.status, n_waits) == (0, 3)
    assert done.err.splitlines()[-1] == (
        "beast: beastd (pid 4242) has stopped; the next command starts it with the new folder"
    )


def test_du_begins_with_what_frees_most(fake: FakeDaemon, beast: Beast) -> None:
    """What nothing uses is named with the way to be rid of it, and only where there is some."""
    sizes = {"shared_bytes": 0, "outside_bytes": 7_000}
    usage = {
        "folder": "/x",
        "free_bytes": 5_000_000,
        "models": [{"name": "small", "own_bytes": 1_000, **sizes}, {"name": "big", "own_bytes": 2_000, **sizes}],
        "blob_bytes": 3_000,
        "unused_bytes": 500,
        "partial_bytes": 0,
    }
    fake.says("GET /api/du", usage)
    lines = beast("du").out.splitlines()
    assert [line.split() for line in lines[1:3]] == [
        ["big", "2", "kB", "-", "7", "kB"],
        ["small", "1", "kB", "-", "7", "kB"],
    ]
    assert "unused:     500 B (`beast prune` removes it)" in lines
    assert not any(line.startswith("unfinished") for line in lines)
    fake.says("GET /api/du", {**usage, "partial_bytes": 800})
    assert "unfinished: 800 B (`beast prune --unfinished` removes it)" in beast("du").out.splitlines()
    fake.says("GET /api/du", usage)
    assert json.loads(beast("du", "--json").out) == usage


def test_prune_says_what_it_does_and_what_it_would_do(fake: FakeDaemon, beast: Beast) -> None:
    """A table of files, and the sum."""
    removed = {"path": "/x/blobs/sha256-0", "bytes": 5_000, "kind": "blob"}
    fake.routes["POST /api/prune"] = lambda body: {"removed": [removed], "bytes": 5_000, "dry_run": body["dry_run"]}
    done = beast("prune", "--dry-run")
    assert done.out.splitlines()[1].split() == ["blob", "5", "kB", "/x/blobs/sha256-0"]
    assert done.err == "beast: would free 5 kB\n"
    assert beast("prune").err == "beast: freed 5 kB\n"
    beast("prune", "--unfinished")
    assert fake.asked("POST /api/prune")[1:] == [{"dry_run": False}, {"dry_run": False, "partial_age_s": 0}]


# --- jobs ---


def test_jobs_are_listed_watched_and_cancelled(fake: FakeDaemon, beast: Beast) -> None:
    """By their ids."""
    line = {"status": "pulling x", "item": "x", "completed": 50, "total": 100}
    job = {"id": "pull-1", "kind": "pull", "subject": "m", "state": "running", "started_at": "2026-01-01T00:00:00Z"}
    fake.says("GET /api/jobs", {"jobs": [{**job, "n_watchers": 2, "progress": [line]}]})
    row = beast("jobs").out.splitlines()[1]
    assert row.startswith("pull-1   pull   m")
    assert row.endswith("2          pulling x: 50% of 100 B")
    assert json.loads(beast("jobs", "--json").out)["jobs"][0]["id"] == "pull-1"
    fake.says("GET /api/jobs/pull-1", STARTED, PULLED)
    done = beast("jobs", "watch", "pull-1")
    assert (done.status, done.err.splitlines()[-1]) == (0, "beast: pull-1 is done: hf.co/u/r:latest@q4_k_m")
    fake.says("DELETE /api/jobs/pull-1", {"cancelled": True})
    assert beast("jobs", "cancel", "pull-1").err == "beast: cancelled pull-1\n"
    assert "no-such" in beast("jobs", "watch", "no-such").err


# --- list, show, run ---


def test_list_shows_models_and_says_what_is_wrong(fake: FakeDaemon, beast: Beast) -> None:
    """Each problem once, beside the table."""
    fake.says("GET /api/tags", {"models": [MODEL], "problems": [{"path": "/m/bad.yaml", "error": "broken"}]})
    done = beast("list")
    assert done.out.splitlines()[1].split()[:7] == ["cub:latest", "q8_0", "36.2", "MB", "q8_0", "f16", "pirate"]
    assert done.err.splitlines() == [
        "beast: /m/bad.yaml: broken",
        "beast: cub:latest: the draft is broken",
        "beast: cub:latest: @f16: /m/f16.gguf is gone",
    ]


def test_list_marks_what_cannot_run_and_tells_it_once(fake: FakeDaemon, beast: Beast) -> None:
    """The daemon tells a file's problem of the variant, of the model and of the whole list."""
    text = "/m/gone.yaml line 2: variants.q2_k: cannot read /x.gguf"
    variant = {"name": "q2_k", "size": 0, "is_default": True, "problem": text}
    gone = {**MODEL, "name": "gone:latest", "size": 0, "variants": [variant], "problems": [text]}
    fake.says("GET /api/tags", {"models": [gone], "problems": [{"path": "/m/gone.yaml", "error": text}]})
    done = beast("list")
    assert done.out.splitlines()[1].split()[:4] == ["gone:latest", "q2_k", "unusable", "q2_k"]
    assert done.err == f"beast: gone:latest: @q2_k: {text}\n"


def test_list_names_a_path_once(fake: FakeDaemon, beast: Beast) -> None:
    """A message may begin with it."""
    problems = [{"path": "/m/bad.yaml", "error": "/m/bad.yaml line 2: broken"}, {"path": "/m/x", "error": "closed"}]
    fake.says("GET /api/tags", {"models": [], "problems": problems})
    assert beast("list").err.splitlines() == ["beast: /m/bad.yaml line 2: broken", "beast: /m/x: closed"]


@pytest.mark.parametrize(
    ("prefix", "told"),
    [
        ("cub", ["dir", "elsewhere"]),
        ("Bad", ["bad", "dir", "elsewhere"]),
        ("qwen3:0", ["tag", "dir", "elsewhere"]),
        ("hf.co/u", ["hub", "dir", "elsewhere"]),
    ],
)
def test_list_tells_no_problem_of_what_was_not_asked_for(
    fake: FakeDaemon, beast: Beast, prefix: str, told: list[str]
) -> None:
    """A description's place is its model's name; a folder that cannot be read may hold any."""
    paths = {
        "bad": "/m/bad.yaml",
        "tag": "/m/qwen3/0.6b.yaml",
        "hub": "/m/hf.co/u/r/latest.yaml",
        "dir": "/m/closed",
        "elsewhere": "/other/bad.yaml",
    }
    problems = [{"path": path, "error": name} for name, path in paths.items()]
    fake.says("GET /api/tags", {"models": [], "problems": problems})
    fake.says("GET /healthz", {"models": ["/m"]})
    assert [line.rpartition(" ")[2] for line in beast("list", prefix).err.splitlines()] == told


HEALTH = {
    "version": "1",
    "pid": 1,
    "uptime_s": 5,
    "socket": "/s",
    "tcp": [],
    "n_workers": 0,
    "memory_used_bytes": 0,
    "memory_budget_bytes": 1,
}


def test_status_shows_the_folders_the_daemon_uses(fake: FakeDaemon, beast: Beast) -> None:
    """Not those this command would use."""
    fake.says("GET /healthz", {**HEALTH, "models": ["/m/own", "/m/shared"]})
    assert "models:  /m/own, /m/shared" in beast("status").out.splitlines()


SHOWN = {
    **MODEL,
    "modelfile": "variants: {}\n",
    "parameters": "temperature 0.7",
    "license": "MIT\nand\nmuch\nmore",
    "details": {"family": "llama", "parameter_size": "34M"},
    "model_info": {"general.architecture": "llama", "llama.context_length": 512, "tokens": None},
    "tensors": [{"name": "w", "type": "Q8_0", "shape": [2, 3]}],
    "origin": "hf.co/u/r",
    "messages": [{"role": "user", "content": "hi"}],
    "draft": "/m/draft.gguf",
    "projector": None,
}


def test_show_tells_about_all_there_is(fake: FakeDaemon, beast: Beast) -> None:
    """Variants with bits and problems, adapters with scales; of the licence, the beginning."""
    fake.says("POST /api/show", SHOWN)
    lines = [line.split() for line in beast("show", "cub").out.splitlines()]
    assert ["q8_0", "(default)", "36.2", "MB", "8.50"] in lines
    assert ["f16", "unusable", "/m/f16.gguf", "is", "gone"] in lines
    assert ["pirate", "0.5", "no"] in lines
    assert ["origin", "hf.co/u/r"] in lines
    assert ["draft", "/m/draft.gguf"] in lines
    assert ["user:", "hi"] in lines
    assert ["much"] not in lines
    assert not any(line[:1] == ["projector"] for line in lines)


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("--modelfile", "variants: {}"),
        ("--parameters", "temperature 0.7"),
        ("--license", "MIT\nand\nmuch\nmore"),
        ("--system", "no system"),
        ("--tensors", "NAME   TYPE   SHAPE\nw      Q8_0   2 × 3"),
    ],
)
def test_show_gives_one_part_alone(fake: FakeDaemon, beast: Beast, flag: str, text: str) -> None:
    """As it is."""
    fake.says("POST /api/show", SHOWN)
    assert beast("show", "cub", flag).out == text + "\n"
    assert fake.asked("POST /api/show") == [{"model": "cub", "verbose": flag == "--tensors"}]


def test_show_gives_metadata_and_one_part_at_a_time(fake: FakeDaemon, beast: Beast) -> None:
    """What is too long is said to be."""
    fake.says("POST /api/show", SHOWN)
    lines = [line.split() for line in beast("show", "cub", "--metadata").out.splitlines()]
    assert ["llama.context_length", "512"] in lines
    assert ["tokens", "(long)"] in lines
    assert beast("show", "cub", "--system", "--license").status == 2


@pytest.mark.parametrize(
    ("name", "can_be"),
    [
        ("qwen3:0.6b", True),
        ("Qwen3:0.6B@q8_0", True),
        ("qwen3", True),
        ("qwen3:8b", False),
        ("0.6b", False),
        ("hf.co/u/r:Q4_K_M", True),
        ("", False),
    ],
)
def test_what_can_be_pulled_is_a_repository_or_in_the_catalog(fake: FakeDaemon, name: str, can_be: bool) -> None:
    """Word for word; a family alone means its default size."""
    fake.says("GET /api/search", {"models": [FOUND]})
    assert is_pullable(Client(daemon.current_paths().socket), name) is can_be


def test_run_pulls_what_is_not_here(fake: FakeDaemon, beast: Beast, monkeypatch: pytest.MonkeyPatch) -> None:
    """And then answers with what it pulled."""
    here: set[str] = set()

    def generate(body: dict[str, Any]) -> Any:
        if body["model"] not in here:
            return {"error": "no such model", "code": "model_not_found"}
        return iter([{"response": "hi"}, {"response": "", "done": True, "done_reason": "stop"}])

    def pull(body: dict[str, Any]) -> Any:
        here.add("qwen3:0.6b@q8_0")
        return iter([STARTED, {**PULLED, "model": "qwen3:0.6b@q8_0"}])

    fake.routes |= {"POST /api/generate": generate, "POST /api/pull": pull}
    fake.says("GET /api/search", {"models": [FOUND]})
    monkeypatch.setattr(sys, "stdin", None)
    done = beast("run", "qwen3:0.6b", "hello")
    assert (done.status, done.out) == (0, "hi\n")
    assert "not here yet; pulling" in done.err
    assert fake.asked("POST /api/pull") == [{"model": "qwen3:0.6b"}]
    done = beast("run", "nobody", "hello")
    assert done.status == 1
    assert "no such model" in done.err


# --- completion ---


def test_completion_offers_variants_adapters_and_what_can_be_pulled(fake: FakeDaemon) -> None:
    """In any case; nothing when the daemon does not know."""
    fake.says("GET /api/tags", {"models": [MODEL]})
    fake.says("GET /api/search", {"models": [FOUND]})
    fake.says("GET /api/quantizations", {"types": [{"name": "q4_k_m"}, {"name": "q8_0"}]})
    assert complete.model_names("C") == ["cub", "cub@q8_0", "cub@f16", "cub+pirate"]
    assert complete.base_names("cub") == ["cub"]
    assert complete.catalog_names("qw") == ["qwen3:0.6b"]
    assert complete.catalog_names("qwen3:0.6b@") == ["qwen3:0.6b@q8_0"]
    assert complete.quantizations("q4") == ["q4_k_m"]
    assert complete.job_ids("") == []
