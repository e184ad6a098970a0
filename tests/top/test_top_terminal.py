"""`whilst top` as a user has it: in a terminal, looking into real programs that are loaded, held, that end or do not allow it."""

import contextlib
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import TWO_LOOPS, Program, environment, line_of, running
from terminal import SECONDS, Terminal
from whilst import _control

needs_curses = pytest.mark.skipif(
    importlib.util.find_spec("_curses") is None, reason="this Python was built without curses"
)

TOP = [sys.executable, "-m", "whilst", "top"]


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    with running(tmp_path) as one:
        yield one


def top(folder: Path, *arguments: object, columns: int = 80, height: int = 24, **more: str) -> Terminal:
    return Terminal(
        [*TOP, *map(str, arguments)],
        environment(folder, **more),
        columns=columns,
        height=height,
        cwd=str(folder),
    )


def printed(folder: Path, *arguments: object, **more: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*TOP, *map(str, arguments)],
        env=environment(folder, **more),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


# Without a PID programs are looked for in /tmp, too, and there may be some that these tests know nothing of.
HERE = [
    sys.executable,
    "-c",
    "import sys; from whilst import _control, _top; folder = _control.folder(); _control.folders = lambda uid=None: [folder];"
    "sys.exit(_top.main(sys.argv[1:]))",
]


def top_here(folder: Path) -> Terminal:
    return Terminal(HERE, environment(folder), cwd=str(folder))


def printed_here(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*HERE, *arguments],
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


@pytest.mark.usefixtures("driver")
@needs_curses
class TestOnATerminal:
    def test_a_loaded_server_is_readable_at_80_by_24(self, tmp_path: Path) -> None:
        with (
            running(tmp_path, tasks=9_000) as program,
            program.loaded(),
            top(tmp_path, program.pid) as terminal,
        ):
            terminal.shows("9,000 ×", "handle", "ticker")
            terminal.until(
                lambda text: re.search(r"^/s +iterations \d.*  in \d+(\.\d+)? [kM]B  out ", text, re.M)
            )
            assert len(terminal.lines) == 24 and all(len(line) <= 80 for line in terminal.lines)
            head = terminal.lines
            assert re.fullmatch(
                rf"server\.py  pid {program.pid} · Python [\d.]+\S* · {os.environ['WHILST_DRIVER']} · up .*",
                head[0],
            )
            assert re.fullmatch(r"load [█░]+ +\d+ %   lag .*s  longest .* in 10 s, .* in 60 s", head[1])
            assert re.match(
                r"now  tasks 9,02\d  ready \d+  timers \d+  transports 20 tcp  servers 1", head[3]
            )
            (parked,) = (line for line in head if "9,000 ×" in line)
            assert parked.split()[0:2] == ["▸", "lock"] and parked.endswith(
                f"server.py:{line_of('# parked')}"
            )
            (handlers,) = (line for line in head if " 20 ×" in line)
            assert "socket" in handlers or "ready" in handlers
            assert head[-1] == "q quit  ? help  / filter  s sort: age  Enter open  space pause"
            terminal.send("q")
            assert terminal.ends() == 0

    def test_it_is_refreshed(self, tmp_path: Path, program: Program) -> None:
        with top(tmp_path, program.pid, "--interval", "0.1") as terminal:
            terminal.shows("now  tasks 2 ")
            with program.connect(), program.connect():
                terminal.shows("now  tasks 4 ", "transports 2 tcp")
            terminal.shows("now  tasks 2 ", "transports 0")

    def test_a_name_cannot_steer_the_terminal(self, tmp_path: Path, program: Program) -> None:
        with top(tmp_path, program.pid, columns=120) as terminal:
            terminal.shows(r"\x1b]0;owned\x07\x1b[2J\u202e")
            assert b"\x1b]0;" not in terminal.received and "\u202e".encode() not in terminal.received

    def test_a_loop_that_is_held_is_shown_with_its_line(self, tmp_path: Path, program: Program) -> None:
        with top(tmp_path, program.pid, "--interval", "0.1") as terminal, program.connect() as connection:
            terminal.shows("now  tasks")
            connection.sendall(b"hold\n")
            terminal.shows("held for ", f" at server.py:{line_of('# held')} handle")
            assert "bold" in terminal.styles("held for") and "red" in terminal.styles("held for")
            # It is still the same program, and then it goes on.
            assert connection.recv(100) == b"hold\n"
            terminal.until(lambda text: "held for" not in text)

    def test_the_end_of_the_program_is_survived(self, tmp_path: Path, program: Program) -> None:
        with top(tmp_path, program.pid, "--interval", "0.1") as terminal:
            terminal.shows("ticker", "now  tasks 2")
            program.say(b"end\n")
            assert program.process.wait(SECONDS) == 0
            text = terminal.shows("the program has ended; these are its last figures")
            assert "ticker" in text and "server.py" in text
            terminal.send("?")
            terminal.shows("Enter   open and close")
            terminal.send("xq")
            assert terminal.ends() == 0

    def test_a_program_that_is_killed(self, tmp_path: Path, program: Program) -> None:
        with top(tmp_path, program.pid) as terminal:
            terminal.shows("ticker")
            program.process.kill()
            terminal.shows("the program has ended")
            terminal.send("q")
            assert terminal.ends() == 0

    def test_a_program_that_does_not_answer_is_said_so(self, tmp_path: Path, program: Program) -> None:
        with top(tmp_path, program.pid, "--interval", "0.1") as terminal:
            terminal.shows("ticker")
            program.process.send_signal(signal.SIGSTOP)
            try:
                terminal.shows("the program has not answered for ", "ticker")
            finally:
                program.process.send_signal(signal.SIGCONT)
            terminal.until(lambda text: "has not answered" not in text)

    def test_another_size_is_followed(self, tmp_path: Path) -> None:
        with running(tmp_path, tasks=50) as program, top(tmp_path, program.pid) as terminal:
            terminal.shows("50 ×", "space pause")
            for columns, height in ((120, 40), (50, 12), (200, 60), (80, 24), (20, 5)):
                terminal.resize(columns, height)
                terminal.until(
                    lambda text, height=height: (
                        terminal.lines[0].startswith("server.py")
                        and terminal.lines[height - 1].startswith("q quit")
                    )
                )
            terminal.send("q")
            assert terminal.ends() == 0

    def test_moving_opening_and_filtering(self, tmp_path: Path) -> None:
        with running(tmp_path, tasks=5000) as program, top(tmp_path, program.pid) as terminal:
            terminal.shows("▸ lock", "5,000 ×")
            assert "reverse" in terminal.styles("5,000 ×")
            terminal.send("\r")
            terminal.shows("▾ lock", "  parked ")
            terminal.send("\x1b[6~\x1b[6~")
            terminal.until(lambda text: "5,000 ×" not in text)
            # Home as terminals send it that are not in the mode which curses asks for.
            terminal.send("\x1b[H")
            terminal.shows("▾ lock")
            terminal.send("\x1b[B\r")
            # The awaits of a task, outermost last.
            terminal.shows("waits for Event.wait", f"server.py:{line_of('# parked')} parked")
            terminal.send("\x1b")
            terminal.until(lambda text: "waits for" not in text and "▸ lock" in text)
            # A task that was not on the screen, among five thousand.
            terminal.send("\x1b/parked 4711\r")
            text = terminal.shows("filter: parked 4711", "parked 4711  parked")
            assert "ticker" not in text and "parked 4712" not in text
            terminal.send("\x1b")
            terminal.shows("ticker")

    def test_a_program_with_two_loops(self, tmp_path: Path) -> None:
        with (
            running(tmp_path, source=TWO_LOOPS) as program,
            top(tmp_path, program.pid, columns=120) as terminal,
        ):
            terminal.shows("loop 1 of 2 (MainThread)", "in the main thread")
            terminal.send("l")
            terminal.shows("loop 2 of 2 (another)", "in another thread")
            terminal.until(lambda text: re.search(r"^/s +iterations \d", text, re.M))
            terminal.send("l")
            terminal.shows("loop 1 of 2", "in the main thread")

    def test_pausing(self, tmp_path: Path, program: Program) -> None:
        with top(tmp_path, program.pid, "--interval", "0.1") as terminal:
            terminal.shows("now  tasks 2 ")
            terminal.send(" ")
            terminal.shows("PAUSED")
            with program.connect():
                program.say(b"hello\n")
                terminal.send("?")
                terminal.shows("space   pause")
                terminal.send("x")
                terminal.shows("PAUSED", "now  tasks 2 ")
                terminal.send(" ")
                terminal.shows("now  tasks 3 ")

    def test_ctrl_c_quits_and_leaves_the_terminal_as_it_was(self, tmp_path: Path, program: Program) -> None:
        with top(tmp_path, program.pid) as terminal:
            terminal.shows("ticker")
            terminal.send("\x03")
            assert terminal.ends() == 0
            # The alternate screen and the cursor, by xterm's control sequences.
            assert terminal.received.rindex(b"\x1b[?1049l") > terminal.received.rindex(b"\x1b[?1049h")
            assert terminal.received.rindex(b"\x1b[?25h") > terminal.received.rindex(b"\x1b[?25l")
        assert program.process.poll() is None

    def test_a_signal_ends_it_and_leaves_the_terminal_as_it_was(
        self, tmp_path: Path, program: Program
    ) -> None:
        with top(tmp_path, program.pid) as terminal:
            terminal.shows("ticker")
            terminal.process.terminate()
            assert terminal.ends() == 128 + signal.SIGTERM
            assert terminal.received.rindex(b"\x1b[?1049l") > terminal.received.rindex(b"\x1b[?1049h")


class TestKindsOfTerminals:
    @needs_curses
    @pytest.mark.parametrize("term", ["xterm", "xterm-256color", "screen", "linux", "vt100"])
    def test_terminals(self, tmp_path: Path, program: Program, term: str) -> None:
        with top(tmp_path, program.pid, TERM=term) as terminal:
            terminal.shows("now  tasks 2", "ticker", "space pause")
            terminal.send("q")
            assert terminal.ends() == 0
            assert (b"\x1b[36m" in terminal.received) == (term != "vt100")

    @needs_curses
    def test_without_colours(self, tmp_path: Path, program: Program) -> None:
        with top(tmp_path, program.pid, NO_COLOR="1") as terminal:
            terminal.shows("now  tasks 2", "ticker")
            terminal.send("q")
            assert terminal.ends() == 0
            assert not re.search(rb"\x1b\[(\d+;)*[349][0-7]m", terminal.received)

    @pytest.mark.parametrize("term", ["dumb", "", "no-such-terminal"])
    def test_a_terminal_that_cannot_be_drawn_on_gets_lines(
        self, tmp_path: Path, program: Program, term: str
    ) -> None:
        with top(tmp_path, program.pid, "--interval", "0.1", TERM=term) as terminal:
            terminal.shows("printing lines instead")
            terminal.until(lambda text: text.count("now  tasks 2") >= 2)
            terminal.send("\x03")
            assert terminal.ends() == 0
            assert b"\x1b[" not in terminal.received.replace(rb"\x1b[", b"")

    def test_without_utf_8(self, tmp_path: Path, program: Program) -> None:
        # Python itself takes the C locale for UTF-8 unless it is told not to (PEP 538 and 540).
        more = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
        with top(tmp_path, program.pid, **more) as terminal:
            terminal.shows("now  tasks 2", "ticker")
            terminal.send("q")
            assert terminal.ends() == 0
            assert terminal.received.isascii()


class TestWithoutAPid:
    def test_a_single_program_is_taken(self, tmp_path: Path, program: Program) -> None:
        with top_here(tmp_path) as terminal:
            terminal.shows(f"pid {program.pid} ", "ticker")

    def test_one_of_several_is_chosen(self, tmp_path: Path, program: Program) -> None:
        with running(tmp_path, tasks=77) as other, top_here(tmp_path) as terminal:
            terminal.shows("which program?", str(program.pid), str(other.pid), "Enter choose")
            first, second = sorted((program.pid, other.pid))
            assert "reverse" in terminal.styles(f"{first}  ")
            terminal.send("j")
            terminal.until(lambda text: "reverse" in terminal.styles(f"{second}  "))
            terminal.send("\r")
            terminal.shows(f"pid {second} ")

    def test_one_of_several_is_chosen_without_a_screen(self, tmp_path: Path, program: Program) -> None:
        with running(tmp_path) as other, Terminal(HERE, environment(tmp_path, TERM="dumb")) as terminal:
            terminal.shows("cannot be drawn on", f"{program.pid}  ", f"{other.pid}  ", "\nPID:")
            terminal.send(f"{other.pid}\n")
            terminal.shows(f"pid {other.pid} ")

    def test_choosing_none(self, tmp_path: Path, program: Program) -> None:
        with running(tmp_path), top_here(tmp_path) as terminal:
            terminal.shows("which program?")
            terminal.send("q")
            assert terminal.ends() == 0

    def test_several_are_listed_where_there_is_no_terminal(self, tmp_path: Path, program: Program) -> None:
        with running(tmp_path, tasks=77) as other:
            seen = printed_here(tmp_path)
            assert (seen.returncode, seen.stderr) == (0, "")
            lines = seen.stdout.splitlines()
            assert lines[0].split() == ["PID", "UP", "TASKS", "PROGRAM"]
            assert {int(line.split()[0]) for line in lines[1:]} == {program.pid, other.pid}
            assert all("server.py" in line for line in lines[1:])
            seen = printed_here(tmp_path, "--json")
            assert seen.returncode == 1 and seen.stdout == "" and str(other.pid) in seen.stderr

    def test_more_than_the_program_has_connections_for(self, tmp_path: Path, program: Program) -> None:
        with contextlib.ExitStack() as stack:
            for _ in range(_control.MOST_CLIENTS):
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.settimeout(SECONDS)
                client.connect(str(tmp_path / "whilst" / f"{program.pid}.sock"))
                client.sendall(b'{"ask": "snapshot", "tasks": 0}\n')
                assert client.recv(1) == b"{"
            seen = printed(tmp_path, program.pid)
        assert seen.returncode == 1
        assert seen.stderr == (
            "whilst top: the program has closed the connection: it has ended, or too many look into it already\n"
        )

    def test_there_is_none(self, tmp_path: Path) -> None:
        seen = printed_here(tmp_path)
        assert seen.returncode == 1
        assert seen.stderr == (
            "whilst top: no program can be looked into: start one with WHILST_CONTROL=1 in its environment\n"
        )


class TestPrinted:
    @pytest.mark.usefixtures("driver")
    def test_json(self, tmp_path: Path) -> None:
        with running(tmp_path, tasks=5) as program, program.loaded(5):
            seen = printed(tmp_path, "--json", "--interval", "0.3", program.pid)
        assert (seen.returncode, seen.stderr) == (0, "")
        told = json.loads(seen.stdout)
        assert (told["pid"], told["program"]) == (program.pid, "server.py")
        (loop,) = told["loops"]
        assert loop["driver"] == os.environ["WHILST_DRIVER"]
        assert 0 <= loop["rates"]["load"] <= 1 and loop["rates"]["callbacks"] > 10
        assert loop["rates"]["received"] > 1000 and loop["rates"]["sent"] > 1000
        assert sorted(
            (one["coroutine"], one["count"]) for one in loop["tasks"]["groups"] if one["kind"] == "lock"
        ) == [
            ("main", 1),
            ("parked", 5),
        ]
        names = [one["name"] for one in loop["tasks"]["listed"]]
        assert "parked 3" in names and "\x1b]0;owned\x07\x1b[2J\u202e日本語" in names
        # A terminal that shows the file is not steered either.
        assert "\x1b" not in seen.stdout
        (parked,) = (one for one in loop["tasks"]["listed"] if one["name"] == "parked 3")
        assert parked["stack"][0][2] == "parked" and parked["waits_for"] == "Event.wait"

    def test_plain_lines_until_the_program_ends(self, tmp_path: Path, program: Program) -> None:
        process = subprocess.Popen(
            [*TOP, "--interval", "0.1", str(program.pid)],
            env=environment(tmp_path),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stdout is not None
            try:
                assert process.stdout.readline().startswith(f"server.py  pid {program.pid}")
                program.say(b"end\n")
                said, errors = process.communicate(timeout=SECONDS)
            finally:
                process.kill()
        assert (process.returncode, errors) == (0, "")
        assert "the program has ended" in said and "ticker" in said and "\x1b" not in said

    def test_plain_lines_into_a_pipe_that_is_closed(self, tmp_path: Path, program: Program) -> None:
        command = f"{sys.executable} -m whilst top --plain --interval 0.05 {program.pid} | head -n 1"
        seen = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert (seen.returncode, seen.stderr) == (0, "") and seen.stdout.startswith("server.py")

    def test_plain_is_taken_on_a_terminal(self, tmp_path: Path, program: Program) -> None:
        with top(tmp_path, "--plain", "--interval", "0.1", program.pid) as terminal:
            terminal.until(lambda text: text.count("now  tasks 2") >= 2)
            terminal.send("\x03")
            assert terminal.ends() == 0
            assert b"\x1b[" not in terminal.received.replace(rb"\x1b[", b"")

    def test_without_curses(self, tmp_path: Path, program: Program) -> None:
        # As in a Python that was built without ncurses.
        (tmp_path / "without" / "curses").mkdir(parents=True)
        (tmp_path / "without" / "curses" / "__init__.py").write_text("import _curses_that_was_not_built")
        with top(
            tmp_path, program.pid, "--interval", "0.1", PYTHONPATH=str(tmp_path / "without")
        ) as terminal:
            terminal.shows("this Python was built without curses", "printing lines instead")
            terminal.until(lambda text: "now  tasks 2" in text)


class TestRefusals:
    def test_there_is_no_such_process(self, tmp_path: Path) -> None:
        process = subprocess.Popen(["true"])
        process.wait()
        seen = printed(tmp_path, process.pid)
        assert (seen.returncode, seen.stderr) == (1, f"whilst top: there is no process {process.pid}\n")
        assert printed(tmp_path, 2**70).stderr == f"whilst top: there is no process {2**70}\n"

    def test_a_program_that_did_not_allow_it(self, tmp_path: Path) -> None:
        with running(tmp_path, env=environment(tmp_path)) as program:
            seen = printed(tmp_path, program.pid)
        assert (seen.returncode, seen.stderr) == (
            1,
            f"whilst top: process {program.pid} has not allowed it: start it with WHILST_CONTROL=1 in its environment\n",
        )

    def test_a_program_without_whilst(self, tmp_path: Path) -> None:
        process = subprocess.Popen(["sleep", str(SECONDS)], env=environment(tmp_path, WHILST_CONTROL="1"))
        with process:
            try:
                seen = printed(tmp_path, process.pid)
            finally:
                process.kill()
        assert (seen.returncode, seen.stderr) == (
            1,
            f"whilst top: process {process.pid} has not loaded whilst: there is no loop to look into\n",
        )

    @pytest.mark.skipif(os.getuid() != 0, reason="needs another user")
    def test_a_program_of_another_user(self, tmp_path: Path, program: Program) -> None:
        # Who is nobody may not even know whether there is a socket. Python and the package must be readable to run it.
        source = "import os, sys; os.setgid(65534); os.setuid(65534); from whilst._top import main; sys.exit(main(sys.argv[1:]))"
        seen = subprocess.run(
            [
                sys.executable,
                "-c",
                f"import whilst._top.command as command, whilst._control; command._parser(); {source}",
                str(program.pid),
            ],
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert (seen.returncode, seen.stderr) == (
            1,
            f"whilst top: process {program.pid} is another user's: only the user who runs it may look into it\n",
        )

    @pytest.mark.parametrize(
        "arguments",
        [("x",), ("0",), ("-5",), ("1", "2"), ("--interval", "0"), ("--interval", "nan"), ("--nonsense",)],
    )
    def test_a_wrong_command_line(self, tmp_path: Path, arguments: tuple[str, ...]) -> None:
        seen = printed(tmp_path, *arguments)
        assert seen.returncode == 2 and seen.stderr.startswith("usage: whilst top") and seen.stdout == ""

    def test_help(self, tmp_path: Path) -> None:
        seen = printed(tmp_path, "-h")
        assert (
            seen.returncode == 0 and "--interval SECONDS" in seen.stdout and "WHILST_CONTROL=1" in seen.stdout
        )

    def test_a_file_of_that_name(self, tmp_path: Path) -> None:
        (tmp_path / "top").write_text("print('a program')")
        seen = subprocess.run(
            [sys.executable, "-m", "whilst", "./top"],
            env=environment(tmp_path),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert (seen.returncode, seen.stdout) == (0, "a program\n")
