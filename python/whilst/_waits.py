"""What a task waits for, where it does, and who waits for it: for reports, not for programs to decide by.

Nothing here runs code of the program or changes anything: coroutines are followed by what they have for it (``cr_await``,
``ag_await``, ``gi_yieldfrom``), futures by their callbacks. Local variables are not looked at: up to Python 3.12 asking a
frame for them would keep what they refer to alive.

Each function may be called in another thread than the loop's. With a GIL it then sees one moment; without, what it sees may
have changed meanwhile, and a chain may be cut short.
"""

import asyncio
import functools
import gc
from collections.abc import Callable, Iterator
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType, FunctionType, GeneratorType
from typing import Any

Place = tuple[str, int, str]
"""A file's name, a line, and the qualified name of the function."""

KINDS = (
    "sleep",
    "socket",
    "lock",
    "queue",
    "executor",
    "task",
    "gather",
    "process",
    "future",
    "ready",
    "running",
)
"""What :func:`waits_for` can say."""

WAITS = {
    "asyncio.base_events": "socket",
    "asyncio.base_events.BaseEventLoop.getaddrinfo": "executor",
    "asyncio.base_events.BaseEventLoop.getnameinfo": "executor",
    "asyncio.base_events.BaseEventLoop.shutdown_default_executor": "executor",
    "asyncio.base_events.BaseEventLoop.subprocess_exec": "process",
    "asyncio.base_events.BaseEventLoop.subprocess_shell": "process",
    "asyncio.base_subprocess": "process",
    "asyncio.locks": "lock",
    "asyncio.queues": "queue",
    "asyncio.selector_events": "socket",
    "asyncio.streams": "socket",
    "asyncio.subprocess": "process",
    "asyncio.taskgroups": "gather",
    "asyncio.tasks._AsCompletedIterator": "gather",
    "asyncio.tasks._cancel_and_wait": "task",
    "asyncio.tasks._wait": "gather",
    "asyncio.tasks.as_completed": "gather",
    "asyncio.tasks.sleep": "sleep",
    "asyncio.tasks.wait": "gather",
    "asyncio.threads": "executor",
    "asyncio.unix_events": "socket",
    "anyio._backends._asyncio.AsyncIOBackend.run_sync_in_worker_thread": "executor",
    "whilst._files": "executor",
    "whilst._loop": "socket",
    "whilst._loop.processes": "process",
    "whilst._loop.resolving": "executor",
}
"""The kind of a wait by the function that waits: its module and qualified name, or what they begin with. The longest counts."""

LIBRARIES = ("asyncio.", "whilst.", "anyio.")
"""What the names of the modules in :data:`WAITS` begin with."""

# Awaitables of CPython's without attributes. The garbage collector is told what each is made of, the object awaited first
# (async_gen_asend_traverse, coro_wrapper_traverse, anextawaitable_traverse).
_OPAQUE = frozenset(
    ("async_generator_asend", "async_generator_athrow", "coroutine_wrapper", "anext_awaitable")
)


def awaited_at(task: "asyncio.Task[Any]") -> list[Place]:
    """The chain of coroutines in which *task* is suspended, outermost first.

    Coroutines, generators and asynchronous generators have their file, the line that waits and the function; those of C the
    file ``""``, line 0 and the name of their type. Empty for a task that has ended. Of a task that runs it is the outermost
    coroutine alone: the rest is on its thread's stack.
    """
    return [place for _, place in _places(task)]


def waits_for(task: "asyncio.Task[Any]") -> tuple[str, str]:
    """What *task* waits for: one of :data:`KINDS`, and a few words: a function of asyncio's, a task's name, a file descriptor.

    ``ready`` is a task that waits for its turn, ``running`` one that has it, and ``future`` anything else that is awaited.
    A task that has ended is ``("ready", "done")``.
    """
    if task.done():
        return "ready", "done"
    coroutine: Any = task.get_coro()
    if getattr(coroutine, "cr_running", False) or getattr(coroutine, "gi_running", False):
        return "running", ""
    future = getattr(task, "_fut_waiter", None)
    if future is None or future.done():
        return "ready", ""
    return _by_function(task) or _by_future(future)


def awaited_by(task: "asyncio.Future[Any]") -> "list[asyncio.Task[Any]]":
    """The tasks that wait for *task*, directly or by way of ``gather``, ``wait``, ``shield``, a task group and their like.

    The parent of a task group counts from the beginning. From 3.14 on asyncio itself knows (``_asyncio_awaited_by``); before,
    and beside that, the callbacks of the future tell.
    """
    found: dict[int, asyncio.Task[Any]] = {}
    seen = {id(task)}
    pending: list[Any] = [task]
    while pending:
        future = pending.pop()
        for waiter in (*(getattr(future, "_asyncio_awaited_by", None) or ()), *_told_by_callbacks(future)):
            if id(waiter) in seen:
                continue
            seen.add(id(waiter))
            if isinstance(waiter, asyncio.Task):
                found[id(waiter)] = waiter
            else:
                pending.append(waiter)
    return list(found.values())


def chain(coroutine: Any) -> Iterator[FrameType | type]:
    """What *coroutine* awaits, itself first: the frame of each, or the type of one in C. The future at the end is left out."""
    awaitable = coroutine
    while awaitable is not None:
        # None of these types can be a base.
        kind: type = type(awaitable)
        if kind is CoroutineType:
            link, inner = awaitable.cr_frame, awaitable.cr_await
        elif kind is GeneratorType:
            link, inner = awaitable.gi_frame, awaitable.gi_yieldfrom
        elif kind is AsyncGeneratorType:
            link, inner = awaitable.ag_frame, awaitable.ag_await
        elif kind.__name__ == "FutureIter" or asyncio.isfuture(awaitable):
            return
        elif kind.__name__ in _OPAQUE:
            made_of = (part for part in gc.get_referents(awaitable) if not isinstance(part, type))
            awaitable = next(made_of, None)
            continue
        else:
            # Coroutines of Cython have the attribute.
            link, inner = kind, getattr(awaitable, "cr_await", None)
        if link is None:
            return
        yield link
        awaitable = inner


def _places(task: "asyncio.Task[Any]") -> Iterator[tuple[str, Place]]:
    """The chain of :func:`awaited_at`, each with the name of its module."""
    for link in chain(task.get_coro()):
        if isinstance(link, FrameType):
            code = link.f_code
            yield _module(link), (code.co_filename, _line(link, code), code.co_qualname)
        else:
            yield link.__module__, ("", 0, link.__qualname__)


def _module(frame: FrameType) -> str:
    name = frame.f_globals.get("__name__")
    return name if isinstance(name, str) else ""


def _line(frame: FrameType, code: CodeType) -> int:
    return frame.f_lineno or code.co_firstlineno


def _by_function(task: "asyncio.Task[Any]") -> tuple[str, str] | None:
    """The kind by the outermost of the libraries' functions that the program has called, and by those below it."""
    functions: list[tuple[str, str]] = []
    for module, (_, _, function) in _places(task):
        if f"{module}.".startswith(LIBRARIES):
            functions.append((module, function))
        else:
            functions.clear()
    for index, (module, function) in enumerate(functions):
        if kind := _kind(f"{module}.{function}"):
            return kind, _words(name for _, name in functions[index:])
    return None


def _words(functions: Iterator[str]) -> str:
    """The first of *functions* that has a public name: `async with lock` waits in `Lock.acquire`."""
    name = ""
    for function in functions:
        name = function.partition(".<locals>")[0]
        if name.startswith("_AsCompletedIterator"):
            return "as_completed"
        if not name.startswith("_"):
            break
    return name


@functools.cache
def _kind(function: str) -> str | None:
    while function:
        if kind := WAITS.get(function):
            return kind
        function = function.rpartition(".")[0]
    return None


def _by_future(future: Any) -> tuple[str, str]:
    if isinstance(future, asyncio.Task):
        return "task", future.get_name()
    name = type(future).__name__
    if name == "SocketWait":
        return "socket", repr(future).removeprefix("<SocketWait pending ").removesuffix(">")
    if isinstance(children := getattr(future, "_children", None), list):
        pending = sum(not child.done() for child in children if asyncio.isfuture(child))
        return "gather", f"gather: {pending} of {len(children)} pending"
    # What asyncio.wrap_future() adds: the other future is one of concurrent.futures.
    if any(_is_named(callback, "_call_check_cancel") for callback in _callbacks(future)):
        return "executor", "run_in_executor"
    for inner in _inner_tasks(future):
        return "task", inner.get_name()
    return "future", name


def _inner_tasks(outer: Any) -> "Iterator[asyncio.Task[Any]]":
    """The task that an ``asyncio.shield`` shields: its outer future has a callback that knows it."""
    for callback in _callbacks(outer):
        if _is_named(callback, "_outer_done_callback"):
            yield from (
                task for name, task in _cells(callback) if name == "inner" and isinstance(task, asyncio.Task)
            )


def _callbacks(future: Any) -> Iterator[Any]:
    for entry in getattr(future, "_callbacks", None) or ():
        yield entry[0] if isinstance(entry, tuple) else entry


def _told_by_callbacks(future: Any) -> Iterator[Any]:
    """The tasks and futures that *future* goes on with when it is done."""
    for callback in _callbacks(future):
        owner = getattr(callback, "__self__", None)
        if isinstance(owner, asyncio.Task):
            # The task's own wakeup. It may be another's method for all that is known; then it does not wait for this future.
            if getattr(owner, "_fut_waiter", None) is future:
                yield owner
        elif isinstance(owner, asyncio.TaskGroup):
            yield from _futures((getattr(owner, "_parent_task", None),))
        elif isinstance(callback, functools.partial):
            if _is_library(callback.func):
                yield from _futures(callback.args)
        elif owner is not None:
            if type(owner).__module__ == "asyncio.tasks":
                yield from _futures(vars(owner).values())
        elif _is_library(callback):
            yield from (
                other for other in _futures(value for _, value in _cells(callback)) if other is not future
            )


def _futures(values: Any) -> Iterator[Any]:
    """The futures among *values*, and those by which queues and task groups (of anyio) among them wake who waits."""
    for value in values:
        if asyncio.isfuture(value):
            yield value
        elif isinstance(value, asyncio.Queue):
            yield from tuple(getattr(value, "_getters", ()))
        elif asyncio.isfuture(waiter := getattr(value, "_on_completed_fut", None)):
            yield waiter


def _is_library(callback: Any) -> bool:
    return isinstance(callback, FunctionType) and f"{callback.__module__}.".startswith(LIBRARIES)


def _is_named(callback: Any, name: str) -> bool:
    return _is_library(callback) and callback.__name__ == name


def _cells(function: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    """The variables of the functions around *function* that it uses."""
    if not isinstance(function, FunctionType):
        return
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield name, cell.cell_contents
        except ValueError:  # An empty one.
            continue
