"""The KV state of one sequence as llama.cpp saves it, fitted to a context with another number of streams. Pure.

A partitioned cache has a stream for each sequence, a unified one a single stream, and a state names the cells of every
stream: of all but the sequence's own, none. llama.cpp refuses a state with another number of streams, though the cells
are the same (``llama_kv_cache::state_read_sinfo``).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

State = npt.NDArray[np.uint8]
"""Magic, sequence, number of streams, then each stream's number of cells (32 bits each) and the cells."""

_HEADER_BYTES = 12
_COUNT_BYTES = 4


def with_streams(state: State, n_streams: int) -> State:
    """The same cells in a state of ``n_streams`` streams. The state must be of a plain cache, and of one sequence."""
    n_before = int(state[8:_HEADER_BYTES].view(np.uint32)[0])
    if n_before == n_streams:
        return state
    counts = state[_HEADER_BYTES : _HEADER_BYTES + n_before * _COUNT_BYTES].view(np.uint32)
    used = np.flatnonzero(counts)
    own = int(used[0]) if len(used) else 0
    end = len(state) - (n_before - 1 - own) * _COUNT_BYTES
    cells = state[_HEADER_BYTES + own * _COUNT_BYTES : end]
    head = np.concatenate([state[:8], np.array([n_streams], np.uint32).view(np.uint8)])
    # It is read into the sequence's own stream wherever it stands.
    return np.concatenate([head, cells, np.zeros((n_streams - 1) * _COUNT_BYTES, np.uint8)])
