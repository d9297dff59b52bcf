"""The disk tier of one worker: a thread that reads, writes and removes files, so that no step waits for a disk."""

from __future__ import annotations

import heapq
import itertools
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np

from beastd import kvfile
from beastd.engine.kvstate import State
from beastd.engine.shelf import Entry
from beastd.kvfile import BadFile
from beastd.kvfolder import KVFolder

MAX_FILES = 4096
"""Files of one model that are known after a start: those used last."""
SOON, LATER, AT_LEISURE = range(3)
"""What somebody waits for, what is saved before an end, and what else is written."""


class KVDisk:
    """The files of the entries. Its jobs run one after another in a thread that is there while there are any."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder = KVFolder(folder)
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        """Guards the jobs."""
        self._jobs: list[tuple[int, int, Callable[[], None]]] = []
        """A heap."""
        self._order = itertools.count()
        self._is_running = False
        self._is_failed = False
        self.n_dropped = 0
        """Files that were removed since they were damaged or another's."""

    def start(self, job: Callable[[], None], urgency: int) -> None:
        """Have the thread do this, before what is less urgent."""
        with self._lock:
            heapq.heappush(self._jobs, (urgency, next(self._order), job))
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="kv disk", daemon=True).start()

    def _run(self) -> None:
        while job := self._next():
            try:
                job()
            except Exception:  # a bug; what comes after it is still to be done
                traceback.print_exc()

    def _next(self) -> Callable[[], None] | None:
        with self._lock:
            self._is_running = bool(self._jobs)
            return heapq.heappop(self._jobs)[2] if self._jobs else None

    # --- what jobs do ---

    def found(self, identity: str) -> list[Entry]:
        """The entries on disk that were computed with this, the one used last first. For the caller's own thread."""
        entries: list[Entry] = []
        try:
            files = [it for it in self._folder.files() if it.name.startswith(f"{identity[:16]}-")]
        except OSError as error:
            self._fail(error)
            return []
        for file in files[: -MAX_FILES - 1 : -1]:
            try:
                header = self._folder.header(file.name)
                if header.meta.identity != identity:
                    raise BadFile("it is another model's")
            except (OSError, BadFile) as error:
                self._drop(file.name, error)
            else:
                entries.append(Entry(header.meta, header.tokens, header.state_bytes, name=file.name))
        return entries

    def read(self, entry: Entry) -> State | None:
        """An entry's state; None when it cannot be had, and its file removed when it is to blame."""
        try:
            state: State = np.empty(entry.n_bytes, np.uint8)
            with self._folder.open(entry.name) as file:
                header = kvfile.read_header(file)
                if (header.meta, header.tokens, header.state_bytes) != (entry.meta, entry.tokens, entry.n_bytes):
                    raise BadFile("it is another entry's")
                kvfile.read_state(file, header, state.data)
            self._folder.touch(entry.name)
        except (OSError, BadFile) as error:
            self._drop(entry.name, error)
            return None
        except MemoryError:
            return None
        return state

    def try_write(self, entry: Entry, state: State) -> str | None:
        """Write an entry, and return its file's name; None if it is too large, or cannot be had."""
        if self._is_failed:
            return None
        try:
            return self._folder.write(entry.meta, entry.tokens, state.data, most_bytes=self._most_bytes)
        except TimeoutError:
            return None
        except OSError as error:
            self._fail(error)
            return None

    def try_touch(self, name: str) -> bool:
        """Note that the file is wanted; False when it is gone."""
        try:
            self._folder.touch(name)
        except OSError:
            return False
        return True

    def remove(self, name: str) -> None:
        """Remove a file, if it is there; one that cannot be may lie there till others need its room."""
        try:
            self._folder.remove(name)
        except OSError as error:
            print(f"KV cache: {name} cannot be removed: {error}", file=sys.stderr, flush=True)

    def _drop(self, name: str, error: OSError | BadFile) -> None:
        """A file cannot be used: it goes, and is told of once, since it is gone then."""
        if isinstance(error, FileNotFoundError):  # another worker needed the room
            return
        self.n_dropped += 1
        print(f"KV cache: {name} is dropped: {error}", file=sys.stderr, flush=True)
        self.remove(name)

    def _fail(self, error: OSError) -> None:
        """The folder cannot be written: what is there may still be read."""
        if not self._is_failed:
            self._is_failed = True
            print(f"KV cache: nothing more is kept on disk: {error}", file=sys.stderr, flush=True)
