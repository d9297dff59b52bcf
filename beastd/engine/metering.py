"""What rendering a template costs: the meter that ends it, and where templates are metered."""

from __future__ import annotations

import time
from collections.abc import ItemsView, KeysView, ValuesView
from typing import Any

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

MAX_PROCESSOR_S = 2.0
MAX_NODES = 100_000
"""Values one container may hold, those in containers inside of it counted each time they appear."""


class LimitExceeded(Exception):
    """The template asked for more work, memory or time than rendering may take."""


class Meter:
    """The work one rendering may still do: a unit is a loop turn, a call, a character made or a value held."""

    def __init__(self, n_units: int) -> None:
        self._n_units = n_units
        self._end_s = time.thread_time() + MAX_PROCESSOR_S

    def charge(self, n_units: int = 1) -> None:
        """Use up some of it. Raises ``LimitExceeded``."""
        self._n_units -= n_units
        if self._n_units < 0:
            raise LimitExceeded("it makes too much text or loops too often")
        if time.thread_time() > self._end_s:
            raise LimitExceeded(f"it takes more than {MAX_PROCESSOR_S:.0f} s of processor time")


class Metering(NodeTransformer):
    """Puts the parts of a template that the sandbox has no hook for through filters of ours."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: D102, N802
        self.generic_visit(node)
        node.iter = _through("beast_turns", node.iter)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: D102, N802
        self.generic_visit(node)
        return _through("join", nodes.List(node.nodes, lineno=node.lineno))

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: D102, N802
        self.generic_visit(node)
        return _through("beast_checked", node) if node.ctx == "load" else node

    def visit_List(self, node: nodes.Literal) -> nodes.Node:  # noqa: D102, N802
        self.generic_visit(node)
        return _through("beast_checked", node)

    visit_Dict = visit_List  # noqa: N815

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: D102, N802
        self.generic_visit(node)
        return _through("beast_sliced", node) if isinstance(node.arg, nodes.Slice) else node


def _through(name: str, node: nodes.Node) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def size_of(value: Any) -> int:
    """Characters a value takes when printed, about. Raises ``LimitExceeded`` over ``MAX_NODES`` values."""
    n_chars = n_nodes = 0
    stack = [value]
    while stack:
        item = stack.pop()
        n_nodes += 1
        if isinstance(item, str):
            n_chars += len(item)
        elif isinstance(item, dict):
            stack += item.keys()
            stack += item.values()
        elif isinstance(item, (list, tuple, KeysView, ValuesView, ItemsView)):
            stack += item
        if n_nodes + len(stack) > MAX_NODES:
            raise LimitExceeded("it builds values that hold too much")
    return n_chars + n_nodes
