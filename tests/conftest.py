"""What holds for all tests: none is failed for its time, which on a busy machine says nothing."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("beast", deadline=None)
settings.load_profile("beast")
