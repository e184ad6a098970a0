"""What is shown: the figures of a loop between two answers of its program, and its tasks in groups.

The answers are those of the control socket (:mod:`whilst._control` says what is in them). What a member means is read here and
nowhere else in :mod:`whilst._top`; a member that is missing is shown as nothing.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from whilst._top.text import harmless

# From how many equal tasks on they are shown as one line.
MANY = 4

Answer = dict[str, Any]
# What tasks of a group have in common: state, coroutine, file and line.
Key = tuple[str, str, str, int]


@dataclass(frozen=True, slots=True)
class Frame:
    """A line of a program; all texts are harmless for a terminal."""

    file: str
    line: int
    function: str

    @property
    def short(self) -> str:
        """``app.py:12``: without the folders that say nothing."""
        return f"{_without_folders(self.file)}:{self.line}"

    @property
    def is_own(self) -> bool:
        """Whether it is the program's own rather than the standard library's or an installed package's."""
        return not _FOREIGN.search(self.file)


@dataclass(frozen=True, slots=True)
class Task:
    """A task of the program."""

    ident: int
    name: str
    key: Key
    # What it waits for in one word ("socket", "sleep", "lock", …, or "ready" or "running"), and in more of them.
    kind: str
    waits_for: str
    place: Frame | None
    # Seconds since it was made; at least so many, where `at_least`.
    age: float
    at_least: bool
    stack: tuple[Frame, ...] = ()
    awaited_by: tuple[str, ...] = ()

    @property
    def coroutine(self) -> str:
        return self.key[1]


@dataclass(frozen=True, slots=True)
class Group:
    """Tasks of one coroutine that wait for the same in the same place."""

    key: Key
    kind: str
    place: Frame | None
    count: int
    # Those of them that the program has described: all, or some.
    tasks: tuple[Task, ...]

    @property
    def coroutine(self) -> str:
        return self.key[1]

    @property
    def age(self) -> float:
        """The greatest age among those that are known."""
        return max((task.age for task in self.tasks), default=0.0)

    @property
    def at_least(self) -> bool:
        return self.count > len(self.tasks) or any(task.at_least for task in self.tasks)


@dataclass(frozen=True, slots=True)
class Rates:
    """What happened between two answers, a second."""

    # Part of the time in callbacks, 0 to 1; None as long as the program has not taken times.
    load: float | None
    iterations: float
    callbacks: float
    received: float
    sent: float
    wakes: float
    # Mean lag of an iteration, in seconds; None without any.
    lag: float | None


@dataclass(frozen=True, slots=True)
class Picture:
    """A loop of a program at one moment."""

    program: str
    pid: int
    python: str
    whilst: str
    uptime: float
    threads: int
    # The numbers that the program gives its loops, and which of them this one is.
    loops: tuple[int, ...]
    index: int
    thread: str
    driver: str
    debug: bool
    state: str
    # For how long the loop has been held, and by what: the stack of its thread, outermost first.
    held: float
    where: tuple[Frame, ...]
    ready: int
    timers: int
    servers: int
    watches: int
    # Open transports by kind, without the kinds of which there are none.
    transports: tuple[tuple[str, int], ...]
    lag_last: float
    lag_max_10s: float
    lag_max_60s: float
    rates: Rates | None
    tasks: tuple[Task, ...]
    groups: tuple[Group, ...]
    total: int
    exact: bool

    @property
    def open_transports(self) -> int:
        # TLS is counted as what it is over, too.
        return sum(count for kind, count in self.transports if kind != "tls")


class Pictures:
    """Makes a :class:`Picture` of each answer of a program, remembering what the next one needs of the last."""

    def __init__(self) -> None:
        self._before: dict[int, Answer] = {}
        self._rates: dict[int, Rates] = {}
        # When each task was first seen (time of the answer), and whether it may have been there longer.
        self._first: dict[int, dict[tuple[int, str], tuple[float, bool]]] = {}

    def add(self, answer: Answer, loop: int | None = None) -> Picture | None:
        """The picture of the loop with that number, or of the first that runs; None where the program has no loop (left)."""
        loops: list[Answer] = answer.get("loops") or []
        if not loops:
            return None
        index = _chosen(loops, loop)
        one = loops[index]
        number = int(one.get("id", index))
        metrics: Answer = one.get("metrics") or {}
        rates = rates_between(self._before.get(number), metrics)
        if rates is not None:
            self._rates[number] = rates
        # Whoever turns to another loop gets rates since he last looked at this one.
        self._before = {number: metrics}
        told: Answer = one.get("tasks") or {}
        tasks = self._tasks(number, told, float(answer.get("time", 0.0)))
        return Picture(
            program=harmless(str(answer.get("program") or "?")),
            pid=int(answer.get("pid", 0)),
            python=harmless(str(answer.get("python", "?"))),
            whilst=harmless(str(answer.get("whilst", "?"))),
            uptime=float(answer.get("uptime", 0.0)),
            threads=int(answer.get("threads", 0)),
            loops=tuple(int(each.get("id", place)) for place, each in enumerate(loops)),
            index=index,
            thread=harmless(str(one.get("thread") or "")),
            driver=harmless(str(one.get("driver", "?"))),
            debug=bool(one.get("debug")),
            state=harmless(str(one.get("state", "?"))),
            held=float(one.get("held") or 0.0),
            where=_frames(one.get("where")),
            ready=int(metrics.get("ready", 0)),
            timers=int(metrics.get("timers", 0)),
            servers=int(metrics.get("servers", 0)),
            watches=int(metrics.get("watches", 0)),
            transports=tuple(
                (harmless(str(kind)), int(count))
                for kind, count in (metrics.get("transports") or {}).items()
                if count
            ),
            lag_last=float(metrics.get("lag_last") or 0.0),
            lag_max_10s=float(metrics.get("lag_max_10s") or 0.0),
            lag_max_60s=float(metrics.get("lag_max_60s") or 0.0),
            rates=self._rates.get(number),
            tasks=tasks,
            groups=_groups(told.get("groups"), tasks),
            total=int(told.get("total", len(tasks))),
            exact=bool(told.get("exact", True)),
        )

    def _tasks(self, loop: int, told: Answer, time: float) -> tuple[Task, ...]:
        listed: list[Answer] = told.get("listed") or []
        before = self._first.get(loop)
        # Where not all are described, one that was not seen before may have been there all the time.
        doubt = before is None or int(told.get("total", 0)) > len(listed)
        first = {} if before is None else before
        names = {int(task.get("id", 0)): harmless(str(task.get("name", ""))) for task in listed}
        seen = {(ident, name): first.get((ident, name), (time, doubt)) for ident, name in names.items()}
        # Those that were not described this time may come again, but not for ever.
        self._first[loop] = seen if len(first) > 20_000 else first | seen
        return tuple(_task(task, names, seen, time) for task in listed)


def _task(
    told: Answer, names: dict[int, str], seen: dict[tuple[int, str], tuple[float, bool]], time: float
) -> Task:
    ident = int(told.get("id", 0))
    since, doubt = seen[ident, names[ident]]
    age = told.get("age")
    return Task(
        ident=ident,
        name=names[ident],
        key=_key(told),
        kind=_kind(told),
        waits_for=harmless(str(told.get("waits_for") or "")),
        place=_frame(told.get("place")),
        age=max(0.0, time - since) if age is None else float(age),
        at_least=doubt and age is None,
        stack=_frames(told.get("stack")),
        awaited_by=tuple(names.get(int(other), "?") for other in told.get("awaited_by") or ()),
    )


def _groups(told: list[Answer] | None, tasks: tuple[Task, ...]) -> tuple[Group, ...]:
    members: dict[Key, list[Task]] = {}
    for task in tasks:
        members.setdefault(task.key, []).append(task)
    groups = {}
    for group in told or ():
        key = _key(group)
        described = tuple(members.get(key, ()))
        # Counted a moment before or after they were described.
        count = max(int(group.get("count", 0)), len(described))
        groups[key] = Group(key, _kind(group), _frame(group.get("place")), count, described)
    for key, equal in members.items():
        if key not in groups:
            groups[key] = Group(key, equal[0].kind, equal[0].place, len(equal), tuple(equal))
    return tuple(groups.values())


def _key(told: Answer) -> Key:
    place = _frame(told.get("place"))
    return (
        _kind(told),
        harmless(str(told.get("coroutine") or "?")),
        place.file if place else "",
        place.line if place else 0,
    )


def _kind(told: Answer) -> str:
    """One word; a task that runs or is ready waits for nothing."""
    state = str(told.get("state") or "")
    return harmless(state if state in ("running", "ready") else str(told.get("kind") or state))


def _chosen(loops: list[Answer], number: int | None) -> int:
    for index, loop in enumerate(loops):
        if loop.get("id", index) == number:
            return index
    for index, loop in enumerate(loops):
        if loop.get("state") != "stopped":
            return index
    return 0


def rates_between(before: Answer | None, after: Answer) -> Rates | None:
    """What happened between two of a loop's counts, or None without time between them."""
    if before is None:
        return None

    def rise(name: str) -> float:
        return max(0.0, float(after.get(name) or 0.0) - float(before.get(name) or 0.0))

    seconds = rise("time")
    if not seconds:
        return None
    timed = rise("callback_seconds") + rise("poll_seconds")
    lags = rise("lag_count")
    return Rates(
        load=min(1.0, rise("callback_seconds") / timed) if timed else None,
        iterations=rise("iterations") / seconds,
        callbacks=rise("callbacks") / seconds,
        received=rise("bytes_received") / seconds,
        sent=rise("bytes_sent") / seconds,
        wakes=rise("wakes") / seconds,
        lag=rise("lag_seconds") / lags if lags else None,
    )


def own_line(stack: Iterable[Frame]) -> Frame | None:
    """The innermost line of *stack* that is the program's own, else the innermost there is."""
    innermost = None
    own = None
    for frame in stack:
        innermost = frame
        if frame.is_own:
            own = frame
    return own or innermost


def _frames(told: Iterable[Any] | None) -> tuple[Frame, ...]:
    return tuple(frame for frame in map(_frame, told or ()) if frame is not None)


def _frame(told: Any) -> Frame | None:
    if not told:
        return None
    file, line, *function = told
    return Frame(harmless(str(file)), int(line or 0), harmless(str(function[0])) if function else "")


# The standard library, of any installation or frozen into the interpreter, and what pip or Debian have installed.
_FOREIGN = re.compile(r"/lib/python3\.\d+t?/|/(?:site|dist)-packages/|^<frozen ")
_FOLDERS = re.compile(r"^.*/(?:(?:site|dist)-packages|lib/python3\.\d+t?)/")


def _without_folders(file: str) -> str:
    shorter = _FOLDERS.sub("", file)
    return shorter if shorter != file else file.rpartition("/")[2] or file
