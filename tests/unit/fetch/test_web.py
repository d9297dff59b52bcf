"""Which addresses are believed."""

from __future__ import annotations

import pytest

from beastd.fetch.web import is_safe_redirect


@pytest.mark.parametrize(
    ("asked", "came", "is_safe"),
    [
        ("https://a.org/x", "https://b.org/x", True),
        ("https://a.org/x", "http://b.org/x", False),
        ("https://a.org/x", "http://127.0.0.1/x", False),
        ("https://a.org/x", "https://localhost/x", False),
        ("http://localhost/x", "http://127.0.0.1:80/x", True),
        ("http://[::1]/x", "http://b.org/x", False),
    ],
)
def test_redirects_stay_encrypted_and_out_of_this_machine(asked: str, came: str, is_safe: bool) -> None:
    assert is_safe_redirect(asked, came) is is_safe
