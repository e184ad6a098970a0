"""Loops in several threads at once, with work passed between them and the garbage collected all the while.

For builds without a GIL above all, where nothing but whilst's own locks stands between the threads; with a GIL the threads
take turns as often as the interpreter can be made to.
"""

import asyncio
import contextlib
import gc
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import whilst

#: No wait is longer, in seconds.
SECONDS = 60.0

THREADS = 4

FREE_THREADED = not getattr(sys, "_is_gil_enabled", lambda: True)()


@pytest.fixture(autouse=True)
def _take_turns_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@contextlib.contextmanager
def collecting(*, tasks: bool = True) -> Iterator[None]:
    """Collect the garbage in a thread of its own for as long as this lasts.

    Not where there are `tasks` and no GIL, which CPython's own objects do not stand. With 3.14.5 these very tests end
    now and then in a segmentation fault in `PyObject_ClearWeakRefs`, for a task, on asyncio's own loop as on this one.
    """
    if tasks and FREE_THREADED:
        yield
        return
    over = threading.Event()

    def collect() -> None:
        while not over.wait(0.002):
            gc.collect()

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(SECONDS)


def in_threads(count: int, body: Callable[[int], Any]) -> list[Any]:
    """Run `body(number)` in so many threads at once. Return what they return, or raise what the first failed one raised."""
    results: list[Any] = [None] * count
    failures: list[BaseException] = []
    start = threading.Barrier(count)

    def run(number: int) -> None:
        try:
            start.wait(SECONDS)
            results[number] = body(number)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    if failures:
        raise failures[0]
    assert not any(thread.is_alive() for thread in threads), "a thread does not end"
    return results


def limited(main: Any) -> Any:
    """Run a coroutine on a new loop of whilst's, within the limit of time, with its exception handler strict."""
    reports: list[dict[str, Any]] = []

    async def within() -> Any:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reports.append(context))
        return await asyncio.wait_for(main, SECONDS)

    with asyncio.Runner(loop_factory=whilst.new_event_loop) as runner:
        result = runner.run(within())
    assert reports == []
    return result


class Meeting:
    """Where the threads of a test exchange their loops."""

    def __init__(self, count: int = THREADS) -> None:
        self.loops: list[Any] = [None] * count
        self.barrier = threading.Barrier(count)

    async def join(self, number: int) -> None:
        """Note this thread's loop and wait for the others' (which blocks the loop: nothing else runs yet)."""
        self.loops[number] = asyncio.get_running_loop()
        self.barrier.wait(SECONDS)

    async def part(self) -> None:
        """Wait until all others are done with this loop."""
        await asyncio.to_thread(self.barrier.wait, SECONDS)


@pytest.mark.skipif(not FREE_THREADED, reason="this Python has a GIL")
def test_importing_leaves_the_gil_off() -> None:
    program = (
        "import sys, whilst._whilst, asyncio\n"
        "assert not sys._is_gil_enabled()\n"
        "whilst.run(asyncio.sleep(0))\n"
        "assert not sys._is_gil_enabled()\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr


def test_callbacks_go_round_between_loops(driver: str) -> None:
    rounds, tokens = 100, 20
    meeting = Meeting()

    async def main(number: int) -> int:
        await meeting.join(number)
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        seen = 0

        def take(token: int, hops: int) -> None:
            nonlocal seen
            assert asyncio.get_running_loop() is loop
            seen += 1
            following = (number + 1) % THREADS
            if hops < rounds * THREADS:
                meeting.loops[following].call_soon_threadsafe(takes[following], token, hops + 1)
            if seen == rounds * tokens:
                done.set_result(None)

        takes[number] = take
        meeting.barrier.wait(SECONDS)
        if number == 0:
            for token in range(tokens):
                meeting.loops[0].call_soon_threadsafe(take, token, 1)
        await done
        await meeting.part()
        return seen

    takes: list[Any] = [None] * THREADS
    with collecting():
        seen = in_threads(THREADS, lambda number: limited(main(number)))
    assert seen == [rounds * tokens] * THREADS


def test_coroutines_run_on_each_others_loops(driver: str) -> None:
    calls = 150
    meeting = Meeting()

    async def work(value: int) -> int:
        await asyncio.sleep(0)
        return value * 2

    async def wait_for_ever() -> None:
        await asyncio.get_running_loop().create_future()

    async def main(number: int) -> int:
        await meeting.join(number)
        total = 0
        for call in range(calls):
            other = meeting.loops[(number + 1 + call) % THREADS]
            future = asyncio.run_coroutine_threadsafe(work(call), other)
            hopeless = asyncio.run_coroutine_threadsafe(wait_for_ever(), other)
            total += await asyncio.wrap_future(future)
            hopeless.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wrap_future(hopeless)
        await meeting.part()
        return total

    with collecting():
        totals = in_threads(THREADS, lambda number: limited(main(number)))
    assert totals == [sum(2 * call for call in range(calls))] * THREADS


def test_transports_are_written_to_by_callbacks_from_other_threads(driver: str) -> None:
    writes, size = 120, 3000
    meeting = Meeting()
    transports: list[Any] = [None] * THREADS

    async def main(number: int) -> int:
        loop = asyncio.get_running_loop()
        received = 0
        complete = loop.create_future()

        class Reader(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                nonlocal received
                received += len(data)
                if received == writes * size * (THREADS - 1):
                    complete.set_result(None)

        one, other = socket.socketpair()
        transports[number], _ = await loop.create_connection(asyncio.Protocol, sock=one)
        reading, _ = await loop.create_connection(Reader, sock=other)
        await meeting.join(number)
        for write in range(writes):
            for to in range(THREADS):
                if to != number:
                    data: Any = bytes(size) if write % 2 else bytearray(size)
                    meeting.loops[to].call_soon_threadsafe(transports[to].write, data)
            if write % 10 == 0:
                await asyncio.sleep(0)
        await complete
        await meeting.part()
        transports[number].close()
        reading.close()
        await asyncio.sleep(0)
        return received

    with collecting():
        received = in_threads(THREADS, lambda number: limited(main(number)))
    assert received == [writes * size * (THREADS - 1)] * THREADS


def test_tasks_are_cancelled_from_other_threads(driver: str) -> None:
    tasks = 200
    meeting = Meeting()

    async def main(number: int) -> int:
        await meeting.join(number)
        other = meeting.loops[(number + 1) % THREADS]

        async def sleep() -> None:
            try:
                await asyncio.sleep(SECONDS)
            finally:
                other.call_soon_threadsafe(int)

        mine = [asyncio.create_task(sleep(), name=f"{number}.{index}") for index in range(tasks)]
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) > tasks
        for task in mine:
            # Over to the other loop, and from there back.
            other.call_soon_threadsafe(asyncio.get_running_loop().call_soon_threadsafe, task.cancel)
        ended = await asyncio.gather(*mine, return_exceptions=True)
        await meeting.part()
        return sum(isinstance(it, asyncio.CancelledError) for it in ended)

    with collecting():
        cancelled = in_threads(THREADS, lambda number: limited(main(number)))
    assert cancelled == [tasks] * THREADS


def test_handles_are_cancelled_while_they_may_run(driver: str) -> None:
    handles = 400

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ran: set[int] = set()

        def send() -> list[tuple[int, bool]]:
            outcomes = []
            for index in range(handles):
                handle = loop.call_soon_threadsafe(ran.add, index)
                repr(handle)
                handle.cancel()
                handle.cancel()
                outcomes.append((index, handle.cancelled()))
            return outcomes

        sent = await asyncio.gather(*(asyncio.to_thread(send) for _ in range(THREADS)))
        assert all(was_cancelled for outcomes in sent for _, was_cancelled in outcomes)
        await asyncio.sleep(0)
        assert ran <= set(range(handles))

    with collecting():
        limited(main())


def test_a_cancelled_handle_does_not_run_once_cancel_has_returned(driver: str) -> None:
    if sys.version_info < (3, 14):
        pytest.skip("call_soon_threadsafe() returns such handles from Python 3.14 on")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        late: list[int] = []

        def send() -> None:
            for index in range(300):
                over = threading.Event()
                handle = loop.call_soon_threadsafe(
                    lambda over=over, index=index: over.is_set() and late.append(index)
                )
                handle.cancel()
                over.set()

        await asyncio.gather(*(asyncio.to_thread(send) for _ in range(THREADS)))
        assert late == []

    limited(main())


def test_loops_are_made_and_closed_all_the_time(driver: str) -> None:
    loops = 25

    async def exchange() -> bytes:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readexactly(5))
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello")
            data = await reader.read()
            writer.close()
            await writer.wait_closed()
        return data

    def body(number: int) -> int:
        right = 0
        for _ in range(loops):
            right += limited(exchange()) == b"hello"
            # And one that is left with all it has, for the collector.
            loop: Any = whilst.new_event_loop()
            loop.call_soon(lambda loop=loop: loop)
            timer = loop.call_later(1000, loop.stop)
            loop.add_reader(sockets[number][0], loop.stop)
            loop.close()
            del loop, timer
        return right

    sockets = [socket.socketpair() for _ in range(THREADS)]
    try:
        with collecting():
            assert in_threads(THREADS, body) == [loops] * THREADS
    finally:
        for pair in sockets:
            for end in pair:
                end.close()


def test_a_loop_is_closed_while_others_send_to_it(driver: str) -> None:
    async def main(number: int) -> int:
        targets: list[Any] = []
        for _ in range(20):
            loop = whilst.new_event_loop()
            targets.append(loop)
            over = threading.Event()

            def send(loop: Any = loop, over: threading.Event = over) -> int:
                sent = 0
                with contextlib.suppress(RuntimeError):  # Event loop is closed
                    while not over.is_set():
                        loop.call_soon_threadsafe(int)
                        sent += 1
                return sent

            sending = asyncio.create_task(asyncio.to_thread(send))
            await asyncio.sleep(0.002)
            loop.close()
            over.set()
            await sending
        return len(targets)

    with collecting():
        assert in_threads(2, lambda number: limited(main(number))) == [20, 20]


def test_loops_are_garbage_while_another_thread_collects(driver: str) -> None:
    """Everything of a loop's that refers to something, without a task: see `collecting`."""
    sockets = [socket.socketpair() for _ in range(THREADS)]

    class Cycle:
        def __init__(self, loop: Any) -> None:
            self.loop = loop
            self.handles = [
                loop.call_soon(self.call, 1, 2, 3, 4),
                loop.call_soon_threadsafe(self.call),
                loop.call_later(1000, self.call, self),
            ]
            loop.call_later(1000, self.call).cancel()
            loop.set_exception_handler(self.call)
            loop.set_task_factory(self.call)

        def call(self, *args: Any) -> None:
            pass

    def body(number: int) -> int:
        ran = 0
        for index in range(60):
            loop: Any = whilst.new_event_loop()
            Cycle(loop)
            loop.add_reader(sockets[number][0], Cycle.call, loop)
            loop.add_writer(sockets[number][1], loop.stop)
            for hop in range(50):
                loop.call_soon(lambda hop=hop, loop=loop: loop.call_soon(Cycle, loop))
            loop.run_forever()
            ran += 1
            loop.remove_reader(sockets[number][0])
            loop.remove_writer(sockets[number][1])
            if index % 2:
                Cycle(loop)
            loop.close()
        return ran

    try:
        with collecting(tasks=False):
            assert in_threads(THREADS, body) == [60] * THREADS
    finally:
        for pair in sockets:
            for end in pair:
                end.close()
