"""Ollama's Modelfiles, read as Beast's model descriptions.

    FROM ./cub-q8_0.gguf               a model's name, or a file; a second one is the projector
    ADAPTER ./pirate-lora.gguf 0.5     several are taken, each with a scale if it is not to be 1
    DRAFT ./cub-draft.gguf
    PARAMETER temperature 0.7          named as in a request's options; stop may be given again
    TEMPLATE "{{ .Prompt }}"           Go's, translated into Jinja
    SYSTEM "..."                       a value in one or three quotes may go over several lines
    MESSAGE user ...                   the conversation that every chat begins with
    LICENSE ...
    REQUIRES 0.14.0                    a version of Ollama: it must be one, and asks nothing of Beast
    # a comment, on a line of its own

Ollama lets the last of two lines win and ignores what it has given up; here, what cannot be followed is refused, with
what to do instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice
from pathlib import PurePath

import msgspec

from beastd.contract import Message
from beastd.errors import BadModel, Unsupported
from beastd.registry.gotemplate import to_jinja
from beastd.registry.modelfile import AdapterFields, Fields
from beastd.registry.names import MAX_PART_CHARS, is_part
from beastd.registry.ollamafile.instructions import Instruction, instructions, is_significant
from beastd.registry.ollamafile.parameters import Parameters

MAX_CHARS = 2**20
MAX_INSTRUCTIONS = 10_000
MAX_ADAPTERS = 64

_BEGINNING = re.compile(r"[ \t]*[A-Za-z]+[ \t]+[^\s:]")
_VERSION = re.compile(r"v?\d{1,9}(\.\d{1,9}){0,2}([-+][0-9A-Za-z.+-]{1,100})?")
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.gguf", re.IGNORECASE)
_SCALED = re.compile(r"(?P<path>.*\S)[ \t]+(?P<scale>[+-]?\d{1,6}(\.\d{0,9})?)")
_ROLES = ("system", "user", "assistant")


def looks_like_ollamafile(text: str) -> bool:
    """Whether this is meant as a Modelfile: it begins with a word and a value, where YAML has a colon."""
    first = next(filter(is_significant, text[:MAX_CHARS].removeprefix("\ufeff").splitlines()), "")
    return _BEGINNING.match(first) is not None


def parse_ollamafile(text: str, what: str) -> Fields:
    """The description that a Modelfile amounts to; ``what`` names it for messages.

    ``from_`` and all paths are as written. Raises BadModel for what Ollama would not take, or what is given twice,
    and Unsupported for what Beast cannot follow; they name line and instruction.
    """
    if len(text) > MAX_CHARS:
        raise BadModel(f"{what}: the Modelfile has {len(text)} characters; at most {MAX_CHARS} are taken")
    reader = _Reader(what)
    found = instructions(text.removeprefix("\ufeff"), what)
    for instruction in islice(found, MAX_INSTRUCTIONS):
        reader.follow(instruction)
    if next(found, None) is not None:
        raise BadModel(f"{what}: a Modelfile may have {MAX_INSTRUCTIONS} instructions; leave some out")
    return reader.fields()


def adapter_name(path: str) -> str:
    """A name for an adapter, made of its file's."""
    stem = re.sub(r"[^A-Za-z0-9_.-]+|\.{2,}", "-", PurePath(path).stem).strip("-.").lower()[:MAX_PART_CHARS]
    return stem if is_part(stem) else "adapter"


class _Reader:
    """A description in the making."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._fields = Fields()
        self._parameters = Parameters()
        self._messages: list[Message] = []
        self._licenses: list[str] = []
        self._lines: dict[str, int] = {}
        """Where each of the fields was given that may be given once."""
        self._readers: dict[str, Callable[[Instruction], None]] = {
            "FROM": self._from,
            "ADAPTER": self._adapter,
            "DRAFT": self._draft,
            "PARAMETER": self._parameters.add,
            "TEMPLATE": self._template,
            "SYSTEM": self._system,
            "MESSAGE": self._message,
            "LICENSE": self._license,
            "REQUIRES": self._requires,
            "RENDERER": self._builtin,
            "PARSER": self._builtin,
        }

    def follow(self, instruction: Instruction) -> None:
        """Take one more instruction."""
        self._readers[instruction.name](instruction)

    def fields(self) -> Fields:
        """The description, complete."""
        if self._fields.from_ is None:
            raise BadModel(f"{self._what}: there is no FROM; say which model or GGUF file it is made from")
        if self._fields.draft == self._fields.from_:
            raise BadModel(f"{self._what} line {self._lines['DRAFT']}: DRAFT: a model is no draft of itself")
        self._fields.messages = self._messages
        self._fields.parameters = self._parameters.options()
        self._fields.license = "\n\n".join(self._licenses) or None
        return self._fields

    def _from(self, instruction: Instruction) -> None:
        """Ollama takes several files, and sees in them which is the model and which the projector."""
        path = _path(instruction)
        if self._fields.from_ is None:
            self._fields.from_ = path
        elif _SHARD.search(path):
            raise instruction.broken(
                "it names a further part of a split model; name only the first, Beast finds the rest"
            )
        else:
            self._once(instruction, "a second FROM, the projector,")
            self._fields.projector = path

    def _adapter(self, instruction: Instruction) -> None:
        path, scale = _path(instruction), 1.0
        if not instruction.is_quoted and (scaled := _SCALED.fullmatch(path)):
            path, scale = scaled["path"], float(scaled["scale"])
        if len(self._fields.adapters) >= MAX_ADAPTERS:
            raise instruction.broken(f"a model may have {MAX_ADAPTERS} adapters; leave some out")
        name = first = adapter_name(path)
        n = 1
        while name in self._fields.adapters:
            n += 1
            name = f"{first[: MAX_PART_CHARS - 4]}-{n}"
        self._fields.adapters = {**self._fields.adapters, name: AdapterFields(path, scale, applied=True)}

    def _draft(self, instruction: Instruction) -> None:
        self._once(instruction)
        self._fields.draft = _path(instruction)

    def _template(self, instruction: Instruction) -> None:
        self._once(instruction)
        self._fields.template = to_jinja(instruction.value, self._what, instruction.line)

    def _system(self, instruction: Instruction) -> None:
        self._once(instruction)
        self._fields.system = instruction.value

    def _message(self, instruction: Instruction) -> None:
        if instruction.head not in _ROLES:
            raise instruction.broken(f"'{instruction.head[:40]}' is no role; there are {', '.join(_ROLES)}")
        self._messages.append(msgspec.convert({"role": instruction.head, "content": instruction.value}, Message))

    def _license(self, instruction: Instruction) -> None:
        self._licenses.append(instruction.value)

    def _requires(self, instruction: Instruction) -> None:
        """It speaks of Ollama's own version; what such a version was needed for is refused by name, if at all."""
        self._once(instruction)
        if not _VERSION.fullmatch(instruction.value):
            raise instruction.broken(
                f"'{instruction.value[:40]}' is no version of Ollama; write one like 0.14.0, or nothing"
            )

    def _builtin(self, instruction: Instruction) -> None:
        raise Unsupported(
            f"{instruction}: '{instruction.value[:40]}' is code inside of Ollama, which Beast has not; remove the line,"
            " and a TEMPLATE of only {{ .Prompt }}: then the chat template of the GGUF file is used"
        )

    def _once(self, instruction: Instruction, what: str = "it") -> None:
        if instruction.name in self._lines:
            first = self._lines[instruction.name]
            raise instruction.broken(f"{what} is given on line {first} already; leave one of them out")
        self._lines[instruction.name] = instruction.line


def _path(instruction: Instruction) -> str:
    if not instruction.value.isprintable():
        raise instruction.broken("a file's path on one line is expected")
    return instruction.value
