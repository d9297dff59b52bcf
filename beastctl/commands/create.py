"""`beast create`: make a model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from beastctl import daemon, hub, jobs, local, render
from beastctl.complete import model_names, quantizations
from beastd.errors import BadRequest

DEFAULT_FILES = ("Modelfile", "modelfile.yaml")
MAX_FILE_BYTES = 4 * 2**20
"""A modelfile with more is none."""


def create(
    model: Annotated[str, typer.Argument(help="The new model's name.")],
    *,
    file: Annotated[
        str | None,
        typer.Option(
            "--file",
            "-f",
            metavar="FILE",
            help="A modelfile, YAML or in Ollama's syntax; - reads standard input. [default: ./Modelfile or "
            "./modelfile.yaml]",
        ),
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="MODEL", help="A model or GGUF file alone, without a file.", autocompletion=model_names
        ),
    ] = None,
    quantize: Annotated[
        str | None,
        typer.Option(
            "--quantize", "-q", metavar="TYPE", help="Make this quantization of it.", autocompletion=quantizations
        ),
    ] = None,
) -> None:
    """Make a model of a modelfile, of another model, or of a GGUF file."""
    if file is not None and from_ is not None:
        raise typer.BadParameter("--file and --from exclude each other: a modelfile has a line for it")
    request: dict[str, Any] = {"model": model}
    request |= described_by(file) if from_ is None else {"from": local.path_of(from_) or from_}
    if quantize is not None:
        request["quantize"] = quantize
    client = daemon.ensure_running(daemon.current_paths(), render.say)
    result = jobs.run(client, jobs.Work(model, "/api/create", hub.with_token(request)))
    for warning in result.get("warnings", []):
        render.say(warning)
    render.say(f"created {result['model']}")


def described_by(file: str | None) -> dict[str, str]:
    """The modelfile's text and the folder its paths begin in; ``-`` is standard input, read from where we are.

    Raises:
        BadRequest: there is none, or it is not text.
    """
    if file == "-":
        return {
            "modelfile": _text(sys.stdin.buffer.read(MAX_FILE_BYTES + 1), "standard input"),
            "folder": local.absolute("."),
        }
    path = Path(file) if file is not None else _default_file()
    try:
        with path.expanduser().open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise BadRequest(f"cannot read {path}: {error.strerror}") from error
    return {"modelfile": _text(data, str(path)), "folder": local.absolute(str(path.parent))}


def _default_file() -> Path:
    found = next((path for path in map(Path, DEFAULT_FILES) if path.is_file()), None)
    if found is None:
        raise BadRequest(
            f"there is no {' and no '.join(DEFAULT_FILES)} here; "
            "name a modelfile with -f, or a model or GGUF file with --from"
        )
    return found


def _text(data: bytes, source: str) -> str:
    if len(data) > MAX_FILE_BYTES:
        raise BadRequest(
            f"{source} has more than {render.size(MAX_FILE_BYTES)}: no modelfile; --from takes a GGUF file"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRequest(f"{source} is not UTF-8 text: no modelfile; --from takes a GGUF file") from error
