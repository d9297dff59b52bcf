"""`beast quantize`: make variants of a model."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from beastctl import daemon, jobs, local, render
from beastctl.complete import model_names, quantizations
from beastctl.progress import short_time


def quantize(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="The model; with @VARIANT, what to make them of, else the variant with most bits a weight.",
            autocompletion=model_names,
            show_default=False,
        ),
    ] = "",
    types: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TYPE...", help="What to make, e.g. q4_k_m.", autocompletion=quantizations, show_default=False
        ),
    ] = None,
    *,
    imatrix: Annotated[
        str | None, typer.Option(metavar="FILE", help="An importance matrix, which helps low bits.")
    ] = None,
    allow_requantize: Annotated[
        bool, typer.Option("--allow-requantize", help="Take a source that is quantized itself; it costs quality.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Make anew what is there already.")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Do not wait; print the job's id.")] = False,
    list_types: Annotated[bool, typer.Option("--list", help="Show the types there are.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print data for machines.")] = False,
) -> None:
    """Quantize a model: make smaller variants of it, or all the same ones anew.

    The model keeps the variants it has; the new ones are there when all is done.
    """
    if not list_types and not (model and types):
        raise typer.BadParameter("a model and at least one type are needed, e.g. `beast quantize MODEL q4_k_m`")
    client = daemon.ensure_running(daemon.current_paths(), render.say)
    if list_types:
        _show_types(client.get("/api/quantizations"), as_json=as_json)
        return
    request: dict[str, Any] = {"model": model, "types": types}
    request |= {"imatrix": local.absolute(imatrix)} if imatrix else {}
    flags = {"allow_requantize": allow_requantize, "replace": replace}
    work = jobs.Work(f"quantizing {model}", "/api/quantize", request | {name: True for name, on in flags.items() if on})
    if detach:
        print(jobs.begin(client, work))
        return
    result = jobs.run(client, work)
    if as_json:
        render.print_json(result)
    else:
        _show_made(result)


def _show_types(reply: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        render.print_json(reply)
        return
    rows = [
        (made["name"], f"{made['bits']:.3g}" if made["bits"] else "", made["about"] + _needs(made))
        for made in reply["types"]
    ]
    print(render.table(("TYPE", "BITS/WEIGHT", "ABOUT"), rows))


def _needs(made: dict[str, Any]) -> str:
    return " (needs --imatrix)" if made["needs_imatrix"] else ""


def _show_made(result: dict[str, Any]) -> None:
    base = str(result["model"]).partition("@")[0]
    rows = []
    for made in result["variants"]:
        rows.append(
            (
                f"{base}@{made['name']}",
                render.size(made["size"]),
                f"{made['bits_per_weight']:.2f}",
                short_time(made["took_s"]),
            )
        )
        if made.get("n_fallback"):
            render.say(f"{made['name']}: {made['n_fallback']} tensors did not fit this type and got a larger one")
    print(render.table(("VARIANT", "SIZE", "BITS/WEIGHT", "TOOK"), rows))
