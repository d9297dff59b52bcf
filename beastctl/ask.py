"""Ask one question: send the request, show its answer, say what a person should know about how it ended."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from beastctl import render
from beastctl.answer import Answer, Screen, follow, warnings
from beastctl.client import Client
from beastctl.screen import PlainScreen, Progress, SilentScreen

EXIT_DONE = 0
EXIT_CUT = 3
"""The answer ran into the end of the context."""
EXIT_INTERRUPTED = 130


def ask(client: Client, path: str, request: dict[str, Any], make_screen: Callable[[], Screen]) -> Answer:
    """Send ``request`` to ``path`` of the API and follow its answer on a screen; warn of what was left out.

    The screen is made after the request is sent: what it imports loads while the model works.

    Raises:
        BeastError: the daemon refused or failed.
    """
    with client.stream(path, request) as reply:
        answer = follow(reply, make_screen())
    for warning in warnings(answer.final):
        render.say(warning)
    if answer.is_cut:
        n_ctx = answer.final["n_ctx"]
        render.say(f"the answer was cut off: the context of {n_ctx} tokens is full (--num-ctx asks for more)")
    return answer


def exit_status(answer: Answer) -> int:
    """What `beast run` ends with after ``answer``."""
    if answer.is_interrupted:
        return EXIT_INTERRUPTED
    return EXIT_CUT if answer.is_cut else EXIT_DONE


def load(client: Client, model: str, keep_alive: str | None) -> Answer:
    """Have the model loaded, showing a bar; the answer's ``final`` names it in full."""
    request: dict[str, Any] = {"model": model, "stream": True}
    if keep_alive is not None:
        request["keep_alive"] = keep_alive
    return ask(client, "/api/generate", request, silent_screen)


def silent_screen() -> Screen:
    """Only progress, on standard error."""
    return SilentScreen(Progress(sys.stderr))


def plain_screen() -> Screen:
    """The text as it comes, on standard output."""
    return PlainScreen(sys.stdout, Progress(sys.stderr))


def live_screen(until_done: ExitStack) -> Screen:
    """Markdown on the terminal, with the keyboard quiet until ``until_done`` closes."""
    from rich.console import Console

    from beastctl.live import LiveScreen, quiet_keyboard

    until_done.enter_context(quiet_keyboard())
    return LiveScreen(Console(), Progress(sys.stderr))
