"""Write cli.md from the commands, api.md from the contracts and modelfile.schema.json from the modelfile's fields.

``--check`` fails when they have drifted.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import msgspec

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

_VERBS = {"add_get", "add_post", "add_head", "add_delete"}

API_HEAD = """\
# HTTP API

<!-- Made by docs/generate.py from beastd/contract.py, beastd/library/contract.py, beastd/fit/contract.py,
beastd/errors.py and beastd/api/routes.py: edit those. -->

Beast speaks Ollama's native API, on a Unix socket (`beast status` names it) and, with `beast serve --tcp`, on TCP.
Bodies are JSON. An unknown field or option is a 400 that names it. Answers stream as one JSON object a line unless
`stream` is false; the last line has `done: true`, `done_reason` (`stop`, `length`, `load`, `unload`) and the metrics
(durations in nanoseconds): `total_duration`, `load_duration`, `prompt_eval_count`, `prompt_eval_cached_count`,
`prompt_eval_duration`, `eval_count`, `eval_duration`. Beast adds `variant` (the quantization that answered; `variants`,
in order, where it changed meanwhile), `draft_count` and `draft_accepted_count` (tokens proposed, and taken),
`n_ctx` (tokens the request could hold), `truncated`, and where it is true `dropped_messages` and `dropped_tokens`.
Before the answer begins there may be lines with `status: "loading"` and `load_progress` (0 to 1), while a cold model
loads, and with `status: "waiting"`, `queue_position` (1 is next) and `waiting_for` (what has to happen first), while
there is no memory or no free sequence.

An error is `{"error": text, "code": code, "retryable": bool}` with its HTTP status, or as the last line of a stream
that had begun. Where it is known when asking again makes sense, `Retry-After` says so.

`GET /api/ps` adds to Ollama's fields `state` (`loading`, `ready`, `asleep`, `changing`, `stopping`), pins, requests,
and the models that wait for memory; `GET /api/fleet` tells the budget, what each model's absence would cost, and the
latest decisions. `POST /api/pin` takes `{"model": name, "pinned": bool}`. `GET /metrics` is Prometheus' text format.

Long work on models (pull, create, quantize, perplexity, adapters, import, export, move) is a job. It streams lines with
`status` and `job` (its id), and where something is counted `item`, `digest`, `completed`, `total`, `unit`, `rate` (a
second) and `eta_s`; the last line has `status: "success"` and the result. A job goes on when its client leaves; asking
for the same again joins it, `GET /api/jobs/ID` watches it, `DELETE /api/jobs/ID` cancels it. Files of the machine are
only named over the Unix socket.

A model is named `[host/][namespace/]name[:tag][@variant][+adapter[*scale]]…`, for example `cub@q4_k_m+pirate*0.5`.
"""


def cli() -> str:
    """Every command's help, as the terminal shows it."""
    import click

    from beastctl.main import COMMANDS, load

    parts = ["# Command line\n", "<!-- Made by docs/generate.py from beastctl/commands: edit those. -->\n"]
    commands = {name: load(name) for name in COMMANDS}
    for name, command in commands.copy().items():
        commands |= {f"{name} {sub}": it for sub, it in getattr(command, "commands", {}).items()}
    for name in sorted(commands, key=lambda name: list(COMMANDS).index(name.split()[0])):
        context = click.Context(commands[name], info_name=f"beast {name}", terminal_width=100, max_content_width=100)
        parts.append(f"## beast {name}\n\n```text\n{commands[name].get_help(context).rstrip()}\n```\n")
    return "\n".join(parts)


def api() -> str:
    """Routes, request fields with their docstrings, and error codes."""
    classes = _classes("beastd/contract.py")
    library = {name: node for name, node in _classes("beastd/library/contract.py").items() if name.endswith("Request")}
    parts = [API_HEAD, "## Routes\n", *_routes(), ""]
    for name in (
        "GenerateRequest",
        "ChatRequest",
        "AnswerRequest",
        "AdapterAsk",
        "Message",
        "Options",
        "CacheClearRequest",
    ):
        parts += _fields(classes[name])
    for node in (*library.values(), _classes("beastd/library/contract.py")["JobInfo"]):
        parts += _fields(node)
    for node in _classes("beastd/fit/contract.py").values():
        parts += _fields(node)
    return "\n".join([*parts, "## Errors\n", "```text", _error_tree(), "```", ""])


def schema() -> str:
    """The JSON Schema of a modelfile, for editors; what a field means is its docstring."""
    from beastd.registry.modelfile import Fields

    found = msgspec.json.schema(Fields)
    for file in ("beastd/registry/modelfile.py", "beastd/contract.py"):
        for name, node in _classes(file).items():
            for field, meaning in _meanings(node).items():
                known = found["$defs"].get(name, {}).get("properties", {})
                known.get(field.rstrip("_"), {})["description"] = meaning
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Beast modelfile"}
    return json.dumps(head | found, indent=2, ensure_ascii=False) + "\n"


def _classes(file: str) -> dict[str, ast.ClassDef]:
    tree = ast.parse((ROOT / file).read_text())
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _routes() -> list[str]:
    source = ast.parse((ROOT / "beastd/api/routes.py").read_text())
    calls = [node for node in ast.walk(source) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    found = [(call.func.attr, call.args[0]) for call in calls if call.func.attr in _VERBS]
    return [f"- `{verb.removeprefix('add_').upper()} {path.value}`" for verb, path in found]


def _fields(node: ast.ClassDef) -> list[str]:
    """A table of the class's fields; the text after a field is its docstring."""
    rows = [f"## {node.name}\n", (ast.get_docstring(node) or "") + "\n", "| field | type | meaning |", "|---|---|---|"]
    defaults = _sampling_defaults() if node.name == "Options" else {}
    meanings = _meanings(node)
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            name = item.target.id
            meaning = meanings[name] + (f" Default: `{json.dumps(defaults[name])}`." if name in defaults else "")
            kind = ast.unparse(item.annotation).replace(" | None", "").replace("|", "\\|")
            rows.append(f"| `{name.rstrip('_')}` | `{kind}` | {meaning} |")
    return [*rows, ""]


def _meanings(node: ast.ClassDef) -> dict[str, str]:
    """Field → the text after it, empty without one."""
    found = {}
    for item, following in zip(node.body, [*node.body[1:], ast.Pass()], strict=True):
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            has_doc = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            found[item.target.id] = " ".join(str(following.value.value).split()) if has_doc else ""
    return found


def _sampling_defaults() -> dict[str, object]:
    from beastd.ipc import Sampling

    return msgspec.to_builtins(Sampling())


def _error_tree() -> str:
    text = ast.get_docstring(ast.parse((ROOT / "beastd/errors.py").read_text())) or ""
    return "\n".join(line for line in text.splitlines() if "──" in line or line.lstrip().startswith("BeastError"))


def main() -> None:
    """Write the pages, or compare them."""
    drifted = []
    for name, text in (("cli.md", cli()), ("api.md", api()), ("modelfile.schema.json", schema())):
        page = DOCS / name
        if "--check" not in sys.argv[1:]:
            page.write_text(text)
        elif not page.exists() or page.read_text() != text:
            drifted.append(name)
    if drifted:
        sys.exit(f"docs drifted: {', '.join(drifted)}; run `uv run python docs/generate.py` and commit the result")


if __name__ == "__main__":
    main()
