"""`beast export`: a model as one file."""

from __future__ import annotations

from typing import Annotated

import typer

from beastctl import daemon, jobs, local, render
from beastctl.complete import model_names


def export(
    model: Annotated[
        str, typer.Argument(help="The model's name; with @VARIANT, that one alone.", autocompletion=model_names)
    ],
    file: Annotated[str, typer.Argument(help="The file to write, e.g. model.beast.")],
) -> None:
    """Write a model with all its files into one file, which `beast import` reads on another machine."""
    if file == "-":
        raise typer.BadParameter("a bundle is written to a file, not to standard output: name one, e.g. model.beast")
    client = daemon.ensure_running(daemon.current_paths(), render.say)
    request = {"model": model, "file": local.absolute(file)}
    result = jobs.run(client, jobs.Work(f"exporting {model}", "/api/export", request))
    render.say(f"wrote {result['file']} ({render.size(result['size'])})")
