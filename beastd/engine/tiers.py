"""Beyond the cache: KV of prefixes that left it, kept in memory as far as it may, then on disk.

The engine's thread asks and gives; nothing it calls waits for a disk, ``flush`` apart.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from importlib.metadata import version
from pathlib import Path

from beastd import ipc, kvfile
from beastd.engine.adapters import AdapterSet
from beastd.engine.kvdisk import AT_LEISURE, LATER, SOON, KVDisk
from beastd.engine.kvstate import State
from beastd.engine.shelf import Entry, Shelf, packed
from beastd.kvfile import AdapterFile, Meta

MIN_TOKENS = 32
"""Shorter prefixes are computed as fast as they are fetched."""
QUEUE_BYTES = 64 * 2**20
"""States that may wait to be written, above one; a disk that is slower loses the others."""
READ_BYTES = 256 * 2**20
"""States that were read and wait to be taken, above one."""
ABANDONED_S = 5.0
"""A state that nobody has asked for so long leaves when others need the room."""
READ_LIMIT_S = 15.0
"""A state that is not there by then is given up: its file is as good as lost."""


class Pending(Enum):
    """A state is being read."""

    PENDING = "pending"


PENDING = Pending.PENDING


@dataclass(frozen=True, slots=True)
class Found:
    """An entry that begins as a prompt does."""

    entry: Entry
    n_usable: int
    """Tokens of the prompt whose KV there is when the state has been restored after the first ``start``."""
    n_have: int
    """Tokens whose KV there was."""

    @property
    def start(self) -> int:
        """The state holds KV from this token on."""
        return self.entry.meta.start

    @property
    def n_tokens(self) -> int:
        """Of the entry: KV of those after ``n_usable`` is to be dropped after the restore."""
        return self.entry.n_tokens

    @property
    def is_in_memory(self) -> bool:
        """It can be read at once."""
        return self.entry.state is not None


@dataclass(frozen=True, slots=True)
class TierStats:
    """What the tiers of one worker hold now, and have done since its load; see ipc.EngineStats for meanings."""

    n_tier_memory: int = 0
    tier_memory_bytes: int = 0
    n_tier_disk: int = 0
    tier_disk_bytes: int = 0
    n_tier_hits: int = 0
    n_tier_tokens: int = 0
    n_tier_dropped: int = 0


@dataclass(slots=True)
class _Reading:
    """A state that is read for somebody."""

    since_s: float
    asked_s: float
    state: State | None = None


class Tiers:
    """Entries by model, adapters and tokens. One engine's thread calls it; with settings None it keeps nothing."""

    def __init__(
        self,
        settings: ipc.KvTiers | None,
        identity: str,
        label: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``identity``: see identity_of. Looks through the folder, which takes a moment."""
        self._settings = settings or ipc.KvTiers(folder="", memory_bytes=0, disk_bytes=0)
        self._disk = KVDisk(Path(settings.folder), settings.disk_bytes) if settings and settings.disk_bytes else None
        self._clock = clock
        self._changed = threading.Condition()
        """Guards all that follows."""
        self._shelves: dict[tuple[str, tuple[AdapterFile, ...]], Shelf] = {}
        self._memory: OrderedDict[Entry, None] = OrderedDict()
        """Least recently used first."""
        self._memory_bytes = self._queue_bytes = 0
        self._readings: dict[Entry, _Reading] = {}
        self._adapter_files: dict[str, tuple[int, int]] = {}
        """Size and time of each adapter's file when it was first named: before it was read."""
        self._unit_bytes = 0.0
        """Least that a state took: all of it where states cannot be cut, else each of its tokens; 0: unknown."""
        self._n_hits = self._n_restored = 0
        self._identity = self._label = ""
        self.become(identity, label)

    @property
    def is_on(self) -> bool:
        """Whether anything is ever kept."""
        return bool(self._identity) and bool(self._settings.memory_bytes or self._disk)

    def become(self, identity: str, label: str = "") -> None:
        """From now on KV is computed with this; that of before is found again when it is this again."""
        if identity == self._identity:
            return
        self._identity, self._label, self._unit_bytes = identity, label, 0.0
        if not identity or not self._disk:
            return
        found = self._disk.found(identity)
        with self._changed:
            for entry in reversed(found):
                self._take_file(entry)

    # --- in ---

    def put(self, adapters: AdapterSet, tokens: Sequence[int], start: int, state: State, *, is_exact: bool) -> None:
        """Keep the KV of tokens[start:], computed after tokens[:start]; the state is not copied, and must not change.

        ``is_exact``: a state of this model cannot be cut, so that a longer one does not do for a shorter one.
        """
        entry = self._entry(adapters, tokens, start, state)
        if entry is None:
            return
        unit_bytes = len(state) / (1 if is_exact else len(tokens) - start)
        self._unit_bytes = min(self._unit_bytes or unit_bytes, unit_bytes)
        with self._changed:
            shelf = self._shelf_of(entry)
            if (there := _covering(shelf, entry, is_exact=is_exact)) is not None:
                self._use(there)
                return
            for old in _covered(shelf, entry, is_exact=is_exact):
                self._replace(old, entry)
            shelf.add(entry)
            self._memory[entry] = None
            self._memory_bytes += entry.n_bytes
            if entry.n_bytes > self._settings.memory_bytes:  # the others need not make room for it
                self._retire(entry)
            while self._memory_bytes > self._settings.memory_bytes:
                self._retire(next(iter(self._memory)))

    def wants(self, adapters: AdapterSet, tokens: Sequence[int], start: int, *, is_exact: bool) -> bool:
        """Whether ``put`` would keep this, so that getting its state is worth the time.

        Its size is estimated by what was put before.
        """
        entry = self._entry(adapters, tokens, start, None)
        if entry is None:
            return False
        with self._changed:
            there = _covering(self._shelf_of(entry), entry, is_exact=is_exact)
            if there is not None:
                self._use(there)
            n_bytes = int(self._unit_bytes * (1 if is_exact else len(tokens) - start))
            return there is None and self._has_room_for(n_bytes)

    # --- out ---

    def find(self, adapters: AdapterSet, prompt: Sequence[int], n_have: int, *, is_exact: bool) -> Found | None:
        """The entry that brings the prompt furthest, beyond the ``n_have`` tokens whose KV there is; None if none does.

        At most all but the prompt's last token. ``is_exact``: only a whole entry that begins with the first token.
        """
        files = self._files_of(adapters) if self.is_on and len(prompt) > max(n_have, MIN_TOKENS) else None
        if files is None:
            return None
        usable = packed(prompt[:-1])
        with self._changed:
            shelf = self._shelves.get((self._identity, files))
            if shelf is None:
                return None
            if is_exact:
                whole = next((it for it in shelf.beginnings(usable) if it.meta.start == 0), None)
                return Found(whole, whole.n_tokens, n_have) if whole and whole.n_tokens > n_have else None
            found = shelf.furthest(usable, n_have)
            return Found(*found, n_have) if found else None

    def read(self, found: Found) -> State | Pending | None:
        """The entry's state: at once from memory; from disk PENDING until it is there.

        None when it is lost, or takes too long: then it is never found again. Not to be changed.
        """
        entry = found.entry
        with self._changed:
            state = entry.state
            if state is not None:
                self._use(entry)
            elif (reading := self._reading(entry)) is not None:
                if reading.state is None:
                    return PENDING
                state = self._readings.pop(entry).state
                self._changed.notify_all()
            if state is not None:
                self._n_hits += 1
                self._n_restored += found.n_usable - found.n_have
            return state

    def is_reading(self, found: Found, limit_s: float) -> bool:
        """Whether ``read`` would be PENDING, and has been for no longer than this; it is being read from now on."""
        with self._changed:
            reading = None if found.is_in_memory else self._reading(found.entry)
            return reading is not None and reading.state is None and self._clock() - reading.since_s <= limit_s

    def flush(self, limit_s: float) -> None:
        """Move what is in memory to disk, most recently used first, for so many seconds at most."""
        with self._changed:
            self._sweep()
            for entry in reversed(self._memory):
                self._write(entry, LATER)
            self._changed.wait_for(lambda: not self._queue_bytes, limit_s)

    # --- no more ---

    def detach(self, path: str) -> None:
        """This adapter's file may change: KV that was computed with it is never found again."""
        self._adapter_files.pop(path, None)
        self._forget_all(lambda entry: any(file.path == path for file in entry.meta.adapters))

    def clear(self) -> None:
        """Forget everything, files included."""
        self._forget_all(lambda _: True)

    @property
    def stats(self) -> TierStats:
        """As of now."""
        with self._changed:
            entries = [entry for shelf in self._shelves.values() for entry in shelf]
            in_memory = [entry.n_bytes for entry in entries if entry.state is not None]
            on_disk = [entry.n_bytes for entry in entries if entry.name]
            return TierStats(
                n_tier_memory=len(in_memory),
                tier_memory_bytes=sum(in_memory),
                n_tier_disk=len(on_disk),
                tier_disk_bytes=sum(on_disk),
                n_tier_hits=self._n_hits,
                n_tier_tokens=self._n_restored,
                n_tier_dropped=self._disk.n_dropped if self._disk else 0,
            )

    # --- entries; all under the lock ---

    def _entry(self, adapters: AdapterSet, tokens: Sequence[int], start: int, state: State | None) -> Entry | None:
        """What this would be kept as; None if it is not to be kept at all."""
        files = self._files_of(adapters) if self.is_on and len(tokens) - start >= MIN_TOKENS else None
        if files is None:
            return None
        meta = Meta(identity=self._identity, label=self._label, adapters=files, start=start)
        return Entry(meta, packed(tokens), 0 if state is None else len(state), state)

    def _shelf_of(self, entry: Entry) -> Shelf:
        return self._shelves.setdefault((entry.meta.identity, entry.meta.adapters), Shelf())

    def _files_of(self, adapters: AdapterSet) -> tuple[AdapterFile, ...] | None:
        """The set as it is known across restarts; None when there is no such file, or it was detached."""
        files: list[AdapterFile] = []
        for path, scale in adapters:
            if path not in self._adapter_files:
                try:
                    found = Path(path).stat()
                except OSError:
                    return None
                self._adapter_files[path] = found.st_size, found.st_mtime_ns
            files.append(AdapterFile(path, scale, *self._adapter_files[path]))
        return tuple(files)

    def _take_file(self, entry: Entry) -> None:
        """An entry was found on disk."""
        shelf = self._shelf_of(entry)
        same = shelf.same(entry.tokens)
        if same is not None and same.meta.start > entry.meta.start:
            self._forget(same)
            same = None
        if same is None:
            shelf.add(entry)

    def _use(self, entry: Entry) -> None:
        """It is wanted: it leaves after all others."""
        if entry in self._memory:
            self._memory.move_to_end(entry)
        if entry.name and self._disk:
            self._disk.start(partial(self._touch, entry), AT_LEISURE)

    def _retire(self, entry: Entry) -> None:
        """It leaves memory: for the disk, or for good."""
        if entry.is_queued:
            self._leave_memory(entry)
        elif not self._can_queue(entry.n_bytes):
            self._forget(entry)
        else:
            self._leave_memory(entry)
            self._write(entry, AT_LEISURE)

    def _has_room_for(self, n_bytes: int) -> bool:
        """Whether a new state of this size would be kept."""
        return n_bytes <= self._settings.memory_bytes or self._can_queue(n_bytes)

    def _can_queue(self, n_bytes: int) -> bool:
        """Whether the disk can have it soon enough."""
        if not self._disk or n_bytes > self._settings.disk_bytes:
            return False
        return not self._queue_bytes or self._queue_bytes + n_bytes <= QUEUE_BYTES

    def _leave_memory(self, entry: Entry) -> None:
        if entry in self._memory:
            del self._memory[entry]
            self._memory_bytes -= entry.n_bytes

    def _forget(self, entry: Entry) -> None:
        """It is no more, though its file may stay until another makes it superfluous."""
        entry.is_gone = True
        self._leave_memory(entry)
        if not entry.is_queued:
            entry.state = None
        self._readings.pop(entry, None)
        self._shelves[entry.meta.identity, entry.meta.adapters].remove(entry)
        self._changed.notify_all()

    def _replace(self, old: Entry, entry: Entry) -> None:
        """The new entry does for an old one; what is on disk stays until the new one is, which may never come there."""
        entry.replaces += old.replaces
        if old.name:
            entry.replaces += (old,)
        if not old.name or old.tokens == entry.tokens:
            self._forget(old)

    def _forget_all(self, is_meant: Callable[[Entry], bool]) -> None:
        with self._changed:
            entries = [entry for shelf in self._shelves.values() for entry in shelf if is_meant(entry)]
            for entry in entries:
                self._forget(entry)
            self._remove({it.name for entry in entries for it in (entry, *entry.replaces) if it.name})

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            if self._disk:
                self._disk.start(partial(self._disk.remove, name), SOON)

    # --- reading and writing ---

    def _reading(self, entry: Entry) -> _Reading | None:
        """What is under way for the entry, begun if need be; None if there is nothing to read."""
        now_s = self._clock()
        if entry.is_gone or not self._disk:
            return None
        if entry not in self._readings:
            self._readings[entry] = _Reading(now_s, now_s)
            self._disk.start(partial(self._read, entry), SOON)
        reading = self._readings[entry]
        reading.asked_s = now_s
        if reading.state is None and now_s - reading.since_s > READ_LIMIT_S:
            self._forget(entry)
            return None
        return reading

    def _sweep(self) -> None:
        """Drop what was read and nobody asks for any more."""
        now_s = self._clock()
        for entry, reading in [*self._readings.items()]:
            if now_s - reading.asked_s > ABANDONED_S:
                del self._readings[entry]

    def _has_read_room(self, entry: Entry) -> bool:
        self._sweep()
        held = [it.n_bytes for it, reading in self._readings.items() if reading.state is not None]
        return entry not in self._readings or not held or sum(held) + entry.n_bytes <= READ_BYTES

    def _write(self, entry: Entry, urgency: int) -> None:
        if self._disk and not entry.is_queued:
            entry.is_queued = True
            self._queue_bytes += entry.n_bytes
            self._disk.start(partial(self._save, entry), urgency)

    # --- in the disk's thread ---

    def _read(self, entry: Entry) -> None:
        assert self._disk
        with self._changed:
            while not self._has_read_room(entry):
                self._changed.wait(1)
            if entry not in self._readings:
                return
        state = self._disk.read(entry)
        with self._changed:
            if state is None and not entry.is_gone:
                self._forget(entry)
            elif entry in self._readings:
                self._readings[entry].state = state
            self._changed.notify_all()

    def _save(self, entry: Entry) -> None:
        assert self._disk
        state = entry.state
        name = None if entry.is_gone or state is None else self._disk.try_write(entry, state)
        with self._changed:
            self._queue_bytes -= entry.n_bytes
            entry.is_queued = False
            if name and entry.is_gone:
                self._disk.remove(name)
            elif name:
                self._leave_memory(entry)
                entry.name, entry.state = name, None
                for old in entry.replaces:
                    if not old.is_gone:
                        self._forget(old)
                self._remove({it.name for it in entry.replaces} - {name})
                entry.replaces = ()
            elif not entry.is_gone and entry not in self._memory:
                self._forget(entry)
            self._changed.notify_all()

    def _touch(self, entry: Entry) -> None:
        assert self._disk
        if not self._disk.try_touch(entry.name):
            with self._changed:
                if not entry.is_gone and entry.state is None:
                    self._forget(entry)


def identity_of(load: ipc.Load) -> str:
    """What makes KV worthless to another context, in hex: the file, how its KV is stored, llama.cpp; "" if unknown."""
    if not load.digest:
        return ""
    what = (load.digest, load.settings.kv_type, load.settings.flash_attn, version("llama-cpp-python"), kvfile.VERSION)
    return hashlib.blake2b(repr(what).encode(), digest_size=20).hexdigest()


def _covering(shelf: Shelf, entry: Entry, *, is_exact: bool) -> Entry | None:
    """An entry that does for all that this one does for."""
    same = shelf.same(entry.tokens)
    there = [same] if same else () if is_exact else shelf.continuations(entry.tokens)
    return next((it for it in there if it.meta.start <= entry.meta.start), None)


def _covered(shelf: Shelf, entry: Entry, *, is_exact: bool) -> list[Entry]:
    """The entries that this one does for."""
    same = shelf.same(entry.tokens)
    there = [same] if same and is_exact else () if is_exact else shelf.beginnings(entry.tokens)
    return [it for it in there if it.meta.start >= entry.meta.start]
