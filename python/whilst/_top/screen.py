"""The terminal, by curses: lines with styles onto the screen, keys and changes of its size from it.

Imported only where there is a terminal, for ``curses`` is missing in some builds of Python.
"""

import curses
import os
import select
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

from whilst._top.keys import press
from whilst._top.session import Session
from whilst._top.text import pad
from whilst._top.view import Line, Signs, lines


class Unusable(Exception):
    """The terminal is none that curses can draw on; the text says why."""


# Names of keys for those that are no characters. What a terminal sends for Enter and Backspace differs.
_NAMES: dict[int | str, str] = {
    curses.KEY_UP: "up",
    curses.KEY_DOWN: "down",
    curses.KEY_PPAGE: "page up",
    curses.KEY_NPAGE: "page down",
    curses.KEY_HOME: "home",
    curses.KEY_END: "end",
    curses.KEY_ENTER: "enter",
    "\n": "enter",
    "\r": "enter",
    curses.KEY_BACKSPACE: "backspace",
    "\x7f": "backspace",
    "\b": "backspace",
    "\x03": "quit",
    "\x0c": "redraw",
}

# What terminals send for these keys behind an Escape, whether they are in the mode that curses asks for or not.
_SEQUENCES = {
    f"{kind}{key}": name
    for kind in "[O"
    for key, name in zip("ABHF", ("up", "down", "home", "end"), strict=True)
}
_SEQUENCES |= {"[5~": "page up", "[6~": "page down", "[1~": "home", "[4~": "end"}

_COLOURS = {
    "good": curses.COLOR_GREEN,
    "warn": curses.COLOR_YELLOW,
    "bad": curses.COLOR_RED,
    "kind": curses.COLOR_CYAN,
}


class Screen:
    """The terminal while it is drawn on: a context manager that leaves it as it was."""

    def __enter__(self) -> "Screen":
        """Raises :exc:`Unusable`."""
        try:
            # initscr() would end the process where it fails.
            curses.setupterm()
        except curses.error as error:
            raise Unusable(f"curses knows no terminal {os.environ.get('TERM', '')!r} ({error})") from None
        if not curses.tigetstr("cup"):
            raise Unusable(f"a terminal {os.environ.get('TERM', '')!r} cannot be drawn on")
        self._window = curses.initscr()
        try:
            curses.noecho()
            curses.cbreak()
            curses.set_escdelay(25)
            self._window.keypad(True)
            self._window.nodelay(True)
            self._styles = _styles()
            _hide_cursor()
            # A change of size wakes select() by this pair; ncurses' own handler would not.
            self._woken, self._waker = socket.socketpair()
            self._woken.setblocking(False)
            self._waker.setblocking(False)
            self._former_wakeup = signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
            self._former_handlers = {
                signal.SIGWINCH: signal.signal(signal.SIGWINCH, lambda *_: None),
                # By way of __exit__(), so that the terminal is left as it was.
                signal.SIGTERM: signal.signal(signal.SIGTERM, _end),
                signal.SIGHUP: signal.signal(signal.SIGHUP, _end),
            }
        except BaseException:
            curses.endwin()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._former_handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._former_wakeup)
        self._woken.close()
        self._waker.close()
        self._window.keypad(False)
        curses.nocbreak()
        curses.echo()
        curses.endwin()

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        height, columns = self._window.getmaxyx()
        return columns, height

    def draw(self, drawn: list[Line]) -> None:
        self._window.erase()
        for y, line in enumerate(drawn):
            try:
                self._window.move(y, 0)
                for text, style in line:
                    self._add(text, self._styles.get(style, curses.A_NORMAL))
            except curses.error:
                # The cursor could not go beyond the last character of the last line, which is there all the same; or
                # the terminal has become smaller, and will be drawn on anew.
                continue
        self._window.refresh()

    def _add(self, text: str, attributes: int) -> None:
        try:
            self._window.addstr(text, attributes)
        except UnicodeEncodeError:
            # Without UTF-8, where curses is not built for wide characters.
            self._window.addstr(text.encode("ascii", "replace").decode(), attributes)

    def wait(self, seconds: float, *others: Any) -> bool:
        """Wait for a key, another size or one of *others* that can be read; returns whether it is one of *others*."""
        readable = select.select([0, self._woken, *others], [], [], seconds)[0]
        if self._woken in readable:
            self._drain()
            self._follow_size()
        return any(other in readable for other in others)

    def pressed(self) -> list[str]:
        """The keys that were pressed, without waiting: characters, or names (``"up"``, ``"enter"``)."""
        pressed: list[str] = []
        while True:
            try:
                key = self._window.get_wch()
            except curses.error:
                return pressed
            if key == "\x0c":
                self._window.redrawwin()
            elif key == "\x1b":
                pressed += self._after_escape()
            elif key in _NAMES:
                pressed.append(_NAMES[key])
            elif isinstance(key, str):
                pressed.append(key)

    def _after_escape(self) -> list[str]:
        """The key whose sequence curses does not know, for it is not this terminal's; or Escape, and what came with it."""
        sequence = ""
        with suppress(curses.error):
            while len(sequence) < 8 and not sequence[1:].strip("0123456789;"):
                key = self._window.get_wch()
                if not isinstance(key, str):
                    break
                sequence += key
                if sequence[0] not in "[O":
                    return ["escape", _NAMES.get(key, key)]
        return [_SEQUENCES[sequence]] if sequence in _SEQUENCES else [] if sequence else ["escape"]

    def _drain(self) -> None:
        with suppress(BlockingIOError):
            while self._woken.recv(64):
                pass

    def _follow_size(self) -> None:
        try:
            columns, height = os.get_terminal_size(1)
        except OSError:
            return
        if (columns, height) != self.size and columns > 0 and height > 0:
            curses.resizeterm(height, columns)
            self._window.clearok(True)


def _end(number: int, frame: object) -> None:
    # The status that a shell has for a process that a signal has ended.
    raise SystemExit(128 + number)


def _hide_cursor() -> None:
    # There are terminals whose cursor is always there.
    with suppress(curses.error):
        curses.curs_set(0)


def _styles() -> dict[str, int]:
    styles = {
        "title": curses.A_BOLD,
        "dim": curses.A_DIM,
        "heading": curses.A_UNDERLINE,
        "selected": curses.A_REVERSE,
        "bad": curses.A_BOLD,
    }
    # https://no-color.org: any value but an empty one.
    if os.environ.get("NO_COLOR") or not curses.has_colors():
        return styles
    curses.start_color()
    background = 0
    with suppress(curses.error):
        curses.use_default_colors()
        background = -1
    for number, (name, colour) in enumerate(_COLOURS.items(), 1):
        curses.init_pair(number, colour, background)
        styles[name] = styles.get(name, curses.A_NORMAL) | curses.color_pair(number)
    return styles


def watch(session: Session, signs: Signs) -> None:
    """Show a program until the user quits."""
    choice = session.choice
    with suppress(KeyboardInterrupt), Screen() as screen:
        while True:
            columns, height = screen.size
            screen.draw(lines(session.picture, choice, columns, height, signs))
            if screen.wait(session.timeout(), *([session.client] if session.awaits_answer else [])):
                session.receive()
            before = (choice.opened, choice.filter, choice.loop)
            if not all(press(key, choice, session.picture, height) for key in screen.pressed()):
                return
            if before != (choice.opened, choice.filter, choice.loop):
                session.ask_now()
            session.turn()


def choose(programs: list[tuple[int, str]], signs: Signs, heading: str) -> int | None:
    """Let the user choose one of *programs*, pid and description; None where he quits."""
    selected = 0
    with suppress(KeyboardInterrupt), Screen() as screen:
        while True:
            columns, height = screen.size
            screen.draw(_chooser(programs, selected, heading, columns, height, signs))
            screen.wait(60.0)
            for key in screen.pressed():
                if key in ("q", "quit", "escape"):
                    return None
                if key == "enter":
                    return programs[selected][0]
                step = _STEPS.get(key, _stay)
                selected = max(0, min(step(selected), len(programs) - 1))
    return None


def _stay(selected: int) -> int:
    return selected


_STEPS: dict[str, Callable[[int], int]] = {
    "up": lambda selected: selected - 1,
    "k": lambda selected: selected - 1,
    "down": lambda selected: selected + 1,
    "j": lambda selected: selected + 1,
    "home": lambda selected: 0,
    "end": lambda selected: 1 << 30,
}


def _chooser(
    programs: list[tuple[int, str]], selected: int, heading: str, columns: int, height: int, signs: Signs
) -> list[Line]:
    visible = max(1, height - 3)
    top = max(0, selected - visible + 1)
    drawn: list[Line] = [
        [(pad("which program?", columns, signs.more), "title")],
        [(pad(heading, columns, signs.more), "heading")],
    ]
    for number, (_, text) in enumerate(programs[top : top + visible], top):
        drawn.append([(pad(text, columns, signs.more), "selected" if number == selected else "")])
    drawn.append([(pad("Enter choose  Up Down move  q quit", columns, signs.more), "dim")])
    return drawn
