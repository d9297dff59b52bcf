"""The variables of a Go template: which one a name means, and what it is called in Jinja."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from beastd.registry.gotemplate.values import Kind, Value

_OTHERS = re.compile(r"[^a-z]+")


class Scopes:
    """Names in scope, innermost last. No two variables share a name in Jinja, so that none hides another."""

    def __init__(self) -> None:
        self._scopes: list[dict[str, Value]] = [{"$": Value("true", Kind.ROOT)}]
        self._used: set[str] = set()
        self._n_names = 0

    @contextmanager
    def inner(self) -> Iterator[None]:
        """What is set inside is gone after it."""
        self._scopes.append({})
        yield
        self._scopes.pop()

    def set(self, name: str, value: Value) -> None:
        """Let the name mean this value, up to the end of its block."""
        self._scopes[-1][name] = value

    def get(self, name: str) -> Value | None:
        """What the name means here, if anything."""
        found = next((scope[name] for scope in reversed(self._scopes) if name in scope), None)
        if found is not None:
            self._used.add(found.jinja)
        return found

    def is_used(self, value: Value) -> bool:
        """Whether a name was found to mean it."""
        return value.jinja in self._used

    def names(self) -> list[str]:
        """All names in scope."""
        return [name for scope in self._scopes for name in scope]

    def new_name(self, name: str) -> str:
        """A name for Jinja that reminds of this one."""
        self._n_names += 1
        return f"{_OTHERS.sub('', name.lower()) or 'x'}{self._n_names}"
