"""Beast beside other servers, side by side in one run: the table of what the engine must show.

    python -m tests.bench.peer burst short --model 0.6b.gguf --llama-server build/bin/llama-server [--rounds 3]

Run it from the repository, on a machine that does nothing else. Each row starts servers of its own, with the same
threads, slots, context, batch and flash attention, and asks them in turn for the same tokens. Rows:

    shared    16 requests at once with 700 tokens in common       burst     8 distinct prompts of 128 tokens at once
    short     a short request among 8 busy ones                   chats     32 chats of 4 turns on 16 slots
    restart   a prompt of 700 tokens after a restart (Beast)      capacity  chats in the KV of 4 slots (Beast)
    copy      n-gram speculation on and off (Cub)                 draft     a draft model on and off (Cub)
    pyserver  llama-cpp-python's own server, 8 streams            closed    64 clients of Cub in a closed loop
    priority  a high-priority request among 16 low ones (Beast)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import beastd
from tests.bench.peer import bursts, chats, guesses, loops, memory, urgent
from tests.bench.peer.figures import Row, as_dict, as_text
from tests.bench.peer.plan import Plan
from tests.bench.peer.servers import NotMeasured, n_cores

CUB = Path(beastd.__file__).parent / "builtin" / "cub"
ROWS: dict[str, Callable[[Plan], Coroutine[Any, Any, Row]]] = {
    "shared": bursts.shared,
    "burst": bursts.burst,
    "short": bursts.short,
    "chats": chats.chats,
    "restart": memory.restart,
    "capacity": memory.capacity,
    "copy": guesses.copy,
    "draft": guesses.draft,
    "pyserver": loops.pyserver,
    "closed": loops.closed,
    "priority": urgent.priority,
}


def parsed() -> tuple[list[str], Plan, bool]:
    """Rows, plan, and whether to print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="default: all")
    parser.add_argument("--model", type=Path, help="GGUF of the rows that are not Cub's")
    parser.add_argument("--cub", type=Path, default=CUB / "cub-q8_0.gguf")
    parser.add_argument("--draft", type=Path, default=CUB / "cub-draft-f16.gguf")
    parser.add_argument("--llama-server", type=Path, help="llama-batched-bench is beside it")
    parser.add_argument("--pyserver-python", type=Path, help="of an environment with llama_cpp.server")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=n_cores())
    parser.add_argument("--seconds", type=float, default=20.0, help="of each closed loop")
    parser.add_argument("--small", action="store_true", help="a trial: a quarter of streams and lengths")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of Beast's")
    parser.add_argument(
        "--llama-arg", action="append", default=[], metavar="ARG", help="for llama-server, as --llama-arg=-kvu"
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if unknown := set(args.rows) - set(ROWS):
        parser.error(f"there is no row {', '.join(sorted(unknown))}; rows are {', '.join(ROWS)}")
    plan = Plan(
        model=args.model,
        cub=args.cub,
        draft=args.draft,
        llama_server=args.llama_server,
        python=args.pyserver_python,
        n_rounds=args.rounds,
        n_threads=args.threads,
        seconds=args.seconds,
        is_small=args.small,
        settings=dict(it.split("=", 1) for it in args.set),
        llama_args=args.llama_arg,
    )
    return args.rows or list(ROWS), plan, args.json


def measured(name: str, plan: Plan) -> Row:
    """A row, or why there is none."""
    try:
        return asyncio.run(ROWS[name](plan))
    except NotMeasured as e:
        return Row(name, failure=str(e))


def main() -> int:
    """Measure and print row by row; 1 if one could not be measured."""
    names, plan, is_json = parsed()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers are ended on the way out
    is_whole = True
    for name in names:
        row = measured(name, plan)
        is_whole &= not row.failure
        print(json.dumps(as_dict(row)) if is_json else as_text(row) + "\n", flush=True)
    return 0 if is_whole else 1


if __name__ == "__main__":
    sys.exit(main())
