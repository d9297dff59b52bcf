"""A tree of the token runs in the KV cache: what sequences have in common at their beginning lies there once. Pure.

The idea of SGLang's RadixAttention, at the granularity of tokens: llama.cpp's cells are a token each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from beastd.engine.adapters import AdapterSet, renamed


@dataclass(slots=True, eq=False)
class Slot:
    """One llama.cpp sequence id and the tokens whose keys and values it holds."""

    index: int
    tokens: list[int] = field(default_factory=list)
    adapters: AdapterSet = ()
    is_busy: bool = False
    last_used: int = 0
    """Order of release: larger is more recent, 0 never used."""
    tail: Run | None = None
    """Where its tokens end; None while it has none."""


@dataclass(slots=True, eq=False)
class Run:
    """Tokens that follow each other, in cells that the same slots share."""

    parent: Run | None
    tokens: list[int]
    end: int
    """Position after its last token."""
    children: list[Run] = field(default_factory=list)
    tails: set[Slot] = field(default_factory=set)
    """Slots whose tokens end here."""

    @property
    def start(self) -> int:
        """Position of its first token."""
        return self.end - len(self.tokens)

    @property
    def is_used(self) -> bool:
        """Some slot holds it."""
        return bool(self.children or self.tails)

    def slots(self) -> Iterator[Slot]:
        """Every slot that holds it."""
        yield from self.tails
        for child in self.children:
            yield from child.slots()


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix, by bisection over slices (list equality runs at C speed)."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


class PrefixTree:
    """One root for each set of adapters: KV computed with one is worthless to another."""

    def __init__(self) -> None:
        self._roots: dict[AdapterSet, Run] = {}
        self.n_cells = 0
        """Tokens in all runs: the cells they take."""

    # --- what is there ---

    def shared(self, adapters: AdapterSet, prompt: Sequence[int]) -> dict[Slot, int]:
        """Slot → how many of the prompt's first tokens it holds, for those that hold any."""
        found: dict[Slot, int] = {}
        if root := self._roots.get(adapters):
            _gather(root, prompt, found)
        return found

    @staticmethod
    def path(slot: Slot) -> Iterator[Run]:
        """The runs of a slot's tokens, the last one first."""
        run = slot.tail
        while run is not None and run.parent is not None:
            yield run
            run = run.parent

    @staticmethod
    def own_start(slot: Slot) -> int:
        """Position from which on no other slot shares its cells."""
        run = slot.tail
        while run is not None and run.parent is not None and len(run.children) + len(run.tails) == 1:
            run = run.parent
        return run.end if run else 0

    # --- what changes ---

    def extend(self, slot: Slot, tokens: list[int]) -> None:
        """The slot holds these tokens more, in cells of its own."""
        if not tokens:
            return
        tail = slot.tail or self._roots.setdefault(slot.adapters, Run(None, [], 0))
        if tail.parent is None or tail.children or len(tail.tails) > 1:
            parent, tail = tail, Run(tail, [], tail.end)
            parent.children.append(tail)
            self._move(slot, tail)
        tail.tokens += tokens
        tail.end += len(tokens)
        slot.tokens += tokens
        self.n_cells += len(tokens)

    def share(self, source: Slot, target: Slot, n: int) -> None:
        """The empty target holds the source's first ``n`` tokens, in the same cells."""
        assert not target.tokens, "only an empty slot can share"
        assert target.adapters == source.adapters, "KV of one set of adapters is worthless to another"
        if n:
            self._move(target, self._run_ending(source, n))
            target.tokens += source.tokens[:n]

    def cut(self, slot: Slot, n: int) -> None:
        """The slot holds its first ``n`` tokens only; what nobody else holds is gone."""
        if n >= len(slot.tokens):
            return
        self._move(slot, self._run_ending(slot, n) if n else None)
        del slot.tokens[n:]

    def rename(self, path: str, name: str) -> None:
        """The adapter goes by another name."""
        self._roots = {renamed(adapters, path, name): root for adapters, root in self._roots.items()}

    def _run_ending(self, slot: Slot, n: int) -> Run:
        """The run of the slot's path that ends at position ``n``; made by splitting one, where there is none."""
        run = next(run for run in self.path(slot) if run.start < n)
        return run if run.end == n else _split(run, n - run.start)

    def _move(self, slot: Slot, run: Run | None) -> None:
        """Have a slot's tokens end with this run; frees the runs that nobody holds any more."""
        before, slot.tail = slot.tail, run
        if run is not None:
            run.tails.add(slot)
        if before is not None:
            before.tails.discard(slot)
            self._free(before, slot.adapters)

    def _free(self, run: Run, adapters: AdapterSet) -> None:
        """Drop the run and those before it that nobody holds any more; join two that no branch divides any more."""
        while run.parent is not None and not run.is_used:
            self.n_cells -= len(run.tokens)
            run.parent.children.remove(run)
            run = run.parent
        if run.parent is None and not run.children:
            self._roots.pop(adapters, None)
        elif run.parent is not None and len(run.children) == 1 and not run.tails:
            _join(run)

    def check_integrity(self, slots: Sequence[Slot]) -> None:
        """Assert what must always hold of the tree and these, all its slots; for tests."""
        found: set[Slot] = set()
        n_cells = 0
        for root in self._roots.values():
            assert (root.tokens, root.end, root.tails) == ([], 0, set())
            for run in _descendants(root):
                assert run.parent is not None
                assert run in run.parent.children
                assert run.tokens
                assert run.start == run.parent.end
                assert run.tails or len(run.children) > 1, "a run that nothing divides from the next"
                n_cells += len(run.tokens)
                found |= run.tails
        assert n_cells == self.n_cells
        assert found == {slot for slot in slots if slot.tokens}
        for slot in slots:
            path = [token for run in reversed(list(self.path(slot))) for token in run.tokens]
            assert path == slot.tokens, f"slot {slot.index}"


def _gather(run: Run, prompt: Sequence[int], found: dict[Slot, int]) -> None:
    """Note for every slot below a run that the prompt shares whole how much it shares in all."""
    for slot in run.tails:
        found[slot] = run.end
    for child in run.children:
        if run.end == len(prompt) or child.tokens[0] != prompt[run.end]:
            n = run.end
        else:
            n = run.end + common_prefix(child.tokens, prompt[run.end : child.end])
        if n == child.end:
            _gather(child, prompt, found)
        elif n:
            found.update(dict.fromkeys(child.slots(), n))


def _split(run: Run, n: int) -> Run:
    """Divide a run after its first ``n`` tokens; returns the first part."""
    assert run.parent is not None
    assert 0 < n < len(run.tokens)
    upper = Run(run.parent, run.tokens[:n], run.start + n, children=[run])
    run.parent.children[run.parent.children.index(run)] = upper
    run.parent = upper
    del run.tokens[:n]
    return upper


def _join(run: Run) -> None:
    """Make one of a run and its only child."""
    (child,) = run.children
    assert run.parent is not None
    child.tokens[:0] = run.tokens
    child.parent = run.parent
    run.parent.children[run.parent.children.index(run)] = child


def _descendants(run: Run) -> Iterator[Run]:
    for child in run.children:
        yield child
        yield from _descendants(child)
