"""llama.cpp as the engine needs it: load, tokenize, decode, forget. With grammar, all a worker knows of llama_cpp.

Functions are llama-cpp-python's low-level bindings (``llama_cpp.llama_cpp``), named as in ``llama.h``.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections import Counter, deque
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Protocol

import llama_cpp.llama_cpp as lib
import numpy as np
import numpy.typing as npt

from beastd.engine.adapters import AdapterSet, Attached, renamed
from beastd.engine.kvstate import State, with_streams
from beastd.engine.memory import give_back
from beastd.engine.pages import unload_pages
from beastd.engine.speculative import LONGEST_DRAFT, MOST_DRAFTED
from beastd.engine.threads import default_threads
from beastd.errors import BadModel, BeastError, LoadFailed, OutOfMemory
from beastd.ipc import Load

FloatArray = npt.NDArray[np.float32]

_FLASH_ATTN = {"auto": -1, "off": 0, "on": 1}
_KV_TYPE = {"f16": 1, "q8_0": 8, "q4_0": 2}
_GGML_LOG_DEBUG, _GGML_LOG_INFO, _GGML_LOG_ERROR, _GGML_LOG_CONT = 1, 2, 4, 5
_BUFFER_SIZE = re.compile(r"(\S+)\s+(model|KV|RS|output|compute) buffer size =\s+([\d.]+) MiB")
_NO_MEMORY = re.compile(r"(?:failed|unable) to allocate|bad_alloc|out of memory|Cannot allocate memory", re.IGNORECASE)
_SPARE_MEMORY = "free memory, or try a smaller variant, a smaller context or fewer parallel sequences"
_WARM_UP_TOKENS = 64
_N_KEPT = 31
"""Ended sequences whose prefixes a unified cache keeps, as far as there are cells, besides those that run."""
_MOST_SEQUENCES = 256
"""``LLAMA_MAX_SEQ``."""
_N_LANDMARKS = 64
"""Tokens whose texts tell one vocabulary from another of the same size."""


class DecodeError(Exception):
    """``llama_decode`` refused or failed a batch; ``code`` is its return value."""

    def __init__(self, code: int) -> None:
        super().__init__(f"llama_decode returned {code}")
        self.code = code


class _LogTap:
    """Passes llama.cpp's log to stderr, and keeps what errors must quote and buffers took."""

    def __init__(self) -> None:
        self.errors: deque[str] = deque(maxlen=4)
        self.buffer_bytes: Counter[tuple[str, str]] = Counter()
        """(Buffer type as "CPU_REPACK", what it is for as "model") → bytes."""
        self.is_quiet = False
        """Until the next step is computed, only warnings and errors count: llama.cpp plans it at length, again."""
        self._level = 0
        self.callback = lib.llama_log_callback(self._on_log)
        """Must outlive every call into the library: a collected callback is a segmentation fault."""

    def _on_log(self, level: int, text: bytes, _user_data: object) -> None:
        if level != _GGML_LOG_CONT:  # which goes on with the line before
            self._level = level
        if self._level == _GGML_LOG_DEBUG or (self.is_quiet and self._level == _GGML_LOG_INFO):
            return
        line = text.decode("utf-8", "replace")
        sys.stderr.write(line)
        if level == _GGML_LOG_ERROR:
            self.errors.append(line.strip())
        if found := _BUFFER_SIZE.search(line):
            self.buffer_bytes[found[1], found[2]] += int(float(found[3]) * 2**20)

    def forget_buffers(self, *, of_model: bool) -> None:
        """These were freed: those of the model, or those of the context."""
        for key in [key for key in self.buffer_bytes if (key[1] == "model") is of_model]:
            del self.buffer_bytes[key]


class Piece(Protocol):
    """Tokens of one sequence in one step: a ``Chunk``, or what a draft is made with."""

    @property
    def slot(self) -> int:
        """llama.cpp's sequence id."""

    @property
    def tokens(self) -> list[int]:
        """In order."""

    @property
    def start(self) -> int:
        """Position of the first."""

    @property
    def n_outputs(self) -> int:
        """How many of the last ones want logits."""


class Batch:
    """A reusable ``llama_batch`` over numpy arrays: filling a step costs a few slice assignments."""

    def __init__(self, n_most: int, n_slots: int, n_ctx: int) -> None:
        self._token = np.zeros(n_most, np.int32)
        self._pos = np.zeros(n_most, np.int32)
        self._n_seq = np.ones(n_most, np.int32)
        self._seq_ids = np.arange(n_slots, dtype=np.int32)
        self._seq_pointers = [self._seq_ids.ctypes.data + 4 * slot for slot in range(n_slots)]
        self._seq = np.zeros(n_most, np.uint64)
        self._logits = np.zeros(n_most, np.int8)
        self._positions = np.arange(n_ctx + 1, dtype=np.int32)
        self.native = lib.llama_batch()
        for name, array in (
            ("token", self._token),
            ("pos", self._pos),
            ("n_seq_id", self._n_seq),
            ("seq_id", self._seq),
            ("logits", self._logits),
        ):
            kind = dict(lib.llama_batch._fields_)[name]
            setattr(self.native, name, ctypes.cast(array.ctypes.data, kind))

    def carry(self, states: FloatArray) -> None:
        """Have each token come with a row of these, which are filled in before each step."""
        self.native.embd = states.ctypes.data_as(dict(lib.llama_batch._fields_)["embd"])

    def fill(self, chunks: Sequence[Piece]) -> int:
        """Lay the chunks one after another; returns how many rows of logits they ask for."""
        n = n_outputs = 0
        for chunk in chunks:
            self._put(n, chunk.tokens, chunk.start, chunk.slot)
            n += len(chunk.tokens)
            if chunk.n_outputs:
                self._logits[n - chunk.n_outputs : n] = 1
                n_outputs += chunk.n_outputs
        self.native.n_tokens = n
        return n_outputs

    def fill_all(self, pieces: Sequence[list[int]], start: int, first: int) -> int:
        """Lay a piece of each slot's text, all from position ``start``, with logits from position ``first`` on."""
        n = n_outputs = 0
        for slot, tokens in enumerate(pieces):
            self._put(n, tokens, start, slot)
            n_silent = min(max(0, first - start), len(tokens))
            self._logits[n + n_silent : n + len(tokens)] = 1
            n += len(tokens)
            n_outputs += len(tokens) - n_silent
        self.native.n_tokens = n
        return n_outputs

    def _put(self, n: int, tokens: list[int], start: int, slot: int) -> None:
        # A decode's one token goes in as scalars: a slice assignment costs twenty times as much.
        at = n if len(tokens) == 1 else slice(n, n + len(tokens))
        self._token[at] = tokens[0] if at is n else tokens
        self._pos[at] = start if at is n else self._positions[start : start + len(tokens)]
        self._seq[at] = self._seq_pointers[slot]
        self._logits[at] = 0


class Llama:
    """One base model with its context. Not thread-safe: the engine's loop is its only user."""

    def __init__(
        self, load: Load, on_progress: Callable[[float], None], *, n_outputs: int = 0, is_simulated: bool = False
    ) -> None:
        """Load the model and make its context; a step may ask for ``n_outputs`` rows of logits, 0: one a sequence.

        ``is_simulated``: reads no weights and takes no memory for them or the KV cache; it can tell only what the real
        one would take (``engine.simulate``).
        Raises as ``open``.
        """
        self._is_simulated = is_simulated
        self._log = _LogTap()
        lib.llama_backend_init()
        self._on_progress = on_progress
        self._n_outputs = n_outputs
        self._pieces: dict[int, bytes] = {}
        self._text = ctypes.create_string_buffer(64)
        self._loras = Attached(self._read_lora)
        self._adapters: AdapterSet = ()
        self._model = self._ctx = self._memory = None
        self._identity: tuple[object, ...] | None = None
        self.open(load)
        self.bos = int(lib.llama_vocab_bos(self.vocab))
        self.eos = int(lib.llama_vocab_eos(self.vocab))
        is_end = lib.llama_vocab_is_eog
        self.eog = frozenset(token for token in range(self.n_vocab) if is_end(self.vocab, token))
        """Every token that ends a generation (end of sequence, of turn, of message)."""
        self.adds_bos = bool(lib.llama_vocab_get_add_bos(self.vocab))
        """Whether the model's texts begin with a BOS."""

    # --- loading, reshaping ---

    def open(self, load: Load, *, is_asleep: bool = False) -> None:
        """Load the model, unless it is there, and make a context, unless it is to sleep.

        Raises ``BadModel`` when llama.cpp cannot use the file or it is of another model than the one before,
        ``LoadFailed`` when the context cannot be made, ``OutOfMemory``. After an error it is to be closed.
        """
        self.load = load
        """What it is, or after an error was to be."""
        self._listen()
        self._log.is_quiet = False
        self.n_threads = load.settings.n_threads or default_threads()
        self.n_ctx = load.settings.n_ctx
        self.n_parallel = load.settings.n_parallel
        self.n_sequences = load.settings.n_parallel
        try:
            if not self._model:
                self._open_model(load)
            if not is_asleep:
                self._open_context(load)
        except MemoryError as error:
            raise OutOfMemory(f"no memory for {load.label}; {_SPARE_MEMORY}") from error

    def _listen(self) -> None:
        """What llama.cpp logs from now on is about this one: a draft model beside it has a log of its own."""
        lib.llama_log_set(self._log.callback, ctypes.c_void_p(0))
        self._log.errors.clear()

    def close(self, *, keeps_model: bool) -> None:
        """Give back the memory of the context, and of the model with its adapters."""
        if self._ctx:
            lib.llama_free(self._ctx)
        self._ctx = self._memory = None
        self._adapters = ()
        self._log.forget_buffers(of_model=False)
        if self._model and not keeps_model:
            lib.llama_model_free(self._model)  # with its adapters
            self._model = None
            self._loras.clear()
            self._log.forget_buffers(of_model=True)
        give_back()

    def _open_model(self, load: Load) -> None:
        self._model = self._load_model(load)
        self.vocab = lib.llama_model_get_vocab(self._model)
        """Handle for grammar samplers, good until the model is closed."""
        self.n_vocab = int(lib.llama_vocab_n_tokens(self.vocab))
        identity = self._identify()
        if self._identity not in (None, identity):
            raise BadModel(f"{load.label} is not the model that runs: it differs in more than its quantization")
        self._identity = identity

    def _identify(self) -> tuple[object, ...]:
        """What all variants of a model share: its architecture's size, and its vocabulary."""
        return int(lib.llama_model_n_layer(self._model)), int(lib.llama_model_n_embd(self._model)), self.vocabulary

    @property
    def vocabulary(self) -> tuple[object, ...]:
        """The same for models whose tokens mean the same: their number, the special ones, some texts."""
        ends = lib.llama_vocab_bos(self.vocab), lib.llama_vocab_eos(self.vocab), lib.llama_vocab_eot(self.vocab)
        landmarks = range(0, self.n_vocab, max(1, self.n_vocab // _N_LANDMARKS))
        return self.n_vocab, ends, tuple(self.text(token) for token in landmarks)

    def _open_context(self, load: Load) -> None:
        self.is_unified = load.settings.kv_layout == "unified" and self.is_plain
        """All sequences share their cells. The windows and states of other models are a sequence's own."""
        if self.is_unified:
            self.n_sequences = load.settings.n_at_once
        self._ctx = self._make_context(load)
        self._memory = lib.llama_get_memory(self._ctx)
        self.n_ctx = min(load.settings.n_ctx, int(lib.llama_n_ctx_seq(self._ctx)))
        self.n_batch = int(lib.llama_n_batch(self._ctx))
        self.n_cells = int(lib.llama_n_ctx(self._ctx)) if self.is_unified else None
        """Cells that all sequences share; None: each has its own (``KVCache``)."""
        self._batch = Batch(self.n_batch, self.n_slots, self.n_ctx)
        self._being_copied: set[int] = set()
        """Slots that llama.cpp copies from or to with the next step, whatever they hold by then."""

    @property
    def n_slots(self) -> int:
        """Sequences that the cache can tell apart, ended ones included."""
        return self.n_parallel if not self.is_unified else min(_MOST_SEQUENCES - 1, self.n_sequences + _N_KEPT)

    @property
    def n_seq_max(self) -> int:
        """Sequences of the context, one to save and restore parts included: rows that it first has logits for."""
        return self.n_slots + int(self.is_unified)

    def _load_model(self, load: Load) -> lib.llama_model_p:
        def report(fraction: float, _user_data: object) -> bool:
            self._on_progress(fraction)
            return True

        params = lib.llama_model_default_params()
        params.n_gpu_layers = load.settings.n_gpu_layers
        is_mapped = load.settings.mmap and not self._is_simulated
        params.load_mode = lib.LLAMA_LOAD_MODE_MMAP if is_mapped else lib.LLAMA_LOAD_MODE_NONE
        params.no_alloc = self._is_simulated
        params.load_mtp = load.settings.mtp
        callback = lib.llama_progress_callback(report)
        params.progress_callback = callback
        paths = (ctypes.c_char_p * len(load.paths))(*map(os.fsencode, load.paths))
        model = lib.llama_model_load_from_splits(paths, len(paths), params)
        if not model:
            raise self._refusal(BadModel, f"llama.cpp cannot load {load.label}")
        if is_mapped and self._has_copies:
            unload_pages(load.paths)
        return model

    @property
    def _has_copies(self) -> bool:
        """Whether weights of a mapped file were copied: repacked for the CPU's vector units, or to a GPU."""
        types = [buffer_type for buffer_type, purpose in self._log.buffer_bytes if purpose == "model"]
        return any(not buffer_type.endswith("_Mapped") for buffer_type in types)

    def _make_context(self, load: Load) -> lib.llama_context_p:
        context = lib.llama_init_from_model(self._model, self._context_params(load))
        if not context:
            context_size = f"{load.settings.n_parallel} × {load.settings.n_ctx} tokens"
            raise self._refusal(LoadFailed, f"llama.cpp cannot make a context of {context_size} for {load.label}")
        return context

    def make_head_context(self) -> lib.llama_context_p:
        """A context of the same size for the model's heads (``engine.mtp``); who asks for it has to free it.

        Raises ``LoadFailed``, ``OutOfMemory``.
        """
        label = self.load.label
        if not lib.llama_model_n_layer_nextn(self._model):
            raise LoadFailed(f"{label} has no head that predicts further tokens; speculate with another drafter")
        params = self._context_params(self.load)
        params.ctx_type = lib.LLAMA_CONTEXT_TYPE_MTP
        params.ctx_other = self._ctx
        params.n_rs_seq = 0
        context = lib.llama_init_from_model(self._model, params)
        if not context:
            raise self._refusal(LoadFailed, f"llama.cpp cannot make a context for the heads of {label}")
        return context

    @staticmethod
    def free_head_context(context: lib.llama_context_p) -> None:
        """Free what ``make_head_context`` made, before the model's own context is closed."""
        lib.llama_free(context)

    def _context_params(self, load: Load) -> lib.llama_context_params:
        settings = load.settings
        params = lib.llama_context_default_params()
        params.n_ctx = settings.n_ctx * settings.n_parallel
        params.n_seq_max = self.n_seq_max
        params.n_batch = settings.n_batch
        params.n_ubatch = min(settings.n_ubatch, settings.n_batch)
        # Logits are wanted for one token a sequence, and drafts: room for a whole batch would be the largest buffer.
        # Fewer rows than sequences are an assertion (``output_reserve``).
        params.n_outputs_max = self._n_outputs or params.n_seq_max + self.n_draftable
        params.n_threads = params.n_threads_batch = self.n_threads
        params.flash_attn_type = _FLASH_ATTN[settings.flash_attn]
        params.type_k = params.type_v = _KV_TYPE[settings.kv_type]
        params.kv_unified = self.is_unified
        params.n_rs_seq = settings.n_rollback
        return params

    def _refusal(self, error: type[BeastError], what: str) -> BeastError:
        """The error for what llama.cpp would not do, or, when it lacked memory for it, ``OutOfMemory``."""
        reason = self._reason()
        if not _NO_MEMORY.search(reason):
            return error(f"{what}: {reason}")
        return OutOfMemory(f"{what} in the memory there is: {reason}; {_SPARE_MEMORY}")

    def _reason(self) -> str:
        return "; ".join(self._log.errors) or "it gave no reason"

    @property
    def gpu_bytes(self) -> dict[str, int]:
        """GPU → bytes of its buffers, as llama.cpp logged them when it made them."""
        found = Counter[str]()
        for (device, _), n_bytes in self._log.buffer_bytes.items():
            if "Host" not in device and not device.startswith("CPU"):
                found[device] += n_bytes
        return dict(found)

    def logged_bytes(self, purpose: str) -> int:
        """All buffers of one purpose ("RS", "output"), as llama.cpp logged them at load."""
        return sum(n_bytes for (_, what), n_bytes in self._log.buffer_bytes.items() if what == purpose)

    @property
    def template(self) -> str | None:
        """The chat template in the file's metadata."""
        text = lib.llama_model_chat_template(self._model, None)
        return text.decode("utf-8", "replace") if text else None

    @property
    def handle(self) -> lib.llama_context_p:
        """llama.cpp's context, for what asks it about itself (``engine.breakdown``)."""
        return self._ctx

    @property
    def n_state(self) -> int:
        """Numbers in what the model found out at a token, as its heads take it."""
        return int(lib.llama_model_n_embd_out(self._model))

    # --- vocabulary ---

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]:
        """Token ids of a text; ``add_special`` puts BOS/EOS where the model is configured to have them."""
        data = text.encode("utf-8", "replace")
        n_most = len(data) + 8
        tokens = (ctypes.c_int32 * n_most)()
        n = lib.llama_tokenize(self.vocab, data, len(data), tokens, n_most, add_special, parse_special)
        assert n >= 0, "a token is at least a byte long"
        return list(tokens[:n])

    def tokenize_prompt(self, text: str) -> list[int]:
        """Token ids of a rendered prompt; a BOS the template wrote itself is not doubled."""
        has_bos = self.bos >= 0 and text.startswith(self.text(self.bos))
        return self.tokenize(text, add_special=not has_bos)

    def piece(self, token: int) -> bytes:
        """UTF-8 bytes of a token as they appear in an answer (control tokens: none); may be part of a character."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._to_piece(token, special=False)
        return piece

    def text(self, token: int) -> str:
        """A token's text, special tokens included; empty for an id below 0 (none)."""
        return self._to_piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""

    def _to_piece(self, token: int, *, special: bool) -> bytes:
        n = lib.llama_token_to_piece(self.vocab, token, self._text, len(self._text), 0, special)
        if n < 0:
            self._text = ctypes.create_string_buffer(-n)
            return self._to_piece(token, special=special)
        return memoryview(self._text)[:n].tobytes()

    def tokens_containing(self, texts: Sequence[str]) -> frozenset[int]:
        """Every token whose text contains one of these (DRY's sequence breakers)."""
        if not texts:
            return frozenset()
        # The whole vocabulary is searched between two steps: a pattern is faster than asking for each text.
        wanted = re.compile(b"|".join(re.escape(text.encode()) for text in texts))
        pieces = (self._to_piece(token, special=True) for token in range(self.n_vocab))
        return frozenset(token for token, piece in enumerate(pieces) if wanted.search(piece))

    @property
    def fill_in_middle(self) -> tuple[int, int, int] | None:
        """The tokens before the prefix, the suffix and the middle; None when the vocabulary has none."""
        found = (
            int(lib.llama_vocab_fim_pre(self.vocab)),
            int(lib.llama_vocab_fim_suf(self.vocab)),
            int(lib.llama_vocab_fim_mid(self.vocab)),
        )
        return found if min(found) >= 0 else None

    # --- computing ---

    def decode(self, chunks: Sequence[Piece]) -> FloatArray:
        """Compute one step. Returns the logits asked for, shape (n_outputs, n_vocab), in the chunks' order.

        The array is llama.cpp's own buffer: valid, and free to be changed, until the next call.
        Raises ``DecodeError``, ``OutOfMemory``.
        """
        return self._decode(self._batch.fill(chunks))

    def decode_all(self, pieces: Sequence[list[int]], start: int, first: int) -> FloatArray:
        """Compute a piece of a text in each slot, all from position ``start``; the logits from ``first`` on.

        As ``decode`` otherwise, the slots one after another.
        """
        return self._decode(self._batch.fill_all(pieces, start, first))

    def _decode(self, n_outputs: int) -> FloatArray:
        self._listen()
        code = lib.llama_decode(self._ctx, self._batch.native)
        self._log.is_quiet = False
        self._being_copied.clear()
        if code != 0:
            if _NO_MEMORY.search(self._reason()):
                raise OutOfMemory(f"a step needed memory that cannot be had: {self._reason()}; {_SPARE_MEMORY}")
            raise DecodeError(code)
        if not n_outputs:
            return np.empty((0, self.n_vocab), np.float32)
        pointer = lib.llama_get_logits(self._ctx)
        address = ctypes.addressof(pointer.contents)
        memory = (ctypes.c_char * (4 * n_outputs * self.n_vocab)).from_address(address)
        return np.ndarray((n_outputs, self.n_vocab), np.float32, memoryview(memory))

    @property
    def is_recurrent(self) -> bool:
        """Whether layers keep one state for all tokens so far: it can be neither cut nor shared in part."""
        return bool(lib.llama_model_is_recurrent(self._model) or lib.llama_model_is_hybrid(self._model))

    @property
    def n_swa(self) -> int:
        """Tokens that layers with a sliding window see; 0: no layer has one."""
        return int(lib.llama_model_n_swa(self._model))

    @property
    def is_plain(self) -> bool:
        """Whether the memory is one cache of all tokens: any beginning of a sequence is as good as the whole."""
        return not self.is_recurrent and self.n_swa == 0

    def can_reuse(self, slot: int, n_kept: int) -> bool:
        """Whether the slot's first ``n_kept`` tokens can be gone on from as if no others had followed them.

        A recurrent state is of all tokens the slot has seen. A window's cells are taken by later tokens, and then by
        other slots in a unified cache, at any step.
        """
        if n_kept == 0 or self.is_plain:
            return True
        first = int(lib.llama_memory_seq_pos_min(self._memory, slot))  # of a state: the one position it is at
        if self.is_recurrent:
            return 0 <= first - (n_kept - 1) <= int(lib.llama_n_rs_seq(self._ctx))
        return 0 <= first <= max(0, n_kept - self.n_swa)

    def can_share(self, slot: int, n: int) -> bool:
        """Whether another sequence may go on after the slot's first ``n`` tokens: states are shared whole only."""
        if self.is_recurrent:
            return int(lib.llama_memory_seq_pos_max(self._memory, slot)) == n - 1
        return self.can_reuse(slot, n)

    def forget(self, slot: int, n_kept: int) -> bool:
        """Drop a slot's KV after its first ``n_kept`` tokens.

        False when what is left would not do to go on from (``can_reuse``): then the whole slot was dropped.
        """
        if self.can_reuse(slot, n_kept) and lib.llama_memory_seq_rm(self._memory, slot, n_kept, -1):
            return True
        lib.llama_memory_seq_rm(self._memory, slot, -1, -1)
        return False

    def share(self, source: int, target: int, n: int) -> bool:
        """Have an empty slot hold the source's first ``n`` tokens: the same cells, or copies if it has its own.

        False when it could not be copied: the slot is empty.
        """
        if self.is_unified:
            lib.llama_memory_seq_cp(self._memory, source, target, 0, n)
            return True
        if self.n_swa:  # what is saved of it ends with the window of its last token
            lib.llama_memory_seq_cp(self._memory, source, target, -1, -1)
            self._being_copied |= {source, target}
            return self.forget(target, n)
        # llama.cpp's own copy is made with the next step only, over what is restored to the slot before that; and of a
        # state that was taken back it takes the one before.
        return self.restore(target, self.save(source), 0, n)

    def state_bytes(self, slot: int) -> int:
        """Size of what ``save`` would return for the whole slot."""
        return int(lib.llama_state_seq_get_size(self._ctx, slot))

    def save(self, slot: int, start: int = 0) -> State:
        """The KV of a slot from position ``start`` on, for this or another context of the same model.

        Empty when it cannot be had, or not before the next step.
        """
        if slot in self._being_copied:
            return np.empty(0, np.uint8)
        if start:
            assert self.is_unified, "only shared cells can be told apart"
            lib.llama_memory_seq_cp(self._memory, slot, self.n_slots, start, -1)
            state = self.save(self.n_slots)
            self.forget(self.n_slots, 0)
            return state
        state = np.empty(self.state_bytes(slot), np.uint8)
        n = lib.llama_state_seq_get_data(self._ctx, _bytes_of(state), len(state), slot)
        return state[:n]

    def restore(self, slot: int, state: State, start: int, end: int) -> bool:
        """Have a slot that holds ``start`` tokens go on to ``end`` with KV that was saved.

        The state's first token must not come after ``start``. A cache that is not unified takes whole states only, in
        place of what the slot holds. False when the context cannot hold it, or not before the next step: then such a
        slot is empty.
        """
        into = self.n_slots if self.is_unified else slot
        if slot in self._being_copied or not len(state):
            self.forget(into, 0)
            return False
        if self.is_plain:
            state = with_streams(state, 1 if self.is_unified else self.n_parallel)
        if lib.llama_state_seq_set_data(self._ctx, _bytes_of(state), len(state), into) != len(state):
            self.forget(into, 0)
            return False
        if not self.is_unified:
            return self.forget(slot, end)
        lib.llama_memory_seq_cp(self._memory, into, slot, start, end)
        self.forget(into, 0)
        return True

    @property
    def is_split(self) -> bool:
        """A step is computed in several passes where its sequences have unequal numbers of tokens."""
        return not self.is_unified and self.n_parallel > 1

    @property
    def n_draftable(self) -> int:
        """Proposed tokens a step may hold: none where the memory cannot be cut after those that were right."""
        return MOST_DRAFTED if self.longest_draft else 0

    @property
    def longest_draft(self) -> int:
        """Proposed tokens a sequence may have in a step: what its memory can take back."""
        if self.is_plain:
            return LONGEST_DRAFT
        if not self.is_recurrent or self.n_swa:
            return 0
        return int(lib.llama_n_rs_seq(self._ctx)) if self._ctx else self.load.settings.n_rollback

    def forget_all(self) -> None:
        """Empty every slot."""
        lib.llama_memory_clear(self._memory, True)

    def use_adapters(self, adapters: AdapterSet) -> None:
        """Apply this set of LoRA adapters to the steps to come; files are read at their first use.

        Raises ``BadModel`` for a file that is no adapter of this model.
        """
        if adapters == self._adapters:
            return
        handles = [self._loras.handle(path) for path, _ in adapters]
        scales = (ctypes.c_float * len(adapters))(*(scale for _, scale in adapters))
        array = (lib.llama_adapter_lora_p_ctypes * len(handles))(*handles)
        if lib.llama_set_adapters_lora(self._ctx, array, len(handles), scales) != 0:
            raise BadModel(f"llama.cpp cannot apply the adapters {', '.join(path for path, _ in adapters)}")
        self._adapters = adapters
        self._log.is_quiet = True

    @property
    def n_adapters(self) -> int:
        """LoRA adapters in memory."""
        return len(self._loras)

    def detach(self, path: str, name: str) -> bool:
        """This adapter's file may change: it is read anew, and what it was goes by ``name`` until it is freed.

        False when it is not in memory.
        """
        self._adapters = renamed(self._adapters, path, name)
        return self._loras.detach(path, name)

    def free_adapters(self, in_use: Set[str]) -> None:
        """Free those that were detached or long unused, but none of these."""
        leaving = self._loras.leaving(in_use)
        if not leaving:
            return
        if any(path in leaving for path, _ in self._adapters):
            self.use_adapters(())
        if self._ctx:  # else it sleeps
            lib.llama_synchronize(self._ctx)  # on a GPU a step without logits may still be computing
        for path in leaving:
            lib.llama_adapter_lora_free(self._loras.pop(path))

    def _read_lora(self, path: str) -> ctypes.c_void_p:
        self._log.errors.clear()
        handle: ctypes.c_void_p | None = lib.llama_adapter_lora_init(self._model, os.fsencode(path))
        if not handle:
            raise BadModel(f"{Path(path).name} is not a LoRA adapter of this model: {self._reason()}")
        return handle

    def touch(self) -> None:
        """Compute one token, for the threads and pages it takes, and forget all slots."""
        token = (ctypes.c_int32 * 1)(max(self.bos, self.eos, 0))
        lib.llama_decode(self._ctx, lib.llama_batch_get_one(token, 1))
        lib.llama_synchronize(self._ctx)
        self.forget_all()

    def warm_up(self) -> float:
        """Touch all weights and kernels once, so that the first request is as fast as the tenth.

        Returns the prefill rate it saw, in tokens/s.
        """
        token = max(self.bos, self.eos, 0)
        n = min(_WARM_UP_TOKENS, self.n_ctx, self.n_batch)
        tokens = (ctypes.c_int32 * n)(*[token] * n)
        lib.llama_decode(self._ctx, lib.llama_batch_get_one(tokens, 1))
        lib.llama_synchronize(self._ctx)
        start_us = lib.llama_time_us()
        lib.llama_decode(self._ctx, lib.llama_batch_get_one(tokens, n - 1))
        lib.llama_synchronize(self._ctx)
        took_s = max(1, lib.llama_time_us() - start_us) / 1e6
        self.forget_all()
        return float((n - 1) / took_s)


def _bytes_of(state: State) -> ctypes._Pointer[ctypes.c_uint8]:
    return state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
