"""The loops of this process, and whether they are to be shown to others (`whilst._control`)."""

from __future__ import annotations

import itertools
import os
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whilst._loop.lifecycle import Lifecycle

_numbers = itertools.count(1)
_loops: weakref.WeakValueDictionary[int, Lifecycle] = weakref.WeakValueDictionary()

#: The process was forked from one that is shown, and the next loop that runs is to have it shown, too.
to_be_shown = False


def remember(loop: Lifecycle) -> None:
    """Give a loop its number, 1 for the first, and have it known to this process."""
    loop._number = next(_numbers)
    _loops[loop._number] = loop
    if os.environ.get("WHILST_CONTROL", "0") not in ("", "0"):
        show()


def loops() -> list[Lifecycle]:
    """Return the loops that there are, also those that do not run and those that are closed, in the order of their making.

    From any thread.
    """
    # Python makes the list of references in one go, whatever other threads do.
    known = [reference() for reference in _loops.valuerefs()]
    return [loop for loop in known if loop is not None]


def show() -> None:
    """Have the loops of this process shown to those who ask, if they are not already."""
    global to_be_shown
    from whilst import _control

    to_be_shown = False
    _control.serve()
