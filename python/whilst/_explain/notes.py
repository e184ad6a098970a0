"""Notes on exceptions (PEP 678) that say which mistake they come of."""

from __future__ import annotations

from typing import Any

from whilst._explain.mistakes import hint_for
from whilst._explain.place import Place

_PREFIX = "whilst: "


def note(exception: BaseException) -> None:
    """Add a note to an exception, and to those that it was raised from or groups, where the mistake is a known one."""
    seen: set[int] = set()
    waiting = [exception]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        _note_one(one)
        if isinstance(one, BaseExceptionGroup):
            waiting.extend(one.exceptions)
        waiting.extend(other for other in (one.__cause__, one.__context__) if other is not None)


def _note_one(exception: BaseException) -> None:
    try:
        if any(
            isinstance(text, str) and text.startswith(_PREFIX) for text in getattr(exception, "__notes__", ())
        ):
            return
        place = Place.of(exception.__traceback__)
        hint = hint_for(exception, place) if place is not None else None
        if hint is not None:
            exception.add_note(f"{_PREFIX}{hint}")
    except Exception:
        # What explains a failure must not be another one.
        return


class _Said(str):
    """Text that a report of the loop's shows as it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def note_on_report(context: dict[str, Any]) -> dict[str, Any]:
    """Return the context of a loop's report with an explanation, under the name ``whilst``, if it is of a task that was lost."""
    from whilst._explain.never import explain_lost_task

    try:
        said = explain_lost_task(context)
    except Exception:
        return context
    return context if said is None else {**context, "whilst": _Said(said)}
