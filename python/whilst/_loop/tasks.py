"""Tasks that a factory makes."""

from __future__ import annotations

import sys
from asyncio import tasks
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from whilst._loop import Loop


def from_factory(
    loop: Loop, factory: Callable[..., asyncio.Task[Any]], coroutine: Any, keywords: dict[str, Any]
) -> asyncio.Task[Any]:
    """Have a task made by the loop's factory, called as the interpreter's own loop calls it.

    From 3.13.3 on a factory is given all keywords; before, the context if there is one, and the name is set afterwards.
    """
    if sys.version_info >= (3, 13, 3):
        return factory(loop, coroutine, **keywords)
    name = keywords.pop("name", None)
    context = keywords.pop("context", None)
    if keywords:
        unexpected = next(iter(keywords))
        raise TypeError(f"create_task() got an unexpected keyword argument {unexpected!r}")
    task = factory(loop, coroutine) if context is None else factory(loop, coroutine, context=context)
    if sys.version_info >= (3, 13):
        task.set_name(name)
    else:
        tasks._set_task_name(task, name)  # type: ignore[attr-defined]
    return task
