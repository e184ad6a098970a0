"""Signals: handlers of the loop's, and Ctrl-C. Each in a process of its own."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from typing import Any

import pytest
from oracle import SECONDS, program

pytestmark = pytest.mark.usefixtures("driver")

#: What every program here begins with; `new_loop` is asyncio's own or whilst's.
BEGIN = """
import asyncio, os, signal, sys, threading, time, traceback
import whilst
new_loop = asyncio.SelectorEventLoop if sys.argv[1] == "asyncio" else whilst.new_event_loop

def run(main):
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main)

def error_of(call, *args):
    try:
        call(*args)
    except BaseException as error:
        return type(error).__name__, str(error)
"""


def same_output(source: str) -> str:
    """Run a program with asyncio's loop and with whilst's; assert that they print the same, and return it."""
    outputs = []
    for loop in ("asyncio", "whilst"):
        result = program(BEGIN + textwrap.dedent(source), loop)
        assert result.returncode == 0, result.stderr
        outputs.append(result.stdout)
    assert outputs[1] == outputs[0]
    assert outputs[0]
    return outputs[0]


def test_handlers() -> None:
    output = same_output(
        """
        async def main():
            loop = asyncio.get_running_loop()
            seen = []
            loop.add_signal_handler(signal.SIGUSR1, seen.append, "one")
            loop.add_signal_handler(signal.SIGUSR2, lambda *args: seen.append(args), 1, 2)
            os.kill(os.getpid(), signal.SIGUSR1)
            await asyncio.sleep(0.01)
            os.kill(os.getpid(), signal.SIGUSR2)
            await asyncio.sleep(0.01)
            loop.add_signal_handler(signal.SIGUSR1, seen.append, "another")
            signal.raise_signal(signal.SIGUSR1)
            await asyncio.sleep(0.01)
            print(seen)
            print(loop.remove_signal_handler(signal.SIGUSR1), loop.remove_signal_handler(signal.SIGUSR1))
            print(signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL)
            print(loop.remove_signal_handler(signal.SIGUSR2), loop.remove_signal_handler(signal.SIGINT))
            print(signal.set_wakeup_fd(-1))

        run(main())
        """
    )
    assert "['one', (1, 2), 'another']" in output


def test_what_is_refused() -> None:
    same_output(
        """
        async def coroutine(): ...

        async def main():
            loop = asyncio.get_running_loop()
            print(error_of(loop.add_signal_handler, signal.SIGUSR1, coroutine))
            awaitable = coroutine()
            print(error_of(loop.add_signal_handler, signal.SIGUSR1, awaitable)[0])
            awaitable.close()
            for number in (0, -1, 1000, "SIGUSR1", 1.5, None, signal.SIGKILL, signal.SIGSTOP):
                print(number, error_of(loop.add_signal_handler, number, print))
                print(number, error_of(loop.remove_signal_handler, number))
            print(await asyncio.to_thread(error_of, loop.add_signal_handler, signal.SIGUSR1, print))
            print(error_of(loop.add_signal_handler)[1].rpartition(".")[2])
            # And after all of this it works.
            seen = []
            loop.add_signal_handler(signal.SIGUSR1, seen.append, 1)
            os.kill(os.getpid(), signal.SIGUSR1)
            await asyncio.sleep(0.01)
            print(seen)

        run(main())
        """
    )


def test_handlers_end_with_the_loop() -> None:
    same_output(
        """
        loop = new_loop()
        loop.add_signal_handler(signal.SIGUSR1, print, "never")
        loop.add_signal_handler(signal.SIGINT, print, "never")
        loop.close()
        print(signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL)
        print(signal.getsignal(signal.SIGINT) == signal.default_int_handler)
        print(signal.set_wakeup_fd(-1))
        """
    )


def test_a_signal_before_the_run_is_handled_in_it() -> None:
    same_output(
        """
        loop = new_loop()
        loop.add_signal_handler(signal.SIGUSR1, print, "handled")
        os.kill(os.getpid(), signal.SIGUSR1)
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()
        """
    )


def test_many_signals_in_a_burst() -> None:
    same_output(
        """
        async def main():
            loop = asyncio.get_running_loop()
            counts = {number: 0 for number in range(signal.SIGRTMIN, signal.SIGRTMIN + 5)}

            def count(number):
                counts[number] += 1

            for number in counts:
                loop.add_signal_handler(number, count, number)
            for _ in range(20):
                for number in counts:
                    signal.raise_signal(number)
            await asyncio.sleep(0.05)
            # Each of these was raised synchronously in this thread.
            print(sorted(counts.values()))

        run(main())
        """
    )


@pytest.mark.parametrize("state", ["asleep", "asleep with a timer", "busy", "in a thread's absence"])
def test_a_signal_from_outside(state: str) -> None:
    body = {
        "asleep": "await event.wait()",
        "asleep with a timer": "await asyncio.wait_for(event.wait(), 20)",
        "busy": "while not event.is_set(): await asyncio.sleep(0)",
        "in a thread's absence": "await asyncio.gather(event.wait(), asyncio.to_thread(time.sleep, 0.2))",
    }[state]
    source = f"""
        async def main():
            loop = asyncio.get_running_loop()
            event = asyncio.Event()
            loop.add_signal_handler(signal.SIGTERM, event.set)
            print("ready", flush=True)
            {body}
            print("handled")

        run(main())
    """
    for loop in ("asyncio", "whilst"):
        process = start(source, loop)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=SECONDS)
        assert (output, process.returncode) == ("handled\n", 0), errors


def start(source: str, loop: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", BEGIN + textwrap.dedent(source), loop],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


INTERRUPTED: dict[str, Any] = {
    "asleep": "await asyncio.Event().wait()",
    "asleep with a timer": "await asyncio.sleep(20)",
    "busy in iterations": "while True: await asyncio.sleep(0)",
    "waiting for a peer": "kept.append(await asyncio.open_connection(*server.sockets[0].getsockname())); await kept[0][0].read()",
    "waiting for a thread": "await asyncio.to_thread(time.sleep, 0.5)",
}


@pytest.mark.parametrize("state", INTERRUPTED)
def test_ctrl_c_under_a_runner(state: str) -> None:
    """The main task is cancelled, may clean up, and KeyboardInterrupt leaves `run`: as with `asyncio.run`."""
    source = f"""
        kept = []

        async def main():
            server = await asyncio.start_server(lambda *streams: kept.append(streams), "127.0.0.1", 0)
            print("ready", flush=True)
            try:
                {INTERRUPTED[state]}
            except asyncio.CancelledError:
                print("cancelled")
                await asyncio.sleep(0)
                raise
            finally:
                server.close()
                print("cleaned up")

        import warnings
        warnings.simplefilter("ignore")
        try:
            run(main())
        except KeyboardInterrupt:
            print("interrupted")
    """
    outputs = []
    for loop in ("asyncio", "whilst"):
        process = start(source, loop)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=SECONDS)
        outputs.append((output, process.returncode, errors if loop == "whilst" and errors else ""))
    assert outputs[1][:2] == outputs[0][:2], outputs
    assert "interrupted" in outputs[1][0]


@pytest.mark.parametrize("state", ["asleep", "a callback"])
def test_ctrl_c_with_run_forever(state: str) -> None:
    """KeyboardInterrupt leaves the run, and the loop can run again."""
    source = f"""
        loop = new_loop()
        if {state == "a callback"}:
            def spin():
                while True:
                    pass
            loop.call_later(0.01, spin)
        print("ready", flush=True)
        try:
            loop.run_forever()
        except KeyboardInterrupt:
            print("interrupted", loop.is_running())
        print(loop.run_until_complete(asyncio.sleep(0, "again")))
        loop.close()
    """
    for loop in ("asyncio", "whilst"):
        process = start(source, loop)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(0.15)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=SECONDS)
        assert (output, process.returncode) == ("interrupted False\nagain\n", 0), errors


def test_a_handler_of_the_signal_module_runs_while_the_loop_sleeps() -> None:
    source = """
        import faulthandler
        async def main():
            print("ready", flush=True)
            await asyncio.sleep(0.6)
            print("end")

        def handler(number, frame):
            print("handler", time.monotonic() - begin < 0.5)

        begin = time.monotonic()
        signal.signal(signal.SIGUSR1, handler)
        run(main())
    """
    for loop in ("asyncio", "whilst"):
        process = start(source, loop)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGUSR1)
        output, errors = process.communicate(timeout=SECONDS)
        assert (output, process.returncode) == ("handler True\nend\n", 0), errors


def test_an_exception_of_a_handler_goes_to_the_exception_handler() -> None:
    same_output(
        """
        async def main():
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda loop, context: print(type(context["exception"]).__name__))

            def fail():
                raise ValueError("x")

            loop.add_signal_handler(signal.SIGUSR1, fail)
            os.kill(os.getpid(), signal.SIGUSR1)
            await asyncio.sleep(0.01)

        run(main())
        """
    )


def test_a_signal_to_a_loop_that_runs_in_another_thread() -> None:
    """Python's handlers run in the main thread only, which here waits for the loop's."""
    same_output(
        """
        def thread():
            print(run(asyncio.sleep(0.3, "result")))

        def handler(number, frame):
            print("handler", threading.current_thread() is threading.main_thread())

        signal.signal(signal.SIGUSR1, handler)
        other = threading.Thread(target=thread)
        other.start()
        time.sleep(0.1)
        signal.pthread_kill(other.ident, signal.SIGUSR1)
        time.sleep(0.1)  # In join() it would be too late, and at the end of pthread_kill() maybe too early.
        other.join()
        """
    )


#: For signals that no bytecode sees: `os.kill()` and its like look at once whether they have sent one to themselves. And to do
#: something while the loop waits: for a moment (its first wait), or for long (its second).
QUIET = """
import ctypes, socket
raise_quietly = getattr(ctypes.CDLL(None), "raise")

def in_a_long_wait(loop, action, waits=2):
    polls = loop.metrics().polls

    def wait():
        end = time.monotonic() + 20
        while loop.metrics().polls < polls + waits and time.monotonic() < end:
            time.sleep(0.001)
        action()

    threading.Thread(target=wait).start()

async def connection():
    here, there = socket.socketpair()
    return there, await asyncio.open_connection(sock=here)
"""


def quick(source: str) -> str:
    """Run a program with whilst's loop; return what it prints. It must not take as long as what it waits for in vain."""
    begin = time.monotonic()
    result = program(BEGIN + QUIET + textwrap.dedent(source), "whilst")
    assert result.returncode == 0, result.stderr
    assert time.monotonic() - begin < 20
    return result.stdout


CONNECTED = pytest.mark.parametrize("connected", [False, True])


@CONNECTED
def test_a_signal_between_the_last_bytecode_and_the_wait(connected: bool) -> None:
    source = f"""
        async def main():
            loop = asyncio.get_running_loop()
            kept = await connection() if {connected} else None
            event = asyncio.Event()
            signal.signal(signal.SIGUSR1, lambda *args: loop.call_soon_threadsafe(event.set))
            loop.call_later(0.01, raise_quietly, signal.SIGUSR1)
            await asyncio.wait_for(event.wait(), 40)
            print("handled")

        run(main())
    """
    assert quick(source) == "handled\n"


@CONNECTED
def test_a_signal_that_another_thread_catches_ends_a_long_wait(connected: bool) -> None:
    """And every other one, whichever way: here the one that surely does not interrupt the wait."""
    source = f"""
        async def main():
            loop = asyncio.get_running_loop()
            kept = await connection() if {connected} else None
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])

            def catch():
                signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
                signal.raise_signal(signal.SIGUSR1)

            for _ in range(3):
                event = asyncio.Event()
                signal.signal(signal.SIGUSR1, lambda *args: loop.call_soon_threadsafe(event.set))
                in_a_long_wait(loop, catch)
                await asyncio.wait_for(event.wait(), 40)
                # The program has set none.
                print("handled", signal.set_wakeup_fd(-1))

        run(main())
        print(open_descriptors() - before)
    """
    # What `asyncio` makes once for the process does not count.
    begin = """
        def open_descriptors():
            return len(os.listdir("/proc/self/fd"))

        run(asyncio.sleep(0))
        before = open_descriptors()
    """
    assert quick(textwrap.dedent(begin) + textwrap.dedent(source)) == "handled -1\n" * 3 + "0\n"


def test_a_descriptor_that_the_program_gave_for_signals_stays_its_own() -> None:
    source = """
        async def main():
            loop = asyncio.get_running_loop()
            event = asyncio.Event()
            ours, theirs = socket.socketpair()
            theirs.setblocking(False)
            ours.settimeout(20)
            signal.set_wakeup_fd(theirs.fileno())
            signal.signal(signal.SIGUSR1, lambda *args: None)

            def catch():
                signal.raise_signal(signal.SIGUSR1)
                print(ours.recv(100) == bytes([signal.SIGUSR1]))
                loop.call_soon_threadsafe(event.set)

            for _ in range(3):
                event.clear()
                in_a_long_wait(loop, catch)
                await asyncio.wait_for(event.wait(), 40)
            print(signal.set_wakeup_fd(-1) == theirs.fileno())

        run(main())
    """
    assert quick(source) == "True\n" * 4


def test_a_handler_that_runs_before_a_long_wait_may_set_the_descriptor_for_signals() -> None:
    """By `add_signal_handler()`, say."""
    source = """
        async def main():
            loop = asyncio.get_running_loop()
            event = asyncio.Event()

            def handler(number, frame):
                loop.add_signal_handler(signal.SIGUSR2, event.set)
                in_a_long_wait(loop, lambda: os.kill(os.getpid(), signal.SIGUSR2), waits=1)

            def catch():
                signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
                signal.raise_signal(signal.SIGUSR1)

            signal.signal(signal.SIGUSR1, handler)
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
            in_a_long_wait(loop, catch, waits=1)
            await asyncio.wait_for(event.wait(), 40)
            print(loop._is_wakeup_fd(signal.set_wakeup_fd(-1)))

        run(main())
    """
    assert quick(source) == "True\n"


def test_a_long_wait_where_no_descriptor_is_taken_for_signals() -> None:
    """As in a program that has started Python in another thread than its first."""
    source = """
        import _signal

        def refuse(*args, **kwargs):
            raise ValueError("set_wakeup_fd only works in main thread of the main interpreter")

        async def main():
            loop = asyncio.get_running_loop()
            event = asyncio.Event()
            signal.signal(signal.SIGUSR1, lambda *args: loop.call_soon_threadsafe(event.set))
            in_a_long_wait(loop, lambda: os.kill(os.getpid(), signal.SIGUSR1))
            await asyncio.wait_for(event.wait(), 40)
            print("handled")

        _signal.set_wakeup_fd = refuse
        run(main())
    """
    assert quick(source) == "handled\n"


def test_a_forked_child_has_signals_of_its_own() -> None:
    """A child that took the parent's bytes out of the pipe would leave the parent asleep, and the other way round."""
    source = """
        loop = whilst.new_event_loop()
        event = asyncio.Event()

        def catch():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
            signal.raise_signal(signal.SIGUSR1)

        async def catch_one():
            event.clear()
            in_a_long_wait(loop, catch)
            await asyncio.wait_for(event.wait(), 40)

        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        signal.signal(signal.SIGUSR1, lambda *args: loop.call_soon_threadsafe(event.set))
        loop.run_until_complete(catch_one())
        begin = time.monotonic()
        child = os.fork()
        for _ in range(3):
            loop.run_until_complete(catch_one())
        loop.close()
        if child == 0:
            os._exit(0 if time.monotonic() - begin < 15 else 1)
        print(os.waitpid(child, 0)[1])
    """
    assert quick(source) == "0\n"


def test_a_child_process_is_waited_for() -> None:
    same_output(
        """
        async def main():
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", "print(input().upper())",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            )
            print(await process.communicate(b"hello\\n"), process.returncode)
            process = await asyncio.create_subprocess_shell("exit 7")
            print(await process.wait())

        run(main())
        """
    )


def test_the_environment_of_these_tests() -> None:
    """A guard: the programs see the driver that the test is for."""
    source = "import whilst; loop = whilst.Loop(); print(loop.driver); loop.close()"
    assert program(source).stdout.strip() == os.environ["WHILST_DRIVER"]
