"""Puts the GGUFs of one place together: quantizations of a model become its variants, its parts its own."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from beastd.errors import BadModel
from beastd.fetch.choose import quality
from beastd.library.importing.filenames import adapter_stem, model_stem, stem_of, unique
from beastd.library.importing.found import Skipped
from beastd.library.importing.pieces import Piece, read_pieces
from beastd.registry.adapters import check_adapter
from beastd.registry.gguf import read_shards
from beastd.registry.modelfile import AdapterFields, Fields

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from beastd.registry.header import Header

_PROJECTORS = ("f16", "bf16", "q8_0", "f32")
"""Which of several to take: f16 loses nothing, and every device computes it."""
_ADD = "`beast adapter add NAME {} --base MODEL` gives it to a model"


@dataclass(slots=True)
class Group:
    """One model of the place."""

    stem: str
    """What its files call it."""
    variants: dict[str, Piece]
    adapters: dict[str, Piece] = field(default_factory=dict)
    projector: Piece | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def source(self) -> Path:
        """Its file, or the folder of several."""
        first, *others = self.variants.values()
        return first.file.parent if others or len(first.files) > 1 else first.file

    def fields(self) -> Fields:
        """Its description."""
        return Fields(
            variants={name: _names(piece) for name, piece in self.variants.items()},
            default=default_variant(list(self.variants)) if len(self.variants) > 1 else None,
            adapters={name: AdapterFields(str(piece.file)) for name, piece in self.adapters.items()},
            projector=str(self.projector.file) if self.projector else None,
        )


def assemble(files: Iterable[Path]) -> tuple[list[Group], list[Skipped]]:
    """The models that the GGUFs of one place make, and the files that belong to none."""
    pieces = list(read_pieces(files))
    skipped = [it for it in pieces if isinstance(it, Skipped)]
    by_kind: defaultdict[str, list[Piece]] = defaultdict(list)
    for piece in pieces:
        if isinstance(piece, Piece):
            by_kind[piece.kind].append(piece)
    groups = _groups(by_kind["model"])
    skipped += _place_projectors(by_kind["projector"], groups)
    skipped += _place_adapters(by_kind["adapter"], groups)
    return groups, skipped


def default_variant(names: Sequence[str]) -> str:
    """The variant a name without @ means, of names sorted from the best.

    q4_k_m, the usual choice; else the one nearest to it among those smaller than q8_0, the better of two; else the
    first.
    """
    wanted, largest = quality("q4_k_m"), quality("q8_0")
    smaller = [name for name in names if largest < quality(name) <= quality("q1_0")]
    return min(smaller, key=lambda name: abs(quality(name) - wanted), default=names[0])


def _groups(models: list[Piece]) -> list[Group]:
    found: defaultdict[object, list[Piece]] = defaultdict(list)
    for piece in models:
        found[model_stem(piece.file, piece.title), piece.build].append(piece)
    return [_group(pieces) for pieces in found.values()]


def _group(pieces: list[Piece]) -> Group:
    group = Group(model_stem(pieces[0].file, pieces[0].title), {})
    for piece in sorted(pieces, key=lambda it: (quality(it.quant), it.file)):
        name = unique(piece.quant, group.variants)
        if name != piece.quant:
            group.notes.append(f"{piece.file} is {piece.quant} too; as a variant it is called {name}")
        group.variants[name] = piece
    return group


def _names(piece: Piece) -> str | list[str]:
    names = [str(path) for path in piece.files]
    return names[0] if len(names) == 1 else names


# --- projectors ---


def _place_projectors(projectors: list[Piece], groups: list[Group]) -> list[Skipped]:
    skipped = []
    rank = {quant: i for i, quant in enumerate(_PROJECTORS)}
    for piece in sorted(projectors, key=lambda it: (rank.get(it.quant, len(rank)), it.file)):
        group = _owner(piece, groups)
        if group is None:
            why = "several models are" if groups else "no model is"
            advice = "write it into a model's modelfile as `projector` (`beast edit`)"
            skipped.append(Skipped(piece.file, f"it is the image part of a model, but {why} beside it; {advice}"))
        elif group.projector is None:
            group.projector = piece
        else:
            group.notes.append(f"{piece.file} left out: {group.projector.file.name} is the projector already")
    return skipped


def _owner(projector: Piece, groups: list[Group]) -> Group | None:
    """The only model, or the one of them all that the projector is named after."""
    if len(groups) == 1:
        return groups[0]
    name = stem_of(projector.file.name)
    named = sorted((group for group in groups if group.stem in name), key=lambda group: -len(group.stem))
    return named[0] if named else None


# --- adapters ---


def _place_adapters(adapters: list[Piece], groups: list[Group]) -> list[Skipped]:
    bases = [next(iter(group.variants.values())) for group in groups] if adapters else []
    headers = [read_shards(base.files) for base in bases]
    skipped = []
    for piece in adapters:
        problems = _problems(piece, headers)
        fitting = [group for group, problem in zip(groups, problems, strict=True) if problem is None]
        if len(fitting) == 1:
            group = fitting[0]
            group.adapters[unique(adapter_stem(piece.file, group.stem), group.adapters)] = piece
            continue
        why = "no model is" if not groups else "it fits several models" if fitting else "it fits none of the models"
        reason = problems[0] if len(problems) == 1 and problems[0] else f"it is a LoRA adapter, and {why} beside it"
        skipped.append(Skipped(piece.file, f"{reason}; {_ADD.format(piece.file)}"))
    return skipped


def _problems(adapter: Piece, bases: list[Header]) -> list[str | None]:
    """For each model why the adapter does not fit it; None where it does."""
    found: list[str | None] = []
    header = read_shards(adapter.files)
    for base in bases:
        try:
            check_adapter(header, base)
            found.append(None)
        except BadModel as e:
            found.append(e.message)
    return found
