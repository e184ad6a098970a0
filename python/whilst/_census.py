"""The tasks of a loop, counted by what they do, and some of them described: what the control socket tells of them.

A program may have many thousands of tasks, and whoever counts them holds the GIL meanwhile. So what a task waits for, which takes
some microseconds to find out (:mod:`whilst._waits`), is asked of one task of each shape: the same code at the same
instructions all the way down its awaits. The others are only walked through.
"""

import asyncio
import os
import re
import sysconfig
from collections.abc import Iterable, Iterator
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

from whilst._waits import Place, awaited_at, awaited_by, waits_for

# What an answer is bounded by.
MOST_TASKS = 2000
MOST_GROUPS = 200
MOST_FRAMES = 50
MOST_CHARACTERS = 200

_Task = asyncio.Task[Any]
# The state, coroutine, place and kind of the tasks of a group.
_Group = tuple[str, str, Place | None, str]


def census(tasks: Iterable[_Task], request: dict[str, Any]) -> dict[str, Any]:
    """The member ``tasks`` of the control socket's answer, for *tasks* that are pending.

    Of the request it takes ``tasks`` (how many to describe at most: 200, no more than :data:`MOST_TASKS`), ``stacks`` (true for
    the stack of each, or a list of ids: those are described in any case, and with their stacks), ``of`` (coroutine, file and
    line: tasks of those are described first) and ``match`` (only tasks with that in their name or coroutine's are described).
    Members that are wrong are taken for missing.
    """
    most = request.get("tasks")
    most = min(max(most, 0), MOST_TASKS) if isinstance(most, int) else 200
    groups: dict[_Group, list[_Task]] = {}
    of_shape: dict[tuple[Any, ...], _Group] = {}
    total = 0
    for task in tasks:
        total += 1
        shape = _shape(task)
        if (group := of_shape.get(shape)) is None:
            group = of_shape[shape] = _classify(task)
        groups.setdefault(group, []).append(task)
    stacks = request.get("stacks")
    with_stacks = (
        frozenset(one for one in stacks if isinstance(one, int)) if isinstance(stacks, list) else stacks
    )
    listed = []
    for group, task in _chosen(groups, request, most, with_stacks):
        stacked = id(task) in with_stacks if isinstance(with_stacks, frozenset) else with_stacks is True
        listed.append(_describe(task, group, stacked))
    most_first = sorted(groups.items(), key=lambda item: -len(item[1]))[: MOST_GROUPS if most else 0]
    return {
        "total": total,
        "exact": True,
        "groups": [_told(group) | {"count": len(members)} for group, members in most_first],
        "listed": listed,
    }


def _shape(task: _Task) -> tuple[Any, ...]:
    """What tasks that wait for the same in the same place have in common, and others do not."""
    future = getattr(task, "_fut_waiter", None)
    # Codes are told apart by their identity, for their hashes go through their constants; none goes away meanwhile.
    shape: list[Any] = [type(future), future is None or future.done()]
    awaitable: Any = task.get_coro()
    while awaitable is not None:
        kind = type(awaitable)
        if kind is CoroutineType:
            frame, code, inner = awaitable.cr_frame, awaitable.cr_code, awaitable.cr_await
        elif kind is GeneratorType:
            frame, code, inner = awaitable.gi_frame, awaitable.gi_code, awaitable.gi_yieldfrom
        elif kind is AsyncGeneratorType:
            frame, code, inner = awaitable.ag_frame, awaitable.ag_code, awaitable.ag_await
        else:
            shape.append(kind)
            break
        shape.append(id(code))
        shape.append(-1 if frame is None else frame.f_lasti)
        awaitable = inner
    else:
        shape.append(None)
    return tuple(shape)


def _classify(task: _Task) -> _Group:
    try:
        kind, _ = waits_for(task)
        chain = awaited_at(task)
    except Exception:
        # Of some stand-in for a task, which has not what a task has.
        kind, chain = "future", []
    state = kind if kind in ("ready", "running") else "waiting"
    return state, _coroutine(task), own_place(chain), kind


def _told(group: _Group) -> dict[str, Any]:
    state, coroutine, place, kind = group
    return {"state": state, "coroutine": coroutine, "place": place, "kind": kind}


def _chosen(
    groups: dict[_Group, list[_Task]], request: dict[str, Any], most: int, with_stacks: Any
) -> Iterator[tuple[_Group, _Task]]:
    """The tasks to describe: those asked for, then one of each group, another of each group, and so on."""
    of, match = request.get("of"), request.get("match")
    wanted = match.casefold() if isinstance(match, str) else ""
    first: list[tuple[_Group, _Task]] = []
    if isinstance(with_stacks, frozenset):
        first += [
            (group, task) for group, members in groups.items() for task in members if id(task) in with_stacks
        ]
    if isinstance(of, list) and len(of) == 3:
        for group, members in groups.items():
            _, coroutine, place, _ = group
            if place is not None and [coroutine, place[0], place[1]] == of:
                first += [(group, task) for task in members]
    seen: set[int] = set()
    for group, task in (*first, *_in_turn(groups)):
        if len(seen) >= most:
            return
        if id(task) in seen or (wanted and wanted not in f"{_name(task)}\0{group[1]}".casefold()):
            continue
        seen.add(id(task))
        yield group, task


def _in_turn(groups: dict[_Group, list[_Task]]) -> Iterator[tuple[_Group, _Task]]:
    left = [(group, iter(members)) for group, members in groups.items()]
    while left:
        still = []
        for group, members in left:
            for task in members:
                yield group, task
                still.append((group, members))
                break
        left = still


def _describe(task: _Task, group: _Group, stacked: bool) -> dict[str, Any]:
    told = {
        "id": id(task),
        "name": _name(task),
        **_told(group),
        "waits_for": group[3],
        "awaited_by": [],
        "age": None,
    }
    if stacked:
        told["stack"] = []
    try:
        told["waits_for"] = waits_for(task)[1][:MOST_CHARACTERS]
        told["awaited_by"] = [id(waiter) for waiter in awaited_by(task)]
        if stacked:
            told["stack"] = awaited_at(task)[-MOST_FRAMES:]
    except Exception:
        # As in _classify(). What is known is told.
        return told
    return told


def _name(task: _Task) -> str:
    try:
        # Not what a subclass makes of it, which would be the program's code in a thread that it does not know.
        return asyncio.Task.get_name(task)[:MOST_CHARACTERS]
    except TypeError:
        return type(task).__name__


def _coroutine(task: _Task) -> str:
    coroutine = task.get_coro()
    name = getattr(coroutine, "__qualname__", None)
    return (name if isinstance(name, str) else type(coroutine).__qualname__)[:MOST_CHARACTERS]


def own_place(chain: Iterable[Place]) -> Place | None:
    """The innermost of the lines in *chain* that is the program's own, else a package's, else the stdlib's."""
    best: Place | None = None
    best_rank = 0
    for place in chain:
        rank = _rank(place[0])
        if rank >= best_rank:
            best, best_rank = place, rank
    return best


_INSTALLED = re.compile(r"/(?:site|dist)-packages/")
_STANDARD = tuple(
    {os.path.join(sysconfig.get_path(name), "") for name in ("stdlib", "platstdlib")}
    | {os.path.join(os.path.dirname(os.path.realpath(asyncio.__file__)), "")}
)
_WHILST = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")


def _rank(file: str) -> int:
    if file.startswith(_WHILST) or not file or file.startswith("<frozen "):
        return 0
    if _INSTALLED.search(file):
        return 2
    return 1 if file.startswith(_STANDARD) else 3
