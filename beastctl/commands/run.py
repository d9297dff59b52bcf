"""`beast run`: one answer for a prompt, or a chat when there is none."""

from __future__ import annotations

import re
import sys
from contextlib import ExitStack
from typing import Annotated, Any

import typer

from beastctl import ask, daemon, render
from beastctl.client import Client
from beastctl.complete import model_names
from beastctl.options import Priority, as_flags
from beastd.errors import BadRequest, ModelNotFound

MODEL_NAME = re.compile(r"[A-Za-z0-9_][\w.:/@+*-]*")
"""What may name a model; a first word with anything else in it (a space, say) is the prompt's."""

HUBS = ("hf.co/", "huggingface.co/")


@as_flags
def run(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL] [PROMPT]...",
            help="Without MODEL: the built-in one. Text on standard input goes before PROMPT, a blank line between.",
            autocompletion=model_names,
            show_default=False,
        ),
    ] = None,
    *,
    system: Annotated[str | None, typer.Option(help="System message, instead of the model's.")] = None,
    format_: Annotated[
        str | None, typer.Option("--format", help="`json`, or a file with a JSON Schema the answer must follow.")
    ] = None,
    think: Annotated[bool | None, typer.Option(help="Let the model think first, or not.", show_default=False)] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Give the prompt to the model without its chat template.")] = False,
    truncate: Annotated[
        bool | None,
        typer.Option(
            help="Leave out the oldest messages of a prompt that does not fit, and say so (a chat does).",
            show_default=False,
        ),
    ] = None,
    keep_alive: Annotated[
        str | None, typer.Option(help="How long the model stays loaded, e.g. 10m; 0: not; -1: for ever.")
    ] = None,
    priority: Annotated[
        Priority | None, typer.Option(help="What goes first where not all requests can.", show_default=False)
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Do not render Markdown on a terminal.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show timings, on standard error.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object: the reply and its metrics.")] = False,
    **options: Any,
) -> None:
    """Answer a prompt, or chat when there is none.

    The text of the answer goes to standard output, all else to standard error.
    """
    model, prompt = split_words(words or [])
    prompt = with_stdin(prompt)
    extra = {"keep_alive": keep_alive, "think": think, "format": answer_format(format_), "options": options or None}
    extra["priority"] = priority and priority.value
    given = {name: value for name, value in extra.items() if value is not None}
    if not prompt:
        _chat(model, {"truncate": truncate is not False, **given}, system=system, is_verbose=verbose, is_plain=plain)
        return
    own = {"system": system, "truncate": truncate, "raw": raw or None}
    given |= {name: value for name, value in own.items() if value is not None}
    request = {"model": model, "prompt": prompt, "stream": True, **given}
    is_live = sys.stdout.isatty() and not (plain or raw or format_)
    raise typer.Exit(_answer(request, is_live=is_live, is_verbose=verbose, as_json=as_json))


def split_words(words: list[str]) -> tuple[str, str]:
    """Model and prompt; an empty model is the built-in one."""
    if words and MODEL_NAME.fullmatch(words[0]):
        return words[0], " ".join(words[1:])
    return "", " ".join(words)


def with_stdin(prompt: str) -> str:
    """``prompt`` after what was piped in, if anything was."""
    if sys.stdin is None or sys.stdin.isatty():
        return prompt
    piped = sys.stdin.buffer.read().decode("utf-8", "replace").strip("\r\n")
    return "\n\n".join(part for part in (piped, prompt) if part.strip())


def answer_format(text: str | None) -> str | dict[str, Any] | None:
    """The API's ``format`` for --format: ``json``, or the JSON Schema in a file.

    Raises:
        BadRequest: there is no such file, or it holds no JSON object.
    """
    import json
    from pathlib import Path

    if text is None or text == "json":
        return text
    try:
        schema = json.loads(Path(text).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadRequest(f"--format takes `json` or a file with a JSON Schema; {text!r}: {error}") from error
    if not isinstance(schema, dict):
        raise BadRequest(f"{text!r} holds no JSON Schema: it must be a JSON object")
    return schema


def _answer(request: dict[str, Any], *, is_live: bool, is_verbose: bool, as_json: bool) -> int:
    client = daemon.ensure_running(daemon.current_paths(), render.say)
    with ExitStack() as until_done:
        quiet = ask.silent_screen if as_json else ask.plain_screen
        make_screen = (lambda: ask.live_screen(until_done)) if is_live and not as_json else quiet
        try:
            answer = ask.ask(client, "/api/generate", request, make_screen)
        except ModelNotFound as error:
            request["model"] = _pulled(client, request["model"], error)
            answer = ask.ask(client, "/api/generate", request, make_screen)
    if as_json:
        metrics = {name: value for name, value in answer.final.items() if name != "context"}
        thinking = {"thinking": answer.thinking} if answer.thinking else {}
        render.print_json({**metrics, "response": answer.text, **thinking})
    if is_verbose and answer.final:
        print("\n" + render.timings(answer.final), file=sys.stderr)
    return ask.exit_status(answer)


def _pulled(client: Client, model: str, error: ModelNotFound) -> str:
    """The name of a model that was not here, pulled now; ``error`` is raised again where it cannot be."""
    from beastctl.commands.pull import get

    base, plus, adapters = model.partition("+")
    if not is_pullable(client, base) or (adapters and _is_here(client, base)):
        hint = f'; `beast run "{model} …"` in quotes is a prompt for the built-in model'
        raise ModelNotFound(error.message + hint) from error
    render.say(f"{base} is not here yet; pulling it")
    return get(client, base) + plus + adapters


def is_pullable(client: Client, base: str) -> bool:
    """Whether a name, maybe with a variant, stands for something to download: a hub's repository, or in the catalog."""
    from beastctl.commands.search import find

    name = base.partition("@")[0].lower()
    if name.startswith(HUBS):
        return True
    found = {str(entry["name"]).lower() for entry in find(client, name)} if name else set()
    has_tag = ":" in name.rpartition("/")[2]
    return name.removesuffix(":latest") in (found if has_tag else found | {it.rpartition(":")[0] for it in found})


def _is_here(client: Client, model: str) -> bool:
    try:
        client.post("/api/show", {"model": model})
    except ModelNotFound:
        return False
    return True


def _chat(model: str, extra: dict[str, Any], *, system: str | None, is_verbose: bool, is_plain: bool) -> None:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise BadRequest("there is no prompt: give one as words or on standard input; a chat needs a terminal")
    from beastctl.chat.conversation import Conversation
    from beastctl.chat.repl import Repl

    options = extra.pop("options", {})
    conversation = Conversation(model=model, system=system or "", options=options, extra=extra)
    repl = Repl(conversation, daemon.current_paths(), is_verbose=is_verbose, is_plain=is_plain)
    try:
        repl.run()
    except ModelNotFound as error:  # from its first load: later ones are told in the chat
        conversation.model = _pulled(daemon.ensure_running(daemon.current_paths(), render.say), model, error)
        repl.run()
