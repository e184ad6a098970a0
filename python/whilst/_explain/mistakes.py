"""asyncio's classic mistakes, told from the exception that they end in.

A wrong hint is worse than none. So what a message says is checked against the source (something of that kind must stand where the
failed instruction was), the instruction itself and, where it can be known without running code, the values.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from whilst._explain.place import Place

    _Explainer = Callable[[Any, Place, re.Match[str]], "Hint | None"]


@dataclass(frozen=True)
class Hint:
    """What was wrong, in a sentence; the source as it was meant, if that is plain; and what remains to be said of that."""

    reason: str
    correction: str | None = None
    remark: str = ""

    def __str__(self) -> str:
        if self.correction is None:
            return self.reason
        return f"{self.reason}; write `{self.correction}`{self.remark}"


def hint_for(exception: BaseException, place: Place) -> Hint | None:
    """Return what the mistake was, or None where it is none of these or not certain."""
    message = exception.args[0] if exception.args else None
    if not isinstance(message, str):
        return None
    tree = place.tree()
    if place.is_innermost and tree is not None and _is_raise(place):
        # The program's own words.
        return None
    for kind, pattern, explainer in _table():
        if type(exception) is kind and (match := pattern.search(message)):
            hint = explainer(exception, place, match)
            if hint is not None:
                return hint
    return None


def _is_raise(place: Place) -> bool:
    return place.operation in ("RAISE_VARARGS", "RERAISE") or place.node(ast.Raise) is not None


def short(source: str) -> str:
    """A piece of source in one line of bearable length."""
    source = " ".join(source.split())
    return source if len(source) <= 60 else source[:57] + "..."


_TABLE: list[tuple[type[BaseException], re.Pattern[str], _Explainer]] = []


def _table() -> list[tuple[type[BaseException], re.Pattern[str], _Explainer]]:
    """The messages of CPython and asyncio, 3.11 to 3.15, and what explains them."""
    if _TABLE:
        return _TABLE
    from whilst._explain import awaiting, loops, using

    of = r"'(?P<type>[\w.]+)' object"
    operands = r"'(?P<left>[\w.]+)' and '(?P<right>[\w.]+)'"
    awaitables = r"(?P<type>coroutine|Task|_asyncio\.Task|Future|_asyncio\.Future)"
    table: list[tuple[type[BaseException], str, _Explainer]] = [
        (AttributeError, rf"^{of} has no attribute", using.attribute),
        (TypeError, r"^object (?P<type>[\w.]+) can't be used in 'await' expression", awaiting.await_of),
        (TypeError, rf"^{of} can't be awaited", awaiting.await_of),
        (
            TypeError,
            r"^'async for' requires an object with __aiter__ method, got (?P<type>[\w.]+)",
            awaiting.async_for,
        ),
        (
            TypeError,
            r"^'async for' received an object from __aiter__ that does not",
            awaiting.asynchronous_aiter,
        ),
        (TypeError, r"^'(?P<type>async_generator)' object is not iterable", awaiting.plain_for),
        (
            TypeError,
            rf"^{of} does not support the asynchronous context manager protocol",
            awaiting.async_with,
        ),
        (TypeError, rf"^{of} does not support the context manager protocol", awaiting.plain_with),
        (TypeError, rf"^unsupported operand type\(s\) for \S+(?: or pow\(\))?: {operands}", using.operand),
        (TypeError, rf"^'\S+' not supported between instances of {operands}", using.operand),
        (TypeError, r"^can only concatenate \w+ \(not \"(?P<right>[\w.]+)\"\) to \w+", using.operand),
        (TypeError, r"^bad operand type for .+: '(?P<type>[\w.]+)'", using.operand),
        (TypeError, rf"^{of} (?:is not|does not|doesn't|cannot|can't)", using.operand),
        (TypeError, r"^(?:argument|object) of type '(?P<type>[\w.]+)'", using.operand),
        (TypeError, r"^cannot unpack non-iterable (?P<type>[\w.]+) object", using.operand),
        (TypeError, rf"not '?{awaitables}'?(?: found)?$", using.operand),
        (
            TypeError,
            r"^(?:Object of type|Type is not JSON serializable:) (?P<type>coroutine|Task|Future)",
            using.operand,
        ),
        (RuntimeError, r"^await wasn't used with future", using.iterated_future),
        (RuntimeError, r"^cannot reuse already awaited coroutine", awaiting.awaited_twice),
        (RuntimeError, r"^coroutine is being awaited already", awaiting.awaited_twice),
        (RuntimeError, r"^asyncio\.run\(\) cannot be called from a running event loop", loops.run_inside),
        (RuntimeError, r"^Runner\.run\(\) cannot be called from a running event loop", loops.run_inside),
        (RuntimeError, r"^This event loop is already running", loops.run_inside),
        (RuntimeError, r"^Cannot run the event loop while another loop is running", loops.run_inside),
        (RuntimeError, r"got (?P<what>.*) attached to a different loop$", loops.other_loop),
        (RuntimeError, r"^<(?P<what>.*) is bound to a different event loop$", loops.other_loop),
        (RuntimeError, r"^no running event loop", loops.no_loop),
        (RuntimeError, r"^There is no current event loop", loops.no_loop),
    ]
    for kind in (TypeError, ValueError):
        table += [
            (kind, r"^[Aa] coroutine was expected, got ", awaiting.not_called),
            (kind, r"^An asyncio\.Future, a coroutine or an awaitable is required", awaiting.not_called),
            (kind, r"^The future belongs to a different loop than the one specified", loops.other_loop),
        ]
    _TABLE.extend((kind, re.compile(pattern, re.DOTALL), explainer) for kind, pattern, explainer in table)
    return _TABLE
