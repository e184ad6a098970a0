"""What each key does to what is chosen; and what is to be asked for then."""

from typing import Any

from whilst._top.model import Group, Picture, Task
from whilst._top.text import harmless
from whilst._top.view import SORTS, Choice, Row, list_rows, page, selected_index

# How many tasks are described each time, without a group opened or a filter, and with.
FEW, MORE = 200, 1000


def press(key: str, choice: Choice, picture: Picture, height: int) -> bool:
    """Do what *key* asks for: a character, or a name such as ``"up"``. Returns whether to go on."""
    if choice.help:
        choice.help = False
        return key not in ("q", "quit")
    if choice.typing:
        _type(key, choice)
        return key != "quit"
    rows = list_rows(picture, choice)
    index = selected_index(rows, choice)
    match key:
        case "q" | "quit":
            return False
        case "?" | "h":
            choice.help = True
        case "/":
            choice.typing = True
            choice.selected = None
        case "s":
            choice.sort = SORTS[(SORTS.index(choice.sort) + 1) % len(SORTS)]
        case "r":
            choice.reverse = not choice.reverse
        case " ":
            choice.paused = not choice.paused
        case "l":
            choice.loop = picture.loops[(picture.index + 1) % len(picture.loops)]
            choice.opened = choice.selected = None
        case "escape":
            choice.opened = None
            choice.filter = ""
        case "enter":
            _open(rows, index, choice)
        case "up" | "k":
            _select(rows, index - 1, choice)
        case "down" | "j":
            _select(rows, index + 1, choice)
        case "page up":
            _select(rows, index - page(height), choice)
        case "page down":
            _select(rows, index + page(height), choice)
        case "home" | "g":
            _select(rows, 0, choice)
        case "end" | "G":
            _select(rows, len(rows) - 1, choice)
    return True


def _type(key: str, choice: Choice) -> None:
    match key:
        case "enter":
            choice.typing = False
        case "escape":
            choice.typing = False
            choice.filter = ""
        case "backspace":
            choice.filter = choice.filter[:-1]
        case _ if len(key) == 1 and harmless(key) == key:
            choice.filter += key


def _select(rows: list[Row], index: int, choice: Choice) -> None:
    if rows:
        choice.selected = rows[max(0, min(index, len(rows) - 1))].ident


def _open(rows: list[Row], index: int, choice: Choice) -> None:
    """Open the row under the cursor, or close what it belongs to."""
    if not rows:
        return
    row = rows[index]
    while row.item is None and index:
        index -= 1
        row = rows[index]
    choice.selected = row.ident
    if choice.opened != row.ident:
        choice.opened = row.ident
        return
    # A task in a group that is closed leaves its group open.
    choice.opened = _group_of(rows, index) if row.inner else None


def _group_of(rows: list[Row], index: int) -> Any:
    return next((row.ident for row in reversed(rows[:index]) if isinstance(row.item, Group)), None)


def request(choice: Choice, picture: Picture | None) -> dict[str, Any]:
    """What to ask for, so that what is chosen can be shown."""
    asked: dict[str, Any] = {"ask": "snapshot", "tasks": FEW}
    if choice.filter:
        asked |= {"match": choice.filter, "tasks": MORE}
    if choice.opened is None or picture is None:
        return asked
    item = next((row.item for row in list_rows(picture, choice) if row.ident == choice.opened), None)
    if isinstance(item, Task):
        asked["stacks"] = [item.ident]
    elif item is not None and item.place is not None:
        # These are described first; of the others the groups are enough.
        asked |= {"of": [item.coroutine, item.place.file, item.place.line], "tasks": MORE}
    return asked
