"""How long a loop looks for something to do before it sleeps: what `busy_poll` asks for, and beside a thread that computes."""

import asyncio
import contextlib
import functools
import math
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import whilst

pytestmark = pytest.mark.usefixtures("driver")

#: Longer than any test.
LONG = 100.0

#: What no test takes on a machine that is busy with others.
SECONDS = 30.0

has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()


async def nothing() -> None:
    pass


# -- The attribute and the arguments ---------------------------------------------------------------------------------------


def made_by_attribute(value: Any) -> float:
    with contextlib.closing(whilst.Loop()) as loop:
        loop.busy_poll = value
        return loop.busy_poll


def made_by_new_event_loop(value: Any) -> float:
    with contextlib.closing(whilst.new_event_loop(busy_poll=value)) as loop:
        return loop.busy_poll


def made_by_run(value: Any) -> float:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, whilst.Loop)
        return loop.busy_poll

    coroutine = main()
    with contextlib.closing(coroutine):
        return whilst.run(coroutine, busy_poll=value)


@pytest.mark.parametrize("make", [made_by_attribute, made_by_new_event_loop, made_by_run])
def test_what_it_takes(make: Callable[[Any], float]) -> None:
    assert make(0) == 0.0
    assert make(0.25) == 0.25
    assert make(1) == 1.0
    assert make(math.inf) >= 24 * 3600
    for wrong in (-1, -1e-9, math.nan, -math.inf):
        with pytest.raises(ValueError, match="busy_poll must not be negative or NaN"):
            make(wrong)
    for nonsense in ("0.1", None, [1]):
        with pytest.raises(TypeError):
            make(nonsense)


def test_it_is_off_by_default() -> None:
    with contextlib.closing(whilst.new_event_loop()) as loop:
        assert loop.busy_poll == 0.0
        with pytest.raises(ValueError):
            loop.busy_poll = -1
        assert loop.busy_poll == 0.0


def test_not_with_a_factory_of_the_callers() -> None:
    coroutine = nothing()
    with contextlib.closing(coroutine), pytest.raises(ValueError, match="loop_factory"):
        whilst.run(coroutine, loop_factory=asyncio.new_event_loop, busy_poll=0.1)


# -- Looking ---------------------------------------------------------------------------------------------------------------


async def cpu_of_a_sleep(seconds: float) -> float:
    """The CPU seconds that this thread spends while the loop has nothing to do."""
    begin = time.thread_time()
    await asyncio.sleep(seconds)
    return time.thread_time() - begin


async def with_sockets(seconds: float) -> float:
    """The same with something that the driver waits for."""
    here, there = socket.socketpair()
    with here, there:
        reader, writer = await asyncio.open_connection(sock=here)
        cpu = await cpu_of_a_sleep(seconds)
        there.sendall(b"ball\n")
        assert await reader.readline() == b"ball\n"
        writer.close()
    return cpu


@pytest.mark.parametrize("idle", [cpu_of_a_sleep, with_sockets])
def test_it_looks_and_then_sleeps(idle: Callable[[float], Any]) -> None:
    assert whilst.run(idle(0.2)) < 0.02
    assert whilst.run(idle(0.2), busy_poll=LONG) > 0.02
    # Once an idle time, not in turns with sleep.
    assert whilst.run(idle(1.0), busy_poll=0.01) < 0.2


def test_it_does_not_block_while_it_looks() -> None:
    async def main() -> int:
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        await with_sockets(0.1)
        return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before

    assert whilst.run(main(), busy_poll=LONG) == 0


def test_timers() -> None:
    async def main() -> None:
        for delay in (0.0001, 0.003, 0.02):
            begin = time.monotonic()
            await asyncio.sleep(delay)
            assert delay <= time.monotonic() - begin < SECONDS

    whilst.run(main(), busy_poll=LONG)


def test_other_threads_call() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ball: asyncio.Queue[int] = asyncio.Queue()

        def call() -> None:
            for number in range(200):
                loop.call_soon_threadsafe(ball.put_nowait, number)
                time.sleep(0.0001)

        thread = threading.Thread(target=call)
        thread.start()
        async with asyncio.timeout(SECONDS):
            assert [await ball.get() for _ in range(200)] == list(range(200))
        thread.join()

    whilst.run(main(), busy_poll=LONG)


def test_a_signal_that_raises() -> None:
    """Ctrl-C ends a run that looks, as one that sleeps."""

    async def main() -> None:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        await asyncio.sleep(SECONDS)

    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        whilst.run(main(), busy_poll=LONG)
    assert time.monotonic() - begin < SECONDS


def test_signal_handlers() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        came, called = asyncio.Event(), asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, came.set)
        # Not by way of the loop: it runs where the interpreter sees to signals, and nobody wakes the loop.
        before = signal.signal(signal.SIGUSR2, lambda *_: called.set())
        try:
            for number in (signal.SIGUSR1, signal.SIGUSR2):
                threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
            async with asyncio.timeout(SECONDS):
                await came.wait()
                await called.wait()
        finally:
            loop.remove_signal_handler(signal.SIGUSR1)
            signal.signal(signal.SIGUSR2, before)

    begin = time.monotonic()
    whilst.run(main(), busy_poll=LONG)
    assert time.monotonic() - begin < SECONDS


def test_stop_from_another_thread() -> None:
    with contextlib.closing(whilst.new_event_loop(busy_poll=LONG)) as loop:
        threading.Timer(0.05, loop.call_soon_threadsafe, (loop.stop,)).start()
        begin = time.monotonic()
        loop.run_forever()
        assert time.monotonic() - begin < SECONDS


# -- The GIL ---------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def switch_interval(seconds: float) -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def test_threads_need_not_ask_for_the_gil() -> None:
    """A thread with a little to do has the GIL at once: else each of these jobs would take a second or more."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        begin = time.monotonic()
        for _ in range(50):
            await loop.run_in_executor(None, time.monotonic)
        return time.monotonic() - begin

    with switch_interval(1.0):
        assert whilst.run(main(), busy_poll=LONG) < 25


class Computing:
    """A thread that keeps a core busy with Python code, and how far it has come."""

    def __enter__(self) -> "Computing":
        self.count = 0
        self.ends = False
        self.thread = threading.Thread(target=self.run)
        self.thread.start()
        return self

    def run(self) -> None:
        while not self.ends:
            self.count += 1

    def __exit__(self, *_: object) -> None:
        self.ends = True
        self.thread.join()


async def count_turns(computing: Computing, seconds: float) -> int:
    """How often in so long somebody has done a bit of work and another has come next; 0 if that is one of them alone."""
    turns, count, end = 0, computing.count, time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(0.001)
        if computing.count != count:
            turns, count = turns + 1, computing.count
    return turns


class Bouncing(asyncio.Protocol):
    """Has the next ball in the socket whenever it takes one out."""

    def __init__(self, other: socket.socket) -> None:
        self.other = other
        self.count = 0

    def data_received(self, data: bytes) -> None:
        self.count += 1
        self.other.send(data)


@pytest.mark.skipif(not has_gil, reason="there is no GIL")
def test_the_gil_is_kept_where_there_is_something_to_do() -> None:
    """Letting it go beside a thread that computes costs a switch interval, here 20 ms, so 50 balls a second at most."""

    async def main(computing: Computing) -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        with there:
            transport, protocol = await loop.create_connection(lambda: Bouncing(there), sock=here)
            there.send(b"ball")
            await asyncio.sleep(0.3)  # the loop learns
            before = computing.count, protocol.count
            await asyncio.sleep(1)
            transport.close()
            return protocol.count - before[1], computing.count - before[0]

    with switch_interval(0.02), Computing() as computing:
        balls, steps = whilst.run(main(computing))
    assert balls > 500
    assert steps > 1000


class Native(asyncio.Protocol):
    """Whose attributes can be set to functions that are not Python's."""


@pytest.mark.parametrize("busy_poll", [0, LONG])
def test_the_other_thread_has_its_turns(busy_poll: float) -> None:
    """Also beside a loop that runs no bytecode, which is where the interpreter sees to who asks for the GIL."""

    async def main(computing: Computing) -> int:
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        one, its = await loop.create_connection(Native, sock=here)
        other, others = await loop.create_connection(Native, sock=there)
        its.data_received, others.data_received = one.write, other.write  # type: ignore[method-assign]
        one.write(b"ball")
        begin = computing.count
        for _ in range(5):
            await asyncio.sleep(0.1)
            assert computing.count > begin
            begin = computing.count
        one.close()
        other.close()
        return await count_turns(computing, 0.1)

    with Computing() as computing:
        assert whilst.run(main(computing), busy_poll=busy_poll) > 0


def test_a_signal_beside_a_thread_that_computes() -> None:
    async def main() -> None:
        await asyncio.sleep(0.2)
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        await asyncio.sleep(SECONDS)

    begin = time.monotonic()
    with Computing(), pytest.raises(KeyboardInterrupt):
        whilst.run(main(), busy_poll=LONG)
    assert time.monotonic() - begin < SECONDS


@pytest.mark.skipif(not has_gil, reason="there is no GIL")
def test_one_connection_beside_a_thread_that_computes() -> None:
    """With busy_poll the loop waits for the answer of another process with the GIL in its hands."""

    async def main() -> int:
        process = await asyncio.create_subprocess_exec(
            "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None and stdout is not None
        count, end = 0, time.monotonic() + 2
        with Computing():
            while time.monotonic() < end:
                stdin.write(b"ball")
                await stdout.readexactly(4)
                count += 1
        stdin.close()
        await process.wait()
        return count

    with switch_interval(0.05):
        assert whilst.run(main(), busy_poll=LONG) > 80


def test_a_thread_that_has_ended_is_forgotten() -> None:
    """Where nobody computes any more a loop that need not sleeps at once."""

    async def main() -> float:
        with Computing():
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.1)
        return await cpu_of_a_sleep(0.2)

    assert whilst.run(main()) < 0.02


def test_the_loops_it_makes_are_factories() -> None:
    """A factory with the argument in it is what Runner and uvicorn take."""
    factory = functools.partial(whilst.new_event_loop, busy_poll=0.001)
    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.get_loop().busy_poll == 0.001  # type: ignore[attr-defined]
