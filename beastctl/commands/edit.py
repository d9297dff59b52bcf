"""`beast edit`: change a model's modelfile in an editor."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from beastctl import daemon, render
from beastctl.client import Client
from beastctl.complete import base_names
from beastd.errors import BadRequest, BeastError, ReadOnly

EDIT_LIMIT_S = 60.0
EDITORS = ("sensible-editor", "nano", "vim", "vi")
"""Tried in this order where neither VISUAL nor EDITOR is set."""


def edit(model: Annotated[str, typer.Argument(help="The model's name.", autocompletion=base_names)]) -> None:
    """Edit a model's modelfile in $VISUAL or $EDITOR; it is checked before it replaces the old one."""
    client = daemon.ensure_running(daemon.current_paths(), render.say)
    found = client.post("/api/modelfile", {"model": model})
    if found["builtin"]:
        raise ReadOnly(f"{model} is built in; copy it first: `beast cp {model} NAME`, then `beast edit NAME`")
    before = str(found["modelfile"])
    draft = _draft(model, before)
    try:
        is_saved = _edit(client, model, draft, before)
    except BeastError:
        if _try_read(draft) in {None, before}:
            _discard(draft)
        else:
            render.say(f"your text is kept in {draft}")
        raise
    _discard(draft)
    render.say(f"changed {model}" if is_saved else f"nothing was changed in {model}")


def editor_command(env: Mapping[str, str]) -> list[str]:
    """The words that start the person's editor.

    Raises:
        BadRequest: there is none.
    """
    import shlex
    import shutil

    wanted = env.get("VISUAL") or env.get("EDITOR")
    if wanted and wanted.strip():
        return shlex.split(wanted)
    found = next((path for name in EDITORS if (path := shutil.which(name))), None)
    if found is None:
        raise BadRequest("there is no editor here; set EDITOR to one, or use `beast create MODEL -f FILE`")
    return [found]


def _draft(model: str, text: str) -> Path:
    """A file for the editor, in a folder that others cannot read; ``.yaml`` for its colours."""
    from tempfile import mkdtemp

    name = "".join(char if char.isalnum() or char in "._-" else "-" for char in model)
    path = Path(mkdtemp(prefix="beast-edit-")) / f"{name[:80]}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def _edit(client: Client, model: str, draft: Path, before: str) -> bool:
    """Let the person edit until it is right, unchanged (False), or given up (the error is raised)."""
    while True:
        _run_editor(draft)
        text = _try_read(draft)
        if text is None:
            raise BadRequest(f"the editor left no file behind, so nothing was changed in {model}")
        if text == before:
            return False
        try:
            client.post("/api/edit", {"model": model, "modelfile": text, "was": before}, timeout_s=EDIT_LIMIT_S)
        except BeastError as error:
            if not sys.stdin.isatty():
                raise
            render.say(error.message)
            if not typer.confirm("edit again?", default=True, err=True):
                raise BadRequest(f"{model} was not changed") from error
        else:
            return True


def _try_read(draft: Path) -> str | None:
    """What the editor left; None when that is no file."""
    try:
        return draft.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _discard(draft: Path) -> None:
    """The draft, and what the editor put beside it."""
    from shutil import rmtree

    rmtree(draft.parent, ignore_errors=True)


def _run_editor(draft: Path) -> None:
    from subprocess import run

    command = editor_command(os.environ)
    try:
        status = run([*command, str(draft)], check=False).returncode
    except OSError as error:
        raise BadRequest(f"cannot start the editor {command[0]!r}: {error.strerror}; set EDITOR to another") from error
    if status:
        raise BadRequest(f"the editor {command[0]!r} ended with status {status}, so nothing was changed")
