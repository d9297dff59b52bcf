"""Writes the statements of a Go template in Jinja, a tag a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from beastd.registry.gotemplate.expressions import Expressions
from beastd.registry.gotemplate.scopes import Scopes
from beastd.registry.gotemplate.syntax import Action, Block, Jump, Origin, Pipeline, Statement, Text
from beastd.registry.gotemplate.values import ELEMENTS, ENTRIES, Kind, Value, printed, quoted

MAX_JINJA_CHARS = 128 * 1024
"""Of a translation: the engine compiles no longer template."""
MAX_RANGES = 12
"""Loops inside of loops; Python compiles no more than 20."""

_INDENT = "    "


def translate(statements: Sequence[Statement], root: Mapping[str, Value], origin: Origin) -> list[str]:
    """The lines of Jinja that print what the statements print; ``root`` has the fields of ``.``.

    Variables are attributes of ``v``, a namespace. Raises BadModel and Unsupported.
    """
    translator = _Translator(root, origin)
    translator.statements(statements, Value("true", Kind.ROOT))
    return translator.lines


def check_length(n_chars: int, origin: Origin) -> None:
    """Refuse a translation of so many characters, if they are too many. Raises Unsupported."""
    if n_chars > MAX_JINJA_CHARS:
        raise origin.unsupported(1, f"the template takes more than {MAX_JINJA_CHARS} characters of Jinja")


class _Translator:
    def __init__(self, root: Mapping[str, Value], origin: Origin) -> None:
        self.lines: list[str] = []
        self._origin = origin
        self._scopes = Scopes()
        self._expressions = Expressions(root, self._scopes, origin)
        self._indent = 0
        self._n_ranges = 0
        self._n_chars = 0
        self._is_in_else = False
        """Of a range, and in no further one."""

    def statements(self, statements: Sequence[Statement], dot: Value) -> None:
        """Write them, where ``dot`` is the value of ``.``."""
        for statement in statements:
            match statement:
                case Text(text):
                    self._write(f"{{{{- {quoted(text)} }}}}")
                case Action(Pipeline(_, variables), line) if variables:
                    self._bound(statement.pipeline, dot, line)
                case Action():
                    self._print(statement, dot)
                case Block("if"):
                    self._if(statement, dot)
                case Block("with"):
                    self._with(statement, dot)
                case Block():
                    self._range(statement, dot)
                case Jump("break", line) if self._is_in_else:
                    raise self._origin.unsupported(
                        line, "{{ break }} in the else of a range, which Go takes for its end"
                    )
                case Jump(word):
                    self._write(f"{{%- {word} %}}")

    def _print(self, action: Action, dot: Value) -> None:
        value = self._expressions.value(action.pipeline.value, dot)
        jinja = printed(value)
        if jinja is None:
            raise self._origin.unsupported(action.line, f"{value.kind.value} is printed in Go's notation")
        self._write(f"{{{{- {jinja} }}}}")

    # --- blocks ---

    def _if(self, block: Block, dot: Value, word: str = "if") -> None:
        with self._scopes.inner():
            test = self._bound(block.pipeline, dot, block.line)
            if test.kind is Kind.NIL and word == "if":
                self.statements(block.otherwise, dot)
                return
            self._write(f"{{%- {word} {test.jinja} %}}")
            self._inside(block.body, dot)
            match block.otherwise:
                case (Block("if", Pipeline(_, ())) as chained,):
                    self._if(chained, dot, "elif")
                    return
            self._else(block, dot)
            self._write("{%- endif %}")

    def _with(self, block: Block, dot: Value) -> None:
        with self._scopes.inner():
            value = self._bound(block.pipeline, dot, block.line)
            if value.kind is Kind.NIL:
                self.statements(block.otherwise, dot)
                return
            if not block.pipeline.variables and value.kind is not Kind.ROOT:
                value = self._kept("dot", value)
            self._write(f"{{%- if {value.jinja} %}}")
            self._inside(block.body, value)
            self._else(block, dot)
            self._write("{%- endif %}")

    def _range(self, block: Block, dot: Value) -> None:
        values = self._expressions.value(block.pipeline.value, dot)
        if block.pipeline.is_assignment or values.kind not in {*ELEMENTS, *ENTRIES, Kind.NIL}:
            raise self._origin.unsupported(block.line, f"a range over {values.kind.value}, or with = for its variables")
        if self._n_ranges >= MAX_RANGES:
            raise self._origin.unsupported(block.line, f"more than {MAX_RANGES} ranges stand inside of each other")
        if values.kind is Kind.NIL:
            self._else_of_range(block, dot)
            return
        if not block.otherwise:
            self._loop(block, values)
            return
        # Jinja's own else of a loop is taken after a break, too
        self._write(f"{{%- if {values.jinja} %}}")
        self._indent += 1
        self._loop(block, values)
        self._indent -= 1
        self._write("{%- else %}")
        self._else_of_range(block, dot)
        self._write("{%- endif %}")

    def _else_of_range(self, block: Block, dot: Value) -> None:
        """Where Go has the range's variables still: they are the list, which is empty."""
        was_in_else, self._is_in_else = self._is_in_else, True
        with self._scopes.inner():
            for name in block.pipeline.variables:
                self._scopes.set(name, Value("[]", Kind.LIST))
            self._inside(block.otherwise, dot)
        self._is_in_else = was_in_else

    def _head(self, values: Value) -> tuple[Value, Value]:
        """Write where a loop begins; returns the index or key, and the element."""
        item = self._scopes.new_name("item")
        if values.kind in ELEMENTS:
            self._write(f"{{%- for {item} in {values.jinja} %}}")
            return Value("loop.index0", Kind.NUMBER), Value(item, ELEMENTS[values.kind])
        key = self._scopes.new_name("key")
        self._write(f"{{%- for {key}, {item} in {values.jinja} | dictsort(case_sensitive=true) %}}")
        return Value(key, Kind.TEXT), Value(item, ENTRIES[values.kind])

    def _loop(self, block: Block, values: Value) -> None:
        """A range without its else; of its variables, those that its body reads."""
        key, element = self._head(values)
        start = len(self.lines)
        self._n_ranges += 1
        was_in_else, self._is_in_else = self._is_in_else, False
        with self._scopes.inner():
            settings = []
            for name, value in zip(reversed(block.pipeline.variables), (element, key), strict=False):
                slot = Value(f"v.{self._scopes.new_name(name)}", value.kind)
                self._scopes.set(name, slot)
                settings.append((slot, value.jinja))
            self._inside(block.body, element)
        for slot, jinja in settings:
            if self._scopes.is_used(slot):
                self.lines.insert(start, _INDENT * (self._indent + 1) + f"{{%- set {slot.jinja} = {jinja} %}}")
        self._n_ranges -= 1
        self._is_in_else = was_in_else
        self._write("{%- endfor %}")

    def _else(self, block: Block, dot: Value) -> None:
        if block.otherwise:
            self._write("{%- else %}")
            self._inside(block.otherwise, dot)

    def _inside(self, statements: Sequence[Statement], dot: Value) -> None:
        self._indent += 1
        with self._scopes.inner():
            self.statements(statements, dot)
        self._indent -= 1

    def _write(self, tag: str) -> None:
        self.lines.append(_INDENT * self._indent + tag)
        self._n_chars += len(self.lines[-1])
        check_length(self._n_chars, self._origin)

    # --- variables ---

    def _bound(self, pipeline: Pipeline, dot: Value, line: int) -> Value:
        """The pipeline's value, which its variable has from here on."""
        value = self._expressions.value(pipeline.value, dot)
        for name in pipeline.variables:
            value = self._assigned(name, value, line) if pipeline.is_assignment else self._declared(name, value)
        return value

    def _declared(self, name: str, value: Value) -> Value:
        kept = value if value.kind is Kind.ROOT else self._kept(name, value)
        self._scopes.set(name, kept)
        return kept

    def _assigned(self, name: str, value: Value, line: int) -> Value:
        slot = self._expressions.variable(name, line)
        if slot.kind is not _widened(value.kind) or slot.kind is Kind.ROOT:
            kinds = f"{slot.kind.value}, then {value.kind.value}"
            raise self._origin.unsupported(
                line, f"the variable {name[:40]} holds {kinds}, which Jinja prints otherwise"
            )
        self._write(f"{{%- set {slot.jinja} = {value.jinja} %}}")
        return slot

    def _kept(self, name: str, value: Value) -> Value:
        """The value in a variable of its own: what is long is written once."""
        slot = f"v.{self._scopes.new_name(name)}"
        self._write(f"{{%- set {slot} = {value.jinja} %}}")
        return Value(slot, _widened(value.kind))


def _widened(kind: Kind) -> Kind:
    """A variable's kind: it may be set to another text."""
    return Kind.TEXT if kind is Kind.ASCII else kind
