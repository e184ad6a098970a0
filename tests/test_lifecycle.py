"""A loop's life: running, stopping, closing, running again elsewhere; what is left of it afterwards."""

import asyncio
import concurrent.futures
import gc
import inspect
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest
import whilst
from oracle import (
    SECONDS,
    descriptors,
    error_of,
    no_descriptor_leaks,
    program,
    run,
    same,
    socket_pair,
    stdlib_loop,
    turns,
    until,
)

pytestmark = pytest.mark.usefixtures("driver")


def factories() -> tuple[Any, Any]:
    return stdlib_loop, whilst.new_event_loop


def in_thread(function: Any, *args: Any) -> Any:
    """Call in a thread of its own. Return what it returns, raise what it raises."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *args).result(SECONDS)


# -- Running ------------------------------------------------------------------------------------------------------------------


def test_stop_before_the_run_ends_it_after_one_iteration() -> None:
    for factory in factories():
        loop = factory()
        ran: list[str] = []

        def again(loop: Any = loop, ran: Any = ran) -> None:
            ran.append("first")
            loop.call_soon(ran.append, "second")

        loop.call_soon(again)
        loop.stop()
        loop.run_forever()
        assert ran == ["first"]
        loop.stop()
        loop.run_forever()
        assert ran == ["first", "second"]
        loop.close()


def test_stop_in_a_callback_lets_the_iteration_end() -> None:
    for factory in factories():
        loop = factory()
        ran: list[int] = []
        loop.call_soon(loop.stop)
        loop.call_soon(ran.append, 1)
        loop.call_later(0, ran.append, 2)
        loop.run_forever()
        loop.close()
        assert ran[0] == 1


def test_stop_from_another_thread() -> None:
    loop = whilst.Loop()
    timer = threading.Timer(0.02, loop.call_soon_threadsafe, (loop.stop,))
    timer.start()
    loop.run_forever()
    timer.join(SECONDS)
    loop.close()


def test_runs_inside_of_runs_are_refused() -> None:
    """Not compared: CPython 3.13.0 forgets which loop runs when it refuses another, and then runs it."""

    async def nothing() -> None: ...

    async def main() -> None:
        loop = asyncio.get_running_loop()
        other = whilst.Loop()
        mine = ("RuntimeError", "This event loop is already running")
        theirs = ("RuntimeError", "Cannot run the event loop while another loop is running")
        for each, expected in ((loop, mine), (other, theirs)):
            assert error_of(each.run_forever) == expected
            assert error_of(each.run_until_complete, each.create_future()) == expected
            coroutine = nothing()
            assert error_of(each.run_until_complete, coroutine) == expected
            coroutine.close()
        coroutine = nothing()
        words = "asyncio.run() cannot be called from a running event loop"
        assert error_of(asyncio.run, coroutine) == ("RuntimeError", words)
        coroutine.close()
        assert error_of(loop.close) == ("RuntimeError", "Cannot close a running event loop")
        assert asyncio.get_running_loop() is loop
        assert (other.is_running(), loop.is_running(), loop.is_closed()) == (False, True, False)
        other.close()
        await turns()

    run(main())


def test_a_run_in_two_threads_at_once_is_refused() -> None:
    loop = whilst.Loop()
    started = threading.Event()
    loop.call_soon(started.set)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    assert started.wait(SECONDS)
    with pytest.raises(RuntimeError, match="This event loop is already running"):
        loop.run_forever()
    with pytest.raises(RuntimeError, match="Cannot close a running event loop"):
        loop.close()
    loop.call_soon_threadsafe(loop.stop)
    thread.join(SECONDS)
    assert not loop.is_running()
    loop.close()


def test_run_until_complete() -> None:
    for factory in factories():
        loop = factory()
        notes: list[Any] = []

        async def value() -> int:
            await asyncio.sleep(0)
            return 7

        async def fail() -> None:
            raise LookupError("x")

        async def stop(loop: Any = loop) -> None:
            loop.stop()
            await asyncio.sleep(10)

        notes.append(loop.run_until_complete(value()))
        notes.append(error_of(loop.run_until_complete, fail()))
        notes.append(error_of(loop.run_until_complete, stop()))
        notes.append(error_of(loop.run_until_complete, 5))
        done = loop.create_future()
        done.set_result("done")
        notes.append(loop.run_until_complete(done))
        cancelled = loop.create_future()
        cancelled.cancel()
        notes.append(error_of(loop.run_until_complete, cancelled))
        notes.append(error_of(loop.run_until_complete, factories()[0]))
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        if factory is stdlib_loop:
            expected = notes
    assert notes[:6] == expected[:6]
    assert notes[6][0] == expected[6][0]


def test_the_running_loop() -> None:
    loop = whilst.Loop()
    seen: list[Any] = []
    loop.call_soon(lambda: seen.extend([asyncio.get_running_loop(), asyncio.get_event_loop()]))
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == [loop, loop]
    assert asyncio._get_running_loop() is None
    loop.close()


# -- In one thread, then in another -------------------------------------------------------------------------------------------


def move_between_threads() -> None:
    """A server, a connection in both directions, a reader, a timer: each goes on in each thread."""
    loop = whilst.Loop()
    received: list[bytes] = []
    readable: list[bytes] = []

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data.upper())
            await writer.drain()
        writer.close()

    async def begin() -> Any:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        return server, reader, writer

    async def use(round_: int) -> None:
        data = f"round {round_}".encode()
        writer.write(data)
        received.append(await asyncio.wait_for(reader.readexactly(len(data)), SECONDS))
        # And a new connection.
        other_reader, other_writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        other_writer.write(b"x")
        assert await asyncio.wait_for(other_reader.readexactly(1), SECONDS) == b"X"
        other_writer.close()
        await other_writer.wait_closed()
        first.send(data)
        while len(readable) <= round_:
            await asyncio.sleep(0.001)

    async def end() -> None:
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        loop.remove_reader(second)
        # The server's ends close, too.
        await until(lambda: len(asyncio.all_tasks()) == 1)
        await turns()

    with socket_pair() as (first, second):
        server, reader, writer = loop.run_until_complete(begin())
        loop.add_reader(second, lambda: readable.append(second.recv(100)))
        ticks: list[int] = []

        def tick() -> None:
            ticks.append(threading.get_ident())
            nonlocal timer
            timer = loop.call_later(0.001, tick)

        timer = loop.call_soon(tick)
        for round_ in range(6):
            if round_ % 2:
                in_thread(loop.run_until_complete, use(round_))
            else:
                loop.run_until_complete(use(round_))
        assert len(set(ticks)) >= 2
        timer.cancel()
        in_thread(loop.run_until_complete, end())
        loop.close()
    assert received == [f"ROUND {number}".encode() for number in range(6)]
    assert readable == [f"round {number}".encode() for number in range(6)]


def test_a_loop_moves_between_threads_with_all_that_is_open() -> None:
    with no_descriptor_leaks():
        for _ in range(5):
            move_between_threads()


def test_bytes_that_come_between_two_runs_are_there_in_the_next() -> None:
    loop = whilst.Loop()
    with socket_pair() as (first, second):

        class Note(asyncio.Protocol):
            data = b""
            lost = False

            def data_received(self, data: bytes) -> None:
                self.data += data

            def connection_lost(self, exc: Exception | None) -> None:
                self.lost = True

        transport, protocol = loop.run_until_complete(loop.create_connection(Note, sock=second.dup()))
        for number in range(20):
            first.send(bytes([number]) * 1000)
            if number % 3 == 0:
                loop.run_until_complete(asyncio.sleep(0))
            elif number % 3 == 1:
                in_thread(loop.run_until_complete, asyncio.sleep(0.001))
        first.shutdown(socket.SHUT_WR)
        second.close()
        loop.run_until_complete(wait_for_loss(protocol))
        loop.close()
        assert protocol.data == b"".join(bytes([number]) * 1000 for number in range(20))


async def wait_for_loss(protocol: Any) -> None:
    end = time.monotonic() + SECONDS
    while not protocol.lost:
        assert time.monotonic() < end
        await asyncio.sleep(0.001)


def test_what_is_written_leaves_at_the_end_of_the_run() -> None:
    """Also if the loop does not run again, and if it is closed at once."""
    for closes in (False, True):
        loop = whilst.Loop()
        with socket_pair() as (first, second):

            async def main(second: socket.socket = second) -> Any:
                transport, _ = await asyncio.get_running_loop().create_connection(
                    asyncio.Protocol, sock=second.dup()
                )
                transport.write(b"first")
                transport.write(b" last")
                return transport

            transport = loop.run_until_complete(main())
            if closes:
                with pytest.warns(ResourceWarning, match="unclosed transport"):
                    loop.close()
                    del transport
                    gc.collect()
            first.setblocking(True)
            first.settimeout(SECONDS)
            assert first.recv(100) == b"first last"
            if not closes:
                transport.close()
                loop.run_until_complete(asyncio.sleep(0.001))
                loop.close()


def test_written_between_two_runs() -> None:
    """CPython's loop sends at once; at the latest it must leave when the loop is closed, or the next run begins."""
    loop = whilst.Loop()
    with socket_pair() as (first, second):
        transport, _ = loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=second.dup()))
        transport.write(b"between")
        loop.run_until_complete(asyncio.sleep(0))
        assert first.recv(100) == b"between"
        transport.write(b"again")
        transport.close()
        loop.run_until_complete(asyncio.sleep(0.001))
        assert first.recv(100) == b"again"
        second.close()
        assert first.recv(100) == b""
        loop.close()


# -- Closing ------------------------------------------------------------------------------------------------------------------


def test_close_twice_and_what_is_refused_afterwards() -> None:
    """Every method, called on a closed loop with arguments that it takes: the exception is CPython's."""

    async def nothing() -> None: ...

    with socket_pair() as (first, _):
        plain: dict[str, tuple[Any, ...]] = {
            "call_soon": (print,),
            "call_later": (1, print),
            "call_at": (1, print),
            "call_soon_threadsafe": (print,),
            "run_forever": (),
            "run_until_complete": ("future",),
            "stop": (),
            "close": (),
            "is_running": (),
            "is_closed": (),
            "get_debug": (),
            "set_debug": (True,),
            "create_future": (),
            "create_task": ("coroutine",),
            "add_reader": (first, print),
            "add_writer": (first, print),
            "remove_reader": (first,),
            "remove_writer": (first,),
            "add_signal_handler": (signal.SIGUSR1, print),
            "remove_signal_handler": (signal.SIGUSR1,),
            "run_in_executor": (None, print),
            "set_default_executor": ("executor",),
            "set_exception_handler": (None,),
            "get_exception_handler": (),
            "set_task_factory": (None,),
            "get_task_factory": (),
        }
        records = []
        for factory in factories():
            loop = factory()
            loop.close()
            loop.close()
            record = {}
            for name, arguments in plain.items():
                coroutine = nothing()
                executor = concurrent.futures.ThreadPoolExecutor(1)
                special = {"future": coroutine, "coroutine": coroutine, "executor": executor}
                given = [
                    special.get(argument, argument) if isinstance(argument, str) else argument
                    for argument in arguments
                ]
                record[name] = error_of(getattr(loop, name), *given)
                coroutine.close()
                executor.shutdown()
            for method in ("sock_recv", "sock_accept"):
                coroutine = getattr(loop, method)(first, *([10] if method == "sock_recv" else []))
                record[method] = error_of(coroutine.send, None)
                coroutine.close()
            coroutine = loop.shutdown_asyncgens()
            record["shutdown_asyncgens"] = error_of(coroutine.send, None)
            for name, text in (("is_closed", True), ("is_running", False)):
                record[name + " is"] = (getattr(loop, name)(), text)  # type: ignore[assignment]
            records.append(record)
    assert records[1] == records[0]


def test_used_after_close_by_a_coroutine() -> None:
    """`sock_*`, connections and servers of a closed loop, awaited on another one."""

    async def scenario(notes: list[Any]) -> None:
        closed = type(asyncio.get_running_loop())()
        closed.close()
        with socket_pair() as (first, second):
            second.send(b"x")
            calls = {
                "recv": lambda: closed.sock_recv(first, 10),
                "recv waits": lambda: closed.sock_recv(first, 10),
                "connection": lambda: closed.create_connection(asyncio.Protocol, "127.0.0.1", 1),
                "getaddrinfo": lambda: closed.getaddrinfo("localhost", 1),
            }
            for name, call in calls.items():
                try:
                    result = await call()
                except Exception as error:
                    notes.append((name, type(error).__name__, str(error)))
                else:
                    notes.append((name, result if isinstance(result, bytes) else "worked"))

    notes = same_but_literals(scenario)
    assert ("recv waits", "RuntimeError", "Event loop is closed") in notes


def same_but_literals(scenario: Any) -> list[Any]:
    """As `same`, but for what whilst resolves without an executor."""
    from oracle import notes_of

    expected = notes_of(scenario, stdlib_loop)
    actual = notes_of(scenario, whilst.new_event_loop)
    for wanted, got in zip(expected, actual, strict=True):
        assert got[0] == wanted[0]
        if got[0] in ("recv", "recv waits"):
            assert got == wanted
        else:
            assert got[1] in ("RuntimeError", "worked")
    return actual


def test_an_unclosed_loop_warns() -> None:
    for factory in factories():
        loop = factory()
        text = repr(loop)
        with pytest.warns(ResourceWarning, match="unclosed event loop") as caught:
            del loop
            gc.collect()
        messages = [str(warning.message) for warning in caught]
        assert any(text in message for message in messages), messages


def test_repr() -> None:
    loop = whilst.Loop()
    assert repr(loop) == "<Loop running=False closed=False debug=False>"
    loop.set_debug(True)
    texts: list[str] = []
    loop.call_soon(lambda: texts.append(repr(loop)))
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert texts == ["<Loop running=True closed=False debug=True>"]
    loop.close()
    assert repr(loop) == "<Loop running=False closed=True debug=True>"


def test_a_loop_is_collected_with_all_that_is_open() -> None:
    """Nobody refers to the loop, its server or its connections: descriptors are closed, with warnings."""

    class Keep(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

    with no_descriptor_leaks():
        loop: Any = whilst.Loop()

        async def begin() -> Any:
            server = await loop.create_server(Keep, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            pairs = [await loop.create_connection(Keep, *address) for _ in range(5)]
            await asyncio.sleep(0.01)
            pairs[0][0].write(b"x" * 10_000_000)  # Not all of it leaves.
            pairs[1][0].pause_reading()
            loop.call_later(1000, print, pairs)
            loop.create_task(asyncio.sleep(1000))
            return weakref.ref(loop)

        with socket_pair() as (first, second):
            loop.add_reader(first, print, loop)
            loop.add_writer(second, print, loop)
            reference = loop.run_until_complete(begin())
            loop.remove_writer(second)
            with pytest.warns(ResourceWarning):
                logging.disable(logging.ERROR)  # A pending task is destroyed, which is said, too.
                del loop, begin
                gc.collect()
                gc.collect()
                logging.disable(logging.NOTSET)
            assert reference() is None


def test_closing_a_loop_closes_nothing_that_is_not_its_own() -> None:
    loop = whilst.Loop()
    with socket_pair() as (first, second):
        loop.add_reader(first, print)
        loop.add_writer(second, print)
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()
        first.send(b"x")
        assert second.recv(1) == b"x"


def test_the_peer_of_a_closed_loops_watched_socket_sees_its_end() -> None:
    """The loop is closed, then the socket: nothing of the loop keeps the connection open."""
    for factory in factories():
        loop = factory()
        with socket_pair(socket.AF_INET) as (first, second):
            loop.add_reader(second, print)
            loop.call_soon(loop.stop)
            loop.run_forever()
            loop.close()
            second.close()
            first.setblocking(True)
            first.settimeout(SECONDS)
            assert first.recv(1) == b""


# -- Asynchronous generators and executors ------------------------------------------------------------------------------------


def test_asynchronous_generators_are_finalized() -> None:
    async def scenario(notes: list[Any]) -> None:
        async def numbers(name: str) -> AsyncIterator[int]:
            try:
                for number in range(10):
                    yield number
            finally:
                await asyncio.sleep(0)
                notes.append((name, "finalized"))

        async for _ in numbers("dropped"):
            break
        gc.collect()
        await turns(10)
        notes.append("after the collection")
        kept = numbers("kept")
        await kept.__anext__()
        await asyncio.get_running_loop().shutdown_asyncgens()
        notes.append("shut down")

    assert ("dropped", "finalized") in same(scenario)


def test_asynchronous_generators_after_shutdown_warn() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        await loop.shutdown_asyncgens()

        async def numbers() -> AsyncIterator[int]:
            yield 1

        with pytest.warns(ResourceWarning, match="was scheduled after"):
            async for _ in numbers():
                pass

    run(main())


def test_hooks_are_put_back() -> None:
    before = sys.get_asyncgen_hooks()
    run(asyncio.sleep(0))
    assert sys.get_asyncgen_hooks() == before


def test_executors() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        main = threading.get_ident()
        notes.append(await loop.run_in_executor(None, threading.get_ident) != main)
        with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="own") as pool:
            name = await loop.run_in_executor(pool, lambda: threading.current_thread().name)
            notes.append(name)
        try:
            await loop.run_in_executor(None, int, "x")
        except ValueError as error:
            notes.append(str(error))
        notes.append(error_of(loop.set_default_executor, object()))
        results = await asyncio.gather(*(loop.run_in_executor(None, pow, 2, number) for number in range(50)))
        notes.append(results)
        await loop.shutdown_default_executor()
        notes.append(error_of(loop.run_in_executor, None, print))

    same(scenario)


def test_the_executor_ends_with_asyncio_run() -> None:
    async def main() -> None:
        await asyncio.to_thread(time.sleep, 0)

    before = threading.active_count()
    run(main())
    assert threading.active_count() == before


# -- Debug mode ---------------------------------------------------------------------------------------------------------------


def test_slow_callbacks_are_reported_in_debug_mode(caplog: pytest.LogCaptureFixture) -> None:
    records = []
    for factory in factories():
        loop = factory()
        loop.set_debug(True)
        loop.slow_callback_duration = 0.02

        async def slow() -> None:
            time.sleep(0.03)

        def slow_callback() -> None:
            time.sleep(0.03)

        caplog.clear()
        with caplog.at_level(logging.WARNING, "asyncio"):
            loop.call_soon(slow_callback)
            loop.call_later(0, slow_callback)
            loop.run_until_complete(slow())
            loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()
        records.append(
            [
                re.sub(r"\d+\.\d+", "N", record.getMessage().partition(" cb=")[0].partition("> result")[0])
                for record in caplog.records
                # The watchdog of whilst's, which says the same while it happens, has a logger of its own.
                if record.name == "asyncio"
            ]
        )
        for record in records:
            for index, text in enumerate(record):
                record[index] = re.sub(r"(created at|when=).*", "", re.sub(r"Task-\d+", "Task", text))
    assert sorted(records[0]) == sorted(records[1])
    assert len(records[1]) == 3


def test_calls_from_another_thread_are_refused_in_debug_mode() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        calls: list[Any] = [
            lambda: loop.call_soon(print),
            lambda: loop.call_later(1, print),
            lambda: loop.call_at(1, print),
            lambda: loop.call_soon_threadsafe(lambda: notes.append("safe")),
        ]
        for call in calls:
            notes.append(await asyncio.to_thread(error_of, call))
        await turns()
        notes.remove("safe")

    same(scenario, debug=True)


def test_coroutines_origins_are_tracked_in_debug_mode() -> None:
    before = sys.get_coroutine_origin_tracking_depth()

    async def main() -> tuple[int, int, int]:
        loop = asyncio.get_running_loop()
        on = sys.get_coroutine_origin_tracking_depth()
        loop.set_debug(False)
        await turns()
        off = sys.get_coroutine_origin_tracking_depth()
        loop.set_debug(True)
        await turns()
        return on, off, sys.get_coroutine_origin_tracking_depth()

    on, off, again = run(main(), debug=True)
    assert on == again > 0 == off
    assert sys.get_coroutine_origin_tracking_depth() == before


def test_debug_mode_is_taken_from_the_interpreter() -> None:
    source = "import whilst; loop = whilst.Loop(); print(loop.get_debug()); loop.close()"
    assert program(source, options=("-X", "dev")).stdout == "True\n"
    assert program(source, env={**os.environ, "PYTHONASYNCIODEBUG": "1"}).stdout == "True\n"
    assert program(source).stdout == "False\n"


# -- Many loops ---------------------------------------------------------------------------------------------------------------


def test_thousands_of_loops_leave_nothing_behind() -> None:
    """Loops that only compute, loops that wait, and loops that talk."""

    async def talk() -> None:
        with socket_pair() as (first, second):
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(first, b"x")
            assert await loop.sock_recv(second, 10) == b"x"
            reading = loop.create_task(loop.sock_recv(second, 10))
            await asyncio.sleep(0)
            await loop.sock_sendall(first, b"y")
            assert await reading == b"y"

    async def nothing() -> None: ...

    def life(number: int) -> None:
        loop = whilst.Loop()
        if number % 4 == 0:
            loop.run_until_complete(talk())
        elif number % 4 == 1:
            loop.run_until_complete(asyncio.sleep(0))
        elif number % 4 == 2:
            loop.call_soon(print, "never")
        else:
            loop.run_until_complete(nothing())
        loop.close()

    def memory() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    for number in range(200):
        life(number)
    gc.collect()
    blocks, resident, open_before = sys.getallocatedblocks(), memory(), len(descriptors())
    for number in range(2000):
        life(number)
    gc.collect()
    assert len(descriptors()) <= open_before
    assert sys.getallocatedblocks() - blocks < 2000
    assert memory() - resident < 16 * 2**20


def test_many_loops_at_once() -> None:
    loops = [whilst.Loop() for _ in range(50)]
    for loop in loops:
        loop.run_until_complete(asyncio.sleep(0.0001))
    with no_descriptor_leaks():
        for loop in loops:
            loop.run_until_complete(asyncio.sleep(0))
    for loop in loops:
        loop.close()


def test_a_closed_loop_has_no_descriptor() -> None:
    """Although it is still referred to."""
    loops = []
    before = descriptors()
    for number in range(20):
        loop = whilst.Loop()
        loop.run_until_complete(asyncio.sleep(0.0001))
        if number % 2:
            with socket_pair() as (first, _second):
                loop.add_reader(first, print)
                loop.run_until_complete(asyncio.sleep(0.0001))
                loop.remove_reader(first)
        loop.close()
        loops.append(loop)
    assert descriptors() <= before


def test_loops_in_many_threads() -> None:
    async def work() -> int:
        with socket_pair() as (first, second):
            loop = asyncio.get_running_loop()
            total = 0
            for number in range(50):
                task = loop.create_task(loop.sock_recv(second, 100))
                await asyncio.sleep(0)
                await loop.sock_sendall(first, bytes(number + 1))
                total += len(await task)
            return total

    results: list[int] = []

    def thread() -> None:
        for _ in range(5):
            results.append(run(work()))

    with no_descriptor_leaks():
        threads = [threading.Thread(target=thread) for _ in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(SECONDS)
    assert results == [sum(range(51))] * 40


# -- Forks --------------------------------------------------------------------------------------------------------------------

FORK = """
    import asyncio, os, sys, warnings, whilst

    warnings.simplefilter("ignore", DeprecationWarning)

    async def echo(reader, writer):
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    async def conversation(rounds):
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for number in range(rounds):
            writer.write(b"%d\\n" % number)
            assert await asyncio.wait_for(reader.readline(), 5) == b"%d\\n" % number
        writer.close()
        server.close()

    async def main():
        loop = asyncio.get_running_loop()
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"before\\n")
        assert await reader.readline() == b"before\\n"
        child = os.fork()
        if not child:
            try:
                if sys.argv[1] == "new":
                    asyncio._set_running_loop(None)
                    whilst.run(conversation(20))
                elif sys.argv[1] == "collect":
                    import gc
                    gc.collect()
                os._exit(0)
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(1)
        for number in range(20):
            writer.write(b"%d\\n" % number)
            assert await asyncio.wait_for(reader.readline(), 5) == b"%d\\n" % number
        status = await asyncio.to_thread(os.waitpid, child, 0)
        assert status[1] == 0, status
        # Another one connects, for the listening socket is not the child's.
        other, other_writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        other_writer.write(b"after\\n")
        assert await asyncio.wait_for(other.readline(), 5) == b"after\\n"
        for each in (writer, other_writer):
            each.close()
        server.close()
        print("fine")

    whilst.run(main())
"""


@pytest.mark.parametrize("what", ["new", "collect", "exit"])
def test_a_fork_of_a_running_loop(what: str) -> None:
    """The child can make and run a loop of its own; the parent goes on as if nothing had happened."""
    result = program(FORK, what)
    assert (result.stdout, result.returncode) == ("fine\n", 0), result.stderr


def test_a_forked_child_ends_normally_with_the_parents_loop_in_it() -> None:
    result = program(
        """
        import asyncio, os, sys, whilst
        loop = whilst.Loop()

        async def main():
            server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
            return server

        server = loop.run_until_complete(main())
        child = os.fork()
        if not child:
            server.close()
            loop.run_until_complete(asyncio.sleep(0.01))
            loop.close()
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0

        async def use():
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()
            server.close()

        loop.run_until_complete(use())
        loop.close()
        print("fine")
        """
    )
    assert (result.stdout, result.returncode) == ("fine\n", 0), result.stderr


# -- The class ----------------------------------------------------------------------------------------------------------------


#: Where the abstract class and CPython's own loops differ already.
OWN_PARAMETERS = {"create_task", "create_datagram_endpoint"}


def test_every_method_of_asyncios_loop_is_there_with_its_parameters() -> None:
    for name, method in inspect.getmembers(asyncio.AbstractEventLoop, inspect.isfunction):
        if name.startswith("_"):
            continue
        ours = getattr(whilst.Loop, name)
        assert ours is not method, f"{name} is not implemented"
        theirs = getattr(asyncio.SelectorEventLoop, name)
        parameters = list(inspect.signature(method).parameters)
        assert inspect.iscoroutinefunction(ours) == inspect.iscoroutinefunction(theirs), name
        try:
            signature = inspect.signature(ours)
        except ValueError:
            continue
        assert set(parameters) <= set(signature.parameters) or name in OWN_PARAMETERS, name


def test_a_loop_takes_attributes_subclasses_and_weak_references() -> None:
    class Own(whilst.Loop):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
            calls.append(callback)
            return super().call_soon(callback, *args, context=context)

    calls: list[Any] = []
    loop = Own("mine")
    assert weakref.ref(loop)() is loop
    assert isinstance(loop, asyncio.AbstractEventLoop)
    assert loop.run_until_complete(asyncio.sleep(0, "result")) == "result"
    assert calls
    loop.close()
