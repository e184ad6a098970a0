"""``add_reader`` and ``add_writer``."""

import asyncio
import contextlib
import gc
import os
import select
import socket
import tempfile
import threading
import time
import weakref
from typing import Any

import pytest
import whilst
from oracle import (
    SECONDS,
    error_of,
    handler_notes,
    no_descriptor_leaks,
    run,
    same,
    socket_pair,
    turns,
    until,
)

pytestmark = pytest.mark.usefixtures("driver")


def test_readers_and_writers_are_called_with_their_arguments() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (first, second):

            def readable(*args: object) -> None:
                notes.append(("readable", args, second.recv(10)))
                notes.append(loop.remove_reader(second))

            def writable(*args: object) -> None:
                notes.append(("writable", args))
                notes.append(loop.remove_writer(first))

            notes.append(loop.add_reader(second, readable, 1, 2, 3, 4, 5))
            notes.append(loop.add_writer(first.fileno(), writable, None))
            await until(lambda: len(notes) > 3)
            first.send(b"x")
            await until(lambda: len(notes) > 5)
            notes.append((loop.remove_reader(second), loop.remove_writer(first)))

    same(scenario)


def test_level_triggered_until_read() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        calls: list[int] = []
        with socket_pair() as (first, second):
            loop.add_reader(second, calls.append, 1)
            await asyncio.sleep(0.005)
            assert not calls
            first.send(b"abc")
            await until(lambda: len(calls) >= 20)
            assert second.recv(2) == b"ab"
            count = len(calls)
            await until(lambda: len(calls) >= count + 20)
            assert second.recv(2) == b"c"
            await turns(3)
            count = len(calls)
            await asyncio.sleep(0.005)
            assert len(calls) == count
            first.close()
            await until(lambda: len(calls) >= count + 20)  # The end of the stream is readable, too.
            loop.remove_reader(second)

    run(main())


def test_each_ready_descriptor_is_said_once_an_iteration() -> None:
    """A reader that does not read does not starve others, nor is it called twice in one iteration."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (first, second):
            counts = {"reader": 0, "iteration": 0}

            def iteration() -> None:
                counts["iteration"] += 1
                handle[0] = loop.call_soon(iteration)

            def reader() -> None:
                counts["reader"] += 1

            handle = [loop.call_soon(iteration)]
            first.send(b"x")
            loop.add_reader(second, reader)
            await until(lambda: counts["reader"] > 100)
            loop.remove_reader(second)
            handle[0].cancel()
            assert counts["reader"] <= counts["iteration"] + 1

    run(main())


def test_a_second_reader_takes_the_place_of_the_first() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop: Any = asyncio.get_running_loop()
        with socket_pair() as (first, second):
            one = loop._add_reader(second.fileno(), notes.append, "first")
            loop.add_reader(second, notes.append, "second")
            notes.append(one.cancelled())
            first.send(b"x")
            await until(lambda: "second" in notes)
            notes.append(loop.remove_reader(second))
            notes.append(loop.remove_reader(second))
            await turns()
            notes[:] = [note for note in notes if note != "second"]

    same(scenario)


def test_replaced_and_removed_in_the_iteration_in_which_they_are_ready() -> None:
    """What was removed is not called any more, although its descriptor had been found ready."""

    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (a, b), socket_pair() as (c, d):

            def called(me: socket.socket, other: socket.socket) -> None:
                me.recv(1)
                notes.append("called")
                loop.remove_reader(other)

            loop.add_reader(b, called, b, d)
            loop.add_reader(d, called, d, b)
            a.send(b"x")
            c.send(b"x")
            await asyncio.sleep(0.01)
            notes.append(sorted([loop.remove_reader(b), loop.remove_reader(d)]))

    assert same(scenario).count("called") == 1


def test_reader_and_writer_of_the_same_descriptor() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (first, second):
            seen: set[str] = set()
            loop.add_reader(second, seen.add, "read")
            loop.add_writer(second, seen.add, "write")
            await until(lambda: seen == {"write"})
            first.send(b"x")
            await until(lambda: seen == {"read", "write"})
            notes.append(loop.remove_writer(second))
            seen.clear()
            await asyncio.sleep(0.005)
            notes.append(sorted(seen))
            notes.append(loop.remove_reader(second))
            seen.clear()
            loop.add_writer(second, seen.add, "write")
            await asyncio.sleep(0.005)
            notes.append(sorted(seen))
            notes.append(loop.remove_writer(second))

    same(scenario)


def test_what_is_no_descriptor_is_refused_in_cpythons_words() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop: Any = asyncio.get_running_loop()
        with socket_pair() as (closed, _):
            pass
        unused = os.dup(0)
        os.close(unused)

        class Wrong:
            def __init__(self, value: object) -> None:
                self.value = value

            def fileno(self) -> object:
                return self.value

            def __repr__(self) -> str:
                return "wrong"

        with tempfile.TemporaryFile() as file:
            for thing in (-1, -100, None, "x", 1.5, Wrong("x"), Wrong(-1), Wrong(None), closed, unused, file):
                for method in (loop.add_reader, loop.add_writer):
                    notes.append((method.__name__, *error_of(method, thing, print)))
            for thing in ("x", None, Wrong("x")):
                for method in (loop.remove_reader, loop.remove_writer):
                    notes.append((method.__name__, *error_of(method, thing)))
            notes.append(loop.remove_reader(unused))
        notes.append(error_of(loop.add_reader)[0])
        notes.append(error_of(loop.add_reader, 0)[0])

    same(scenario)


def test_nothing_is_left_of_a_watch_that_was_refused() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        class Callback:
            def __call__(self) -> None: ...

        callback = Callback()
        reference = weakref.ref(callback)
        with tempfile.TemporaryFile() as file:
            with pytest.raises(PermissionError):
                loop.add_reader(file, callback)
            assert not loop.remove_reader(file)
        del callback
        gc.collect()
        assert reference() is None

    run(main())


def test_a_descriptor_of_a_transport_is_refused() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (_first, second):
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=second.dup())
            sock = transport.get_extra_info("socket")
            for call in (
                lambda: loop.add_reader(sock.fileno(), print),
                lambda: loop.add_writer(sock, print),
                lambda: loop.remove_reader(sock),
                lambda: loop.remove_writer(sock),
            ):
                kind, words = error_of(call)
                notes.append((kind, words.partition(" is used by transport <")[1]))
            transport.close()
            await turns()

    same(scenario)


def used_again(loop: asyncio.AbstractEventLoop, calls: list[str]) -> tuple[socket.socket, int]:
    """Watch a socket, close it, and put one end of a new pair in its place. Return the other end, and the number."""
    first, second = socket.socketpair()
    third, fourth = socket.socketpair()
    loop.add_reader(second, calls.append, "old reader")
    loop.add_writer(second, calls.append, "old writer")
    number = second.fileno()
    second.close()
    first.close()
    calls.clear()
    os.dup2(fourth.fileno(), number)
    fourth.close()
    return third, number


def test_a_number_used_again_after_a_close_without_removal() -> None:
    """The reader of the file that was closed is never called for the next one. (CPython's loop does not notice the next one.)"""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        calls: list[str] = []
        other, number = used_again(loop, calls)
        loop.add_reader(number, calls.append, "new reader")
        loop.remove_writer(number)
        other.send(b"x")
        await until(lambda: "new reader" in calls)
        assert loop.remove_reader(number)
        await turns()
        os.close(number)
        other.close()
        assert set(calls) == {"new reader"}

    run(main())


def test_a_transport_of_a_number_whose_reader_was_never_removed() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        calls: list[str] = []
        third, number = used_again(loop, calls)
        reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=number))
        third.send(b"hello")
        assert await asyncio.wait_for(reader.readexactly(5), SECONDS) == b"hello"
        writer.write(b"world")
        await turns()
        assert third.recv(10) == b"world"
        writer.close()
        await writer.wait_closed()
        third.close()
        assert not calls

    with no_descriptor_leaks():
        run(main())


def test_a_closed_file_with_its_reader_still_there_does_no_harm() -> None:
    """A common mistake. The loop goes on, does not spin, and the number can be used again."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(20):
            first, second = socket.socketpair()
            loop.add_reader(second, print, "never")
            await asyncio.sleep(0)
            second.close()
            first.close()
        iterations = 0
        begin = time.thread_time()
        for _ in range(10):
            await asyncio.sleep(0.005)
            iterations += 1
        assert time.thread_time() - begin < 0.04
        with socket_pair() as (first, second):
            first.send(b"x")
            assert await loop.sock_recv(second, 10) == b"x"
            task = loop.create_task(loop.sock_recv(second, 10))
            await asyncio.sleep(0)
            first.send(b"y")
            assert await asyncio.wait_for(task, SECONDS) == b"y"

    with no_descriptor_leaks():
        run(main())


@pytest.mark.parametrize("beside", ["nothing else", "a server"])
@pytest.mark.parametrize("watch", ["add_reader", "add_writer", "sock_recv"])
def test_the_peer_sees_the_close_of_a_socket_that_is_watched(watch: str, beside: str) -> None:
    """At once, not when the loop is closed: a loop holds no file open that it watches."""

    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
        if beside == "nothing else":
            server.close()
        for reads_before in (False, True):
            with socket_pair(socket.AF_INET) as (first, second):
                second.settimeout(SECONDS)
                task = None
                if watch == "add_reader":
                    loop.add_reader(first, first.recv, 100)
                elif watch == "add_writer":
                    loop.add_writer(first, lambda: None)
                else:
                    task = loop.create_task(loop.sock_recv(first, 100))
                await turns()
                if reads_before:
                    second.send(b"x")
                    await asyncio.sleep(0.001)
                    if task is not None:
                        await task
                        task = loop.create_task(loop.sock_recv(first, 100))
                        await turns()
                number = first.fileno()
                first.close()
                notes.append(second.recv(100) if watch != "add_writer" or not reads_before else b"")
                notes.append(loop.remove_reader(number) or loop.remove_writer(number))
                if task is not None:
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
        server.close()
        await server.wait_closed()

    assert same(scenario)[::2] == [b"", b""]


def test_the_peer_sees_the_close_of_a_socket_whose_reader_was_removed() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket_pair(socket.AF_INET) as (first, second):
            loop.add_reader(second, print)
            loop.add_writer(second, print_nothing)
            await asyncio.sleep(0.002)
            loop.remove_reader(second)
            loop.remove_writer(second)
            second.close()
            # At once, and not at the loop's next iteration.
            readable, _, _ = select.select([first], [], [], SECONDS)
            assert readable
            assert first.recv(1) == b""

    run(main())


def print_nothing() -> None: ...


def test_pipes_ttys_eventfds_and_timers_of_the_kernel() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()

        async def readable(fd: int) -> bytes:
            future = loop.create_future()
            loop.add_reader(fd, lambda: future.done() or future.set_result(None))
            try:
                await asyncio.wait_for(future, SECONDS)
            finally:
                loop.remove_reader(fd)
            return os.read(fd, 100)

        with contextlib.ExitStack() as stack:
            read, write = os.pipe()
            stack.callback(os.close, read)
            task = loop.create_task(readable(read))
            await asyncio.sleep(0.001)
            os.write(write, b"pipe")
            notes.append(await task)
            os.close(write)
            notes.append(await readable(read))
            leader, follower = os.openpty()
            stack.callback(os.close, leader)
            stack.callback(os.close, follower)
            os.write(leader, b"line\n")
            notes.append(await readable(follower))
            event = os.eventfd(0, os.EFD_NONBLOCK)
            stack.callback(os.close, event)
            task = loop.create_task(readable(event))
            await asyncio.sleep(0.001)
            os.eventfd_write(event, 3)
            notes.append(await task)

    same(scenario)


def test_a_full_pipe_is_not_writable_and_a_broken_one_is() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        read, write = os.pipe()
        os.set_blocking(write, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(write, bytes(65536))
        calls: list[str] = []
        loop.add_writer(write, calls.append, "writable")
        await asyncio.sleep(0.005)
        notes.append(list(calls))
        os.read(read, 65536)
        await until(lambda: calls)
        calls.clear()
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(write, bytes(4096))
        await turns(3)
        calls.clear()
        os.close(read)
        await until(lambda: calls)
        notes.append(loop.remove_writer(write))
        os.close(write)

    same(scenario)


def test_a_callback_that_raises_is_reported_and_called_again() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        handler_notes(loop, notes)
        with socket_pair() as (first, second):

            def reader() -> None:
                second.recv(1)
                raise ValueError("in a reader")

            loop.add_reader(second, reader)
            first.send(b"xy")
            await until(lambda: len(notes) == 2)
            loop.remove_reader(second)

    same(scenario)


def test_hundreds_of_descriptors() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as stack:
            pairs = [stack.enter_context(socket_pair()) for _ in range(300)]
            got: list[int] = []

            def readable(number: int) -> None:
                pairs[number][1].recv(10)
                got.append(number)

            for number, (_, second) in enumerate(pairs):
                loop.add_reader(second, readable, number)
            for _ in range(3):
                got.clear()
                for first, _ in pairs:
                    first.send(b"x")
                await until(lambda: len(got) == 300)
                assert sorted(got) == list(range(300))
            for _, second in pairs:
                assert loop.remove_reader(second)

    with no_descriptor_leaks():
        run(main())


def test_added_and_removed_thousands_of_times() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (first, second):
            for number in range(2000):
                loop.add_reader(second, print, "never")
                if number % 3 == 0:
                    loop.add_writer(second, print_nothing)
                if number % 10 == 0:
                    await asyncio.sleep(0)
                assert loop.remove_reader(second)
                if number % 3 == 0:
                    assert loop.remove_writer(second)
            calls: list[bytes] = []
            loop.add_reader(second, lambda: calls.append(second.recv(1)))
            first.send(b"x")
            await until(lambda: calls == [b"x"])
            loop.remove_reader(second)

    run(main())


def test_removed_from_another_thread_while_the_loop_sleeps() -> None:
    """Not thread-safe by the documentation, but what CPython's loop takes must not make this one spin or hang."""
    loop = whilst.Loop()
    with socket_pair() as (first, second):
        calls: list[str] = []
        asleep = threading.Event()
        loop.add_reader(second, calls.append, "reader")
        loop.call_soon(asleep.set)

        def other() -> None:
            assert asleep.wait(SECONDS)
            time.sleep(0.02)
            assert loop.remove_reader(second)
            first.send(b"x")
            time.sleep(0.05)
            loop.call_soon_threadsafe(loop.stop)

        thread = threading.Thread(target=other)
        thread.start()
        begin = time.thread_time()
        loop.run_forever()
        spent = time.thread_time() - begin
        thread.join(SECONDS)
        loop.close()
    assert not calls
    assert spent < 0.03


def test_debug_mode_logs_and_checks_nothing_more() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (first, second):
            loop.add_reader(second, lambda: (notes.append(second.recv(1)), loop.remove_reader(second)))
            first.send(b"x")
            await until(lambda: notes)

    same(scenario, debug=True)


def test_another_thread_may_add_and_remove_while_the_loop_waits() -> None:
    """Not documented to be safe, but it works with CPython's loop; Jupyter's kernel relies on it."""
    seen: list[bytes] = []
    with no_descriptor_leaks(), socket_pair() as (first, second), socket_pair() as (third, fourth):
        loop = whilst.Loop()
        waits = threading.Event()
        loop.call_soon(waits.set)
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        assert waits.wait(SECONDS)

        def readable() -> None:
            seen.append(second.recv(10))
            loop.stop()

        loop.add_reader(fourth, seen.append, b"never")
        assert loop.remove_reader(fourth)
        third.send(b"nobody reads this")
        loop.add_reader(second, readable)
        first.send(b"x")
        thread.join(SECONDS)
        assert not thread.is_alive()
        assert loop.remove_reader(second)
        loop.close()
        del loop, readable
    assert seen == [b"x"]
