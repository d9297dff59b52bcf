"""The tool that quantizes a model.

    python -P -m beastd.engine.quantize       (``toolorders`` has the order and the result)

It makes a dry run first, so that what cannot work is refused before hours of work. Killed at any moment, it leaves
nothing but an unfinished ``out``, and the links beside it.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from beastd.durable import translated
from beastd.engine.quantizer import Quantizer, WriteFailed
from beastd.engine.quantlog import Plan
from beastd.errors import BadRequest, BeastError, DiskFull, ToolFailed
from beastd.quants import quant_type
from beastd.tool import Progress, Report, serve
from beastd.toolorders import Quantized, QuantizeOrder

_READ_BYTES = 2**22
_PROBE_BYTES = 2**20


def quantize(order: QuantizeOrder, report: Report) -> dict[str, Any]:
    """Make the file; returns ``Quantized`` as a dict.

    Raises BadRequest, Unsupported, BadModel, DiskFull, ReadOnly, ToolFailed.
    """
    started_s = time.monotonic()
    report(Progress(status=f"reading {order.label}", unit="tensors"))
    with _one_name(order) as source:
        quantizer = Quantizer(order, source)
        plan = quantizer.plan()
        _check(order, plan)
        try:
            quantizer.run(report)
        except WriteFailed as e:
            raise _why_unwritten(Path(order.out), str(e)) from e
    result = Quantized(
        digest=_sealed(Path(order.out), report),
        size_bytes=Path(order.out).stat().st_size,
        bits_per_weight=plan.bits_per_weight,
        n_tensors=plan.n_tensors,
        n_fallback=plan.n_fallback,
        took_s=time.monotonic() - started_s,
    )
    return msgspec.structs.asdict(result)


@contextmanager
def _one_name(order: QuantizeOrder) -> Iterator[str]:
    """A file name that means the whole model: for shards, links named as llama.cpp finds them by."""
    n = len(order.sources)
    if n == 1:
        yield order.sources[0]
        return
    links = [Path(f"{order.out}-{i:05d}-of-{n:05d}.gguf") for i in range(1, n + 1)]
    try:
        for link, source in zip(links, order.sources, strict=True):
            link.unlink(missing_ok=True)
            link.symlink_to(Path(source).absolute())
        yield str(links[0])
    except OSError as e:
        raise translated(e, f"cannot link the shards of {order.label} at {order.out}") from e
    finally:
        for link in links:
            link.unlink(missing_ok=True)


def _check(order: QuantizeOrder, plan: Plan) -> None:
    """Refuse what would waste the work: quantizing twice, and a disk too small."""
    if plan.requantized and not order.allow_requantize:
        raise BadRequest(
            f"{order.label} is quantized already ({', '.join(sorted(plan.requantized))}), and to quantize it again "
            f"costs quality: use its f16 or bf16 variant, or say so (--allow-requantize; allow_requantize in a request)"
        )
    needed, free = _needed_bytes(order, plan), _free_bytes(Path(order.out))
    if needed > free:
        raise DiskFull(
            f"{order.label} as {quant_type(order.type).name} needs {needed / 1e6:,.0f} MB, {Path(order.out).parent} "
            f"has {free / 1e6:,.0f} MB free; free some space (`beast du`, `beast prune`) and try again"
        )


def _needed_bytes(order: QuantizeOrder, plan: Plan) -> int:
    """The tensors then, and the metadata, which stay as they are."""
    source_bytes = sum(Path(source).stat().st_size for source in order.sources)
    return plan.made_bytes + max(0, source_bytes - plan.source_bytes)


def _free_bytes(out: Path) -> int:
    """What the disk has for ``out``, itself included if it is there from an earlier try."""
    try:
        return shutil.disk_usage(out.parent).free + (out.stat().st_size if out.exists() else 0)
    except OSError as e:
        raise translated(e, f"cannot write {out}") from e


def _why_unwritten(out: Path, reason: str) -> BeastError:
    """Write a little more, to see the error that C++ streams swallow."""
    try:
        with out.open("ab") as stream:
            stream.write(bytes(_PROBE_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as e:
        return translated(e, f"cannot write {out}")
    return ToolFailed(f"cannot write {out}: {reason}; try again")


def _sealed(out: Path, report: Report) -> str:
    """The sha256 of the finished file, which is on the disk for good then. Raises as ``durable``, or ToolFailed."""
    digest, done, total = sha256(), 0, out.stat().st_size
    try:
        with out.open("rb") as stream:
            os.fsync(stream.fileno())
            while piece := stream.read(_READ_BYTES):
                if not done and not piece.startswith(b"GGUF"):  # llama.cpp writes the header last
                    raise ToolFailed(f"{out} was not written to its end; try again")
                digest.update(piece)
                done += len(piece)
                report(Progress(status="verifying", item="verify", completed=done, total=total))
    except OSError as e:
        raise translated(e, f"cannot finish {out}") from e
    return digest.hexdigest()


if __name__ == "__main__":
    serve(QuantizeOrder, quantize)
