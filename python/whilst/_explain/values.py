"""What the expressions of a line are, as far as that can be known without running any of them."""

from __future__ import annotations

import ast
import asyncio
import functools
import inspect
import types
from typing import TYPE_CHECKING, Any

from whilst._explain.place import UNKNOWN

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
}

_TASK_MAKERS = (asyncio.create_task, asyncio.ensure_future)

#: Expressions that may be a coroutine and can be awaited as they stand.
_SIMPLE = (ast.Name, ast.Attribute, ast.Subscript, ast.Call, ast.NamedExpr)


def kind_of(value: Any) -> str | None:
    """What a value is waited for as, in words; None if it is nothing to wait for."""
    if isinstance(value, types.CoroutineType):
        return "a coroutine"
    if isinstance(value, asyncio.Task):
        return "a task"
    if isinstance(value, asyncio.Future):
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
        return function in _TASK_MAKERS and any("Task" in name for name in names)
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
        return not isinstance(function, type) or issubclass(function, asyncio.Future)
    return True


def is_coroutine_function(value: Any) -> bool:
    """Whether calling this gives a coroutine, by its own code."""
    while isinstance(value, (functools.partial, types.MethodType)):
        value = value.func if isinstance(value, functools.partial) else value.__func__
    return isinstance(value, types.FunctionType) and bool(value.__code__.co_flags & inspect.CO_COROUTINE)
