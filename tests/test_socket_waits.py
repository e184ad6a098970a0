"""What the ``sock_*`` coroutines are made of: tries past the socket object, and waits that are no futures of asyncio's."""

import array
import asyncio
import contextlib
import contextvars
import gc
import inspect
import logging
import socket
import sys
import time
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import whilst
from oracle import (
    SECONDS,
    error_of,
    error_of_awaiting,
    no_descriptor_leaks,
    program,
    run,
    same,
    socket_pair,
    turns,
)

pytestmark = pytest.mark.usefixtures("driver")


async def waiting(coroutine: Any) -> asyncio.Task[Any]:
    """Return a task that waits for its socket."""
    task = asyncio.get_running_loop().create_task(coroutine)
    await turns(2)
    assert not task.done()
    return task


# -- Tries --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 100, 4095, 4096, 4097, 65_536, 2**26, 2**26 + 1])
@pytest.mark.parametrize("length", [1, 4095, 4096, 4097, 60_000])
def test_receives_of_every_size_are_cut_to_what_was_there(size: int, length: int) -> None:
    data = bytes(i % 251 for i in range(length))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (first, second):
            first.send(data)
            received = await loop.sock_recv(second, size)
            assert received == data[:size]
            assert sys.getsizeof(received) == sys.getsizeof(b"") + len(received)

    run(main())


def test_receives_of_no_bytes_and_of_odd_numbers() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop: Any = asyncio.get_running_loop()
        with socket_pair() as (first, second):
            first.send(b"abcd")
            notes.append(await loop.sock_recv(second, 0))
            notes.append(await loop.sock_recv_into(second, bytearray()))
            notes.append(await loop.sock_recv(second, True))
            notes.append(await error_of_awaiting(loop.sock_recv(second, 1.0)))
            notes.append(await error_of_awaiting(loop.sock_recv(second, 2**64)))
            notes.append(await error_of_awaiting(loop.sock_recv(None, 1)))
            notes.append(await error_of_awaiting(loop.sock_recv_into(second, memoryview(bytearray(8))[::2])))
            notes.append(await error_of_awaiting(loop.sock_sendall(first, memoryview(b"abcdefgh")[::2])))
            notes.append(await loop.sock_recv(second, 10))

    same(scenario)


def test_everything_with_a_buffer_is_sent() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (first, second):
            for data in (b"bytes", bytearray(b"array"), memoryview(b"view"), memoryview(b"a part")[2:], b""):
                notes.append(await loop.sock_sendall(first, data))
            notes.append(await loop.sock_recv(second, 100))
            await loop.sock_sendall(first, array.array("b", [1, 2, 3]))
            notes.append(await loop.sock_recv(second, 100))
            resized = bytearray(b"not held")
            await loop.sock_sendall(first, resized)
            resized.append(0)

    same(scenario)


class Counting(socket.socket):
    """Counts, and spells differently, what it sends and receives."""

    calls: list[str]

    def recv(self, *args: Any) -> bytes:
        self.calls.append("recv")
        return super().recv(*args).upper()

    def recv_into(self, *args: Any) -> int:
        self.calls.append("recv_into")
        return super().recv_into(*args)

    def send(self, data: Any, *args: Any) -> int:
        self.calls.append("send")
        return super().send(data, *args)


def test_the_methods_of_a_subclass_are_called() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (first, second):
            ours = Counting(fileno=second.detach())
            ours.setblocking(False)
            ours.calls = []
            with ours:
                task = await waiting(loop.sock_recv(ours, 10))
                await loop.sock_sendall(first, b"x")
                notes.append(await task)
                await loop.sock_sendall(ours, b"y")
                notes.append(await loop.sock_recv(first, 10))
                first.send(b"zz")
                notes.append(await loop.sock_recv_into(ours, bytearray(1)))
                notes.append(ours.calls)

    same(scenario)


@contextlib.contextmanager
def patched(cls: Any, name: str, value: object) -> Iterator[None]:
    """An attribute of a class, for a while; the class has none of its own."""
    setattr(cls, name, value)
    try:
        yield
    finally:
        delattr(cls, name)


def test_what_a_program_puts_into_the_class_is_called() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        recv, send = socket.socket.recv, socket.socket.send
        with socket_pair() as (first, second):
            for _ in range(3):
                await loop.sock_sendall(first, b"plain")
                notes.append(await loop.sock_recv(second, 10))
                with patched(socket.socket, "recv", lambda self, n: b"[" + recv(self, n) + b"]"):
                    await loop.sock_sendall(first, b"patched")
                    notes.append(await loop.sock_recv(second, 10))
                with patched(socket.socket, "send", lambda self, data: send(self, bytes(data) + b"!") - 1):
                    await loop.sock_sendall(first, b"patched")
                    notes.append(await loop.sock_recv(second, 10))

    assert same(scenario)[:3] == [b"plain", b"[patched]", b"patched!"]


def test_a_socket_that_blocks_does_not_block_the_loop() -> None:
    """Outside of debug mode, where CPython's loop stands still until the peer has sent something."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (first, second):
            second.setblocking(True)
            task = await waiting(loop.sock_recv(second, 10))
            await loop.sock_sendall(first, b"x")
            assert await task == b"x"
            first.setblocking(True)
            task = await waiting(loop.sock_sendall(first, bytes(3_000_000)))
            received = 0
            while received < 3_000_000:
                received += len(await loop.sock_recv(second, 1 << 20))
            await task

    run(main())


# -- Coroutines ---------------------------------------------------------------------------------------------------------------


def test_coroutines_are_coroutines() -> None:
    loop = whilst.new_event_loop()
    with contextlib.closing(loop), socket_pair() as (first, second):
        assert inspect.iscoroutinefunction(loop.sock_recv)
        coroutine = loop.sock_recv(second, 1)
        assert inspect.iscoroutine(coroutine)
        assert asyncio.iscoroutine(coroutine)
        coroutine.close()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loop.sock_recv(second, 1)
            gc.collect()
        assert ["sock_recv' was never awaited" in str(warning.message) for warning in caught] == [True]
        first.send(b"answer")
        # What is there needs no loop that runs.
        coroutine = loop.sock_recv(second, 10)
        with pytest.raises(StopIteration) as stop:
            coroutine.send(None)
        assert stop.value.value == b"answer"


def test_a_coroutine_that_is_run_by_hand() -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        with socket_pair() as (first, second):
            for _ in range(3):
                coroutine = loop.sock_recv(second, 1)
                future = coroutine.send(None)
                assert asyncio.isfuture(future)
                assert future.get_loop() is loop
                assert future._asyncio_future_blocking is True
                assert coroutine.cr_await is future
                assert error_of(coroutine.send, None) == ("RuntimeError", "await wasn't used with future")
                assert not loop.remove_reader(second), "it has ended with its coroutine, or there was none"

                coroutine = loop.sock_recv(second, 1)
                coroutine.send(None)
                with pytest.raises(ZeroDivisionError):
                    coroutine.throw(ZeroDivisionError("thrown"))
                assert not loop.remove_reader(second)

                coroutine = loop.sock_sendall(first, bytes(10_000_000))
                coroutine.send(None)
                coroutine.close()
                assert not loop.remove_writer(first)
                while second.recv(1 << 20, socket.MSG_PEEK) and len(second.recv(1 << 20)) == 1 << 20:
                    pass
                with contextlib.suppress(BlockingIOError):
                    while second.recv(1 << 20):
                        pass

                coroutine = loop.sock_recv(second, 1)
                coroutine.send(None)
                del coroutine
                gc.collect()
                assert not loop.remove_reader(second)

    run(main())


def test_a_wait_is_a_future() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outside")

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        calls: list[Any] = []

        def note(future: Any) -> None:
            calls.append((future, variable.get()))

        def other(future: Any) -> None:
            calls.append("other")

        with socket_pair() as (first, second):
            context = contextvars.copy_context()
            context.run(variable.set, "inside")
            coroutine = loop.sock_recv(second, 1)
            future = coroutine.send(None)
            assert repr(future) == f"<SocketWait pending readable fd={second.fileno()}>"
            assert (future.done(), future.cancelled()) == (False, False)
            assert error_of(future.result)[0] == error_of(future.exception)[0] == "InvalidStateError"
            future.add_done_callback(other)
            future.add_done_callback(note, context=context)
            future.add_done_callback(other)
            future.add_done_callback(note)
            assert future.remove_done_callback(other) == 2
            assert future.remove_done_callback(other) == 0
            first.send(b"x")
            await asyncio.wait_for(until_some(calls), SECONDS)
            assert calls == [(future, "inside"), (future, "outside")]
            assert (future.done(), future.cancelled()) == (True, False)
            assert (future.result(), future.exception()) == (None, None)
            assert "finished" in repr(future)
            assert future.cancel() is False
            future.add_done_callback(note)
            assert len(calls) == 2
            await turns(1)
            assert len(calls) == 3
            assert error_of(coroutine.send, None)[0] == "StopIteration"

            calls.clear()
            coroutine = loop.sock_recv(second, 1)
            future = coroutine.send(None)
            future.add_done_callback(note, context=context)
            assert future.cancel(msg="why") is True
            assert future.cancel() is False
            assert not loop.remove_reader(second)
            assert calls == []
            await turns(1)
            assert calls == [(future, "inside")]
            assert (future.done(), future.cancelled()) == (True, True)
            for ask in (future.result, future.exception):
                assert error_of(ask) == ("CancelledError", "why")

    async def until_some(calls: list[Any]) -> None:
        while not calls:
            await asyncio.sleep(0.001)

    run(main())


def test_a_callback_that_raises_is_reported() -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        reports: list[Any] = []
        loop.set_exception_handler(lambda _loop, context: reports.append(context))
        with socket_pair() as (first, second):
            coroutine = loop.sock_recv(second, 1)
            future = coroutine.send(None)
            future.add_done_callback(lambda _future: 1 / 0)
            task = loop.create_task(asyncio.sleep(0.01))
            first.send(b"x")
            await task
        (report,) = reports
        assert isinstance(report["exception"], ZeroDivisionError)
        assert report["message"].startswith("Exception in callback")

    run(main())


def test_tasks_of_other_kinds() -> None:
    """Written in Python, and (from 3.12 on) begun at once."""
    factories: list[Any] = [lambda loop, coro, **keywords: asyncio.tasks._PyTask(coro, loop=loop, **keywords)]  # type: ignore[attr-defined]
    if sys.version_info >= (3, 12):
        factories.append(asyncio.eager_task_factory)

    async def main(factory: Any) -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(factory)
        with socket_pair() as (first, second):

            async def echo() -> None:
                while data := await loop.sock_recv(second, 100):
                    await loop.sock_sendall(second, data)

            async def use() -> None:
                for number in range(20):
                    await loop.sock_sendall(first, b"%d" % number)
                    assert await loop.sock_recv(first, 100) == b"%d" % number
                # (`wait_for()` of Python 3.14 asks asyncio's module in C for the current task, which knows no other kind.)
                late = loop.create_task(loop.sock_recv(first, 100))
                await asyncio.wait([late], timeout=0.005)
                assert late.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await late
                first.close()

            await asyncio.gather(loop.create_task(echo()), loop.create_task(use()))

    for factory in factories:
        run(main(factory))


def test_what_a_waiting_task_shows() -> None:
    async def main() -> None:
        with socket_pair() as (_first, second):
            task = await waiting(asyncio.get_running_loop().sock_recv(second, 1))
            assert f"wait_for=<SocketWait pending readable fd={second.fileno()}>" in repr(task)
            assert [frame.f_code.co_name for frame in task.get_stack()] == ["sock_recv"]
            task.cancel()

    run(main())


# -- The end of a wait --------------------------------------------------------------------------------------------------------


def test_the_message_of_a_cancellation() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (first, second):
            for cancel in (lambda task: task.cancel(), lambda task: task.cancel("why")):
                task = await waiting(loop.sock_recv(second, 1))
                notes.append(cancel(task))
                try:
                    await task
                except asyncio.CancelledError as error:
                    notes.append(error.args)
                notes.append((task.cancelled(), loop.remove_reader(second)))
            task = loop.create_task(loop.sock_recv(second, 1))
            task.cancel("before it began")
            notes.append((await asyncio.wait([task]))[0] == {task})
            notes.append((task.cancelled(), loop.remove_reader(second)))
            first.send(b"x")
            notes.append(await loop.sock_recv(second, 1))

    same(scenario)


def test_what_is_left_for_remove_reader() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (first, second):
            task = await waiting(loop.sock_recv(second, 1))
            first.send(b"x")
            notes.append(await task)
            notes.append(loop.remove_reader(second))
            notes.append(loop.remove_writer(second))
            # Taken away from it, a wait has no end.
            task = await waiting(loop.sock_recv(second, 1))
            notes.append(loop.remove_reader(second))
            notes.append(loop.remove_reader(second))
            first.send(b"y")
            await asyncio.sleep(0.01)
            notes.append(task.done())
            notes.append(await loop.sock_recv(second, 1))
            task.cancel()
            await asyncio.wait([task])
            notes.append(task.cancelled())

    same(scenario)


def test_the_later_of_two_waits_has_the_socket() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (first, second):
            earlier = await waiting(loop.sock_recv(second, 10))
            later = await waiting(loop.sock_recv(second, 10))
            first.send(b"x")
            notes.append(await later)
            earlier.cancel()
            await asyncio.wait([earlier])
            # The end of the earlier one does not end the later one.
            earlier = await waiting(loop.sock_recv(second, 10))
            later = await waiting(loop.sock_recv(second, 10))
            earlier.cancel()
            await asyncio.wait([earlier])
            first.send(b"y")
            notes.append(await later)
            # Nor a reader that has taken its place.
            earlier = await waiting(loop.sock_recv(second, 10))
            called = loop.create_future()
            loop.add_reader(second, lambda: called.done() or called.set_result(second.recv(10)))
            earlier.cancel()
            await asyncio.wait([earlier])
            first.send(b"z")
            notes.append(await called)
            notes.append(loop.remove_reader(second))

    same(scenario)


def test_readers_and_writers_after_waits() -> None:
    """A kept registration speaks again, and again and again."""

    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (first, second):
            task = await waiting(loop.sock_recv(second, 1))
            first.send(b"xabc")
            notes.append(await task)
            read: list[bytes] = []
            loop.add_reader(second, lambda: read.append(second.recv(1)))
            while len(read) < 3:
                await asyncio.sleep(0)
            notes.append(read)
            # The other direction of a socket whose reader is there, too.
            task = await waiting(loop.sock_sendall(second, bytes(1_000_000)))
            first.send(b"d")
            while len(read) < 4:
                await asyncio.sleep(0)
            received = 0
            while received < 1_000_000:
                received += len(await loop.sock_recv(first, 1 << 20))
            await task
            first.send(b"e")
            while len(read) < 5:
                await asyncio.sleep(0)
            notes.append((read, received, loop.remove_reader(second)))
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=second)
            first.send(b"to the transport")
            transport.close()
            await turns()

    same(scenario)


def test_closed_under_a_wait_and_its_number_used_again() -> None:
    """With CPython's loop the later socket cannot be waited for: its selector takes it for the earlier one."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        left = []
        await asyncio.sleep(0.001)  # so that the loop has all its own descriptors
        for kept in (False, True, False, True):
            with socket_pair() as (first, second):
                number = second.fileno()
                other = second.dup() if kept else None
                task = loop.create_task(loop.sock_recv(second, 1))
                first.send(b"a")
                assert await task == b"a"
                left.append(await waiting(loop.sock_recv(second, 1)))
                second.close()
                if other:
                    other.close()
                await asyncio.sleep(0.001)
                assert not left[-1].done(), "as with CPython's loop"
            with socket_pair() as (first, second):
                assert number in (first.fileno(), second.fileno())
                for here, there in ((first, second), (second, first)):
                    task = await waiting(loop.sock_recv(here, 1))
                    there.send(b"b")
                    assert await asyncio.wait_for(task, SECONDS) == b"b"
                assert not left[-1].done()
        for task in left:
            task.cancel()
        await asyncio.wait(left)

    with no_descriptor_leaks():
        run(main())


def test_many_sockets_of_the_same_number() -> None:
    """Each closed after a wait, some living on under another number."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        others = []
        numbers = set()
        for count in range(60):
            with socket_pair() as (first, second):
                for _ in range(2):
                    task = await waiting(loop.sock_recv(second, 1))
                    first.send(b"x")
                    assert await asyncio.wait_for(task, SECONDS) == b"x"
                numbers.add(second.fileno())
                if count % 3 == 0:
                    others.append(second.dup())
        assert len(numbers) < 60
        for other in others:
            other.close()

    with no_descriptor_leaks():
        run(main())


def test_the_loop_closed_under_a_wait() -> None:
    loop = whilst.new_event_loop()
    with socket_pair() as (_first, second):
        task = loop.create_task(loop.sock_recv(second, 1))
        loop.run_until_complete(turns(2))
        loop.call_exception_handler = lambda context: None  # type: ignore[method-assign]  # its report of the task
        loop.close()
        known = weakref.ref(task)
        del task
        gc.collect()
        assert known() is None
        coroutine = loop.sock_recv(second, 1)
        assert error_of(coroutine.send, None) == ("RuntimeError", "Event loop is closed")


def test_a_forked_child_waits_anew() -> None:
    source = """
        import asyncio, os, socket, whilst

        async def use(loop, first, second):
            for _ in range(3):
                task = loop.create_task(loop.sock_recv(second, 10))
                await asyncio.sleep(0.001)
                await loop.sock_sendall(first, b"x")
                assert await asyncio.wait_for(task, 5) == b"x"

        loop = whilst.new_event_loop()
        pairs = [socket.socketpair() for _ in range(2)]
        for pair in pairs:
            for sock in pair:
                sock.setblocking(False)
        loop.run_until_complete(use(loop, *pairs[0]))
        loop.run_until_complete(use(loop, *pairs[1]))
        child = os.fork()
        loop.run_until_complete(use(loop, *pairs[0 if child else 1]))
        if not child:
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        loop.run_until_complete(use(loop, *pairs[1]))
        loop.close()
    """
    done = program(source, options=("-W", "ignore::DeprecationWarning"))
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_an_interruption_after_a_wait_ends_the_run() -> None:
    loop: Any = whilst.new_event_loop()
    loop.set_exception_handler(lambda _loop, _context: None)
    calls: list[str] = []

    async def interrupted(sock: socket.socket) -> None:
        await loop.sock_recv(sock, 1)
        raise KeyboardInterrupt

    async def main(first: socket.socket, second: socket.socket) -> None:
        task = await waiting(interrupted(second))
        task._fut_waiter.add_done_callback(lambda _future: calls.append("the other"))
        first.send(b"x")
        await asyncio.wait([task])

    with contextlib.closing(loop), socket_pair() as (first, second):
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(main(first, second))
        assert calls == []
        loop.run_until_complete(turns(2))
        assert calls == ["the other"]
        first.send(b"y")
        assert loop.run_until_complete(loop.sock_recv(second, 1)) == b"y"


# -- Debug mode ---------------------------------------------------------------------------------------------------------------


def test_what_takes_long_after_a_wait_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    async def slow(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        await loop.sock_recv(sock, 1)
        time.sleep(0.03)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = 0.02  # type: ignore[attr-defined]
        with socket_pair() as (first, second):
            task = await waiting(slow(loop, second))
            first.send(b"x")
            await task

    with caplog.at_level(logging.WARNING, "asyncio"):
        run(main(), debug=True)
    (record,) = [record for record in caplog.records if "slow()" in record.getMessage()]
    assert record.getMessage().startswith("Executing <Task")


def test_the_kernel_keeps_the_registration() -> None:
    """What a wait costs: one change of what is registered, not two; and a socket that is read at once costs none."""
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")

    def registered() -> dict[int, int]:
        found = {}
        for entry in Path("/proc/self/fdinfo").iterdir():
            with contextlib.suppress(OSError):
                for line in entry.read_text().splitlines():
                    if line.startswith("tfd:"):
                        words = line.replace(":", ": ").split()
                        found[int(words[1])] = int(words[3], 16)
        return found

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (first, second):
            first.send(b"x")
            await loop.sock_recv(second, 1)
            assert second.fileno() not in registered()
            for _ in range(3):
                task = await waiting(loop.sock_recv(second, 1))
                assert registered()[second.fileno()] & 1, "EPOLLIN"
                first.send(b"x")
                await task
                assert not registered()[second.fileno()] & 1
            task = await waiting(loop.sock_recv(second, 1))
            task.cancel()
            await asyncio.wait([task])
            assert second.fileno() not in registered()

    run(main())
