"""Write docs/cli.md from the commands and docs/api.md from the contract; ``--check`` fails when they have drifted."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import msgspec

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

API_HEAD = """\
# HTTP API

<!-- Made by docs/generate.py from beastd/contract.py, beastd/errors.py and beastd/api/routes.py: edit those. -->

Beast speaks Ollama's native API, on a Unix socket (`beast status` names it) and, with `beast serve --tcp`, on TCP.
Bodies are JSON. An unknown field or option is a 400 that names it. Answers stream as one JSON object a line unless
`stream` is false; the last line has `done: true`, `done_reason` (`stop`, `length`, `load`, `unload`) and the metrics
(durations in nanoseconds): `total_duration`, `load_duration`, `prompt_eval_count`, `prompt_eval_cached_count`,
`prompt_eval_duration`, `eval_count`, `eval_duration`. Beast adds `variant` (the quantization that answered), `n_ctx`
(tokens the request could hold), `truncated`, and where it is true `dropped_messages` and `dropped_tokens`. While a cold
model loads, lines with `status: "loading"` and `load_progress` (0 to 1) may come first.

An error is `{"error": text, "code": code, "retryable": bool}` with its HTTP status, or as the last line of a stream
that had begun.

A model is named `[host/][namespace/]name[:tag][@variant][+adapter[*scale]]…`, for example `cub@q4_k_m+pirate*0.5`.
"""


def cli() -> str:
    """Every command's help, as the terminal shows it."""
    import click

    from beastctl.main import COMMANDS, load

    parts = ["# Command line\n", "<!-- Made by docs/generate.py from beastctl/commands: edit those. -->\n"]
    for name in COMMANDS:
        command = load(name)
        context = click.Context(command, info_name=f"beast {name}", terminal_width=100, max_content_width=100)
        parts.append(f"## beast {name}\n\n```text\n{command.get_help(context).rstrip()}\n```\n")
    return "\n".join(parts)


def api() -> str:
    """Routes, request fields with their docstrings, and error codes."""
    contract = ast.parse((ROOT / "beastd/contract.py").read_text())
    classes = {node.name: node for node in contract.body if isinstance(node, ast.ClassDef)}
    parts = [API_HEAD, "## Routes\n", *_routes(), ""]
    for name in ("GenerateRequest", "ChatRequest", "AnswerRequest", "Message", "Options"):
        parts += _fields(classes[name])
    return "\n".join([*parts, "## Errors\n", "```text", _error_tree(), "```", ""])


def _routes() -> list[str]:
    source = ast.parse((ROOT / "beastd/api/routes.py").read_text())
    calls = [node for node in ast.walk(source) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    found = [(call.func.attr, call.args[0]) for call in calls if call.func.attr in {"add_get", "add_post"}]
    return [f"- `{verb.removeprefix('add_').upper()} {path.value}`" for verb, path in found]


def _fields(node: ast.ClassDef) -> list[str]:
    """A table of the class's fields; the text after a field is its docstring."""
    rows = [f"## {node.name}\n", (ast.get_docstring(node) or "") + "\n", "| field | type | meaning |", "|---|---|---|"]
    defaults = _sampling_defaults() if node.name == "Options" else {}
    for item, following in zip(node.body, [*node.body[1:], ast.Pass()], strict=True):
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            has_doc = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            meaning = " ".join(str(following.value.value).split()) if has_doc else ""
            if item.target.id in defaults:
                meaning += f" Default: `{json.dumps(defaults[item.target.id])}`."
            kind = ast.unparse(item.annotation).replace(" | None", "").replace("|", "\\|")
            rows.append(f"| `{item.target.id}` | `{kind}` | {meaning} |")
    return [*rows, ""]


def _sampling_defaults() -> dict[str, object]:
    from beastd.ipc import Sampling

    return msgspec.to_builtins(Sampling())


def _error_tree() -> str:
    text = ast.get_docstring(ast.parse((ROOT / "beastd/errors.py").read_text())) or ""
    return "\n".join(line for line in text.splitlines() if "──" in line or line.lstrip().startswith("BeastError"))


def main() -> None:
    """Write the pages, or compare them."""
    drifted = []
    for name, text in (("cli.md", cli()), ("api.md", api())):
        page = DOCS / name
        if "--check" not in sys.argv[1:]:
            page.write_text(text)
        elif not page.exists() or page.read_text() != text:
            drifted.append(name)
    if drifted:
        sys.exit(f"docs drifted: {', '.join(drifted)}; run `uv run python docs/generate.py` and commit the result")


if __name__ == "__main__":
    main()
