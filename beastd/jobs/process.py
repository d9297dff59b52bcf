"""Runs a tool process (``beastd.tool``) from the daemon: its order in, its progress out, and never one left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import msgspec
from msgspec import Struct

from beastd.errors import ToolFailed, from_code
from beastd.fleet.process import WORKER_ENV
from beastd.tool import Done, Failed, Progress, Report, from_tool

MAX_LINE_BYTES = 2**20
MAX_LOG_BYTES = 2**20
N_LOG_LINES = 3
NO_ENV: Mapping[str, str] = MappingProxyType({})


async def run_tool(
    module: str, order: Struct, report: Report, log: Path, env: Mapping[str, str] = NO_ENV
) -> dict[str, Any]:
    """Run ``python -m module``, tell its progress, and return its result. Cancelling kills it.

    Raises its error, or ToolFailed when it ended without telling one. ``log`` takes what it says besides,
    ``env`` is added to its environment.
    """
    process = await _start(module, log, env)
    assert process.stdin, "it is a pipe"
    assert process.stdout, "it is a pipe"
    try:
        process.stdin.write(msgspec.json.encode(order) + b"\n")
        async for line in process.stdout:
            message = from_tool.decode(line)
            if isinstance(message, Progress):
                report(message)
            elif isinstance(message, Done):
                return message.result
            elif isinstance(message, Failed):
                raise from_code(message.failure.code, message.failure.message)
    except (msgspec.DecodeError, ValueError, ConnectionError) as e:
        raise ToolFailed(f"{module} said what cannot be read ({e}); please report it, with {log}") from e
    finally:
        await _end(process)
    raise ToolFailed(f"{module} ended early ({_outcome(process)}); its log is {log}: {_tail(log)}")


async def _start(module: str, log: Path, env: Mapping[str, str]) -> asyncio.subprocess.Process:
    with _opened(log) as output:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", module),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=output,
            process_group=0,  # in the daemon's session, within which niceness counts (``fleet.process``)
            limit=MAX_LINE_BYTES,
            env={**WORKER_ENV, **os.environ, **env},
        )


def _opened(log: Path) -> BinaryIO:
    log.parent.mkdir(parents=True, exist_ok=True)
    is_long = log.exists() and log.stat().st_size > MAX_LOG_BYTES
    return log.open("wb" if is_long else "ab")


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill what is left of it, and reap it."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    await asyncio.shield(process.wait())


def _outcome(process: asyncio.subprocess.Process) -> str:
    status = process.returncode or 0
    return f"signal {-status}" if status < 0 else f"status {status}"


def _tail(log: Path) -> str:
    lines = log.read_bytes()[-4096:].decode("utf-8", "replace").strip().splitlines()
    return " | ".join(lines[-N_LOG_LINES:]) or "it said nothing"
