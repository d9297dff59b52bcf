"""Whether a LoRA adapter fits a base model, told from both headers alone.

The rules are those of ``src/llama-adapter.cpp``, and those its graph asserts later (``src/llama-graph.cpp``), where a
violation would end the worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from beastd.errors import BadModel

if TYPE_CHECKING:
    from beastd.registry.header import Header, Tensor

_A, _B = ".lora_a", ".lora_b"
_IGNORED = "_norm.weight"
"""llama.cpp passes over whole norm vectors in an adapter, since most work well without them."""
_EMBEDDINGS, _OUTPUT = "token_embd.weight", "output.weight"
_ALORA = "adapter.alora.invocation_tokens"


def check_adapter(adapter: Header, base: Header) -> None:
    """Check that an adapter is a LoRA, and one for this base. Raises BadModel that says where it does not fit."""
    _check_kind(adapter, base)
    matrices = {tensor.name: tensor for tensor in base.tensors}
    for name, (a, b) in _pairs(adapter).items():
        if name not in matrices:
            raise BadModel(
                f"{adapter.what} changes '{name}', which {base.what} does not have; it was made for another model"
            )
        if name == _EMBEDDINGS and _OUTPUT not in matrices:
            raise BadModel(
                f"{adapter.what} changes '{name}', which {base.what} uses as its output too, and llama.cpp cannot "
                f"run that; train one that leaves the embeddings alone, or merge it into the model"
            )
        _check_shapes(adapter, base, matrices[name], a, b)


def _pairs(adapter: Header) -> dict[str, tuple[Tensor, Tensor]]:
    """Name of the matrix → A and B. Raises BadModel for halves, for other tensors, and for no pair at all."""
    parts = {tensor.name: tensor for tensor in adapter.tensors if not tensor.name.endswith(_IGNORED)}
    stray = next((name for name in parts if not name.endswith((_A, _B))), None)
    if stray is not None:
        raise BadModel(f"{adapter.what}: '{stray}' is no part of a LoRA; convert it with convert_lora_to_gguf.py")
    if not parts:
        raise BadModel(f"{adapter.what} changes no tensor; convert it again with convert_lora_to_gguf.py")
    pairs = {}
    for name in sorted({name.removesuffix(_A).removesuffix(_B) for name in parts}):
        a, b = parts.get(name + _A), parts.get(name + _B)
        if a is None or b is None:
            raise BadModel(f"{adapter.what}: of '{name}' it holds one half of a LoRA alone; get or convert it again")
        pairs[name] = (a, b)
    return pairs


def _check_kind(adapter: Header, base: Header) -> None:
    what = adapter.what
    if not adapter.is_adapter:
        raise BadModel(f"{what} is no adapter: its general.type is '{_said(adapter, 'general.type')}'")
    if adapter.metadata.get("adapter.type") != "lora":
        raise BadModel(f"{what} is an adapter of type '{_said(adapter, 'adapter.type')}'; llama.cpp applies lora alone")
    if adapter.architecture != base.architecture:
        raise BadModel(
            f"{what} is for models of architecture '{adapter.architecture[:40]}', {base.what} is "
            f"'{base.architecture[:40]}'; choose its own base"
        )
    if _ALORA in adapter.metadata:
        raise BadModel(f"{what} is an activated LoRA (it has {_ALORA}), which Beast cannot run; choose a plain one")


def _check_shapes(adapter: Header, base: Header, matrix: Tensor, a: Tensor, b: Tensor) -> None:
    """A and B times each other must make the matrix; for embeddings they come the other way round."""
    n_in, n_out, *stack = _four(matrix)
    (a_in, a_rank, *a_stack), (b_rank, b_out, *b_stack) = _four(a), _four(b)
    if matrix.name.endswith(_EMBEDDINGS):
        n_in, n_out = n_out, n_in
        a_in, a_rank = a_rank, a_in
    if (a_in, b_out) != (n_in, n_out) or a_stack != stack or b_stack != stack:
        raise BadModel(
            f"{adapter.what}: its halves {_shape(a)} and {_shape(b)} do not make '{matrix.name}', which is "
            f"{_shape(matrix)} in {base.what}; it was made for another model"
        )
    if a_rank != b_rank:
        raise BadModel(
            f"{adapter.what}: the halves of '{matrix.name}' are {_shape(a)} and {_shape(b)}, of two different ranks; "
            f"convert it again with convert_lora_to_gguf.py"
        )


def _four(tensor: Tensor) -> tuple[int, ...]:
    return tensor.shape + (1,) * (4 - len(tensor.shape))


def _shape(tensor: Tensor) -> str:
    return "×".join(str(n) for n in tensor.shape)


def _said(header: Header, key: str) -> str:
    return str(header.metadata.get(key, "not given"))[:40]
