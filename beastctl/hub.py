"""The client's own token for the hub: the daemon, started by whoever came first, has another environment."""

from __future__ import annotations

import os
from typing import Any

TOKEN_NAMES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
"""As huggingface_hub reads them, in this order."""


def with_token(request: dict[str, Any]) -> dict[str, Any]:
    """The request, with the token of this environment if it has one."""
    found = (os.environ.get(name, "").strip() for name in TOKEN_NAMES)
    token = next(filter(None, found), None)
    return request | {"token": token} if token else request
