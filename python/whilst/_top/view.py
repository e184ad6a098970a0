"""What is on the screen: lines of text for a picture, for what the user has chosen, and for a width and a height.

Nothing here knows of a terminal: a line is a list of spans, text with the name of a style, and :mod:`whilst._top.screen`
knows what a style looks like. No line is wider, and there are no more of them, than asked for, whatever the size.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from whilst._top.model import MANY, Frame, Group, Key, Picture, Task, own_line
from whilst._top.text import amount, clip, clip_left, duration, pad, pad_left, size, width

# Text and its style: "", "title", "dim", "good", "warn", "bad", "kind", "heading" or "selected".
Span = tuple[str, str]
Line = list[Span]

# What a row of the list is known by, so that it stays selected while others come and go.
RowId = tuple[str, int] | tuple[str, Key]

SORTS = ("age", "count", "name", "kind")


@dataclass(frozen=True, slots=True)
class Signs:
    """The characters that not every terminal can show."""

    full: str = "█"
    empty: str = "░"
    closed: str = "▸"
    opened: str = "▾"
    times: str = "×"
    dot: str = " · "
    more: str = "…"
    micro: str = "µ"
    dash: str = "–"


ASCII = Signs(
    full="#", empty=".", closed="+", opened="-", times="x", dot=" | ", more="~", micro="u", dash="-"
)
UNICODE = Signs()


@dataclass(slots=True)
class Choice:
    """What the user has chosen, and where in the list he is."""

    sort: str = "age"
    reverse: bool = False
    filter: str = ""
    # Whether the filter is being typed.
    typing: bool = False
    paused: bool = False
    help: bool = False
    # The group or task that is opened, and the row that the cursor is on; None for the first.
    opened: RowId | None = None
    selected: RowId | None = None
    # The first row on the screen.
    top: int = 0
    loop: int | None = None
    # What is wrong: the program has ended, or does not answer. Shown in the place of what a loop does now.
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the list."""

    ident: RowId
    item: Group | Task | None
    # In a group that is opened, or a line that says more about what is opened (then `item` is None).
    inner: bool = False
    text: str = field(default="")


def lines(picture: Picture, choice: Choice, columns: int, height: int, signs: Signs = UNICODE) -> list[Line]:
    """The whole screen. Moves ``choice.top`` so that the selected row is on it."""
    head = _head(picture, choice, columns, signs)
    if choice.help:
        body = [[(text, "")] for text in HELP]
        return _fit(
            [*head[:1], *body, *[[] for _ in range(height - len(body) - 2)], _keys(choice, signs)],
            columns,
            height,
            signs,
        )
    # On a screen that is too low for all, the list is worth more than the figures.
    if height < 12:
        head = [*head[:2], *head[4:5]][: max(1, height - 4)]
    rows = list_rows(picture, choice)
    visible = max(0, height - len(head) - 2)
    index = selected_index(rows, choice)
    choice.top = max(0, min(choice.top, len(rows) - visible, index), index - visible + 1)
    table = _table(rows, choice, index, visible, columns, signs)
    screen = [*head, *table]
    screen += [[] for _ in range(height - 1 - len(screen))]
    screen[height - 1 :] = [_keys(choice, signs)] if height > 1 else []
    return _fit(screen, columns, height, signs)


def plain_lines(
    picture: Picture, choice: Choice, columns: int, height: int, signs: Signs = UNICODE
) -> list[str]:
    """The same for a file: text alone, without a cursor, keys and trailing blanks; no more of the list than there is."""
    head = [line for line in _head(picture, choice, columns, signs) if line]
    rows = list_rows(picture, choice)
    table = _table(rows, choice, -1, max(1, height - len(head) - 1), columns, signs)
    return [
        "".join(text for text, _ in line).rstrip() for line in _fit([*head, *table], columns, height, signs)
    ]


def page(height: int) -> int:
    """How many rows a screen of that height shows: what Page Down goes down by."""
    return max(1, height - 8)


def list_rows(picture: Picture, choice: Choice) -> list[Row]:
    """The list as it is sorted, filtered and opened."""
    wanted = choice.filter.casefold()
    items: list[Group | Task] = []
    for group in picture.groups:
        if wanted and not _matches(wanted, group.coroutine, group.kind, group.place):
            items.extend(task for task in group.tasks if wanted in task.name.casefold())
        elif group.count >= MANY or not group.tasks:
            items.append(group)
        else:
            items.extend(group.tasks)
    items.sort(key=_order(choice.sort), reverse=choice.reverse)
    rows = []
    for item in items:
        ident: RowId = ("task", item.ident) if isinstance(item, Task) else ("group", item.key)
        rows.append(Row(ident, item))
        if isinstance(item, Task):
            if choice.opened == ident:
                rows.extend(_told(item, False))
        elif choice.opened == ident or (
            choice.opened and choice.opened[0] == "task" and _holds(item, choice.opened)
        ):
            for task in sorted(item.tasks, key=_order(choice.sort), reverse=choice.reverse):
                inner: RowId = ("task", task.ident)
                rows.append(Row(inner, task, inner=True))
                if choice.opened == inner:
                    rows.extend(_told(task, True))
            if item.count > len(item.tasks):
                rows.append(Row(("more", item.key), None, True, f"and {item.count - len(item.tasks):,} more"))
    return rows


def _holds(group: Group, ident: RowId) -> bool:
    return any(task.ident == ident[1] for task in group.tasks)


def _told(task: Task, inner: bool) -> Iterable[Row]:
    """What is shown below a task that is opened: the await that it is at, the coroutines around it, and who waits for it."""
    said = []
    if task.waits_for and task.waits_for != task.kind:
        said.append(
            f"waits for {task.waits_for}" if task.kind not in ("running", "ready") else task.waits_for
        )
    if task.awaited_by:
        said.append("awaited by " + ", ".join(task.awaited_by))
    frames = task.stack or ((task.place,) if task.place else ())
    # The whole path of the program's own files, for others the part that tells them apart.
    said += [
        f"{f'{frame.file}:{frame.line}' if frame.is_own else frame.short} {frame.function}".rstrip()
        for frame in reversed(frames)
    ]
    for number, text in enumerate(said or ["nothing more is known"]):
        yield Row((f"told {number}", task.ident), None, inner, text)


def _matches(wanted: str, coroutine: str, kind: str, place: Frame | None) -> bool:
    return (
        wanted in coroutine.casefold()
        or wanted in kind
        or (place is not None and wanted in place.short.casefold())
    )


def _order(sort: str) -> Callable[[Group | Task], tuple[object, ...]]:
    """The key to sort by."""

    def count(item: Group | Task) -> int:
        return item.count if isinstance(item, Group) else 1

    def name(item: Group | Task) -> tuple[object, ...]:
        # Task-10 comes after Task-9.
        text = item.name if isinstance(item, Task) else item.coroutine
        stem = text.rstrip("0123456789")
        return (stem.casefold(), int(text[len(stem) :][:18] or 0))

    match sort:
        case "age":
            return lambda item: (-round(item.age), -count(item), name(item))
        case "count":
            return lambda item: (-count(item), name(item))
        case "name":
            return name
        case _:
            return lambda item: (item.kind, -count(item), name(item))


def selected_index(rows: Sequence[Row], choice: Choice) -> int:
    """Where the cursor is: on the row that was selected, or where that is gone on the first."""
    for index, row in enumerate(rows):
        if row.ident == choice.selected:
            return index
    return 0


# -- The head -----------------------------------------------------------------------------------------------------------------


def _head(picture: Picture, choice: Choice, columns: int, signs: Signs) -> list[Line]:
    short = _durations(signs)
    rates = picture.rates
    about = [
        f"pid {picture.pid}",
        f"Python {picture.python}",
        picture.driver,
        f"up {short(picture.uptime)}",
    ]
    if len(picture.loops) > 1:
        about.append(f"loop {picture.index + 1} of {len(picture.loops)} ({picture.thread or 'no thread'})")
    if picture.debug:
        about.append("debug mode")
    said = signs.dot.join(about)
    name = clip(picture.program, max(columns // 2, columns - width(said) - 2), signs.more)
    title: Line = [(name, "title"), ("  " + said, "")]

    a_second = []
    if rates is not None:
        a_second = [
            ("iterations", amount(rates.iterations)),
            ("callbacks", amount(rates.callbacks)),
            ("in", size(rates.received)),
            ("out", size(rates.sent)),
            ("wakes", amount(rates.wakes)),
        ]
    kinds = ", ".join(f"{amount(count)} {kind}" for kind, count in picture.transports)
    now = [
        ("tasks", ("" if picture.exact else "about ") + amount(picture.total)),
        ("ready", amount(picture.ready)),
        ("timers", amount(picture.timers)),
        ("transports", kinds or "0"),
        ("servers", amount(picture.servers)),
        ("threads", amount(picture.threads)),
    ]
    return [
        title,
        _load(picture, columns, signs),
        _figures("/s", a_second, columns),
        _figures("now", now, columns),
        _doing(picture, choice, columns, signs),
    ]


def _load(picture: Picture, columns: int, signs: Signs) -> Line:
    short = _durations(signs)
    rates = picture.rates
    load = None if rates is None else rates.load
    style = "good" if load is None or load < 0.6 else "warn" if load < 0.9 else "bad"
    rest: Line = [
        ("    ?" if load is None else f" {load * 100:3.0f} %", style),
        ("   lag ", "dim"),
        ("?" if rates is None or rates.lag is None else short(rates.lag), ""),
        ("  longest ", "dim"),
        (short(picture.lag_max_10s), "warn" if picture.lag_max_10s >= 0.1 else ""),
        (" in 10 s, ", "dim"),
        (short(picture.lag_max_60s), ""),
        (" in 60 s", "dim"),
    ]
    bar = max(8, min(40, columns - 5 - sum(width(text) for text, _ in rest)))
    full = round((load or 0.0) * bar)
    return [("load ", "dim"), (signs.full * full, style), (signs.empty * (bar - full), "dim"), *rest]


def _figures(heading: str, figures: Iterable[tuple[str, str]], columns: int) -> Line:
    """As many figures, each with its name, as fit."""
    line: Line = [(pad(heading, 4), "dim")]
    left = columns - 4
    gap = " "
    for name, value in figures:
        left -= len(gap) + len(name) + 1 + width(value)
        if left < 0:
            break
        line += [(f"{gap}{name} ", "dim"), (value, "")]
        gap = "  "
    return line


def _doing(picture: Picture, choice: Choice, columns: int, signs: Signs) -> Line:
    """What is to be known first: that something is wrong, else what holds the loop."""
    if choice.trouble:
        return [(choice.trouble, "bad")]
    line: Line = [("PAUSED ", "warn")] if choice.paused else []
    if picture.held and picture.where:
        own = own_line(picture.where)
        innermost = picture.where[-1]
        assert own is not None
        text = f"held for {_durations(signs)(picture.held)} at {own.short} {own.function}"
        if innermost is not own:
            text += f", in {innermost.short} {innermost.function}"
        return [*line, (clip(text, columns - sum(width(text) for text, _ in line), signs.more), "bad")]
    if picture.state == "stopped":
        return [*line, ("the loop does not run", "warn")]
    return line


def _durations(signs: Signs) -> Callable[[float], str]:
    return lambda seconds: duration(seconds).replace("µ", signs.micro)


# -- The list -----------------------------------------------------------------------------------------------------------------

_KIND, _AGE = 9, 9
# No column of text is narrower, where there is room at all: of names, coroutines and places.
_LEAST = (8, 9, 8)


def _table(
    rows: Sequence[Row], choice: Choice, index: int, visible: int, columns: int, signs: Signs
) -> list[Line]:
    cells = [_cells(row, signs) for row in rows]
    # The widths go by all rows, so that they stay as they are while one scrolls.
    left = columns - 2 - _KIND - _AGE - 2 - 2 * 2
    wanted = [max((width(cell[column]) for cell in cells if cell), default=0) for column in range(3)]
    name, coroutine, place = _shares(list(map(max, wanted, _LEAST)), left)
    heading = (
        "  "
        + pad("WAITS FOR", _KIND)
        + pad_left("AGE ", _AGE + 1)
        + " "
        + pad("TASK", name, signs.more)
        + "  "
        + pad("COROUTINE", coroutine, signs.more)
        + "  "
        + pad("AT", place, signs.more)
    )
    table: list[Line] = [[(pad(heading, columns, signs.more), "heading")]]
    for number, row in enumerate(rows[choice.top : choice.top + visible], choice.top):
        mark, inner = "  ", "  " if row.inner else ""
        if isinstance(row.item, Group):
            mark = (signs.opened if choice.opened == row.ident else signs.closed) + " "
        cell = cells[number]
        if row.item is None or cell is None:
            # The end of a long path says more than its beginning.
            text = f"  {inner}    " + clip_left(row.text, columns - 6 - len(inner), signs.more)
            line: Line = [(text, "dim")]
        else:
            line = [
                (mark, ""),
                (pad(row.item.kind, _KIND, signs.more), _style(row.item.kind)),
                (pad_left(_age(row.item, signs), _AGE), "" if not row.item.at_least else "dim"),
                ("  ", ""),
                (pad(cell[0], name, signs.more), "title" if isinstance(row.item, Group) else ""),
                ("  ", ""),
                (pad(clip_left(cell[1], coroutine, signs.more), coroutine), ""),
                ("  ", ""),
                (clip_left(cell[2], place, signs.more), "dim"),
            ]
        if number == index:
            text = "".join(text for text, _ in line)
            line = [(pad(text, columns, signs.more), "selected")]
        table.append(line)
    if not rows:
        table.append([("  no task matches the filter" if choice.filter else "  there are no tasks", "dim")])
    return table


def _cells(row: Row, signs: Signs) -> tuple[str, str, str] | None:
    item = row.item
    if item is None:
        return None
    place = item.place.short if item.place else signs.dash
    if isinstance(item, Group):
        return f"{item.count:,} {signs.times}", item.coroutine, place
    return ("  " if row.inner else "") + item.name, item.coroutine, place


def _age(item: Group | Task, signs: Signs) -> str:
    if item.at_least and item.age < 0.5:
        # Nothing is known of it.
        return signs.dash
    # Whole seconds: a list in which all figures move is hard to read.
    text = duration(item.age) if item.age >= 99.5 else f"{item.age:.0f} s"
    return "> " + text if item.at_least else text


def _style(kind: str) -> str:
    return {"running": "good", "ready": "warn"}.get(kind, "kind")


def _shares(wanted: Sequence[int], left: int) -> list[int]:
    """*wanted* widths, of which the widest give way until they fit into *left*; what is over goes to the last."""
    shares = list(wanted)
    while sum(shares) > left and max(shares) > 0:
        shares[shares.index(max(shares))] -= 1
    shares[-1] += max(0, left - sum(shares))
    return shares


# -- The last line, and the help ------------------------------------------------------------------------------------------------


def _keys(choice: Choice, signs: Signs) -> Line:
    if choice.typing:
        return [
            ("filter: ", "title"),
            (choice.filter, ""),
            ("_", "dim"),
            ("   Enter keeps it, Esc clears it", "dim"),
        ]
    line: Line = []
    if choice.filter:
        line = [("filter: ", "title"), (choice.filter + "  ", "")]
    sort = f"sort: {choice.sort}" + (" reversed" if choice.reverse else "")
    keys = (
        "q quit",
        "? help",
        "/ filter",
        f"s {sort}",
        "Enter open",
        "space go on" if choice.paused else "space pause",
    )
    return [*line, ("  ".join(keys), "dim")]


HELP = (
    "",
    "  Up Down PgUp PgDn Home End   move in the list (also j k g G)",
    "  Enter   open and close: the tasks of a group, the awaits of a task",
    "  /       show only what contains a text: name, coroutine, kind, place",
    "  s  r    sort by age, count, name or kind; reverse the order",
    "  space   pause: what is shown stays; again to go on",
    "  l       the next event loop, in a program that runs several",
    "  ?       this; any key leaves it",
    "  q       quit (also Ctrl-C); the program goes on undisturbed",
    "",
    "  load    part of the time that the loop spends in callbacks; the rest it waits",
    "  lag     how long what is ready waits for its turn (mean; longest)",
    "  held    one iteration has been running for so long, at that line",
    "  AGE     of the task; '> 5 s': older than that, for it was there when this began",
    "  N x     so many tasks of one coroutine, waiting for the same in the same line",
)


def _fit(screen: list[Line], columns: int, height: int, signs: Signs) -> list[Line]:
    """Cut off what is beyond *columns* and *height*."""
    fitted = []
    for line in screen[:height]:
        left = columns
        spans: Line = []
        for text, style in line:
            if width(text) > left:
                # The last span that fits in part ends the line, and says that there was more.
                spans.append((clip(text, left, signs.more), style))
                break
            left -= width(text)
            if text:
                spans.append((text, style))
        fitted.append(spans)
    return fitted
