"""Files that are sound, of models that are not."""

from __future__ import annotations

from gguflies.pieces import Lies, g


def shapes() -> Lies:
    """Models that do not say what memory they need, or say what cannot be."""
    for key in ("block_count", "context_length", "embedding_length"):
        full = f"llama.{key}"
        yield f"{key} missing", g.file(g.model(**{key: None})), f"does not say its {full}"
        yield f"{key} of 0", g.file(g.model(**{key: 0})), f"{full} is 0, not a positive"
        yield f"{key} of 2^31", g.file(g.model(**{key: 2**31})), f"{full} is 2147483648, not a count"
        yield from _not_counts(key, full)
    for key in ("head_count", "head_count_kv", "key_length", "value_length"):
        full = f"llama.attention.{key}"
        yield f"{key} of 2^32-1", g.file(g.model(**{f"attention__{key}": 2**32 - 1})), f"{full} is 4294967295, not"
        yield from _not_counts(f"attention__{key}", full)
    for key in ("head_count", "head_count_kv"):
        for n in (0, 1, 3, 513):
            lie = g.file(g.model(**{f"attention__{key}": [1] * n}))
            yield f"{key} for {n} layers", lie, f"{key} has {n} values for 2 layers"
        yield f"{key} for 2000 layers", g.file(g.model(**{f"attention__{key}": [1] * 2000})), "Omitted"
        yield f"{key} negative in a layer", g.file(g.model(**{f"attention__{key}": [-1, 2]})), f"{key} is -1, not"
    for n in (513, 2**31 - 1):
        yield f"{n} layers", g.file(g.model(block_count=n)), "at most 512 layers"
    for name in ("", "a b", "a\nb", "\x1b[31mllama", "l" * 65, "l" * 10**6, "lläma", b"\xff"):
        pairs = [g.pair("general.architecture", "str", name), *g.model()[1:]]
        yield f"architecture {name[:12]!r} of {len(name)}", g.file(pairs), "does not say its general.architecture"
    yield "no architecture", g.file(g.model()[1:]), "does not say its general.architecture"
    yield "another architecture's keys", g.file([g.pair("general.architecture", "str", "gpt2"), *g.model()[1:]]), "gpt2"
    yield "adapter as model", g.file([*g.model(), g.pair("general.type", "str", "adapter")]), "is an adapter"
    yield "vocabulary as model", g.file(tensors=[]), "only a vocabulary"


def _not_counts(key: str, full: str) -> Lies:
    """What is no count, written where one belongs."""
    wrong = {"-1": ("i32", -1), "2^64-1": ("u64", 2**64 - 1), "2.0": ("f32", 2.0), "nan": ("f64", float("nan"))}
    wrong |= {"text": ("str", "2"), "yes": ("bool", True), "-2^63": ("i64", -(2**63))}
    for name, (kind, value) in wrong.items():
        pairs = [*g.model(**{key: None}), g.pair(full, kind, value)]
        yield f"{full} of {name}", g.file(pairs), f"{full} is .*, not a count"
    words = [*g.model(**{key: None}), g.array(full, "str", ["2", "2"])]
    yield f"{full} of words", g.file(words), f"{full} is .*, not a count"
