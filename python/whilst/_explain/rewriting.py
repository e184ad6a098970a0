"""The source as it should have been."""

from __future__ import annotations

import ast
import textwrap
from typing import TYPE_CHECKING

from whilst._explain.place import Span, span_of

if TYPE_CHECKING:
    from whilst._explain.place import Tree

#: Longer than this, or on more lines than one, only the expression is shown.
WIDTH = 100


class Rewriting:
    """Changes to one piece of a file."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._changes: list[tuple[Span, str]] = []

    def replace(self, span: Span, text: str) -> None:
        """Put a text in the place of what is there."""
        self._changes.append((span, text))

    def insert(self, line: int, column: int, text: str) -> None:
        """Put a text in front of what is there."""
        self.replace((line, column, line, column), text)

    def await_(self, node: ast.expr) -> None:
        """Await an expression: ``await x``, with brackets where what follows would be awaited else."""
        if isinstance(node, ast.NamedExpr):
            self.await_(node.value)
            return
        line, column, end_line, end_column = span_of(node)
        begin, end = ("(await ", ")") if self._takes_part(node) else ("await ", "")
        self.insert(line, column, begin)
        if end:
            self.insert(end_line, end_column, end)

    def await_in_place_of(self, node: ast.expr, other: ast.expr) -> None:
        """Await another expression in the place of one."""
        text = f"await {self._tree.source(other)}"
        self.replace(span_of(node), f"({text})" if self._takes_part(node) else text)

    def _takes_part(self, node: ast.expr) -> bool:
        """Whether what stands around an expression would go before an `await` in front of it."""
        parent = self._tree.parents.get(node)
        return (
            (isinstance(parent, (ast.Attribute, ast.Subscript, ast.Starred)) and parent.value is node)
            or (isinstance(parent, ast.Call) and parent.func is node)
            or (isinstance(parent, ast.BinOp) and isinstance(parent.op, ast.Pow) and parent.left is node)
        )

    def drop_await(self, node: ast.Await) -> None:
        """Take the `await` before an expression away."""
        line, column, _, _ = span_of(node)
        inner_line, inner_column, _, _ = span_of(node.value)
        self.replace((line, column, inner_line, inner_column), self._brackets_between(node))

    def _brackets_between(self, node: ast.Await) -> str:
        line, column, _, _ = span_of(node)
        inner_line, inner_column, _, _ = span_of(node.value)
        return self._tree.text((line, column, inner_line, inner_column)).removeprefix("await").strip()

    def call(self, node: ast.expr) -> None:
        """Call what an expression names."""
        _, _, line, column = span_of(node)
        self.insert(line, column, "()")

    def text(self, span: Span) -> str:
        """Return a piece of the source with all changes made to it."""
        line, column, end_line, end_column = span
        result = []
        position = (line, column)
        for (begin_line, begin_column, last_line, last_column), new in sorted(
            self._changes, key=lambda change: change[0]
        ):
            result.append(self._tree.text((*position, begin_line, begin_column)))
            result.append(new)
            position = (last_line, last_column)
        result.append(self._tree.text((*position, end_line, end_column)))
        return "".join(result)

    def line(self, node: ast.AST) -> str | None:
        """Return the statement that a node is in, or its first line if it has a block; or the node alone if that is long.

        None if what would be written is not Python's.
        """
        statement = self._tree.statement(node)
        if statement is not None:
            span = self._head(statement)
            text = self.text(span)
            if "\n" not in text and len(text) <= WIDTH:
                return text if _is_statement(text) else None
        return self.expression(node)

    def expression(self, node: ast.AST) -> str | None:
        """Return an expression, or None if what would be written is not Python's."""
        text = self.text(span_of(node))
        return text if _is_statement(f"(\n{text}\n)") else None

    def _head(self, statement: ast.stmt) -> Span:
        """The span of a statement up to its block."""
        line, column, end_line, end_column = span_of(statement)
        body = getattr(statement, "body", None)
        if body:
            first = body[0]
            if first.lineno == line:
                head = self._tree.lines[line - 1][: first.col_offset].rstrip()
                return (line, column, line, len(head))
            # Up to the line that ends in the colon: comments may stand behind it, and decorators before the block's first line.
            for number in range(line, first.lineno):
                head = self._tree.lines[number - 1].split(b"#")[0].rstrip()
                if head.endswith(b":"):
                    return (line, column, number, len(head))
        return (line, column, end_line, end_column)


def _is_statement(text: str) -> bool:
    """Whether a text is a statement in a coroutine, or the head of one."""
    body = textwrap.indent(text, " ") if "\n" not in text else text
    if text.startswith(("elif ", "else", "except", "finally", "case ")):
        return True
    for source in (body, f"{body} pass"):
        try:
            ast.parse(f"async def f():\n while 1:\n  if 1:\n   {source.strip()}\n")
        except SyntaxError:
            continue
        return True
    return False
