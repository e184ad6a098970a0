"""asyncio's classic mistakes, explained where they happen.

An exception that comes of one of them gets a note (PEP 678) that names the mistake and shows the line as it was meant. Every
traceback printer, logger and error tracker shows notes.

This file is the switch. What explains is imported when there is something to be explained, as the command turns this on for each
program.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import CoroutineType

#: What the program or its user has said: on, off, or nothing, which is on in debug mode.
_asked: bool | None = {"0": False, "1": True}.get(os.environ.get("WHILST_EXPLAIN", ""))
#: How many loops run in debug mode.
_debugging = 0
#: Whether a loop has run at all.
has_run = False
_restore_warning: Any = None
_lock = threading.Lock()


def explain(on: bool = True) -> None:
    """Have asyncio's classic mistakes explained by notes on the exceptions that they end in, or no longer.

    A note is added by `BaseException.add_note` and begins with ``whilst:``. Of itself this is on under the command ``whilst`` and
    while a loop runs in debug mode; ``WHILST_EXPLAIN=0`` and ``WHILST_EXPLAIN=1`` in the environment say otherwise, and a call of
    this function has the last word. Where nothing fails it costs nothing.
    """
    global _asked
    with _lock:
        _asked = bool(on)
        _settle()


def explain_by_default() -> None:
    """Turn it on unless the user has turned it off: for the command."""
    global _asked
    with _lock:
        if _asked is None:
            _asked = True
        _settle()


def is_on() -> bool:
    """Whether mistakes are explained now."""
    return _debugging > 0 if _asked is None else _asked


def loop_begins(debug: bool) -> None:
    """A loop begins to run, the first or one in debug mode; of others this need not be told."""
    global _debugging, has_run
    with _lock:
        has_run = True
        _debugging += debug
        _settle()


def loop_ends() -> None:
    """A loop that ran in debug mode runs no more, or is in debug mode no more."""
    global _debugging
    with _lock:
        _debugging -= 1
        _settle()


def look_at(exception: BaseException, debug: bool = False) -> None:
    """Explain an exception that comes out of a loop or ends the program, unless it was explained before."""
    if is_on() or (debug and _asked is None):
        from whilst._explain.notes import note

        note(exception)


def look_at_context(context: dict[str, Any], debug: bool) -> dict[str, Any]:
    """Explain what a loop is about to report, by a note on its exception or another entry of the context, which is returned."""
    if not (is_on() or (debug and _asked is None)):
        return context
    from whilst._explain.notes import note, note_on_report

    if isinstance(exception := context.get("exception"), BaseException):
        note(exception)
    return note_on_report(context)


def _settle() -> None:
    """Look at what happens in the process, or no longer."""
    global _restore_warning
    if not is_on():
        if _restore_warning is not None:
            _restore_warning()
            _restore_warning = None
        if "whilst._explain.raised" in sys.modules:
            from whilst._explain import raised

            raised.end()
        return
    if _restore_warning is None:
        _restore_warning = _explain_warnings()
    # Before there is a loop exceptions are looked at where they end the program.
    if has_run:
        from whilst._explain import raised

        raised.begin()


def _explain_warnings() -> Any:
    """Explain the warning of a coroutine that was never awaited. Return a function that ends it."""
    import warnings

    before = warnings._warn_unawaited_coroutine  # type: ignore[attr-defined]

    def warn(coroutine: CoroutineType[Any, Any, Any]) -> None:
        """As `warnings._warn_unawaited_coroutine`, which the interpreter calls."""
        try:
            from whilst._explain.never import message_of

            message = message_of(coroutine, sys._getframe().f_back)
        except Exception:
            # The interpreter ends.
            message = f"coroutine '{coroutine.__qualname__}' was never awaited"
        warnings.warn(message, category=RuntimeWarning, stacklevel=2, source=coroutine)

    def restore() -> None:
        # Unless somebody has put another one in front.
        if warnings._warn_unawaited_coroutine is warn:  # type: ignore[attr-defined]
            warnings._warn_unawaited_coroutine = before  # type: ignore[attr-defined]

    warnings._warn_unawaited_coroutine = warn  # type: ignore[attr-defined]
    return restore
