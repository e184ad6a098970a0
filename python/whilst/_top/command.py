"""The command line of ``whilst top``, and which way of showing it gets."""

import argparse
import io
import json
import locale
import os
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from whilst import _control
from whilst._top.client import Client, Ended, Unreachable
from whilst._top.model import Answer, rates_between
from whilst._top.session import Session
from whilst._top.text import duration, harmless
from whilst._top.view import ASCII, UNICODE, Signs, plain_lines

# As many tasks as a program describes at once.
MOST = 2000


def main(arguments: Sequence[str]) -> int:
    """Run ``whilst top ARGUMENTS`` and return its exit status: 0, or 1 where a program cannot be looked into.

    Raises :exc:`SystemExit` for ``-h``, and with status 2 for a wrong command line.
    """
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except Unreachable as error:
        return _fail(str(error))
    except Ended:
        return _fail("the program has closed the connection: it has ended, or too many look into it already")
    except BrokenPipeError:
        # Whoever read this has enough. Python would complain when it flushes the rest at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except KeyboardInterrupt:
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="whilst top",
        description="Show what the event loop of a running program does: its load and lag, its tasks and what they wait for.",
        epilog="The program must have been started with WHILST_CONTROL=1 in its environment, by the same user. "
        "A file that is called top is run as: whilst ./top",
    )
    parser.add_argument(
        "pid",
        metavar="PID",
        nargs="?",
        type=_pid,
        help="the process to look into; without it those that can be are listed, and a single one is taken",
    )
    parser.add_argument(
        "--interval",
        metavar="SECONDS",
        type=_seconds,
        default=1.0,
        help="time between two looks (default: 1)",
    )
    parser.add_argument("--json", action="store_true", help="print all figures and tasks once, as JSON")
    parser.add_argument(
        "--plain", action="store_true", help="print lines anew at each look; as without a terminal or curses"
    )
    return parser


def _pid(text: str) -> int:
    pid = int(text)
    if pid < 1:
        raise ValueError
    return pid


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.05 <= seconds <= 3600:
        raise argparse.ArgumentTypeError("from 0.05 to 3600 seconds")
    return seconds


def _run(options: argparse.Namespace) -> int:
    # For curses, and to know what the terminal can show. A locale that this system has not is no reason to stop.
    with suppress(locale.Error):
        locale.setlocale(locale.LC_ALL, "")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names may have any character in them.
        sys.stdout.reconfigure(errors="backslashreplace")
    on_terminal = sys.stdin.isatty() and sys.stdout.isatty() and not options.plain and not options.json
    signs = UNICODE if _shows_unicode(on_terminal) else ASCII
    pid = options.pid
    if pid is None:
        programs = _programs()
        if not programs:
            return _fail("no program can be looked into: start one with WHILST_CONTROL=1 in its environment")
        if len(programs) == 1:
            pid = programs[0][0]
        elif not on_terminal:
            if options.json:
                return _fail("name one of the processes " + ", ".join(str(pid) for pid, _ in programs))
            print(_HEADING, *(text for _, text in programs), sep="\n")
            return 0
        else:
            pid = _choose(programs, signs)
            if pid is None:
                return 0
    client = Client(pid)
    try:
        if options.json:
            return _print_json(client, options.interval)
        session = Session(client, options.interval)
        if on_terminal and _watch(session, signs):
            return 0
        return _print_plain(session, signs)
    finally:
        client.close()


def _fail(reason: str) -> int:
    sys.stderr.write(f"whilst top: {reason}\n")
    return 1


def _shows_unicode(on_terminal: bool) -> bool:
    encoding = locale.nl_langinfo(locale.CODESET) if on_terminal else sys.stdout.encoding
    return encoding.lower().replace("-", "") == "utf8"


# -- Which program --------------------------------------------------------------------------------------------------------------

_HEADING = f"{'PID':>8}  {'UP':>9}  {'TASKS':>7}  PROGRAM"


def _programs() -> list[tuple[int, str]]:
    """The programs that answer, by pid, with a line about each."""
    found = []
    for pid in sorted(_control.programs()):
        try:
            client = Client(pid)
        except Unreachable:
            continue
        try:
            answer = client.ask({"ask": "snapshot", "tasks": 0})
        except Ended:
            continue
        except Unreachable:
            # One that does not answer now is worth a look.
            found.append((pid, f"{pid:>8}  {'?':>9}  {'?':>7}  (does not answer)"))
            continue
        finally:
            client.close()
        tasks = sum(int((loop.get("tasks") or {}).get("total", 0)) for loop in answer.get("loops") or ())
        program = harmless(str(answer.get("program") or "?"))
        up = duration(float(answer.get("uptime") or 0.0))
        found.append(
            (pid, f"{pid:>8}  {up:>9}  {tasks:>7,}  {program} (Python {harmless(str(answer.get('python')))})")
        )
    return found


def _choose(programs: list[tuple[int, str]], signs: Signs) -> int | None:
    try:
        from whilst._top.screen import Unusable, choose
    except ImportError as error:
        return _choose_by_line(programs, _no_curses(error))
    try:
        return choose(programs, signs, _HEADING)
    except Unusable as error:
        return _choose_by_line(programs, str(error))


def _choose_by_line(programs: list[tuple[int, str]], reason: str) -> int | None:
    sys.stderr.write(f"whilst top: {reason}\n")
    print(_HEADING, *(text for _, text in programs), sep="\n")
    try:
        said = input("PID: ").strip()
    except EOFError:
        return None
    return int(said) if said.isdecimal() else None


# -- Three ways of showing it ----------------------------------------------------------------------------------------------------


def _watch(session: Session, signs: Signs) -> bool:
    """By curses; False, and a word about it, where that is not possible."""
    try:
        from whilst._top.screen import Unusable, watch
    except ImportError as error:
        sys.stderr.write(f"whilst top: {_no_curses(error)}; printing lines instead\n")
        return False
    try:
        watch(session, signs)
    except Unusable as error:
        sys.stderr.write(f"whilst top: {error}; printing lines instead\n")
        return False
    return True


def _no_curses(error: ImportError) -> str:
    return f"this Python was built without curses ({error})"


def _print_plain(session: Session, signs: Signs) -> int:
    """Lines, again and again, without a sequence that steers a terminal, until the program ends."""
    import select

    # What a file or pipe is given is as wide as it takes; a terminal has its own width and height.
    columns, height = shutil.get_terminal_size((120, 50)) if sys.stdout.isatty() else (160, 50)
    before: Any = None
    while True:
        if session.picture is not before or session.choice.trouble:
            before = session.picture
            if session.picture.rates is not None or session.choice.trouble:
                print(
                    *plain_lines(session.picture, session.choice, columns, height - 1, signs),
                    sep="\n",
                    end="\n\n",
                    flush=True,
                )
        if session.ended:
            return 0
        if session.awaits_answer:
            if select.select([session.client], [], [], session.timeout())[0]:
                session.receive()
        else:
            time.sleep(session.timeout())
        session.turn()


def _print_json(client: Client, interval: float) -> int:
    """The second of two answers, *interval* apart, with what happened in between as ``rates`` of each loop."""
    first = client.ask({"ask": "snapshot", "tasks": 0})
    time.sleep(interval)
    answer = client.ask({"ask": "snapshot", "tasks": MOST, "stacks": True})
    _add_rates(first, answer)
    json.dump(answer, sys.stdout, indent=2)
    sys.stdout.write("\n")
    sys.stdout.flush()
    return 0


def _add_rates(first: Answer, second: Answer) -> None:
    before = {loop.get("id"): loop.get("metrics") for loop in first.get("loops") or ()}
    for loop in second.get("loops") or ():
        rates = rates_between(before.get(loop.get("id")), loop.get("metrics") or {})
        loop["rates"] = None if rates is None else asdict(rates)
