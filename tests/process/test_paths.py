"""What finding Beast's folders costs a fresh process."""

from __future__ import annotations

import subprocess
import sys


def test_the_module_is_light():
    """The command line imports it at every start: no event loop, no JSON library, no platformdirs."""
    code = (
        "import sys; from beastd.paths import Paths; Paths.from_env({'BEAST_HOME': '/b'});"
        "print({'asyncio', 'msgspec', 'aiohttp', 'platformdirs', 'tempfile'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
