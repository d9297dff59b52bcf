"""The mark that tells our own files from edited ones."""

from __future__ import annotations

import pytest

from beastctl.service.stamp import is_untouched, stamped


def test_a_file_we_wrote_is_known() -> None:
    """Wherever the mark stands."""
    assert is_untouched(stamped("a\nb\n"))
    assert is_untouched(stamped("a\nb\n", line=1, comment="<!-- {} -->"))


@pytest.mark.parametrize("edited", [stamped("a\nb\n") + "c\n", stamped("a\nb\n").replace("b", "B"), "a\nb\n", ""])
def test_an_edited_file_is_not_ours_to_replace(edited: str) -> None:
    """Nor is one without the mark."""
    assert not is_untouched(edited)
