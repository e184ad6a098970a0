"""What the expressions of a line are, as far as that can be known without running any of them."""

from __future__ import annotations

import ast
import asyncio
import functools
import inspect
import types
from typing import TYPE_CHECKING, Any

from whilst._explain.place import UNKNOWN, is_a

if TYPE_CHECKING:
    from collections.abc import Collection

    from whilst._explain.place import Place

#: What is waited for, by the names that messages have for its type.
AWAITABLES = {
    "coroutine": "a coroutine",
    "Task": "a task",
    "_asyncio.Task": "a task",
    "Future": "a future",
    "_asyncio.Future": "a future",
    "_GatheringFuture": "a future",
}

_TASK_MAKERS = (asyncio.create_task, asyncio.ensure_future)
_FUTURE_MAKERS = (asyncio.gather, asyncio.shield, asyncio.wrap_future)

#: Expressions that may be a coroutine and can be awaited as they stand.
_SIMPLE = (ast.Name, ast.Attribute, ast.Subscript, ast.Call, ast.NamedExpr)


def kind_of(value: Any) -> str | None:
    """What a value is waited for as, in words; None if it is nothing to wait for."""
    if is_a(value, types.CoroutineType):
        return "a coroutine"
    if is_a(value, asyncio.Task):
        return "a task"
    if is_a(value, asyncio.Future):
        return "a future"
    return None


def is_one_of(value: Any, names: Collection[str]) -> bool:
    """Whether a value is waited for, and its type has one of these names."""
    return kind_of(value) is not None and any(
        name.rpartition(".")[2] == type(value).__name__ for name in names
    )


def is_surely(place: Place, node: ast.expr, names: Collection[str]) -> bool:
    """True if the expression is surely to be waited for and of a type with one of these names."""
    value = place.value(node)
    if value is not UNKNOWN:
        return is_one_of(value, names)
    if isinstance(node, ast.Call):
        function = place.value(node.func)
        if function is UNKNOWN:
            return False
        if is_coroutine_function(function):
            return "coroutine" in names
        makers: tuple[Any, ...] = _TASK_MAKERS if any("Task" in name for name in names) else ()
        if any("Future" in name for name in names):
            makers += _FUTURE_MAKERS
        return any(function is maker for maker in makers)
    return False


def may_be(place: Place, node: ast.expr, names: Collection[str]) -> bool:
    """False if the expression is surely of no type with one of these names, or could not be awaited where it stands."""
    if not isinstance(node, _SIMPLE):
        return False
    value = place.value(node)
    if value is not UNKNOWN:
        return is_one_of(value, names)
    if isinstance(node, ast.Call):
        function = place.value(node.func)
        return not is_a(function, type) or issubclass(function, asyncio.Future)
    return True


def code_of(value: Any) -> types.CodeType | None:
    """The code of a function or method in Python."""
    if is_a(value, types.MethodType):
        value = value.__func__
    return value.__code__ if is_a(value, types.FunctionType) else None


def is_coroutine_function(value: Any) -> bool:
    """Whether calling this gives a coroutine, by its own code."""
    while is_a(value, functools.partial):
        value = value.func
    code = code_of(value)
    return code is not None and bool(code.co_flags & inspect.CO_COROUTINE)
