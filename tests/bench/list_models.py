"""How long `beast list` takes with many models: ``uv run python tests/bench/list_models.py [N]``.

Makes N models in a new BEAST_HOME, each with two variants of a file of its own, and times the command: with no daemon
(it starts one), then against that daemon, then against a new daemon that has seen the models before.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import beastd

CUB = Path(beastd.__file__).parent / "builtin" / "cub" / "cub-q2_k.gguf"
N_RUNS = 7


def make(models: Path, n: int) -> None:
    models.mkdir(parents=True)
    for i in range(n):
        files = [models / ".files" / f"m{i}-{k}.gguf" for k in range(2)]
        for file in files:
            file.parent.mkdir(exist_ok=True)
            file.symlink_to(CUB)
        text = f"variants: {{q2_k: {files[0]}, again: {files[1]}}}\nparameters: {{temperature: 0.5, stop: [a, b]}}\n"
        (models / f"model{i}.yaml").write_text(text + "license: MIT\ndescription: One of many\n")


def timed(env: dict[str, str]) -> float:
    started = time.perf_counter()
    listed = subprocess.run(["beast", "list"], env=env, check=True, capture_output=True)
    assert listed.stdout.count(b"\n") > 1
    return time.perf_counter() - started


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory(prefix="beast-") as home:
        env = {**os.environ, "BEAST_HOME": home}
        make(Path(home) / "models", n)
        print(f"{n} models, first list, starts the daemon: {timed(env):.2f} s")
        print(f"{n} models, daemon running: median {statistics.median(timed(env) for _ in range(N_RUNS)):.2f} s")
        stop = ["beast", "shutdown"]
        subprocess.run(stop, env=env, check=True, capture_output=True)
        print(f"{n} models, a new daemon that has to start: {timed(env):.2f} s")
        subprocess.run(stop, env=env, check=True, capture_output=True)


if __name__ == "__main__":
    main()
