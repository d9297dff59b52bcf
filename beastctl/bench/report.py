"""A measurement's figures as a table for people."""

from __future__ import annotations

from typing import Any

from beastctl.render import table

ONE_HEADER = ("ONE STREAM", "PROMPT", "TTFT", "PREFILL", "GENERATION")
MANY_HEADER = ("STREAMS", "TOK/S", "STEADY", "REQ/S", "TTFT P50", "P90", "P99", "ITL P50", "P90", "P99", "ERRORS")


def as_text(report: dict[str, Any]) -> str:
    """The report of ``plan.measure``, for a terminal."""
    one = report["one_stream"]
    what = f"{report['model'] or 'the built-in model'} at {report['url']}{report['path']}"
    parts = [
        f"{what}: prompts of {one['n_prompt']:.0f} tokens, answers of {report['answer_tokens']}",
        table(ONE_HEADER, [_one(run) for run in (one, *report["prompt_lengths"])]),
    ]
    if report["streams"]:
        late = ("LATE TTFT",) if any("late_ttft_s" in level for level in report["streams"]) else ()
        parts.append(table((*MANY_HEADER, *late), [_many(level, has_late=bool(late)) for level in report["streams"]]))
    return "\n\n".join(parts)


def errors(report: dict[str, Any]) -> list[str]:
    """Each thing that went wrong, once."""
    groups = [report["one_stream"], *report["prompt_lengths"], *report["streams"]]
    late = {group["late_error"] for group in groups if "late_error" in group}
    return sorted({error for group in groups for error in group["errors"]} | late)


def _one(run: dict[str, Any]) -> tuple[str, ...]:
    return (
        "",
        f"{run['n_prompt']:.0f} tokens",
        _time(run["ttft_s"]),
        f"{run['prefill_tokens_per_s']:.1f} tok/s",
        f"{run['generation_tokens_per_s']:.1f} tok/s",
    )


def _many(level: dict[str, Any], *, has_late: bool) -> tuple[str, ...]:
    late = (_time(level["late_ttft_s"]) if "late_ttft_s" in level else "-",) if has_late else ()
    return (
        str(level["n_streams"]),
        f"{level['tokens_per_s']:.1f}",
        f"{level['steady_tokens_per_s']:.1f}",
        f"{level['requests_per_s']:.2f}",
        *(_time(level["ttft_s"][name]) for name in ("p50", "p90", "p99")),
        *(_time(level["itl_s"][name]) for name in ("p50", "p90", "p99")),
        str(level["n_errors"]),
        *late,
    )


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"
