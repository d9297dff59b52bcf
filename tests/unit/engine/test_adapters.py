"""Which adapter files are in memory, and which of them leave it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from beastd.engine.adapters import MAX_IDLE, Attached

NAMES = [f"adapter {i}" for i in range(MAX_IDLE + 8)]


class Shelf:
    """Adapters whose handles are numbers; each is freed once, and never used again."""

    def __init__(self) -> None:
        self.reads: list[str] = []
        self.freed: set[int] = set()
        self.attached = Attached(self._read)
        self._n_detached = 0

    def _read(self, path: str) -> int:
        self.reads.append(path)
        return len(self.reads)

    def use(self, path: str) -> int:
        handle = self.attached.handle(path)
        assert handle not in self.freed
        return handle

    def detach(self, path: str) -> str:
        self._n_detached += 1
        name = f"{path} was {self._n_detached}"
        return name if self.attached.detach(path, name) else path

    def free(self, *in_use: str) -> None:
        for path in self.attached.leaving(set(in_use)):
            assert path not in in_use
            handle = self.attached.pop(path)
            assert handle not in self.freed
            self.freed.add(handle)


def test_a_file_is_read_once() -> None:
    shelf = Shelf()
    assert shelf.use("a") == shelf.use("a")
    assert shelf.reads == ["a"]


def test_idle_adapters_stay_up_to_a_number_and_the_least_recently_used_go_first() -> None:
    shelf = Shelf()
    for name in NAMES:
        shelf.use(name)
    first = shelf.use(NAMES[0])
    shelf.free(NAMES[1])
    assert len(shelf.attached) == MAX_IDLE + 1
    assert first not in shelf.freed
    assert shelf.freed == set(range(3, len(NAMES) - MAX_IDLE + 2))


def test_a_detached_adapter_is_freed_as_soon_as_nobody_uses_it() -> None:
    shelf = Shelf()
    handle = shelf.use("a")
    name = shelf.detach("a")
    shelf.free(name)
    assert shelf.use(name) == handle
    shelf.free()
    assert shelf.freed == {handle}


def test_a_detached_file_is_read_anew_while_the_old_one_is_in_use() -> None:
    shelf = Shelf()
    old = shelf.use("a")
    name = shelf.detach("a")
    new = shelf.use("a")
    assert new != old
    shelf.free("a", name)
    assert not shelf.freed
    shelf.free("a")
    assert shelf.freed == {old}


def test_what_was_never_read_needs_no_detaching() -> None:
    assert not Attached(str).detach("a", "b")


@given(st.lists(st.tuples(st.sampled_from(["use", "end", "detach", "free"]), st.sampled_from(NAMES)), max_size=150))
def test_whoever_uses_an_adapter_keeps_what_it_was_read_as(events: list[tuple[str, str]]) -> None:
    shelf = Shelf()
    users: dict[str, int] = {}
    for what, path in events:
        if what == "use":
            users[path] = shelf.use(path)
        elif what == "end":
            users.pop(path, None)
        elif what == "detach":
            name = shelf.detach(path)
            if path in users:
                users[name] = users.pop(path)
        else:
            shelf.free(*users)
            assert len(shelf.attached) <= MAX_IDLE + len(users)
        assert {name: shelf.use(name) for name in users} == users
