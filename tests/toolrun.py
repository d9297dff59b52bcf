"""Runs a tool process as the daemon does: order in, progress and one ending out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from beastd.tool import Done, Failed, FromTool, Progress, from_tool


class Tool:
    """A started tool process."""

    def __init__(self, module: str, order: msgspec.Struct, before: Callable[[], None] | None = None) -> None:
        """``before`` runs in the child ahead of the program."""
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=before,  # noqa: PLW1509 - a resource limit, before any thread
        )
        assert self.process.stdin
        self.process.stdin.write(msgspec.json.encode(order) + b"\n")
        self.process.stdin.flush()

    def __iter__(self) -> Iterator[FromTool]:
        assert self.process.stdout
        return (from_tool.decode(line) for line in self.process.stdout)

    def kill(self) -> None:
        """End it, if it is still there, and wait."""
        self.process.kill()
        self.process.wait(timeout=60)
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                stream.close()


@contextmanager
def started(module: str, order: msgspec.Struct, before: Callable[[], None] | None = None) -> Iterator[Tool]:
    """A tool for the time of a block; nothing is left of it."""
    tool = Tool(module, order, before)
    try:
        yield tool
    finally:
        tool.kill()


def run_tool(
    module: str, order: msgspec.Struct, before: Callable[[], None] | None = None
) -> tuple[list[Progress], Done | Failed]:
    """All its progress, and its ending."""
    with started(module, order, before) as tool:
        *progress, ending = tool
    assert isinstance(ending, Done | Failed)
    assert all(isinstance(message, Progress) for message in progress)
    return progress, ending
