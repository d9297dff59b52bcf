"""A short run of the fuzzer; ``tests/fuzz/fuzz_gguf.py`` runs it for as long as one likes."""

from __future__ import annotations

from math import inf

from fuzz.fuzz_gguf import Fuzzer


def test_no_mutated_header_leads_to_anything_but_a_header_or_bad_model(tmp_path):
    """Three thousand inputs of a fixed seed, and all seeds: no other error, and no header larger than its file."""
    fuzzer = Fuzzer(seed=1, save_dir=tmp_path, max_s=inf, max_rss_bytes=inf)
    fuzzer.run_seeds()
    for _ in range(3000):
        fuzzer.run_one()
    assert fuzzer.findings == []
