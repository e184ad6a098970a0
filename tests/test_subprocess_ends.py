"""The ends of child processes: who reaps them, what is left behind, and whom signals reach."""

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
from asyncio.subprocess import PIPE
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import whilst
from oracle import SECONDS, error_of_awaiting, no_descriptor_leaks, program, run, turns, until

pytestmark = pytest.mark.usefixtures("driver")

#: What is logged of a child that somebody else has reaped.
ALREADY_READ = "child process pid {} exit status already read:  will report returncode 255"


def children() -> set[int]:
    """Return the numbers of this process's children, zombies included."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.update(map(int, (task / "children").read_text().split()))
    return found


def until_true(condition: Callable[[], object]) -> None:
    """Wait, without a loop, until a condition holds."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "the condition never held"
        time.sleep(0.001)


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    """Assert that no child, zombie, descriptor or thread of this process is left afterwards that was not there before."""

    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    before, threads_before = children(), threads()
    with no_descriptor_leaks():
        yield
        gc.collect()
        until_true(lambda: children() <= before)
    until_true(lambda: threads() <= threads_before)


async def sleeper(**keywords: Any) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec("sleep", "100", **keywords)


def popen_of(process: asyncio.subprocess.Process) -> Any:
    return process._transport.get_extra_info("subprocess")  # type: ignore[attr-defined]


# Who reaps.


def test_ended_before_it_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    class Waits(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(*arguments, **keywords)
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    monkeypatch.setattr(subprocess, "Popen", Waits)

    class Notes(asyncio.SubprocessProtocol):
        def __init__(self) -> None:
            self.notes: list[Any] = []

        def pipe_data_received(self, fd: int, data: bytes) -> None:
            self.notes.append(data)

        def process_exited(self) -> None:
            self.notes.append("exited")

    async def main() -> None:
        process = await asyncio.create_subprocess_exec("sh", "-c", "echo x; exit 3", stdout=PIPE)
        assert await process.communicate() == (b"x\n", None)
        assert process.returncode == 3

        # What was written before the end is handed over before it.
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(Notes, "sh", "-c", "echo x", stdin=None, stderr=None)
        assert await transport._wait() == 0  # type: ignore[attr-defined]
        assert protocol.notes == [b"x\n", "exited"]
        transport.close()

    with nothing_left():
        run(main())


def test_reaped_before_it_is_watched(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Reaps(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(*arguments, **keywords)
            os.waitpid(self.pid, 0)

    monkeypatch.setattr(subprocess, "Popen", Reaps)

    async def main() -> int:
        process = await asyncio.create_subprocess_exec("true")
        assert await process.wait() == 255
        return process.pid

    with nothing_left():
        pid = run(main())
    assert caplog.messages == [ALREADY_READ.format(pid)]


def test_reaped_by_somebody_else(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        for stream in (None, PIPE):
            caplog.clear()
            process = await sleeper(stdout=stream, stdin=stream)
            os.kill(process.pid, signal.SIGKILL)
            assert os.waitpid(process.pid, 0)[1] == signal.SIGKILL
            process.kill()
            process.send_signal(0)
            assert await process.wait() == 255
            assert process.returncode == popen_of(process).returncode == 255
            assert caplog.messages == [ALREADY_READ.format(process.pid)]

            # Closed before the loop knows: what Popen.poll() makes of it, 0, is not reported.
            caplog.clear()
            process = await sleeper(stdout=stream)
            os.kill(process.pid, signal.SIGKILL)
            os.waitpid(process.pid, 0)
            process._transport.close()  # type: ignore[attr-defined]
            assert await process.wait() == 255

    with nothing_left():
        run(main())


def test_reaped_by_its_popen(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        process = await sleeper()
        popen_of(process).kill()
        assert popen_of(process).wait() == -9
        assert process.returncode is None
        assert await process.wait() == -9

        process = await sleeper(stdout=PIPE)
        popen_of(process).terminate()
        until_true(lambda: popen_of(process).poll() is not None)
        process._transport.close()  # type: ignore[attr-defined]
        assert await process.wait() == -15

        # Both wait for it at the same time, and whoever is first, both know.
        for number in range(30):
            process = await asyncio.create_subprocess_exec(
                "sh", "-c", f"read line; exit {number}", stdin=PIPE
            )
            waits = [
                loop.run_in_executor(None, popen_of(process).wait, *timeout) for timeout in ((), (SECONDS,))
            ]
            assert process.stdin is not None
            process.stdin.write(b"\n")
            assert await process.wait() == number
            assert await asyncio.gather(*waits) == [number, number]

    run(main())
    assert caplog.messages == []


def test_sigchld_ignored() -> None:
    result = program(
        """
        import asyncio, signal, whilst
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

        async def main():
            for arguments in (["true"], ["sh", "-c", "exit 3"], ["sleep", "0.1"]):
                process = await asyncio.create_subprocess_exec(*arguments, stdout=-1)
                print(await process.communicate(), process.returncode)
            process = await asyncio.create_subprocess_exec("sleep", "100")
            process.kill()
            print(await process.wait())

        whilst.run(asyncio.wait_for(main(), 5))
        """
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["(b'', None) 255"] * 3 + ["255"]
    assert result.stderr.count("exit status already read:  will report returncode 255") == 4


def start_with_number(pid: int) -> subprocess.Popen[bytes] | None:
    """Start a process with this number, if the kernel lets us say which one comes next."""
    for _ in range(50):
        try:
            Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        except OSError:
            return None
        child = subprocess.Popen(["sleep", "100"])
        if child.pid == pid:
            return child
        child.kill()
        child.wait()
    return None


def test_number_given_to_another_process() -> None:
    async def main() -> None:
        process = await sleeper(stdin=PIPE)
        os.kill(process.pid, signal.SIGKILL)
        os.waitpid(process.pid, 0)
        other = start_with_number(process.pid)
        if other is None:
            process._transport.close()  # type: ignore[attr-defined]
            await process.wait()
            pytest.skip("the kernel does not let us choose the next process's number")
        try:
            for send in (process, process._transport, popen_of(process)):  # type: ignore[attr-defined]
                send.terminate()
                send.kill()
                send.send_signal(signal.SIGKILL)
            process._transport.close()  # type: ignore[attr-defined]
            assert await process.wait() == 255
            await turns()
            assert other.poll() is None, "a signal has reached another process"
        finally:
            other.kill()
            assert other.wait() == -9

    with nothing_left():
        run(main())


@pytest.mark.parametrize("waited_for", [False, True])
def test_traced_by_a_debugger(waited_for: bool) -> None:
    tracer = """
        import ctypes, sys
        libc = ctypes.CDLL(None, use_errno=True)
        PTRACE_SEIZE = 0x4206
        print(libc.ptrace(PTRACE_SEIZE, int(sys.argv[1]), 0, 0), flush=True)
        sys.stdin.readline()
    """

    async def main() -> None:
        process = await asyncio.create_subprocess_exec("sh", "-c", "read line; exit 9", stdin=PIPE)
        debugger = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            tracer.replace("\n        ", "\n"),
            str(process.pid),
            stdin=PIPE,
            stdout=PIPE,
        )
        assert process.stdin is not None and debugger.stdin is not None and debugger.stdout is not None
        seized = await debugger.stdout.readline()
        if waited_for:
            asyncio.get_running_loop().run_in_executor(None, popen_of(process).wait)
        process.stdin.write(b"\n")
        wait = asyncio.ensure_future(process.wait())
        if seized == b"0\n":
            await until(lambda: Path(f"/proc/{process.pid}/stat").read_text().rsplit(") ")[1][0] == "Z")
            # The loop is not held up, although nobody can reap the process now.
            await asyncio.sleep(0.05)
            assert not wait.done()
        await debugger.communicate(b"\n")
        assert await wait == 9
        if seized != b"0\n":
            pytest.skip("the kernel does not let us trace a process")

    run(main())


# What is left behind.


def test_many_cycles() -> None:
    async def main() -> None:
        await asyncio.create_subprocess_exec("true")
        quick = await asyncio.create_subprocess_exec("true", stdin=PIPE, stdout=PIPE, stderr=PIPE)
        killed = await sleeper(stdout=PIPE)
        killed.kill()
        talks = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        assert await talks.communicate(b"x") == (b"x", None)
        closed = await sleeper(stdin=PIPE)
        closed._transport.close()  # type: ignore[attr-defined]
        await asyncio.gather(quick.wait(), killed.wait(), closed.wait())
        await error_of_awaiting(asyncio.create_subprocess_exec("/does/not/exist", stdin=PIPE, stdout=PIPE))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # The first one is not waited for.
        run(main())
        with nothing_left():
            for _ in range(100):
                run(main())


def test_transport_is_closed_while_the_process_runs(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        # The process's own child keeps the pipes open for a while.
        transport, _ = await loop.subprocess_exec(
            asyncio.SubprocessProtocol, "sh", "-c", "sleep 2 & exec sleep 100"
        )
        transport.close()
        transport.close()
        assert await asyncio.wait_for(transport._wait(), 1) == -9  # type: ignore[attr-defined]
        assert transport.get_returncode() == -9

        # Ended, but the loop does not know: there is nothing to kill, and the code is kept.
        process = await asyncio.create_subprocess_exec("sh", "-c", "read line; exit 8", stdin=PIPE)
        os.write(popen_of(process).stdin.fileno(), b"\n")
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        process._transport.close()  # type: ignore[attr-defined]
        assert await process.wait() == 8

    with nothing_left():
        run(main(), debug=True)
    assert sum("Close running child process: kill" in message for message in caplog.messages) == 1


@pytest.mark.parametrize("pipe", [None, PIPE])
def test_loop_is_closed_while_the_process_runs(pipe: int | None) -> None:
    with nothing_left():
        loop = whilst.new_event_loop()
        process = loop.run_until_complete(asyncio.wait_for(sleeper(stdin=pipe, stdout=pipe), SECONDS))
        loop.close()
        assert process.returncode is None
        assert popen_of(process).returncode is None
        # It is not killed, and can still be.
        process.send_signal(0)
        assert Path(f"/proc/{process.pid}").exists()
        process.terminate()
        until_true(lambda: process.pid not in children())
        process.kill()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            process._transport.close()  # type: ignore[attr-defined]
            del process
            gc.collect()
    # Of the pipes, which a closed loop cannot close, and of the Popen object.
    assert all(warning.category is ResourceWarning for warning in caught)


@pytest.mark.parametrize("pipe", [None, PIPE])
def test_transport_is_dropped_with_a_closed_loop(pipe: int | None) -> None:
    with nothing_left():
        loop = whilst.new_event_loop()
        process = loop.run_until_complete(asyncio.wait_for(sleeper(stdin=pipe, stdout=pipe), SECONDS))
        pid = process.pid
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loop.close()
            del process, loop
            gc.collect()
        until_true(lambda: pid not in children())
    assert any(str(warning.message).startswith("unclosed transport <Subprocess") for warning in caught)


def test_cancelled_at_each_await(monkeypatch: pytest.MonkeyPatch) -> None:
    before = children()

    class HasAChild(subprocess.Popen[bytes]):
        """Started once the process has a child of its own, if it will have one: that keeps the pipes open."""

        def __init__(self, arguments: Any, *others: Any, **keywords: Any) -> None:
            super().__init__(arguments, *others, **keywords)
            if "sleep" in str(arguments):
                until_true(Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text)

    monkeypatch.setattr(subprocess, "Popen", HasAChild)

    async def main(iterations: int, everything: bool, twice: bool, arguments: tuple[str, ...]) -> bool:
        task = asyncio.ensure_future(
            asyncio.create_subprocess_exec(*arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        )
        await turns(iterations)
        if task.done():
            process = await task
            process._transport.close()  # type: ignore[attr-defined]
            await process.wait()
            return False
        for other in asyncio.all_tasks() - {asyncio.current_task()} if everything else {task}:
            if not str(other.get_coro()).startswith("<coroutine object run"):
                other.cancel()
        if twice:
            await turns(1)
            task.cancel()
        # The process's child keeps the pipes open for longer than this.
        done, _ = await asyncio.wait([task], timeout=2)
        assert done, "the cancelled call does not end"
        assert task.cancelled()
        # Cancelled twice, it does not wait for the process to end, which the loop has to.
        await until(lambda: children() <= before)
        await turns()
        return True

    with nothing_left():
        for arguments in (("sh", "-c", "sleep 3 & exec sleep 100"), ("true",)):
            for everything, twice in ((False, False), (False, True), (True, False), (True, True)):
                iterations = 0
                while _run_here(main(iterations, everything, twice, arguments)):
                    iterations += 1
                assert iterations > 2


def _run_here(coroutine: Any) -> Any:
    """Run a coroutine on a new loop, with no other task there."""
    with asyncio.Runner(loop_factory=whilst.new_event_loop) as runner:
        return runner.run(coroutine)


def test_connecting_a_pipe_fails() -> None:
    before = children()

    async def main(cancel: bool) -> None:
        loop = asyncio.get_running_loop()
        connect_write_pipe = loop.connect_write_pipe
        called, gate = asyncio.Event(), asyncio.Event()

        async def slow(*arguments: Any) -> Any:
            called.set()
            await gate.wait()
            return await connect_write_pipe(*arguments)

        async def fails(*_arguments: Any) -> Any:
            raise ZeroDivisionError

        loop.connect_write_pipe = slow  # type: ignore[method-assign]
        loop.connect_read_pipe = fails  # type: ignore[method-assign]
        task = asyncio.ensure_future(sleeper(stdin=PIPE, stdout=PIPE, stderr=PIPE))
        await called.wait()
        if cancel:
            # By the time it fails nobody waits for it any more.
            task.cancel()
            await turns()
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            gate.set()
        else:
            gate.set()
            assert (await error_of_awaiting(task))[0] == "ZeroDivisionError"
        await until(lambda: children() <= before)
        await turns()
        del loop.connect_write_pipe, loop.connect_read_pipe

    for cancel in (False, True):
        with nothing_left():
            run(main(cancel))


def test_connecting_cannot_begin() -> None:
    before = children()

    def factory(*_arguments: Any, **_keywords: Any) -> Any:
        raise ZeroDivisionError

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(factory)
        error = await error_of_awaiting(sleeper(stdin=PIPE, stdout=PIPE))
        asyncio.get_running_loop().set_task_factory(None)
        assert error[0] == "ZeroDivisionError"
        await until(lambda: children() <= before)

    with nothing_left():
        run(main())


def test_no_descriptor_is_left_to_watch_it_with(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    started: list[int] = []

    class UsesUp(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(*arguments, **keywords)
            started.append(self.pid)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))

    async def main() -> None:
        monkeypatch.setattr(subprocess, "Popen", UsesUp)
        for stream in (None, PIPE):
            try:
                error = await error_of_awaiting(sleeper(stdin=stream, stdout=stream))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            assert error == ("OSError", "[Errno 24] Too many open files")
            assert started[-1] not in children(), "it is killed and reaped"
        monkeypatch.undo()
        assert await (await asyncio.create_subprocess_exec("true")).wait() == 0

    with nothing_left():
        run(main())


def test_left_running_at_exit() -> None:
    result = program(
        """
        import asyncio, whilst

        async def main():
            kept = [
                await asyncio.create_subprocess_exec("sleep", "100", stdin=pipe, stdout=pipe, stderr=-3)
                for pipe in (-3, -1)  # DEVNULL, PIPE
            ]
            print(*[process.pid for process in kept])
            return kept

        kept = whilst.run(main())
        """,
        options=("-W", "ignore"),
        stdin=subprocess.DEVNULL,
    )
    assert (result.returncode, result.stderr) == (0, "")
    # The transports are destroyed, and that kills.
    assert len(result.stdout.split()) == 2
    until_true(lambda: not any(Path(f"/proc/{pid}").exists() for pid in result.stdout.split()))


def test_no_warnings() -> None:
    result = program(
        """
        import asyncio, whilst

        async def main():
            for _ in range(3):
                process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
                assert await process.communicate(b"x") == (b"x", None)
                process = await asyncio.create_subprocess_shell("exit 3")
                assert await process.wait() == 3
                process = await asyncio.create_subprocess_exec("sleep", "100", stderr=-1)
                process.terminate()
                assert await process.wait() == -15

        whilst.run(main())
        """,
        options=("-W", "error", "-X", "dev"),
    )
    assert result.returncode == 0
    assert not [line for line in result.stderr.splitlines() if "warn" in line.lower()], result.stderr


# Processes without pidfds, forks, and child watchers.


@pytest.mark.parametrize("errno_name", ["ENOSYS", "EPERM"])
def test_kernel_refuses_pidfds(errno_name: str) -> None:
    result = program(
        """
        import asyncio, ctypes, errno, gc, os, signal, struct, sys, time
        import whilst

        # BPF: load the system call's number; pidfd_open (434 everywhere) fails, all else is allowed.
        instruction = struct.Struct("=HBBI")
        code = b"".join(instruction.pack(*it) for it in (
            (0x20, 0, 0, 0),
            (0x15, 0, 1, 434),
            (0x06, 0, 0, 0x00050000 | getattr(errno, sys.argv[1])),
            (0x06, 0, 0, 0x7FFF0000),
        ))
        class Program(ctypes.Structure):
            _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]
        libc = ctypes.CDLL(None)
        assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
        filter = Program(4, code)
        assert libc.prctl(22, 2, ctypes.byref(filter), 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        try:
            os.pidfd_open(os.getpid())
        except OSError as error:
            assert error.errno == getattr(errno, sys.argv[1])

        async def one(number):
            process = await asyncio.create_subprocess_exec("sh", "-c", f"cat; exit {number}", stdin=-1, stdout=-1)
            out, _ = await process.communicate(b"%d" % number)
            assert (out, process.returncode) == (b"%d" % number, number)

        async def main():
            await asyncio.gather(*map(one, range(30)))
            process = await asyncio.create_subprocess_exec("sleep", "100")
            process.send_signal(0)
            process.terminate()
            assert await process.wait() == -15
            process = await asyncio.create_subprocess_exec("sleep", "100", stdin=-1)
            process._transport.close()
            assert await process.wait() == -9
            process = await asyncio.create_subprocess_exec("sleep", "100")
            os.kill(process.pid, 9)
            os.waitpid(process.pid, 0)
            process.kill()
            assert await process.wait() == 255

        def settled():
            end = time.monotonic() + 5
            while len(os.listdir("/proc/self/task")) > 1 or open("/proc/self/task/%d/children" % os.getpid()).read():
                assert time.monotonic() < end
                time.sleep(0.001)

        whilst.run(main())
        settled()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            whilst.run(main())
        settled()

        # The loop goes, the process stays: it is reaped all the same.
        loop = whilst.new_event_loop()
        process = loop.run_until_complete(asyncio.create_subprocess_exec("sleep", "100"))
        loop.close()
        process.terminate()
        settled()
        gc.collect()
        print(len(os.listdir("/proc/self/fd")) - before)
        """,
        errno_name,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "0\n", "no eventfd is left either"
    assert result.stderr.count("already read") == 4


def test_forked_child_leaves_the_processes_alone() -> None:
    result = program(
        """
        import asyncio, gc, os, warnings, whilst
        warnings.simplefilter("ignore")

        async def main():
            process = await asyncio.create_subprocess_exec("sh", "-c", "read line; exit 5", stdin=-1)
            other = await asyncio.create_subprocess_exec("sh", "-c", "read line; exit 6", stdin=-1)
            loop = asyncio.get_running_loop()
            pid = os.fork()
            if pid == 0:
                try:
                    process._transport.close()
                    loop._abandon_children()
                    del process, other
                    gc.collect()
                finally:
                    os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            for child in (process, other):
                child.send_signal(0)
                child.stdin.write(b"\\n")
                print(await child.wait())

        whilst.run(asyncio.wait_for(main(), 5))
        """
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "5\n6\n", "")


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="there are no child watchers any more")
@pytest.mark.parametrize(
    "name", ["ThreadedChildWatcher", "PidfdChildWatcher", "SafeChildWatcher", "FastChildWatcher"]
)
def test_child_watchers(name: str) -> None:
    result = program(
        """
        import asyncio, signal, sys, warnings, whilst

        async def one(number):
            process = await asyncio.create_subprocess_exec("sh", "-c", f"cat; exit {number}", stdin=-1, stdout=-1)
            out, _ = await process.communicate(b"x")
            return out, process.returncode

        async def main():
            # Nobody asks for a watcher behind the program's back, which would warn.
            warnings.simplefilter("error")
            for number in range(10):
                assert await one(number) == (b"x", number)
            results = await asyncio.wait_for(asyncio.gather(*map(one, range(20))), 8)
            assert results == [(b"x", number) for number in range(20)], results
            process = await asyncio.create_subprocess_exec("sleep", "100")
            process.terminate()
            assert await process.wait() == -15
            print(signal.getsignal(signal.SIGCHLD) != signal.SIG_DFL)

        loop = whilst.new_event_loop()
        asyncio.set_event_loop(loop)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            watcher = getattr(asyncio, sys.argv[1])()
            asyncio.set_child_watcher(watcher)
            watcher.attach_loop(loop)
        loop.run_until_complete(main())
        watcher.close()
        loop.close()
        """,
        name,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{name in ('SafeChildWatcher', 'FastChildWatcher')}\n"
    assert "unknown pid" not in result.stderr


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="there are no child watchers any more")
def test_child_watcher_that_is_not_active() -> None:
    outputs = [
        program(
            """
            import asyncio, sys, warnings, whilst

            async def main():
                try:
                    await asyncio.create_subprocess_exec("true")
                except RuntimeError as error:
                    print(error)

            warnings.simplefilter("ignore")
            asyncio.set_child_watcher(asyncio.SafeChildWatcher())
            with asyncio.Runner(loop_factory=eval(sys.argv[1])) as runner:
                runner.run(main())
            """,
            factory,
        ).stdout
        for factory in ("asyncio.SelectorEventLoop", "whilst.new_event_loop")
    ]
    expected = "asyncio.get_child_watcher() is not activated, subprocess support is not installed.\n"
    assert outputs == [expected, expected]


def test_in_a_thread_without_watchers() -> None:
    """Asyncio's documentation asks for a child watcher of some kinds that runs in the main thread; here nothing does."""
    done: list[int] = []

    async def main() -> None:
        process = await asyncio.create_subprocess_exec("sh", "-c", "exit 4")
        done.append(await process.wait())

    with nothing_left():
        thread = threading.Thread(target=lambda: run(main()))
        thread.start()
        thread.join(SECONDS)
    assert done == [4]
    assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL


def test_log_of_a_reaped_process_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        process = await sleeper()
        process.kill()
        os.waitpid(process.pid, 0)
        await process.wait()

    run(main())
    assert [(record.name, record.levelno) for record in caplog.records] == [("asyncio", logging.WARNING)]
