"""The command line starts light."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"asyncio", "aiohttp", "rich", "prompt_toolkit", "msgspec", "http.client", "numpy", "llama_cpp", "pydantic"}


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["run", "--help"], ["ps", "--help"], ["bench", "--help"], ["service", "--help"], ["logs", "--help"]],
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    """Each of these would cost tens of milliseconds at every start."""
    code = (
        "import sys\n"
        "from beastctl.main import main\n"
        f"sys.argv = ['beast', *{arguments!r}]\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('MODULES', *sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    text, _, modules = done.stdout.rpartition("MODULES")
    assert "Usage: beast" in text
    assert not HEAVY & set(modules.split())


def test_listing_commands_imports_none_of_them() -> None:
    """The table alone is the help."""
    code = "import sys, beastctl.main as m; m.load('ps'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    commands = {name for name in done.stdout.split() if name.startswith("beastctl.commands.")}
    assert commands == {"beastctl.commands.ps"}
