"""Child processes: how they are started, what goes through their pipes, and what their protocols and callers are told."""

import asyncio
import contextlib
import fcntl
import functools
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from pathlib import Path
from typing import Any

import pytest
import whilst
from oracle import descriptors, error_of_awaiting, handler_notes, run, same, until

pytestmark = pytest.mark.usefixtures("driver")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="other users' processes take root")

#: Prints what a process knows of itself, by Python expressions.
ABOUT = "import fcntl, os, sys; print(*[eval(source) for source in sys.argv[1:]])"


async def output_of(*program: Any, **keywords: Any) -> tuple[int | None, bytes, bytes]:
    """Run a program to its end. Return its exit code and what it said."""
    process = await asyncio.create_subprocess_exec(*program, stdout=PIPE, stderr=PIPE, **keywords)
    out, err = await process.communicate()
    return process.returncode, out, err


class Events(asyncio.SubprocessProtocol):
    """Notes what it is told of; data of a pipe in one piece, when the pipe is lost."""

    def __init__(self, notes: list[Any]) -> None:
        self.notes = notes
        self.data: dict[int, bytes] = {}
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.notes.append("made")

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.data[fd] = self.data.get(fd, b"") + data

    def pipe_connection_lost(self, fd: int, exc: BaseException | None) -> None:
        self.notes.append(("pipe lost", fd, self.data.get(fd), exc))

    def process_exited(self) -> None:
        self.notes.append("exited")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.notes.append(("lost", exc))
        self.lost.set_result(None)


def sorted_middle(notes: list[Any]) -> list[Any]:
    """Sort what lies between `made` and `lost`: the order of pipes and the process's end is the system's."""
    assert notes[0] == "made"
    assert notes[-1] == ("lost", None)
    return sorted(notes, key=str)


# Starting.


@pytest.mark.parametrize(
    ("program", "keywords"),
    [
        (("pwd",), {"cwd": "/"}),
        (("pwd",), {"cwd": Path("/usr")}),
        (("env",), {"env": {"NAME": "value", "OTHER": "1"}}),
        (("env",), {"env": {b"NAME": b"\xff"}}),
        (("not sh", "-c", "echo $0 $1", "name", "one"), {"executable": "/bin/sh"}),
        ((Path("/bin/echo"), b"\xff", Path("x")), {}),
        (("sh", "-c", "umask"), {"umask": 0o027}),
        (("sh", "-c", "umask"), {"preexec_fn": functools.partial(os.umask, 0o053)}),
        (("sh", "-c", "echo out; echo err >&2"), {}),
        (("grep", "SigIgn", "/proc/self/status"), {"restore_signals": True}),
        (("grep", "SigIgn", "/proc/self/status"), {"restore_signals": False}),
        ((sys.executable, "-c", ABOUT, "os.getsid(0) == os.getpid()"), {"start_new_session": True}),
        ((sys.executable, "-c", ABOUT, "os.getsid(0) == os.getpid()"), {"start_new_session": False}),
        ((sys.executable, "-c", ABOUT, "os.getpgid(0) == os.getpid()"), {"process_group": 0}),
        ((sys.executable, "-c", ABOUT, "fcntl.fcntl(1, fcntl.F_GETPIPE_SZ)"), {"pipesize": 4096}),
        (("cat",), {"stdin": DEVNULL}),
        pytest.param(("id", "-u"), {"user": 65534}, marks=needs_root),
        pytest.param(("id", "-u"), {"user": "nobody"}, marks=needs_root),
        pytest.param(("id", "-g"), {"group": 65534}, marks=needs_root),
        pytest.param(("id", "-G"), {"extra_groups": [1, "nogroup"], "group": 0}, marks=needs_root),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else Path(value[0]).name,
)
def test_arguments_of_popen(program: tuple[Any, ...], keywords: dict[str, Any]) -> None:
    async def scenario(notes: list[Any]) -> None:
        notes.append(await output_of(*program, **keywords))

    [(code, out, _)] = same(scenario)
    assert code == 0
    assert out or keywords.get("stdin") is DEVNULL


def test_descriptors_that_are_passed() -> None:
    script = "for fd in $0 $1; do echo x 2>/dev/null >>/proc/self/fd/$fd && echo open || echo closed; done"

    async def scenario(notes: list[Any]) -> None:
        passed, other = os.memfd_create("passed"), os.memfd_create("other", 0)
        kept = os.memfd_create("kept", 0)
        for keywords in (
            {"pass_fds": (passed,)},
            {"pass_fds": [passed, other]},
            {"pass_fds": (passed,), "close_fds": True},
        ):
            notes.append(await output_of("sh", "-c", script, str(passed), str(other), **keywords))
        # Inheritable, and not closed.
        os.set_inheritable(kept, True)
        notes.append(await output_of("sh", "-c", f"echo kept >>/proc/self/fd/{kept}", close_fds=False))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            await output_of("sh", "-c", script, str(passed), str(other), pass_fds=(passed,), close_fds=False)
        notes.append([(warning.category, str(warning.message)) for warning in caught])
        for fd in (passed, other, kept):
            notes.append(os.pread(fd, 100, 0))
            os.close(fd)

    same(scenario)


def test_standard_streams(tmp_path: Path) -> None:
    async def scenario(notes: list[Any]) -> None:
        (tmp_path / "in").write_bytes(b"from a file\n")
        script = "cat; echo err >&2"
        with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as target:
            process = await asyncio.create_subprocess_exec(
                "sh", "-c", script, stdin=source, stdout=target.fileno(), stderr=STDOUT
            )
            notes.append((process.stdin, process.stdout, process.stderr, await process.wait()))
        notes.append((tmp_path / "out").read_bytes())

        process = await asyncio.create_subprocess_exec(
            "sh", "-c", script, stdin=PIPE, stdout=PIPE, stderr=STDOUT
        )
        notes.append((await process.communicate(b"both\n"), process.stderr))
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", script, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE
        )
        notes.append(await process.communicate())

    same(scenario)


def test_shell() -> None:
    async def scenario(notes: list[Any]) -> None:
        process = await asyncio.create_subprocess_shell("echo $((6 * 7)); exit 7", stdout=PIPE)
        notes.append((await process.communicate(), process.returncode))
        process = await asyncio.create_subprocess_shell(
            b"cat; echo $NAME; pwd", stdin=PIPE, stdout=PIPE, env={"NAME": "x"}, cwd="/"
        )
        notes.append(await process.communicate(b"in "))

    same(scenario)


def test_what_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("no program")

    def fails() -> None:
        raise ValueError

    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        for program, keywords in [
            (("/does/not/exist",), {}),
            (("no-such-program",), {}),
            ((str(script),), {}),
            (("/",), {}),
            (("true",), {"cwd": "/does/not/exist"}),
            (("true",), {"executable": "/does/not/exist"}),
            (("true",), {"preexec_fn": fails}),
            (("true",), {"user": -1}),
            (("true",), {"user": "no such user"}),
            (("true",), {"group": "no such group"}),
            (("true",), {"extra_groups": "x"}),
            (("true",), {"umask": "x"}),
            (("true",), {"env": {"a=b": "c"}}),
            (("true",), {"bufsize": 1}),
            (("true",), {"universal_newlines": True}),
            (("true",), {"text": True}),
            (("true",), {"encoding": "utf-8"}),
            (("true",), {"errors": "strict"}),
            (("true",), {"shell": True}),
            (("true",), {"creationflags": 1}),
            (("true",), {"startupinfo": 1}),
            (("true",), {"no_such_argument": 1}),
            (("true", 1), {}),
            (("tr\0ue",), {}),
        ]:
            for pipes in ({}, {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE}):
                notes.append(
                    await error_of_awaiting(asyncio.create_subprocess_exec(*program, **pipes, **keywords))
                )
        for arguments, keywords in (
            ((["true"],), {}),
            (("true",), {"shell": False}),
            (("true",), {"bufsize": 1}),
        ):
            notes.append(await error_of_awaiting(asyncio.create_subprocess_shell(*arguments, **keywords)))
        notes.append(
            await error_of_awaiting(loop.subprocess_exec(lambda: 1 / 0, "true"))  # type: ignore[arg-type,return-value]
        )

    before = len(descriptors())
    notes = same(scenario)
    assert ("FileNotFoundError", "[Errno 2] No such file or directory: '/does/not/exist'") in notes
    assert len(descriptors()) == before


# Pipes.


def test_megabytes_both_ways() -> None:
    data = os.urandom(5 << 20)

    async def main() -> None:
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", "tee /dev/stderr", stdin=PIPE, stdout=PIPE, stderr=PIPE
        )
        out, err = await process.communicate(data)
        assert out == data
        assert err == data
        assert process.returncode == 0

    run(main())


def test_lines_to_and_fro() -> None:
    async def scenario(notes: list[Any]) -> None:
        process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        assert process.stdin is not None and process.stdout is not None
        for number in range(20):
            process.stdin.write(b"%d\n" % number)
            await process.stdin.drain()
            notes.append(await process.stdout.readline())
        process.stdin.close()
        await process.stdin.wait_closed()
        notes.append((await process.stdout.read(), await process.wait()))

    same(scenario)


def test_output_closed_early() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(
            lambda: Events(notes), "sh", "-c", "echo x; exec >&- 2>&-; read line; exit 5"
        )
        await until(lambda: len(notes) == 3)
        notes[1:] = sorted(notes[1:])
        notes.append((transport.get_returncode(), transport.is_closing()))
        transport.get_pipe_transport(0).write(b"\n")  # type: ignore[union-attr]
        await protocol.lost
        # The process has ended and its input is closed: which of the two the loop sees first is nobody's promise.
        notes[4:6] = sorted(notes[4:6], key=str)
        notes.append(transport.get_returncode())
        transport.close()

    notes = same(scenario)
    assert notes[-1] == 5


def test_input_that_nobody_reads() -> None:
    async def scenario(notes: list[Any]) -> None:
        process = await asyncio.create_subprocess_exec("true", stdin=PIPE)
        notes.append(await process.communicate(b"x" * 1_000_000))
        notes.append(process.returncode)

        process = await asyncio.create_subprocess_exec(
            "sh", "-c", "exec <&-; echo; exec sleep 100", stdin=PIPE, stdout=PIPE
        )
        assert process.stdin is not None and process.stdout is not None
        await process.stdout.readline()

        async def fill() -> None:
            while True:
                process.stdin.write(b"x" * 100_000)
                await process.stdin.drain()

        kind, _ = await error_of_awaiting(fill())
        notes.append(kind in {"BrokenPipeError", "ConnectionResetError"})
        process.kill()
        notes.append(await process.wait())

    same(scenario)


# Protocols and transports.


def test_order_of_callbacks() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        for program, keywords in [
            (("sh", "-c", "cat; echo err >&2; exit 3"), {}),
            (("true",), {"stdin": None, "stdout": None, "stderr": None}),
            (("sh", "-c", "echo out"), {"stdin": None, "stderr": None}),
            (("sh", "-c", "echo out; echo err >&2"), {"stderr": STDOUT}),
        ]:
            events: list[Any] = []
            transport, protocol = await loop.subprocess_exec(lambda: Events(events), *program, **keywords)
            assert events[0] == "made"
            assert protocol.transport is transport
            notes.append([transport.get_pipe_transport(fd) is None for fd in (0, 1, 2, 3)])
            stdin = transport.get_pipe_transport(0)
            if stdin is not None:
                stdin.write(b"in\n")
                stdin.close()
            await protocol.lost
            notes.append(sorted_middle(events))
            notes.append((transport.get_returncode(), transport.is_closing()))
            transport.close()
            notes.append((transport.get_returncode(), transport.is_closing()))

    same(scenario)


def test_all_output_comes_before_the_end() -> None:
    async def main() -> None:
        for _ in range(20):
            notes: list[Any] = []
            loop = asyncio.get_running_loop()
            transport, protocol = await loop.subprocess_exec(
                lambda: Events(notes), "sh", "-c", "echo x", stdin=None, stderr=None
            )
            while "exited" not in notes:
                await asyncio.sleep(0)
            assert protocol.data == {1: b"x\n"}, "what was written before the end is there at the end"
            await protocol.lost
            transport.close()

    run(main())


def test_transport() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(lambda: Events([]), "sh", "-c", "read line; exit 1")
        notes.append(isinstance(transport, asyncio.SubprocessTransport))
        notes.append(
            (transport.get_protocol() is protocol, transport.is_closing(), transport.get_returncode())
        )
        popen = transport.get_extra_info("subprocess")
        notes.append((type(popen), popen.pid == transport.get_pid(), popen.poll()))
        notes.append((transport.get_extra_info("nothing"), transport.get_extra_info("nothing", 1)))

        def named(text: str) -> str:
            text = text.replace("_Unix", "").replace(str(transport.get_pid()), "PID")
            return re.sub(r"=<[^>]*>", "=<PIPE>", text)

        notes.append(named(repr(transport)))
        other = Events([])
        transport.set_protocol(other)
        notes.append(transport.get_protocol() is other)
        transport.get_pipe_transport(0).write(b"\n")  # type: ignore[union-attr]
        await other.lost
        notes.append(other.notes[-1])
        notes.append(named(repr(transport)))
        notes.append((transport.get_protocol(), transport.get_pid() == popen.pid, popen.returncode))
        transport.close()
        notes.append(named(repr(transport)))

    same(scenario)


def test_exceptions_of_a_protocol() -> None:
    class Fails(asyncio.SubprocessProtocol):
        def __init__(self, failing: str) -> None:
            self.failing = failing

        def __getattribute__(self, name: str) -> Any:
            if name == object.__getattribute__(self, "failing"):

                def fail(*_arguments: object) -> None:
                    raise ZeroDivisionError(name)

                return fail
            return super().__getattribute__(name)

    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        handler_notes(loop, notes)
        for failing in (
            "connection_made",
            "pipe_data_received",
            "pipe_connection_lost",
            "process_exited",
            "connection_lost",
        ):
            transport, _ = await loop.subprocess_exec(
                lambda: Fails(failing), "sh", "-c", "echo x", stdin=None, stderr=None
            )
            code = await transport._wait()  # type: ignore[attr-defined]
            await until(lambda: transport.get_protocol() is None)
            notes.append((failing, code))
            transport.close()

    notes = same(scenario)
    assert sum(note[0] == "handler" for note in notes) == 5


def test_killed_in_process_exited() -> None:
    class Kills(Events):
        def process_exited(self) -> None:
            super().process_exited()
            for send in (
                self.transport.kill,
                self.transport.terminate,
                lambda: self.transport.send_signal(0),
            ):
                try:
                    self.notes.append(send())
                except ProcessLookupError:  # CPython's 3.12 and 3.13.0 look for the number.
                    self.notes.append(None)

    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        # The pipe outlives the process.
        transport, protocol = await loop.subprocess_exec(
            lambda: Kills(notes), "sh", "-c", "sleep 0.05 & exit 2", stdin=None, stderr=None
        )
        await protocol.lost
        notes.append(transport.get_returncode())
        for send in (transport.kill, transport.terminate, functools.partial(transport.send_signal, 0)):
            try:
                send()
            except ProcessLookupError as error:
                notes.append(repr(error))
        transport.close()

    notes = same(scenario)
    assert notes[-3:] == ["ProcessLookupError()"] * 3


# Ends.


def test_every_exit_code() -> None:
    async def main() -> None:
        async def code_of(code: int) -> int:
            process = await asyncio.create_subprocess_exec("sh", "-c", f"exit {code}")
            return await process.wait()

        for start in range(0, 256, 64):
            codes = range(start, start + 64)
            assert await asyncio.gather(*map(code_of, codes)) == list(codes)

    run(main())


def test_every_signal() -> None:
    spared = {"SIGCHLD", "SIGCONT", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGWINCH"}
    signals = [number for number in signal.valid_signals() if getattr(number, "name", "") not in spared]
    assert len(signals) > 50

    async def scenario(notes: list[Any]) -> None:
        async def code_of(number: int) -> tuple[int, int]:
            process = await asyncio.create_subprocess_exec(
                "sh",
                "-c",
                # Python ignores some signals, and ignored signals are inherited.
                "ulimit -c 0; echo; exec sleep 100",
                stdout=PIPE,
                preexec_fn=lambda: signal.signal(number, signal.SIG_DFL) if number not in {9} else None,
            )
            assert process.stdout is not None
            await process.stdout.readline()
            process.send_signal(number)
            return number, await process.wait()

        notes.extend(await asyncio.gather(*map(code_of, signals)))

    assert same(scenario) == [(number, -number) for number in signals]


def test_signals() -> None:
    async def scenario(notes: list[Any]) -> None:
        process = await asyncio.create_subprocess_exec(
            "sh",
            "-c",
            "trap 'echo usr1' USR1; echo ready; while :; do read line; done",
            stdin=PIPE,
            stdout=PIPE,
        )
        assert process.stdout is not None
        notes.append(await process.stdout.readline())
        process.send_signal(0)
        process.send_signal(signal.SIGUSR1)
        notes.append(await process.stdout.readline())
        for wrong in (1000, -1):
            try:
                process.send_signal(wrong)
            except OSError as error:
                notes.append(repr(error))
        with contextlib.suppress(TypeError):
            process.send_signal("SIGTERM")  # type: ignore[arg-type]
            notes.append("sent")
        process.terminate()
        notes.append(await process.wait())

    same(scenario)


def test_wait_from_many_tasks() -> None:
    async def scenario(notes: list[Any]) -> None:
        process = await asyncio.create_subprocess_exec("sh", "-c", "read line; exit 4", stdin=PIPE)
        waits = [asyncio.ensure_future(process.wait()) for _ in range(50)]
        await asyncio.sleep(0)
        for wait in waits[::2]:
            wait.cancel()
        await asyncio.sleep(0)
        assert process.stdin is not None
        process.stdin.write(b"\n")
        results = await asyncio.gather(*waits, return_exceptions=True)
        notes.append([type(result) if isinstance(result, BaseException) else result for result in results])
        notes.append((await process.wait(), process.returncode))

    same(scenario)


def test_many_at_once() -> None:
    async def main() -> None:
        async def one(number: int) -> None:
            process = await asyncio.create_subprocess_exec(
                "sh", "-c", f"cat; exit {number}", stdin=PIPE, stdout=PIPE
            )
            out, _ = await process.communicate(b"%d" % number)
            assert (out, process.returncode) == (b"%d" % number, number)

        await asyncio.gather(*map(one, range(100)))

    run(main())


# Threads.


async def some_processes(count: int = 20) -> None:
    for number in range(count):
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", f"cat; exit {number}", stdin=PIPE, stdout=PIPE
        )
        out, _ = await process.communicate(b"data")
        assert (out, process.returncode) == (b"data", number)


def in_threads(*bodies: Any) -> None:
    """Run functions in threads. Raise what one of them raised."""
    errors: list[BaseException] = []

    def guarded(body: Any) -> None:
        try:
            body()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_a_large_parent_spawns_as_quickly_as_a_small_one() -> None:
    """Nothing of the parent is copied: a fork of this one copies a million entries of its page tables, and takes milliseconds."""

    async def spawn() -> float:
        begin = time.process_time()
        process = await asyncio.create_subprocess_exec("/bin/true")
        await process.wait()
        return time.process_time() - begin

    async def quickest() -> float:
        return min([await spawn() for _ in range(20)])

    async def main() -> None:
        small = await quickest()
        page = 4096
        memory = bytearray(512 << 20)
        memory[::page] = b"." * (len(memory) // page)  # Now it is there.
        large = await quickest()
        del memory
        assert large < 2 * small + 0.001

    run(main())


def test_loops_of_several_threads() -> None:
    in_threads(*[lambda: run(some_processes())] * 6)


def test_while_other_threads_work() -> None:
    done = threading.Event()

    def allocate() -> None:
        while not done.is_set():
            [bytearray(4096) for _ in range(100)]

    def fork() -> None:
        while not done.is_set():
            with warnings.catch_warnings():
                # From 3.12 on: "may lead to deadlocks in the child", which does nothing here.
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)

    def spawn() -> None:
        while not done.is_set():
            subprocess.run(["true"], check=True)

    def main() -> None:
        try:
            run(some_processes())
        finally:
            done.set()

    in_threads(main, allocate, fork, spawn)


def test_run_again_and_in_another_thread() -> None:
    loop = whilst.new_event_loop()

    async def start() -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec("sh", "-c", "cat; exit 6", stdin=PIPE, stdout=PIPE)

    async def end(process: asyncio.subprocess.Process) -> None:
        out, _ = await asyncio.wait_for(process.communicate(b"x"), 10)
        assert (out, process.returncode) == (b"x", 6)

    try:
        first, second, third = (loop.run_until_complete(start()) for _ in range(3))
        loop.run_until_complete(end(first))
        in_threads(lambda: loop.run_until_complete(end(second)))
        # Started in one thread that is gone, ended in another.
        started: list[asyncio.subprocess.Process] = []
        in_threads(lambda: started.append(loop.run_until_complete(start())))
        loop.run_until_complete(end(started[0]))
        loop.run_until_complete(end(third))
    finally:
        loop.close()


# Debug mode.


def test_debug_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="asyncio")

    async def scenario(notes: list[Any]) -> None:
        caplog.clear()
        process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE, stderr=STDOUT)
        await process.communicate(b"x")
        transport, protocol = await asyncio.get_running_loop().subprocess_shell(
            lambda: Events([]), "exec sleep 100", stdin=None, stdout=None, stderr=None
        )
        transport.close()
        await protocol.lost
        for record in caplog.records:
            text = record.getMessage()
            # Not of the pipes, of child watchers and of the selector.
            if not re.search(r"pipe .* connected|^<\w*Pipe|exited with returncode|poll|selector", text):
                # What the transport says of itself depends on which end came first.
                text = re.sub(r"<\w*SubprocessTransport .*(<.*>)*>", "<TRANSPORT>", text)
                notes.append((record.levelname, re.sub(r"(pid[= ]|Process )\d+", r"\1N", text)))
        notes.sort()

    assert same(scenario, debug=True) == [
        ("DEBUG", "<Process N> communicate: close stdin"),
        ("DEBUG", "<Process N> communicate: close stdout"),
        ("DEBUG", "<Process N> communicate: feed stdin (1 bytes)"),
        ("DEBUG", "<Process N> communicate: read stdout"),
        ("DEBUG", "execute program 'cat' stdin=<pipe> stdout=stderr=<pipe>"),
        ("DEBUG", "process 'cat' created: pid N"),
        ("DEBUG", "process 'exec sleep 100' created: pid N"),
        ("DEBUG", "run shell command 'exec sleep 100'"),
        ("INFO", "<TRANSPORT> exited with return code -9"),
        ("INFO", "<TRANSPORT> exited with return code 0"),
        ("INFO", "execute program 'cat': <TRANSPORT>"),
        ("INFO", "run shell command 'exec sleep 100': <TRANSPORT>"),
        ("WARNING", "Close running child process: kill <TRANSPORT>"),
    ]


def test_size_of_pipes() -> None:
    async def scenario(notes: list[Any]) -> None:
        process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE, pipesize=8192)
        popen = process._transport.get_extra_info("subprocess")  # type: ignore[attr-defined]
        for pipe in (popen.stdin, popen.stdout):
            notes.append(fcntl.fcntl(pipe.fileno(), fcntl.F_GETPIPE_SZ))
        await process.communicate(b"")

    assert same(scenario) == [8192, 8192]
