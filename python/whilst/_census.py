"""The tasks of a loop, counted by what they do, and some of them described: what the control socket tells of them.

A program may have many thousands of tasks, and whoever counts them holds the GIL meanwhile. So what a task waits for, which takes
some microseconds to find out (:mod:`whilst._waits`), is asked of one task of each shape: the same code at the same
instructions all the way down its awaits. The others are only walked through.
"""

import asyncio
import heapq
import time
from collections.abc import Iterable, Iterator, Sequence
from types import FrameType
from typing import Any, NamedTuple

from whilst._owners import Owner, owner_of
from whilst._waits import Place, awaited_at, awaited_by, chain, waits_for

#: So many tasks are described at most, and if it is not said how many.
MOST_LISTED = 2000
LISTED = 200

#: What else an answer is bounded by: so many groups, frames of a stack, characters of a name, and tasks that wait for another.
MOST_GROUPS = 200
MOST_FRAMES = 20
MOST_CHARACTERS = 200
MOST_WAITING = 100

# After so many tasks another thread may have the GIL, which would else wait for the switch interval. What is described has cost
# more than what is only counted.
_TURN_COUNTED, _TURN_DESCRIBED = 200, 10

_Task = asyncio.Task[Any]


class Wanted:
    """Which tasks are to be described: what a question on the control socket says of it."""

    def __init__(self, question: dict[str, Any]) -> None:
        """Raises ValueError, with words for who asks, where that is wrong."""
        limit, stacks = question.get("tasks", LISTED), question.get("stacks", False)
        of, match = question.get("of"), question.get("match", "")
        if not isinstance(limit, int) or limit < 0:
            raise ValueError("tasks must be a number that is not negative")
        if not isinstance(stacks, bool | list):
            raise ValueError("stacks must be true, false or a list of ids")
        if of is not None and not (isinstance(of, list) and len(of) == 3):
            raise ValueError("of must be a list: the name of a coroutine, a file and a line")
        if not isinstance(match, str):
            raise ValueError("match must be a text")
        #: So many at most.
        self.limit = min(limit, MOST_LISTED)
        #: With the stack of each.
        self.stacks = stacks is True
        #: Those with these ids come first, and have their stacks told.
        self.ids = [one for one in stacks if isinstance(one, int)] if isinstance(stacks, list) else []
        #: Then those of this coroutine, file and line.
        self.of = of
        #: Of the others only those with this in their name or their coroutine's.
        self.match = match.casefold()


class Group(NamedTuple):
    """What tasks have in common that are counted together."""

    state: str
    kind: str
    coroutine: str
    place: Place | None


class Census:
    """Pending tasks of a loop, filed by what they do."""

    def __init__(self, tasks: Iterable[_Task], running: Sequence[Place] = ()) -> None:
        """*running* is the stack of the loop's thread, on which the coroutines are of a task that runs."""
        self._running = running
        self._groups: dict[Group, list[_Task]] = {}
        # The codes are told apart by their identities, for hashes of codes go through their constants: they must stay.
        shapes: dict[tuple[Any, ...], tuple[Group | None, list[Any]]] = {}
        for index, task in enumerate(tasks):
            if index % _TURN_COUNTED == _TURN_COUNTED - 1:
                time.sleep(0)
            shape, codes = _shape(task)
            if shape not in shapes:
                shapes[shape] = self._classify(task), codes
            if (group := shapes[shape][0]) is not None:
                self._groups.setdefault(group, []).append(task)

    def groups(self) -> list[dict[str, Any]]:
        """Each kind of tasks that there is, with their number; most first, no more than :data:`MOST_GROUPS`."""
        most_first = sorted(self._groups.items(), key=lambda item: -len(item[1]))
        return [group._asdict() | {"count": len(tasks)} for group, tasks in most_first[:MOST_GROUPS]]

    def described(self, wanted: Wanted) -> list[dict[str, Any]]:
        """Those asked for, then one task of each group, another of each group, and so on."""
        told = []
        for index, (group, task) in enumerate(self._chosen(wanted)):
            if index % _TURN_DESCRIBED == _TURN_DESCRIBED - 1:
                time.sleep(0)
            if not task.done():
                told.append(self._describe(group, task, wanted.stacks or id(task) in wanted.ids))
        return told

    def _classify(self, task: _Task) -> Group | None:
        """None for a task that has ended meanwhile: the loop goes on while its tasks are counted."""
        try:
            kind, _ = waits_for(task)
            chain = self._chain(task, kind)
            if task.done():
                return None
        except Exception:
            # Some stand-in for a task, which has not what a task has.
            kind, chain = "future", ()
        state = kind if kind in ("ready", "running") else "waiting"
        return Group(state, kind, _coroutine(task), own_place(chain))

    def _chain(self, task: _Task, kind: str) -> Sequence[Place]:
        return (self._running if kind == "running" else ()) or awaited_at(task)

    def _chosen(self, wanted: Wanted) -> Iterator[tuple[Group, _Task]]:
        first: list[tuple[Group, _Task]] = []
        if wanted.ids:
            ids = frozenset(wanted.ids)
            first += [
                (group, task) for group, tasks in self._groups.items() for task in tasks if id(task) in ids
            ]
        if wanted.of is not None:
            for group, tasks in self._groups.items():
                if group.place is not None and [group.coroutine, *group.place[:2]] == wanted.of:
                    first += [(group, task) for task in sorted(tasks, key=_by_name)]
        seen: set[int] = set()
        for group, task in (*first, *self._in_turn(wanted)):
            if len(seen) >= wanted.limit:
                return
            if id(task) not in seen:
                seen.add(id(task))
                yield group, task

    def _in_turn(self, wanted: Wanted) -> Iterator[tuple[Group, _Task]]:
        left = []
        for group, tasks in self._groups.items():
            if wanted.match and wanted.match not in group.coroutine.casefold():
                tasks = [task for task in tasks if wanted.match in _name(task).casefold()]
            if len(tasks) > wanted.limit:
                # Always the same ones, for names of all would take longer than all else.
                tasks = heapq.nsmallest(wanted.limit, tasks, key=id)
            left.append((group, iter(sorted(tasks, key=_by_name))))
        while left:
            still = []
            for group, some in left:
                for task in some:
                    yield group, task
                    still.append((group, some))
                    break
            left = still

    def _describe(self, group: Group, task: _Task, stacked: bool) -> dict[str, Any]:
        told = {
            "id": id(task),
            "name": _name(task),
            **group._asdict(),
            "waits_for": "",
            "awaited_by": [],
            "age": None,
        }
        if stacked:
            told["stack"] = []
        try:
            kind, words = waits_for(task)
            told["waits_for"] = words[:MOST_CHARACTERS]
            told["awaited_by"] = [id(waiter) for waiter in awaited_by(task)[:MOST_WAITING]]
            if stacked:
                told["stack"] = self._chain(task, kind)[-MOST_FRAMES:]
        except Exception:
            # As in _classify(). What is known is told.
            return told
        return told


def _shape(task: _Task) -> tuple[tuple[Any, ...], list[Any]]:
    """What tasks that wait for the same in the same place have in common, and others have not; and the codes in it."""
    future = getattr(task, "_fut_waiter", None)
    coroutine: Any = task.get_coro()
    # One that runs and one that has not begun are both ready by their futures.
    shape = [type(future), future is None or future.done(), getattr(coroutine, "cr_running", None)]
    codes = []
    for link in chain(coroutine):
        if isinstance(link, FrameType):
            code = link.f_code
            codes.append(code)
            shape += (id(code), link.f_lasti)
        else:
            shape.append(link)
    return tuple(shape), codes


def _name(task: _Task) -> str:
    try:
        # Not what a subclass makes of it, which would be the program's code in a thread that it does not know.
        return asyncio.Task.get_name(task)[:MOST_CHARACTERS]
    except TypeError:
        return type(task).__name__


def _by_name(task: _Task) -> tuple[int, str]:
    """What puts tasks into the order of their making, as far as asyncio has named them."""
    name = _name(task)
    number = name.removeprefix("Task-")
    return (int(number), "") if number.isascii() and number.isdigit() else (0, name)


def _coroutine(task: _Task) -> str:
    coroutine = task.get_coro()
    name = getattr(coroutine, "__qualname__", None)
    return (name if isinstance(name, str) else type(coroutine).__qualname__)[:MOST_CHARACTERS]


def own_place(chain: Iterable[Place]) -> Place | None:
    """The innermost of the lines in *chain* that is the program's own, else a package's, else the stdlib's."""
    best: Place | None = None
    best_owner = Owner.RUNTIME
    for place in chain:
        owner = owner_of(place[0])
        if owner >= best_owner:
            best, best_owner = place, owner
    return best
