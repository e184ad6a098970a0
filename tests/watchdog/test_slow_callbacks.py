"""Callbacks that hold the loop, reported while they do: real programs, in processes of their own."""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

# Loggers' records as JSON lines on standard error, each with the moment of its arrival.
RECORDER = """
import asyncio, json, logging, os, sys, threading, time
import whilst

FIELDS = "slow_seconds slow_file slow_line slow_function slow_source slow_call slow_hint slow_task slow_awaited_by "\\
    "slow_stack slow_count slow_total slow_over".split()

async def told():
    for _ in range(500):
        if Recorder.seen:
            return
        await asyncio.sleep(0.01)

class Recorder(logging.Handler):
    seen = 0

    def emit(self, record):
        Recorder.seen += 1
        entry = {name: getattr(record, name, None) for name in FIELDS}
        entry |= {"at": time.monotonic(), "message": record.getMessage(), "level": record.levelname}
        entry |= {"line": record.lineno, "thread": record.threadName, "logger": record.name}
        # In one piece, lest a child's be in the middle of it.
        os.write(2, ("RECORD" + json.dumps(entry) + "\\n").encode())

logging.getLogger().addHandler(Recorder())
logging.getLogger().setLevel(logging.INFO)
"""


class Program:
    """A program's file, run in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "app.py"

    def run(
        self, source: str, *options: str, command: bool = False, slow: str | None = "0.1", record: bool = True
    ) -> "Ran":
        self.file.write_text((RECORDER if record else "") + textwrap.dedent(source))
        environment = {**os.environ}
        environment.pop("WHILST_SLOW", None)
        if slow is not None:
            environment["WHILST_SLOW"] = slow
        starter = ["-m", "whilst"] if command else []
        ran = subprocess.run(
            [sys.executable, *options, *starter, str(self.file)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Ran(ran, self.file)

    def line_of(self, text: str) -> int:
        lines = self.file.read_text().splitlines()
        (number,) = (number for number, line in enumerate(lines, 1) if text in line)
        return number


class Ran:
    def __init__(self, ran: "subprocess.CompletedProcess[str]", file: Path) -> None:
        self.stdout, self.stderr, self.status = ran.stdout, ran.stderr, ran.returncode
        records: list[dict[str, Any]] = [
            json.loads(line.removeprefix("RECORD"))
            for line in ran.stderr.splitlines()
            if line.startswith("RECORD")
        ]
        self.slow = [record for record in records if record["slow_seconds"] is not None]
        self.warnings = [record for record in self.slow if record["level"] == "WARNING"]


@pytest.fixture
def program(tmp_path: Path, driver: str) -> Program:
    return Program(tmp_path)


BLOCKED = """
async def handler():
    {} # here

async def main():
    await asyncio.sleep(0.01)
    await asyncio.create_task(handler(), name="the handler")

whilst.run(main())
"""


def blocked(body: str, before: str = "") -> str:
    body = textwrap.indent(textwrap.dedent(body).strip(), "    ").lstrip()
    return textwrap.dedent(before) + BLOCKED.replace("{} # here", body)


def test_a_sleep(program: Program) -> None:
    ran = program.run(blocked("begin = time.monotonic()\ntime.sleep(0.6)  # here\nprint(begin)"))
    (record,) = ran.warnings
    line = program.line_of("# here")
    assert record["at"] - float(ran.stdout) < 0.5
    assert (record["slow_file"], record["slow_line"], record["line"]) == (str(program.file), line, line)
    assert record["slow_function"] == "handler"
    assert record["slow_call"] == "time.sleep(0.6)"
    assert record["slow_hint"] == "await asyncio.sleep(0.6)"
    assert record["slow_task"] == "the handler"
    assert [name.rpartition(" ")[2] for name in record["slow_awaited_by"]] == ["(main)"]
    assert 0.1 <= record["slow_seconds"] < 0.5
    assert (record["logger"], record["thread"]) == ("whilst", "MainThread")
    assert record["message"].startswith(
        f"The event loop is blocked, for {record['slow_seconds']:.2f} s so far, by time.sleep(0.6) at"
        f" {program.file}:{line}, in handler\n  In a coroutine write: await asyncio.sleep(0.6)\n"
        f"  the handler (handler), awaited by Task-"
    )
    over = ran.slow[-1]
    assert (over["level"], over["slow_over"], over["slow_line"]) == ("INFO", True, line)
    assert 0.4 < over["slow_seconds"] < 0.8
    assert ran.status == 0


def test_it_is_seen_without_any_logging_configuration(program: Program) -> None:
    ran = program.run("import asyncio, time, whilst\n" + blocked("time.sleep(0.4)"), record=False)
    assert ran.stderr.startswith("The event loop is blocked, for 0.1")
    assert "In a coroutine write: await asyncio.sleep(0.4)\n" in ran.stderr


@pytest.mark.parametrize(
    ("body", "before", "hint"),
    [
        # A lock that another thread holds.
        (
            "lock.acquire()  # here",
            """
            lock = threading.Lock()
            lock.acquire()
            threading.Timer(0.5, lock.release).start()
            """,
            None,
        ),
        # A loop that computes, and for so long where others want the processor, too.
        (
            """
            end = time.thread_time() + 0.5
            while True:
                if time.thread_time() > end: break  # here
            """,
            "",
            None,
        ),
        # A read of a socket, below functions of a library of the program's own.
        (
            "client.fetch()  # here",
            """
            import socket
            class client:
                near, far = socket.socketpair()
                def fetch():
                    threading.Timer(0.5, client.far.send, [b"x"]).start()
                    client.read()
                read = eval("lambda: client.near.recv(1)")
            """,
            None,
        ),
        (
            "subprocess.run(['sleep', '0.5'], check=True)  # here",
            "import subprocess",
            "await asyncio.to_thread(subprocess.run, ['sleep', '0.5'], check=True)",
        ),
        # Native code that never lets the GIL go: told when it can be.
        ("sum(range(60_000_000))  # here", "", None),
        ("sleep(0.5)  # here", "from time import sleep", "await asyncio.sleep(0.5)"),
        # A local variable of this name may be anything.
        ("sleep = time.sleep; sleep(0.5)  # here", "", None),
        # No coroutine: who knows whether it can be one.
        ("wait()  # here", "def wait(): time.sleep(0.5)", None),
    ],
)
def test_what_blocks(program: Program, body: str, before: str, hint: str | None) -> None:
    # Native code that keeps the GIL is told of after it, and a program that has ended by then is not kept for it.
    source = blocked(body, before).replace('name="the handler")', 'name="the handler")\n    await told()')
    ran = program.run(source)
    assert ran.status == 0, ran.stderr
    assert ran.warnings, ran.stderr
    record = ran.warnings[0]
    # The innermost line of the program is another one where that one has called a function of its own.
    assert (
        f"{program.file}:{program.line_of('# here')} handler" in record["slow_stack"] or "while True" in body
    )
    if "break" in body:
        assert record["slow_line"] in (program.line_of("while True"), program.line_of("# here"))
    assert record["slow_hint"] == hint


def test_a_library_is_not_the_program(program: Program) -> None:
    packages = program.file.parent / "site-packages"
    packages.mkdir()
    (packages / "library.py").write_text("import time\ndef get(url):\n    time.sleep(0.5)\n")
    before = f"import sys; sys.path.insert(0, {str(packages)!r})\nimport library"
    (record,) = program.run(blocked("library.get('http://x')  # here", before)).warnings
    assert record["slow_line"] == program.line_of("# here")
    assert record["slow_call"] == "library.get('http://x')"
    assert record["slow_stack"][-1].endswith("library.py:3 get")


def test_a_callback_that_is_no_task(program: Program) -> None:
    (record,) = program.run("""
        async def main():
            asyncio.get_running_loop().call_soon(lambda: time.sleep(0.5))  # here
            await asyncio.sleep(0.01)
        whilst.run(main())
        """).warnings
    assert record["slow_line"] == program.line_of("# here")
    assert record["slow_task"] is None
    assert record["slow_awaited_by"] == []


def test_once_a_place_with_a_count(program: Program) -> None:
    ran = program.run(
        """
        def hold():
            time.sleep(0.1)  # here
        async def main():
            for _ in range(12):
                asyncio.get_running_loop().call_soon(hold)
                await asyncio.sleep(0.001)
        whilst.run(main())
        """,
        slow="0.02",
    )
    counts = [
        record["slow_count"] for record in ran.warnings if record["slow_line"] == program.line_of("# here")
    ]
    assert counts == [1, 10]
    assert "For the 10th time there" in ran.warnings[1]["message"]
    assert ran.warnings[1]["slow_total"] > 0.5


def test_many_short_callbacks_are_no_slow_one(program: Program) -> None:
    ran = program.run(
        """
        def some_work():
            end = time.monotonic() + 0.005
            while time.monotonic() < end:
                pass
        async def main():
            for _ in range(100):
                asyncio.get_running_loop().call_soon(some_work)
            begin = time.monotonic()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            print(time.monotonic() - begin)
        whilst.run(main())
        """,
        slow="0.25",
    )
    assert float(ran.stdout) > 0.45
    assert ran.slow == []


SLOW_PROGRAM = """
import os
async def main():
    print(len(os.listdir("/proc/self/task")))
    time.sleep(0.4)
{}
"""


@pytest.mark.parametrize(
    ("options", "slow", "command", "is_on"),
    [
        ((), None, False, False),
        ((), "0.1", False, True),
        (("-X", "dev"), None, False, True),
        (("-X", "dev"), "0", False, False),
        ((), None, True, True),
        ((), "0", True, False),
        ((), "5", True, True),
    ],
)
def test_when_it_is_on(
    program: Program, options: tuple[str, ...], slow: str | None, command: bool, is_on: bool
) -> None:
    run = "asyncio.run(main())" if command else "whilst.run(main())"
    ran = program.run(SLOW_PROGRAM.replace("{}", run), *options, slow=slow, command=command)
    assert ran.status == 0, ran.stderr
    assert int(ran.stdout) == 1 + is_on  # threads
    assert len(ran.warnings) == (is_on and slow != "5")


def test_a_number_of_seconds_or_an_error(program: Program) -> None:
    for text in ("soon", "-1", "nan", "inf"):
        ran = program.run("whilst.new_event_loop()", slow=text)
        assert ran.stderr.splitlines()[-1] == (
            f'ValueError: WHILST_SLOW: "{text}" is no number of seconds (0 turns the watchdog off)'
        )


def test_the_message_of_debug_mode_stays(program: Program) -> None:
    ran = program.run(blocked("time.sleep(0.4)"), "-X", "dev", slow=None)
    told = [json.loads(line[6:]) for line in ran.stderr.splitlines() if line.startswith("RECORD")]
    executing = [record for record in told if record["message"].startswith("Executing <Task")]
    assert [record["logger"] for record in executing] == ["asyncio"]
    assert len(ran.warnings) == 1


def test_debug_mode_and_the_duration_while_the_loop_runs(program: Program) -> None:
    ran = program.run(
        """
        async def main():
            loop = asyncio.get_running_loop()
            time.sleep(0.3)
            loop.set_debug(True)
            loop.slow_callback_duration = 5
            time.sleep(0.3)
            loop.slow_callback_duration = 0.05
            await asyncio.sleep(0.01)
            time.sleep(0.3)  # here
            loop.set_debug(False)
            await asyncio.sleep(0.01)
            time.sleep(0.3)
        whilst.run(main())
        """,
        slow=None,
    )
    assert [record["slow_line"] for record in ran.warnings] == [program.line_of("# here")]


def wake_ups(thread: int, process: int) -> int:
    text = Path(f"/proc/{process}/task/{thread}/status").read_text()
    match = re.search(r"^voluntary_ctxt_switches:\s*(\d+)", text, re.MULTILINE)
    assert match
    return int(match[1])


def test_an_idle_loop_does_not_wake_its_watchdog(program: Program) -> None:
    ran = program.run("""
        import os, re
        def wake_ups():
            (thread,) = (thread for thread in os.listdir("/proc/self/task")
                         if open(f"/proc/self/task/{thread}/comm").read() == "whilst-watchdog\\n")
            text = open(f"/proc/self/task/{thread}/status").read()
            return int(re.search(r"^voluntary_ctxt_switches:\\s*(\\d+)", text, re.M)[1])
        async def main():
            await asyncio.sleep(0.5)
            before = wake_ups()
            await asyncio.sleep(2)
            print(wake_ups() - before)
            time.sleep(0.5)
        whilst.run(main())
        """)
    # What it took to park after the first wait's end, and nothing for the rest of two seconds.
    assert int(ran.stdout) <= 6
    # And it is awake when it is needed.
    assert len(ran.warnings) == 1


def test_runs_one_after_another_and_loops_in_threads(program: Program) -> None:
    ran = program.run("""
        def run(number):
            loop = whilst.new_event_loop()
            for turn in range(3):
                async def hold():
                    time.sleep(0.3)
                loop.run_until_complete(asyncio.sleep(0))
                loop.run_until_complete(loop.create_task(hold(), name=f"{number}.{turn}"))
            loop.close()
        logging.getLogger("whilst").setLevel(logging.INFO)
        threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        from whilst._watchdog import _counts, _under_way
        print(sum(count.times for count in _counts.values()), len(_under_way))
        print([thread.name for thread in threading.enumerate()])
        """)
    counted, threads = ran.stdout.splitlines()
    assert counted == "9 0"
    # Nothing is left that looks like a thread of Python's.
    assert threads == "['MainThread']"
    assert ran.status == 0, ran.stderr


def test_a_fork_while_the_loop_runs_and_a_loop_in_the_child(program: Program) -> None:
    ran = program.run("""
        import os
        async def hold(name):
            asyncio.current_task().set_name(name)
            await asyncio.sleep(0.01)
            time.sleep(0.4)
        def in_child():
            print("child", flush=True)
            loop = whilst.new_event_loop()
            asyncio._set_running_loop(None)
            loop.run_until_complete(hold("child"))
            os._exit(0)
        async def main():
            await hold("parent")
            child = os.fork()
            if not child:
                in_child()
            await asyncio.sleep(0.01)
            time.sleep(0.3)  # again
            _, status = os.waitpid(child, 0)
            print(status)
        whilst.run(main())
        """)
    assert ran.stdout.splitlines() == ["child", "0"]
    assert "again" in "".join(str(record["slow_source"]) for record in ran.warnings)
    # The same line in both: a child counts for itself.
    assert [record["slow_task"] for record in ran.warnings if "0.4" in str(record["slow_source"])] == [
        "parent",
        "child",
    ]


def test_nobody_is_warned_of_a_thread_at_a_fork(program: Program) -> None:
    """From 3.12 on CPython warns where /proc/self/stat counts more than one."""
    ran = program.run(
        """
        import os
        async def main():
            await asyncio.sleep(0.01)
            time.sleep(0.3)
            for _ in range(3):
                if not (child := os.fork()):
                    os._exit(0)
                os.waitpid(child, 0)
                await asyncio.sleep(0.01)
            before = len(os.listdir("/proc/self/task"))
            time.sleep(0.3)  # here
            print(before)
        whilst.run(main())
        """,
        "-W",
        "error",
    )
    assert ran.stdout == "2\n", ran.stderr
    assert [record["slow_line"] for record in ran.warnings][1:] == [program.line_of("# here")]
    assert "Warning" not in ran.stderr


def test_signals_that_the_program_blocks_stay_blocked(program: Program) -> None:
    ran = program.run("""
        import os, signal
        async def main():
            await asyncio.sleep(0.01)
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
            os.kill(os.getpid(), signal.SIGUSR1)
            await asyncio.sleep(0.05)
            print(signal.sigtimedwait({signal.SIGUSR1}, 10).si_signo)
        whilst.run(main())
        """)
    assert ran.stdout == "10\n", ran.stderr


def test_a_stopped_process_is_not_slow(program: Program) -> None:
    ran = program.run(
        """
        import os, signal, subprocess
        async def main():
            await asyncio.sleep(0.01)
            pid = os.getpid()
            code = f"import os, signal, time; time.sleep(0.05); os.kill({pid}, signal.SIGSTOP); time.sleep(1);" \\
                f"os.kill({pid}, signal.SIGCONT)"
            child = subprocess.Popen([sys.executable, "-S", "-c", code])
            end = time.process_time() + 0.02
            begin = time.monotonic()
            while time.monotonic() < begin + 0.9:
                await asyncio.sleep(0)
            print(time.monotonic() - begin)
            await asyncio.to_thread(child.wait)
        whilst.run(main())
        """,
        slow="0.2",
    )
    assert ran.slow == []


def test_a_debugger_is_not_slow(program: Program) -> None:
    ran = program.run("""
        import bdb
        class Debugger(bdb.Bdb):
            def user_line(self, frame):
                time.sleep(0.4)
                self.set_quit()
        async def main():
            await asyncio.sleep(0)
            try:
                Debugger().run("1")
            except bdb.BdbQuit:
                pass
        whilst.run(main())
        """)
    # The debugger's own module is the one that holds the loop.
    assert ran.slow == []


def test_the_program_ends_while_it_is_reported(program: Program) -> None:
    ran = program.run("""
        class Slow(logging.Handler):
            def emit(self, record):
                print("begins", flush=True)
                time.sleep(0.4)
                print("ended", flush=True)
        logging.getLogger("whilst").addHandler(Slow())
        logging._handlers.clear()
        logging._handlerList.clear()  # Else the interpreter waits for the handler's lock.
        whilst.run(asyncio.sleep(0))
        async def main():
            time.sleep(0.2)
        whilst.run(main())
        """)
    assert ran.status == 0, ran.stderr
    assert ran.stdout.startswith("begins")


def test_a_handler_that_asks_the_loop_and_one_that_fails(program: Program) -> None:
    ran = program.run("""
        class Asks(logging.Handler):
            def emit(self, record):
                if record.levelno != logging.WARNING: return
                async def name():
                    return "answer"
                print(asyncio.run_coroutine_threadsafe(name(), loop).result(20))
        class Fails(logging.Handler):
            def emit(self, record):
                raise OSError("no")
        logging.getLogger("whilst").addHandler(Asks())
        logging.getLogger("whilst").addHandler(Fails())
        async def main():
            global loop
            loop = asyncio.get_running_loop()
            for _ in range(2):
                await asyncio.sleep(0.01)
                time.sleep(0.3)
                await asyncio.sleep(0.3)
            time.sleep(0.3)
        whilst.run(main())
        """)
    assert ran.stdout.splitlines()[0] == "answer"
    assert "OSError: no" in ran.stderr
    assert ran.status == 0


def test_a_thread_that_keeps_the_gil_is_not_the_loops_fault(program: Program) -> None:
    ran = program.run("""
        import ctypes
        # With the GIL held all the time.
        usleep = ctypes.PyDLL(None).usleep
        async def main():
            loop = asyncio.get_running_loop()
            thread = threading.Thread(target=usleep, args=(600_000,))
            thread.start()
            x = 0
            for number in range(1000):
                x += number
            thread.join(0)
            await asyncio.sleep(0)
            thread.join()
        whilst.run(main())
        """)
    assert all(record["slow_source"] == "thread.join()" for record in ran.warnings) or not ran.slow


def test_an_import_is_reported_to_who_asks(program: Program) -> None:
    (program.file.parent / "slow_module.py").write_text("import time\ntime.sleep(0.4)\n")
    source = """
    async def main():
        import slow_module
    asyncio.run(main())
    """
    assert program.run(source, command=True, slow=None).slow == []
    assert program.run(source, command=True, slow="0.1").warnings
