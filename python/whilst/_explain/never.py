"""Coroutines that nobody awaits and tasks that are lost while they wait: who has made them, and where."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import linecache
import os
import sys
from functools import lru_cache
from types import FrameType
from typing import TYPE_CHECKING, Any

from whilst._explain.mistakes import Hint, short
from whilst._explain.place import Place
from whilst._explain.place import tree_of as _tree_of
from whilst._explain.rewriting import Rewriting
from whilst._explain.values import code_of
from whilst._owners import Owner, is_above_stdlib, is_package, owner_of
from whilst._waits import chain

if TYPE_CHECKING:
    from types import CodeType, CoroutineType, ModuleType

    from whilst._explain.place import Tree

#: With more modules than these of the program's own, what has made a coroutine is not searched for.
_MODULES = 300


def message_of(coroutine: CoroutineType[Any, Any, Any], frame: FrameType | None) -> str:
    """Return what is to be warned of a coroutine that goes, in this frame, without having run.

    The first lines are those of `warnings._warn_unawaited_coroutine`.
    """
    message = [f"coroutine '{coroutine.__qualname__}' was never awaited"]
    origin = coroutine.cr_origin
    if origin is not None:
        import traceback

        entries = [
            (name, line, function, linecache.getline(name, line)) for name, line, function in reversed(origin)
        ]
        made = "".join(traceback.format_list(entries)).rstrip()
        message.append(f"Coroutine created at (most recent call last)\n{made}")
    hint = None
    # Not while the program itself parses: see `place.tree_of`.
    if frame is None or frame.f_code.co_filename != ast.__file__:
        with contextlib.suppress(Exception):
            hint = _dropped_at_once(coroutine, Place(frame, frame.f_lasti)) if frame is not None else None
            hint = hint or _made_elsewhere(coroutine)
    if hint is not None:
        message.append(f"whilst: {hint}")
    return "\n".join(message)


def _dropped_at_once(coroutine: CoroutineType[Any, Any, Any], place: Place) -> Hint | None:
    """Say where a coroutine was to be awaited, if it goes in the very statement that has made it."""
    tree, line = place.tree(), place.frame.f_lineno
    if tree is None or owner_of(place.code.co_filename) is not Owner.PROGRAM:
        return None
    calls = [
        call
        for call in _bare_calls(tree)
        if call.lineno <= line <= (call.end_lineno or line)
        and code_of(place.value(call.func)) is coroutine.cr_code
    ]
    if len(calls) != 1:
        return None
    (call,) = calls
    source = short(tree.source(call))
    if not place.is_async_at(call):
        if place.code.co_name == "<module>":
            return Hint(f"`{source}` has only made a coroutine; `asyncio.run({source})` runs it")
        return Hint(f"`{source}` has only made a coroutine, which `await` in an `async def` function runs")
    rewriting = Rewriting(tree)
    rewriting.await_(call)
    return Hint(f"`{source}` has only made a coroutine", rewriting.line(call))


@lru_cache(maxsize=16)
def _bare_calls(tree: Tree) -> list[ast.Call]:
    statements = (node.value for node in ast.walk(tree.root) if isinstance(node, ast.Expr))
    return [node for node in statements if isinstance(node, ast.Call)]


def _made_elsewhere(coroutine: CoroutineType[Any, Any, Any]) -> Hint | None:
    # In debug mode the warning itself says where.
    made = _only_call_of(coroutine.cr_code) if coroutine.cr_origin is None else None
    return (
        Hint(f"`{made[1]}` made it at {made[0]}; it would have run when awaited")
        if made is not None
        else None
    )


def explain_lost_task(context: dict[str, Any]) -> str | None:
    """Say of a task that was collected while it was pending who has made it, where it waited and why it was lost."""
    task = context.get("task")
    if context.get("message") != "Task was destroyed but it is pending!" or not isinstance(
        task, asyncio.Task
    ):
        return None
    coroutine: Any = task.get_coro()
    code = getattr(coroutine, "cr_code", None)
    if code is None:
        return None
    said = f"the task of `{coroutine.__qualname__}()`"
    if (made := _made_at(task, code)) is not None:
        said += f", made at {made},"
    if (line := _waits_at(coroutine)) is not None:
        said += f" waited at {line}"
    elif inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
        said += " had not begun"
    else:
        # The collector may have closed the coroutine first.
        said += " was pending"
    if task.get_loop().is_running():
        return (
            f"{said} when it was collected as garbage: asyncio itself refers to a task only weakly, so keep what "
            "`asyncio.create_task()` returns until it is done, or use `asyncio.TaskGroup`"
        )
    return f"{said} when its loop had ended: await it, or cancel and await it, before that"


def _made_at(task: asyncio.Task[Any], code: CodeType) -> str | None:
    for entry in reversed(getattr(task, "_source_traceback", None) or ()):
        if is_above_stdlib(entry.filename):
            return f"{_shown(entry.filename)}:{entry.lineno}, in {entry.name}"
    made = _only_call_of(code)
    return made[0] if made is not None else None


def _waits_at(coroutine: Any) -> str | None:
    """The innermost line of the program's own in which a coroutine is suspended."""
    if getattr(coroutine, "cr_await", None) is None:
        return None
    found = None
    for frame in chain(coroutine):
        if isinstance(frame, FrameType) and is_above_stdlib(frame.f_code.co_filename):
            found = f"{_shown(frame.f_code.co_filename)}:{frame.f_lineno}, in {frame.f_code.co_name}"
    return found


def _shown(filename: str) -> str:
    relative = os.path.relpath(filename) if os.path.isabs(filename) else filename
    return filename if relative.startswith("..") else relative


@lru_cache(maxsize=64)
def _only_call_of(code: CodeType) -> tuple[str, str] | None:
    """Where a module's function is called, and the call, if the program's own modules mention it nowhere else."""
    if code.co_qualname != code.co_name or is_package(code.co_filename):
        return None
    found: list[tuple[ModuleType, Tree, ast.AST]] = []
    modules = [module for module in list(sys.modules.values()) if _is_own(module)]
    if len(modules) > _MODULES:
        return None
    for module in modules:
        names = {name for name, value in list(vars(module).items()) if code_of(value) is code}
        lines = linecache.getlines(module.__file__ or "", vars(module))
        tree = _tree_of("".join(lines)) if lines else None
        if tree is None:
            return None
        for node in ast.walk(tree.root):
            match node:
                case ast.Name(id=name, ctx=ast.Load()) if name in names:
                    found.append((module, tree, node))
                case ast.Attribute(attr=name) if name == code.co_name:
                    found.append((module, tree, node))
    if len(found) != 1:
        return None
    module, tree, node = found[0]
    call = tree.parents.get(node)
    if not isinstance(call, ast.Call) or call.func is not node:
        return None
    return f"{_shown(module.__file__ or '')}:{call.lineno}", short(tree.source(call))


def _is_own(module: Any) -> bool:
    filename = getattr(module, "__file__", None)
    return (
        isinstance(filename, str)
        and filename.endswith(".py")
        and owner_of(filename) is Owner.PROGRAM
        and isinstance(getattr(module, "__name__", None), str)
    )
