"""Where an exception was raised: the piece of source, and what the names in it stand for."""

from __future__ import annotations

import ast
import inspect
import linecache
import opcode
import os
import re
import sys
import threading
import types
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

from whilst._owners import is_above_stdlib, is_package

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import CodeType, FrameType, TracebackType

#: What a name stands for when that cannot be known without running code of the program.
UNKNOWN: Any = object()

Span = tuple[int, int, int, int]
"""First line, first column, last line, last column. Lines from 1, columns in bytes from 0: as in `ast` and `co_positions`."""

#: What runs functions in other threads.
_OF_THREADS = (os.path.join("concurrent", "futures", "thread.py"), f"{os.sep}threading.py")

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef, ast.Module)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def is_a(value: Any, kinds: type | tuple[type, ...]) -> bool:
    """Like `isinstance`, by the type alone: what a stand-in says of itself (`__class__`) may be code of the program's."""
    return issubclass(type(value), kinds)


class Place:
    """An instruction that failed, in a frame that a traceback keeps or that runs."""

    def __init__(
        self,
        frame: FrameType,
        instruction: int,
        *,
        is_innermost: bool = True,
        outer: Sequence[TracebackType] = (),
    ) -> None:
        self.frame = frame
        self.code = frame.f_code
        #: Whether the exception was raised here, and not in a function of the standard library's that was called here.
        self.is_innermost = is_innermost
        #: Whether the code is a package's that the program uses.
        self.is_package = is_package(self.code.co_filename)
        self._instruction = instruction
        self._outer = outer
        self._tree: Tree | None = None

    @classmethod
    def of(cls, traceback: TracebackType | None) -> Place | None:
        """Return the innermost place of a traceback that is the program's own or a package's that it uses."""
        entries = []
        while traceback is not None:
            entries.append(traceback)
            traceback = traceback.tb_next
        for number in range(len(entries) - 1, -1, -1):
            entry = entries[number]
            if is_above_stdlib(entry.tb_frame.f_code.co_filename):
                is_innermost = number == len(entries) - 1
                outer = entries[:number]
                return cls(entry.tb_frame, entry.tb_lasti, is_innermost=is_innermost, outer=outer)
        return None

    def callers(self) -> Iterator[Place]:
        """Yield the places that this one was called from or is awaited by, from the inside."""
        outer = list(self._outer)
        frame = outer[0].tb_frame if outer else self.frame
        while outer:
            entry = outer.pop()
            if entry.tb_frame is not self.frame and is_above_stdlib(entry.tb_frame.f_code.co_filename):
                yield Place(entry.tb_frame, entry.tb_lasti, is_innermost=False, outer=tuple(outer))
        # A traceback begins where the exception was caught, or has got to so far.
        above = frame.f_back
        while above is not None:
            if is_above_stdlib(above.f_code.co_filename):
                yield Place(above, above.f_lasti, is_innermost=False)
            above = above.f_back

    @property
    def is_in_main_thread(self) -> bool:
        """Whether the function was called in the main thread, as far as the traceback or the frames tell."""
        if any(entry.tb_frame.f_code.co_filename.endswith(_OF_THREADS) for entry in self._outer):
            return False
        if self.frame.f_back is None:
            return True
        return threading.current_thread() is threading.main_thread()

    @property
    def operation(self) -> str:
        """The name of the failed instruction, by `opcode.opname`."""
        code, number = self.code.co_code, self._instruction
        while number > 0 and opcode.opname[code[number]] == "CACHE":
            number -= 2
        return opcode.opname[code[number]] if 0 <= number < len(code) else ""

    def span(self) -> Span | None:
        """Return what of the source the instruction was made of; None where nobody has noted it (``-X no_debug_ranges``)."""
        positions = next(islice(self.code.co_positions(), self._instruction // 2, None), None)
        if positions is None or None in positions:
            return None
        line, end_line, column, end_column = positions
        return (line, column, end_line, end_column)  # type: ignore[return-value]

    def tree(self) -> Tree | None:
        """Return the source file as a tree, or None if it is not there."""
        if self._tree is None:
            lines = linecache.getlines(self.code.co_filename, self.frame.f_globals)
            if not lines and sys.version_info >= (3, 14):
                # Of code that was typed or given with ``-c``.
                lines = linecache._getlines_from_code(self.code)  # type: ignore[attr-defined]
            if lines:
                self._tree = tree_of("".join(lines))
        return self._tree

    def node(self, *kinds: type[ast.AST]) -> Any:
        """Return the node of one of these kinds that the instruction belongs to; None also if the source is not what was run."""
        tree, span = self.tree(), self.span()
        if tree is None or span is None:
            return None
        node = tree.at(span, kinds)
        return node if node is not None and self._is_what_was_run(tree, node) else None

    def is_async_at(self, node: ast.AST) -> bool:
        """Whether `await` may stand where this node is, and means what it means around it."""
        tree = self.tree()
        if tree is None:
            return False
        for above in tree.above(node):
            if isinstance(above, ast.GeneratorExp) and above.generators[0].iter is not node:
                return False
            if isinstance(above, _SCOPES):
                return isinstance(above, ast.AsyncFunctionDef) and _is_in_body(tree, above, node)
        return False

    def _is_what_was_run(self, tree: Tree, node: ast.AST) -> bool:
        """False if the file has surely changed since: another function is there now, or other names are in the statement."""
        scope: Any = next(
            (above for above in tree.above(node) if isinstance(above, (*_SCOPES, *_COMPREHENSIONS))),
            tree.root,
        )
        name = self.code.co_name
        if not name.startswith("<"):
            while isinstance(scope, _COMPREHENSIONS):
                scope = next(
                    above for above in tree.above(scope) if isinstance(above, (*_SCOPES, *_COMPREHENSIONS))
                )
            if getattr(scope, "name", None) != name:
                return False
            first = min([scope.lineno, *(decorator.lineno for decorator in scope.decorator_list)])
            if first != self.code.co_firstlineno:
                return False
        used = _names_in(node)
        return used <= _names_of(self.code)

    def is_local(self, name: str) -> bool:
        """Whether a name is a function's own, so that it stands for this now and for that later."""
        return name in self.code.co_varnames or name in self.code.co_cellvars or name in self.code.co_freevars

    def value(self, node: ast.AST) -> Any:
        """Return what an expression stands for now, or `UNKNOWN` where finding out would run code or might be wrong.

        Names are looked up as the frame would; attributes only where they are plain ones. A name may have been given another
        value since, by the very statement that failed: the caller compares with what the exception says.
        """
        match node:
            case ast.Name(id=name):
                frame = self.frame
                for scope in (frame.f_locals, frame.f_globals, frame.f_builtins):
                    if name in scope:
                        return scope[name]
            case ast.Constant(value=value):
                return value
            case ast.NamedExpr(target=target):
                return self.value(target)
            case ast.Attribute(value=inner, attr=name):
                owner = self.value(inner)
                if owner is not UNKNOWN:
                    return _plain_attribute(owner, name)
        return UNKNOWN


def _is_in_body(tree: Tree, function: ast.AsyncFunctionDef, node: ast.AST) -> bool:
    """Whether a node is in the function itself: its decorators and defaults are run outside of it."""
    chain = [node, *tree.above(node)]
    return any(one in function.body for one in chain if isinstance(one, ast.stmt))


def _names_in(node: ast.AST) -> set[str]:
    found = set()
    for one in ast.walk(node):
        if isinstance(one, ast.stmt) and one is not node:
            continue
        if isinstance(one, ast.Name):
            found.add(one.id)
        elif isinstance(one, ast.Attribute) and not one.attr.startswith("__"):
            # Names with two underscores are kept with their class's.
            found.add(one.attr)
    return found if isinstance(node, ast.expr) else set()


@lru_cache(maxsize=256)
def _names_of(code: CodeType) -> frozenset[str]:
    names = {*code.co_names, *code.co_varnames, *code.co_cellvars, *code.co_freevars, "__debug__"}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names_of(constant)
    return frozenset(names)


def _plain_attribute(owner: Any, name: str) -> Any:
    """Return an attribute that is had without running code: a module's, an instance's own, or a function of its class."""
    kind = type(owner)
    if is_a(owner, types.ModuleType):
        return vars(owner).get(name, UNKNOWN)
    if kind.__getattribute__ not in _PLAIN:
        return UNKNOWN
    try:
        found = inspect.getattr_static(owner, name)
    except AttributeError:
        return UNKNOWN
    if is_a(found, (staticmethod, classmethod)):
        return found.__func__
    if is_a(found, types.MemberDescriptorType) and not is_a(owner, type):
        try:
            return found.__get__(owner)
        except AttributeError:
            return UNKNOWN
    if hasattr(type(found), "__get__") and not is_a(found, (types.FunctionType, types.MethodType, type)):
        return UNKNOWN
    return found


#: `__getattribute__` of those classes whose attributes are where they seem to be.
_PLAIN: tuple[Any, ...] = (object.__getattribute__, type.__getattribute__)


class Tree:
    """The syntax tree of a file, with what is above each node."""

    def __init__(self, source: str) -> None:
        self.lines = source.encode().split(b"\n")
        self.root = ast.parse(source)
        self.parents: dict[ast.AST, ast.AST] = {}
        for parent in ast.walk(self.root):
            for child in ast.iter_child_nodes(parent):
                self.parents[child] = parent

    def at(self, span: Span, kinds: tuple[type[ast.AST], ...]) -> ast.AST | None:
        """Return the innermost node of these kinds with this span.

        Of a call or an attribute on several lines the interpreter notes only the last part as its beginning, for the arrow in
        tracebacks: such a one is found by its end.
        """
        alike = [node for node in ast.walk(self.root) if isinstance(node, kinds) and hasattr(node, "lineno")]
        found = [node for node in alike if span_of(node) == span]
        if not found:
            found = [
                node
                for node in alike
                if isinstance(node, (ast.Attribute, ast.Call))
                and span_of(node)[2:] == span[2:]
                and span_of(node)[:2] <= span[:2]
                and span_of(node)[0] != span[0]
            ]
            found.sort(key=span_of)
        return found[-1] if found and self._is_sound(found[-1]) else None

    def _is_sound(self, node: ast.AST) -> bool:
        """Whether the source at a node's span is the node: up to Python 3.11 spans in f-strings may be wrong."""
        if not isinstance(node, ast.expr):
            return True
        try:
            again: Any = ast.parse(f"(\n{self.source(node)}\n)", mode="eval").body
        except SyntaxError:
            return isinstance(node, (ast.Starred, ast.NamedExpr))
        return _dump(again) == _dump(node)

    def above(self, node: ast.AST) -> Iterator[ast.AST]:
        """Yield what a node is part of, from the inside."""
        while (parent := self.parents.get(node)) is not None:
            yield parent
            node = parent

    def statement(self, node: ast.AST) -> ast.stmt | None:
        """Return the statement that a node is in."""
        for above in (node, *self.above(node)):
            if isinstance(above, ast.stmt):
                return above
        return None

    def text(self, span: Span) -> str:
        """Return a piece of the source."""
        line, column, end_line, end_column = span
        if line == end_line:
            return self.lines[line - 1][column:end_column].decode()
        first, *middle, last = self.lines[line - 1 : end_line]
        return b"\n".join((first[column:], *middle, last[:end_column])).decode()

    def source(self, node: ast.AST) -> str:
        """Return the source of a node."""
        return self.text(span_of(node))


def _dump(node: ast.AST) -> str:
    # Newer Pythons leave out what is the usual context.
    return re.sub(r"(, )?ctx=\w+\(\)", "", ast.dump(node))


def span_of(node: Any) -> Span:
    """Return the span of a node that has one."""
    return (node.lineno, node.col_offset, node.end_lineno, node.end_col_offset)


#: Held while a source is parsed. Up to 3.11.7 and 3.12.1 (gh-106905) `ast.parse` fails if another call of it comes in between,
#: and the garbage collector, which may begin in it, comes to coroutines that nobody has awaited.
_parsing = threading.Lock()


def tree_of(source: str) -> Tree | None:
    """Return the tree of a file's source, or None if it cannot be had."""
    if not _parsing.acquire(blocking=False):
        return None
    try:
        return _parse(source)
    finally:
        _parsing.release()


@lru_cache(maxsize=32)
def _parse(source: str) -> Tree | None:
    try:
        return Tree(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
