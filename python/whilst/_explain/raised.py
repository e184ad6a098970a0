"""Where exceptions are seen on their way.

From Python 3.12 on the interpreter itself tells of each function that an exception leaves (`sys.monitoring`, PEP 669). That costs
nothing where nothing is raised or an exception is caught in the function that has raised it, and some 50 to 80 ns for each
function that one leaves. On 3.11, which has no such thing at that price, and where others have taken all the numbers of tools,
exceptions are looked at where they come out: where they are logged, where the loop ends with them or reports them, and where they
end the program.
"""

from __future__ import annotations

import asyncio
import re
import sys
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from whilst._owners import is_above_stdlib

if TYPE_CHECKING:
    from types import CodeType

#: The tools' numbers that nobody is meant to have (`sys.monitoring` names 0, 1, 2 and 5).
_NUMBERS = (4, 3)

#: What the mistakes end in while a loop runs.
_KINDS = frozenset({AttributeError, TypeError, RuntimeError})

#: What is in the messages of all of them but `AttributeError`: a first look at exceptions of which most are something else.
_LOOKS_ALIKE = re.compile(
    r"coroutine|Task|Future|await|async|event loop|different loop|context manager"
).search

_AWAITABLES: tuple[type[Any], ...] = (CoroutineType, asyncio.Future)

_undo: list[Any] = []


def begin() -> None:
    """Begin to look at exceptions."""
    if _undo:
        return
    if sys.version_info >= (3, 12):
        for number in _NUMBERS:
            if sys.monitoring.get_tool(number) is None and _monitor(number):
                return
    _look_at_records()


def end() -> None:
    """Look no more."""
    while _undo:
        _undo.pop()()


def _is_suspect(exception: BaseException) -> bool:
    """Whether an exception of one of these kinds may be one of these mistakes."""
    if type(exception) is AttributeError:
        # By its type, as asking what a stand-in says of itself would run code of the program.
        return issubclass(type(exception.obj), _AWAITABLES)
    arguments = exception.args
    return bool(arguments) and type(arguments[0]) is str and _LOOKS_ALIKE(arguments[0]) is not None


def _is_suspect_behind(exception: BaseException | None) -> bool:
    """Whether an exception, or one that it was raised in the handling of, may be one of these mistakes."""
    # Such a chain may be a circle.
    for _ in range(8):
        if exception is None:
            return False
        if type(exception) in _KINDS and _is_suspect(exception):
            return True
        exception = exception.__context__
    return False


if sys.version_info >= (3, 12):

    def _monitor(number: int) -> bool:
        monitoring = sys.monitoring
        event = monitoring.events.PY_UNWIND
        try:
            monitoring.use_tool_id(number, "whilst")
        except ValueError:
            # Another thread was first.
            return False
        monitoring.register_callback(number, event, _left)
        monitoring.set_events(number, event)

        def stop() -> None:
            if monitoring.get_tool(number) == "whilst":
                monitoring.set_events(number, 0)
                monitoring.register_callback(number, event, None)
                monitoring.free_tool_id(number)

        _undo.append(stop)
        return True

    def _left(code: CodeType, _offset: int, exception: BaseException) -> None:
        """Called for each function that an exception leaves. Must not raise, and be quick: most exceptions are something else."""
        kind = type(exception)
        if (kind not in _KINDS or not _is_suspect(exception)) and (
            exception.__context__ is None or not _is_suspect_behind(exception.__context__)
        ):
            return
        traceback = exception.__traceback__
        if traceback is None or not is_above_stdlib(code.co_filename):
            return
        # Further out nothing more is to be learnt.
        frame = traceback.tb_frame
        while (traceback := traceback.tb_next) is not None:
            if traceback.tb_frame is not frame and is_above_stdlib(traceback.tb_frame.f_code.co_filename):
                return
        from whilst._explain.notes import note

        note(exception)


def _look_at_records() -> None:
    import logging

    before = logging.getLogRecordFactory()

    def make(*arguments: Any, **keywords: Any) -> logging.LogRecord:
        record = before(*arguments, **keywords)
        if isinstance(record.exc_info, tuple) and isinstance(record.exc_info[1], BaseException):
            from whilst._explain.notes import note

            note(record.exc_info[1])
        return record

    def restore() -> None:
        # Unless somebody has put another one in front.
        if logging.getLogRecordFactory() is make:
            logging.setLogRecordFactory(before)

    logging.setLogRecordFactory(make)
    _undo.append(restore)
