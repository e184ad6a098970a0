"""Reports of callbacks that hold the loop, while they do: what the watching thread calls (``event_loop/watchdog.rs``).

:func:`report` is called in that thread, with the stack that the loop's thread had a moment before, and :func:`ended` once the
callback has come to its end. What is said, where and how often, docs/slow-callbacks.md tells the user.
"""

from __future__ import annotations

import asyncio
import atexit
import linecache
import logging
import os
import sys
import threading
import time
from functools import wraps
from itertools import islice
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec

from whilst._owners import Owner, owner_of
from whilst._waits import awaited_by
from whilst._whilst import end_watching

if TYPE_CHECKING:
    from collections.abc import Callable

Entry = tuple[CodeType, int, int, dict[str, Any]]
"""A frame as the extension hands it over: its code, line, offset of the instruction, and globals."""

_DEBUGGERS = ("bdb", "pdb", "ipdb", "pudb", "debugpy", "pydevd", "_pydevd_bundle", "_pydev_bundle")

# So many frames are shown, the innermost ones; so many tasks; and so many places are counted.
_MOST_FRAMES = 12
_MOST_TASKS = 8
_MOST_PLACES = 1000
_MOST_CHARACTERS = 120

_lock = threading.Lock()
_counts: dict[tuple[str, int], _Count] = {}
_under_way: dict[int, _Hold] = {}


class _Count:
    """What is known of a place: how often the loop was held there, and for how long in all."""

    def __init__(self) -> None:
        self.times = 0
        self.seconds = 0.0
        self.next_report = 1


class _Hold(NamedTuple):
    place: tuple[str, int]
    was_logged: bool
    fields: dict[str, Any]
    span: Any


class _Frame(NamedTuple):
    filename: str
    line: int
    function: str
    source: str
    entry: Entry


atexit.register(end_watching)
# A child process has a log of its own to be told in.
os.register_at_fork(after_in_child=_counts.clear)


_P = ParamSpec("_P")


def _telling(function: Callable[_P, None]) -> Callable[_P, None]:
    """What *function* raises, a logging handler's exception say, is told of as at any thread's end: nobody could catch it."""

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except BaseException as error:
            threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, None)))

    return call


@_telling
def report(
    loop: Any,
    stack: list[Entry] | None,
    task: asyncio.Task[Any] | None,
    seconds: float,
    again: bool,
    asked: bool,
) -> None:
    """Say that the loop is held, for *seconds* by now, by what its thread does.

    *stack* is innermost first; ``None`` where it cannot be had. *task* is the one that ran then; ``None`` if there was none, or
    the loop had gone on before it could be asked for. *again*: it was said of this very hold. *asked*: debug
    mode or ``WHILST_SLOW`` is on, and not the command's default alone.
    """
    frames = _frames(stack or [])
    modules = {str(frame.entry[3].get("__name__", "")).partition(".")[0] for frame in frames}
    if not modules.isdisjoint(_DEBUGGERS):
        return
    if not asked and "importlib" in modules | {frame.filename[8:17] for frame in frames}:
        # An import, mostly the program's own at its start. It happens once.
        return
    index = _own(frames)
    own = frames[index] if frames else None
    place = (own.filename, own.line) if own else ("", 0)
    key = id(loop)
    with _lock:
        count = _counts.get(place)
        if count is None:
            if len(_counts) >= _MOST_PLACES:
                _counts.clear()
            count = _counts[place] = _Count()
        if not again:
            count.times += 1
        is_due = again or count.times >= count.next_report
        if count.times >= count.next_report:
            count.next_report *= 10
        times, before = count.times, count.seconds
    call = _call(own.entry, own.source) if own else None
    fields: dict[str, Any] = {
        "slow_seconds": round(seconds, 3),
        "slow_file": own.filename if own else None,
        "slow_line": own.line if own else None,
        "slow_function": own.function if own else None,
        "slow_source": own.source if own else None,
        "slow_call": call and call.text,
        "slow_hint": (call and own and call.correction(own.entry[0])) or None,
        "slow_task": task and task.get_name(),
        "slow_awaited_by": _chain_of(task),
        "slow_stack": [f"{frame.filename}:{frame.line} {frame.function}" for frame in reversed(frames)],
        "slow_count": times,
        "slow_total": round(before + seconds, 3),
        "slow_over": False,
    }
    span = None
    if not again:
        span = _begin_span(fields, task, seconds)
        _under_way[key] = _Hold(place, is_due, fields, span)
    if is_due:
        _log(logging.WARNING, _message(fields, frames, index, task, again), fields, loop, own)


@_telling
def ended(loop: Any, seconds: float) -> None:
    """Note that what :func:`report` has said of the loop is over, after *seconds* in all."""
    hold = _under_way.pop(id(loop), None)
    if hold is None:
        return
    with _lock:
        if count := _counts.get(hold.place):
            count.seconds += seconds
    fields = {**hold.fields, "slow_seconds": round(seconds, 3), "slow_over": True}
    if hold.span is not None:
        hold.span.set_attribute("whilst.seconds", round(seconds, 3))
        hold.span.end()
    if hold.was_logged:
        filename, line = hold.place
        message = f"The event loop goes on after {_time(seconds)} at {filename}:{line}"
        _log(logging.INFO, message, fields, loop, None)


def _frames(stack: list[Entry]) -> list[_Frame]:
    """The frames above the loop's own, innermost first."""
    frames = []
    for entry in stack:
        code, line = entry[:2]
        if code.co_name == "run_forever" and owner_of(code.co_filename) is Owner.RUNTIME:
            break
        source = linecache.getline(code.co_filename, line, entry[3]).strip()
        frames.append(_Frame(code.co_filename, line, code.co_qualname, source, entry))
    return frames


def _own(frames: list[_Frame]) -> int:
    """The innermost line of the program, else of a package, else of all."""
    of_package: int | None = None
    for index, frame in enumerate(frames):
        match owner_of(frame.filename):
            case Owner.PROGRAM:
                return index
            case Owner.PACKAGE if of_package is None:
                of_package = index
    return of_package or 0


def _name(task: asyncio.Task[Any]) -> str:
    coroutine: Any = task.get_coro()
    function = getattr(coroutine, "__qualname__", None)
    return f"{task.get_name()} ({function})" if function else task.get_name()


def _chain_of(task: asyncio.Task[Any] | None) -> list[str]:
    """The tasks that wait for *task*, the next one first. Those of one level that are several, in no particular order."""
    found: list[asyncio.Task[Any]] = []
    level = awaited_by(task) if task else []
    while level and len(found) < _MOST_TASKS:
        found += level
        level = [waiter for one in level for waiter in awaited_by(one) if waiter not in found]
    return [_name(waiter) for waiter in found[:_MOST_TASKS]]


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"


def _message(
    fields: dict[str, Any], frames: list[_Frame], index: int, task: asyncio.Task[Any] | None, again: bool
) -> str:
    still = "still " if again else ""
    lines = []
    if frames:
        source = _short(fields["slow_call"] or frames[index].source)
        what = f" by {source}" if source else ""
        where = f" at {frames[index].filename}:{frames[index].line}, in {frames[index].function}"
    else:
        what = where = ""
    lines.append(
        f"The event loop is {still}blocked, for {_time(fields['slow_seconds'])} so far,{what}{where}"
    )
    if fields["slow_hint"]:
        lines.append(f"  In a coroutine write: {fields['slow_hint']}")
    if fields["slow_count"] > 1:
        lines.append(f"  For the {fields['slow_count']}th time there, {_time(fields['slow_total'])} in all")
    if task is not None:
        waiters = fields["slow_awaited_by"]
        lines.append(f"  {_name(task)}" + (", awaited by " + ", ".join(waiters) if waiters else ""))
    shown = frames[max(0, index - _MOST_FRAMES // 2) :][:_MOST_FRAMES]
    for frame in reversed(shown):
        lines.append(f'  File "{frame.filename}", line {frame.line}, in {frame.function}')
        if frame.source:
            lines.append(f"    {frame.source}")
    if not frames:
        lines.append("  (its stack cannot be had on this Python)")
    return "\n".join(lines)


def _short(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"


def _log(level: int, message: str, fields: dict[str, Any], loop: Any, own: _Frame | None) -> None:
    """Log as if the loop's thread had, at the line that holds it."""
    # Not before it is needed: logging configurations disable the loggers that there are.
    logger = logging.getLogger("whilst")
    if not logger.isEnabledFor(level):
        return
    filename, line, function = (own.filename, own.line, own.function) if own else ("(unknown file)", 0, None)
    try:
        record = logger.makeRecord(
            logger.name, level, filename, line, message, (), None, function, dict(fields), None
        )
        thread = loop._thread_id
        if thread is not None:
            record.thread = thread
            record.threadName = next((one.name for one in threading.enumerate() if one.ident == thread), None)
        logger.handle(record)
    finally:
        _leave_no_thread()


def _leave_no_thread() -> None:
    """Forget the object that ``threading.current_thread()``, of which logging asks the name, has made for this thread.

    A program that looks at its threads is to find its own.
    """
    private: Any = threading
    with private._active_limbo_lock:
        if isinstance(private._active.get(threading.get_ident()), private._DummyThread):
            del private._active[threading.get_ident()]


# The correction.


class _Call(NamedTuple):
    text: str
    function: str
    arguments: list[str]
    callee: Any

    def correction(self, code: CodeType) -> str | None:
        """What to write in the place of the call, where *code* is a coroutine's and the function is known to block."""
        if not code.co_flags & (0x80 | 0x200):  # CO_COROUTINE, CO_ASYNC_GENERATOR
            return None
        if self.callee is time.sleep:
            return f"await asyncio.sleep({', '.join(self.arguments)})"
        if any(self.callee is blocking for blocking in _blocking()):
            return f"await asyncio.to_thread({', '.join([self.function, *self.arguments])})"
        return None


_BLOCKING = {
    "os": ("system", "waitpid", "wait"),
    "requests": ("get", "post", "put", "patch", "delete", "head", "options", "request"),
    "httpx": ("get", "post", "put", "patch", "delete", "head", "options", "request"),
    "shutil": ("copy", "copy2", "copyfile", "copytree", "move", "rmtree", "make_archive", "unpack_archive"),
    "socket": ("create_connection", "getaddrinfo", "gethostbyname", "gethostbyaddr", "getnameinfo"),
    "subprocess": ("run", "call", "check_call", "check_output", "getoutput", "getstatusoutput"),
    "urllib.request": ("urlopen", "urlretrieve"),
    "builtins": ("input",),
}


def _blocking() -> list[Any]:
    """The functions of those modules that the program has imported."""
    modules = ((sys.modules.get(name), names) for name, names in _BLOCKING.items())
    return [
        function
        for module, names in modules
        for name in names
        if module is not None and (function := vars(module).get(name)) is not None
    ]


def _call(entry: Entry, line: str) -> _Call | None:
    """The call that the frame is in, by its position in the source; ``None`` if it is in none."""
    import ast

    code, _, instruction, names = entry
    positions = next(islice(code.co_positions(), max(instruction, 0) // 2, None), None)
    if positions is None or None in positions:
        return None
    first, last, begin, end = positions
    assert first is not None and last is not None
    lines = [linecache.getline(code.co_filename, number, names).encode() for number in range(first, last + 1)]
    if not any(lines):
        return None
    lines[-1] = lines[-1][:end]
    lines[0] = lines[0][begin:]
    try:
        node = ast.parse(b"".join(lines).decode().strip(), mode="eval").body
    except (SyntaxError, ValueError):
        return None
    if not isinstance(node, ast.Call):
        return None
    arguments = [ast.unparse(argument) for argument in node.args]
    arguments += [
        f"{keyword.arg}={ast.unparse(keyword.value)}" if keyword.arg else f"**{ast.unparse(keyword.value)}"
        for keyword in node.keywords
    ]
    return _Call(ast.unparse(node), ast.unparse(node.func), arguments, _callee(node.func, code, names))


def _callee(node: Any, code: CodeType, names: dict[str, Any]) -> Any:
    """The function that is called, where it is a global name or an attribute of a module and nothing else."""
    import ast

    if isinstance(node, ast.Attribute):
        module = _callee(node.value, code, names)
        return vars(module).get(node.attr) if isinstance(module, ModuleType) else None
    if not isinstance(node, ast.Name) or node.id in (*code.co_varnames, *code.co_cellvars, *code.co_freevars):
        return None
    if node.id in names:
        return names[node.id]
    return vars(sys.modules["builtins"]).get(node.id)


# OpenTelemetry.


def _begin_span(fields: dict[str, Any], task: asyncio.Task[Any] | None, seconds: float) -> Any:
    """A span of the hold, below the one that the task is in; ``None`` in a program that does not use OpenTelemetry."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    context: Any = sys.modules.get("opentelemetry.context")
    if trace is None or context is None:
        return None
    parent = None
    if task is not None and sys.version_info >= (3, 12):
        # A copy, for the task is in its context at this moment.
        parent = task.get_context().copy().run(context.get_current)
    attributes = {
        "code.file.path": fields["slow_file"],
        "code.line.number": fields["slow_line"],
        "code.function.name": fields["slow_function"],
        "whilst.source": fields["slow_source"],
        "whilst.task": fields["slow_task"],
        "whilst.awaited_by": fields["slow_awaited_by"],
        "whilst.stack": fields["slow_stack"],
        "whilst.hint": fields["slow_hint"],
    }
    return trace.get_tracer("whilst").start_span(
        "event loop blocked",
        context=parent if parent is not None else context.Context(),
        attributes={name: value for name, value in attributes.items() if value is not None},
        start_time=time.time_ns() - int(seconds * 1e9),
    )
