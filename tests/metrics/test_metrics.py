"""`loop.metrics()`: its numbers, held against work whose amount is known."""

import asyncio
import contextlib
import dataclasses
import gc
import json
import os
import pathlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tls
import whilst

#: No wait is longer, in seconds.
SECONDS = 30.0

MIB = 1 << 20


@pytest.fixture
def loop(driver: str) -> Iterator[whilst.Loop]:
    loop = whilst.new_event_loop()
    yield loop
    loop.close()
    gc.collect()


def run(loop: whilst.Loop, main: Any) -> Any:
    return loop.run_until_complete(asyncio.wait_for(main, SECONDS))


def test_a_loop_that_has_done_nothing(loop: whilst.Loop, driver: str) -> None:
    metrics = loop.metrics()
    assert metrics.driver == driver
    assert metrics.state == "stopped"
    assert abs(metrics.time - loop.time()) < 5.0
    assert (metrics.iterations, metrics.callbacks, metrics.polls) == (0, 0, 0)
    assert (metrics.wakes, metrics.thread_calls, metrics.ready, metrics.timers) == (0, 0, 0, 0)
    assert (metrics.bytes_received, metrics.bytes_sent, metrics.servers, metrics.watches) == (0, 0, 0, 0)
    assert metrics.transports == {"tcp": 0, "udp": 0, "unix": 0, "pipe": 0, "tls": 0, "other": 0}
    assert metrics.lag_count == 0
    assert 0.0 <= metrics.timed < 1.0


def test_it_cannot_be_changed_and_is_json(loop: whilst.Loop) -> None:
    metrics = loop.metrics()
    with pytest.raises(dataclasses.FrozenInstanceError):
        metrics.iterations = 1  # type: ignore[misc]
    numbers = json.loads(json.dumps(metrics.as_dict()))
    assert list(numbers) == [field.name for field in dataclasses.fields(whilst.Metrics)]
    assert numbers["loop"] == metrics.loop
    assert numbers["lag_buckets"][0] == [0.0001, 0]
    # What it gives away is the caller's own.
    metrics.as_dict()["transports"]["tcp"] = 5
    assert metrics.transports["tcp"] == 0


def test_each_loop_has_a_number() -> None:
    first, second = whilst.new_event_loop(), whilst.new_event_loop()
    with contextlib.closing(first), contextlib.closing(second):
        assert second.metrics().loop == first.metrics().loop + 1


def test_callbacks_and_iterations(loop: whilst.Loop) -> None:
    before = loop.metrics()
    for _ in range(100):
        loop.call_soon(lambda: None)
    assert loop.metrics().ready == 100
    loop.call_soon(loop.stop)
    loop.run_forever()
    after = loop.metrics()
    assert after.callbacks - before.callbacks == 101
    assert after.iterations - before.iterations == 1
    assert after.ready == 0

    def again(left: int) -> None:
        loop.call_soon(again, left - 1) if left else loop.stop()

    loop.call_soon(again, 9)
    loop.run_forever()
    assert loop.metrics().callbacks - after.callbacks == 10
    assert loop.metrics().iterations - after.iterations == 10


def test_what_was_left_when_a_run_ended_counts_when_it_runs(loop: whilst.Loop) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    ran = []
    loop.call_soon(ran.append, 1)
    loop.call_soon(interrupt)
    loop.call_soon(ran.append, 2)
    loop.call_soon(ran.append, 3)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    assert ran == [1]
    assert loop.metrics().callbacks == 2
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert ran == [1, 2, 3]
    assert loop.metrics().callbacks == 5


def test_queues(loop: whilst.Loop) -> None:
    timers = [loop.call_later(100, lambda: None) for _ in range(5)]
    loop.call_soon(lambda: None)
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(lambda: None,))
    thread.start()
    thread.join(SECONDS)
    assert (loop.metrics().timers, loop.metrics().ready) == (5, 2)
    timers[0].cancel()
    assert loop.metrics().timers == 4


def test_wakes_by_other_threads(loop: whilst.Loop) -> None:
    """Each call comes when the loop waits, and so each wakes it."""
    woken = threading.Event()

    def call() -> None:
        for _ in range(20):
            deadline = time.monotonic() + SECONDS
            while loop.metrics().state != "polling" and time.monotonic() < deadline:
                time.sleep(0.001)
            woken.clear()
            loop.call_soon_threadsafe(woken.set)
            assert woken.wait(SECONDS)
        loop.call_soon_threadsafe(loop.stop)

    loop.metrics()
    thread = threading.Thread(target=call)
    thread.start()
    loop.run_forever()
    thread.join(SECONDS)
    metrics = loop.metrics()
    assert metrics.thread_calls == 21
    assert 20 <= metrics.wakes <= 21


def test_a_burst_of_calls_wakes_at_most_once(loop: whilst.Loop) -> None:
    def burst() -> None:
        for _ in range(1000):
            loop.call_soon_threadsafe(lambda: None)

    def begin() -> None:
        thread = threading.Thread(target=burst)
        thread.start()
        # The loop is at this callback until all have called.
        thread.join(SECONDS)

    loop.call_soon(begin)
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    assert loop.metrics().thread_calls == 1000
    # With a GIL none is needed: the loop sees what is queued before it waits.
    assert loop.metrics().wakes <= 1


def test_calls_of_the_loops_own_thread_are_no_wakes(loop: whilst.Loop) -> None:
    loop.call_soon(loop.call_soon_threadsafe, loop.stop)
    loop.run_forever()
    assert (loop.metrics().wakes, loop.metrics().thread_calls) == (0, 0)


# Bytes, of transfers whose length is known. Both ends are in the one loop, so what is sent is received.


async def _echo_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read(-1))
    writer.close()
    await writer.wait_closed()


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, length: int) -> None:
    writer.write(b"x" * length)
    writer.write_eof()
    assert len(await reader.read(-1)) == length
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("length", [1, 1000, 3 * MIB])
def test_bytes_over_tcp(loop: whilst.Loop, length: int) -> None:
    async def main() -> None:
        server = await asyncio.start_server(_echo_once, "127.0.0.1", 0)
        async with server:
            assert loop.metrics().servers == 1
            connection = await asyncio.open_connection(*server.sockets[0].getsockname())
            assert loop.metrics().transports["tcp"] >= 1
            await _exchange(*connection, length)

    run(loop, main())
    metrics = loop.metrics()
    assert metrics.bytes_sent == 2 * length
    assert metrics.bytes_received == 2 * length
    assert metrics.servers == 0


@pytest.mark.parametrize("length", [1000, 3 * MIB])
def test_bytes_over_unix_sockets(loop: whilst.Loop, length: int, tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        server = await asyncio.start_unix_server(_echo_once, tmp_path / "socket")
        async with server:
            connection = await asyncio.open_unix_connection(tmp_path / "socket")
            assert loop.metrics().transports["unix"] >= 1
            assert loop.metrics().transports["tcp"] == 0
            await _exchange(*connection, length)

    run(loop, main())
    assert (loop.metrics().bytes_sent, loop.metrics().bytes_received) == (2 * length, 2 * length)


class _Filled(asyncio.BufferedProtocol):
    def __init__(self) -> None:
        self.buffer = bytearray(100_000)
        self.length = 0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.length += nbytes

    def connection_lost(self, exc: Exception | None) -> None:
        self.over.set_result(None)


class _Collecting(asyncio.Protocol):
    def __init__(self) -> None:
        self.length = 0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.length += len(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.over.set_result(None)


@pytest.mark.parametrize("kind", [_Filled, _Collecting])
@pytest.mark.parametrize("length", [10, 3 * MIB])
def test_bytes_of_protocols(loop: whilst.Loop, kind: Any, length: int) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        _, protocol = await loop.create_connection(kind, sock=ours)
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=theirs)
        assert loop.metrics().transports["unix"] == 2
        transport.write(b"x" * length)
        transport.close()
        await protocol.over
        assert protocol.length == length

    run(loop, main())
    assert (loop.metrics().bytes_sent, loop.metrics().bytes_received) == (length, length)
    assert loop.metrics().transports["unix"] == 0


def test_bytes_of_datagrams(loop: whilst.Loop) -> None:
    class Receiver(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.received: asyncio.Queue[bytes] = asyncio.Queue()

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.received.put_nowait(data)

    async def main() -> None:
        receiving, protocol = await loop.create_datagram_endpoint(Receiver, local_addr=("127.0.0.1", 0))
        address = receiving.get_extra_info("sockname")
        sending, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=address)
        assert loop.metrics().transports["udp"] == 2
        for length in (1, 100, 10_000):
            sending.sendto(b"x" * length)
            assert len(await protocol.received.get()) == length
        sending.close()
        receiving.close()

    run(loop, main())
    run(loop, asyncio.sleep(0.01))
    assert (loop.metrics().bytes_sent, loop.metrics().bytes_received) == (10_101, 10_101)
    assert loop.metrics().transports["udp"] == 0


@pytest.mark.parametrize("length", [10, 1 * MIB])
def test_bytes_of_pipes(loop: whilst.Loop, length: int) -> None:
    async def main() -> None:
        reading, writing = os.pipe()
        _, protocol = await loop.connect_read_pipe(_Collecting, os.fdopen(reading, "rb", 0))
        transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(writing, "wb", 0))
        assert loop.metrics().transports["pipe"] == 2
        assert loop.metrics().watches == 2
        transport.write(b"x" * length)
        transport.close()
        await protocol.over

    run(loop, main())
    run(loop, asyncio.sleep(0.01))
    assert (loop.metrics().bytes_sent, loop.metrics().bytes_received) == (length, length)
    assert loop.metrics().transports["pipe"] == 0
    assert loop.metrics().watches == 0


def test_tls_counts_once_and_what_is_on_the_wire(loop: whilst.Loop, tls_engine: str) -> None:
    length = 100_000

    async def main() -> None:
        server = await asyncio.start_server(_tls_echo, "127.0.0.1", 0, ssl=tls.server_context())
        async with server:
            reader, writer = await asyncio.open_connection(
                *server.sockets[0].getsockname(), ssl=tls.client_context(), server_hostname="localhost"
            )
            open_now = loop.metrics().transports
            assert (open_now["tls"], open_now["tcp"]) == (2, 2)
            writer.write(b"x" * length)
            assert len(await reader.readexactly(length)) == length
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.TimeoutError):
                await writer.wait_closed()
            await asyncio.sleep(0.05)

    async def _tls_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(length))
        with contextlib.suppress(ConnectionError):
            await reader.read()
            writer.close()
            await writer.wait_closed()

    run(loop, main())
    metrics = loop.metrics()
    # The handshake, and some 30 bytes a record of at most 16 KiB.
    assert 2 * length < metrics.bytes_sent < 2 * length + 20_000
    assert metrics.bytes_received <= metrics.bytes_sent <= metrics.bytes_received + 200
    assert (metrics.transports["tls"], metrics.transports["tcp"]) == (0, 0)


@pytest.mark.parametrize("debug", [False, True])
def test_bytes_of_the_sock_methods(loop: whilst.Loop, debug: bool) -> None:
    loop.set_debug(debug)

    async def main() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            theirs.setblocking(False)
            buffer = bytearray(MIB)
            received = 0

            async def receive() -> None:
                nonlocal received
                while received < MIB:
                    received += len(await loop.sock_recv(theirs, 50_000))

            receiving = asyncio.ensure_future(receive())
            await loop.sock_sendall(ours, b"x" * MIB)
            await receiving
            await loop.sock_sendall(theirs, b"y" * 500)
            assert await loop.sock_recv_into(ours, buffer) == 500
        one, other = (socket.socket(type=socket.SOCK_DGRAM) for _ in range(2))
        with one, other:
            for sock in (one, other):
                sock.setblocking(False)
                sock.bind(("127.0.0.1", 0))
            await loop.sock_sendto(one, b"z" * 30, other.getsockname())
            assert len((await loop.sock_recvfrom(other, 100))[0]) == 30
            await loop.sock_sendto(one, b"z" * 7, other.getsockname())
            assert (await loop.sock_recvfrom_into(other, buffer))[0] == 7

    run(loop, main())
    assert (loop.metrics().bytes_sent, loop.metrics().bytes_received) == (MIB + 537, MIB + 537)


def test_bytes_of_sendfile(loop: whilst.Loop, tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * MIB)

    async def main() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        _, protocol = await loop.create_connection(_Collecting, sock=theirs)
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
        with (tmp_path / "file").open("rb") as file:
            assert await loop.sendfile(transport, file) == MIB
        transport.close()
        await protocol.over
        assert protocol.length == MIB

    run(loop, main())
    assert (loop.metrics().bytes_sent, loop.metrics().bytes_received) == (MIB, MIB)


def test_an_aborted_transport_is_open_no_longer(loop: whilst.Loop) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
        assert loop.metrics().transports["unix"] == 1
        transport.abort()
        await asyncio.sleep(0.01)
        assert loop.metrics().transports["unix"] == 0
        theirs.close()

    run(loop, main())


def test_watches(loop: whilst.Loop) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        loop.add_reader(ours, lambda: None)
        loop.add_writer(ours, lambda: None)
        assert loop.metrics().watches == 1
        loop.add_reader(theirs, lambda: None)
        assert loop.metrics().watches == 2
        loop.remove_reader(ours)
        loop.remove_writer(ours)
        loop.remove_reader(theirs)
        assert loop.metrics().watches == 0


# Times.


def test_time_in_callbacks_and_in_polls(loop: whilst.Loop) -> None:
    loop.metrics()

    async def main() -> None:
        await asyncio.sleep(0.2)
        time.sleep(0.1)
        await asyncio.sleep(0.1)

    begin = time.monotonic()
    run(loop, main())
    lasted = time.monotonic() - begin
    metrics = loop.metrics()
    assert 0.1 <= metrics.callback_seconds < lasted - 0.28
    assert 0.29 <= metrics.poll_seconds < lasted - 0.09
    assert metrics.callback_seconds + metrics.poll_seconds <= lasted
    # What the loop does between runs is neither.
    time.sleep(0.05)
    assert loop.metrics().callback_seconds == metrics.callback_seconds
    assert loop.metrics().poll_seconds == metrics.poll_seconds
    assert loop.metrics().timed >= lasted


def test_lag(loop: whilst.Loop) -> None:
    loop.metrics()

    async def main() -> None:
        for seconds in (0.03, 0.2, 0.03):
            await asyncio.sleep(0.001)
            time.sleep(seconds)
        await asyncio.sleep(0.001)

    run(loop, main())
    metrics = loop.metrics()
    assert 0.2 <= metrics.lag_max_10s < 2.0
    assert metrics.lag_max_60s == metrics.lag_max_10s
    assert metrics.lag_last < 0.2
    assert metrics.lag_seconds >= 0.26
    assert metrics.lag_count == metrics.iterations
    cumulative = dict(metrics.lag_buckets)
    assert cumulative[10.0] == metrics.lag_count
    assert metrics.lag_count - cumulative[0.025] >= 3
    assert metrics.lag_count - cumulative[0.1] >= 1
    counts = list(cumulative.values())
    assert counts == sorted(counts)


def test_a_late_timer_is_lag(loop: whilst.Loop) -> None:
    """A loop that gets the GIL late is late, although its iterations are short."""
    hold = threading.Event()
    over = threading.Event()

    def compute() -> None:
        # Called by the garbage collector or any C code, Python code can hold the GIL for longer than the switch interval:
        # as one long operation on integers does.
        hold.wait(SECONDS)
        number = 3**400_000
        for _ in range(3):
            str(number % 7) if number * number * number else None
        over.set()

    thread = threading.Thread(target=compute)
    thread.start()

    async def main() -> None:
        loop.metrics()
        for _ in range(50):
            await asyncio.sleep(0.001)
            if over.is_set():
                break
            hold.set()

    run(loop, main())
    thread.join(SECONDS)
    # Each product takes tens of milliseconds at least; a timer of one millisecond was due during one.
    assert loop.metrics().lag_max_60s > 0.004


def test_reading_disturbs_no_other_reader(loop: whilst.Loop) -> None:
    loop.metrics()

    async def main() -> None:
        await asyncio.sleep(0.001)
        time.sleep(0.05)
        await asyncio.sleep(0.001)
        first = loop.metrics()
        await asyncio.sleep(0.001)
        second = loop.metrics()
        assert second.lag_max_60s >= first.lag_max_60s >= 0.05
        assert second.lag_count > first.lag_count
        assert second.lag_seconds >= first.lag_seconds
        assert second.callback_seconds >= first.callback_seconds

    run(loop, main())


def test_nothing_is_timed_before_somebody_asks(loop: whilst.Loop) -> None:
    run(loop, asyncio.sleep(0.05))
    metrics = loop.metrics()
    assert metrics.timed < 0.05
    assert (metrics.callback_seconds, metrics.poll_seconds, metrics.lag_count) == (0.0, 0.0, 0)
    assert metrics.iterations > 0
    assert loop.metrics().timed > metrics.timed


# From other threads.


def _in_thread(function: Callable[[], None]) -> Callable[[], None]:
    """Call it in a thread; what is returned waits for its end, and raises what it has raised."""
    raised: list[BaseException] = []

    def body() -> None:
        try:
            function()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=body)
    thread.start()

    def join() -> None:
        thread.join(SECONDS)
        assert not thread.is_alive()
        if raised:
            raise raised[0]

    return join


def test_seen_from_another_thread_while_the_loop_waits(loop: whilst.Loop) -> None:
    seen: list[whilst.Metrics] = []

    def look() -> None:
        try:
            deadline = time.monotonic() + SECONDS
            while loop.metrics().state != "polling" and time.monotonic() < deadline:
                time.sleep(0.001)
            # From now on it is measured.
            first = loop.metrics()
            time.sleep(0.1)
            second = loop.metrics()
            seen.extend((first, second))
        finally:
            loop.call_soon_threadsafe(loop.stop)

    join = _in_thread(look)
    loop.run_forever()
    join()
    first, second = seen
    assert second.state == "polling"
    assert second.held == 0.0
    # The wait that is under way is in it.
    assert second.poll_seconds - first.poll_seconds >= 0.09
    assert second.callback_seconds - first.callback_seconds < 0.05


def test_seen_from_another_thread_while_the_loop_is_held(loop: whilst.Loop) -> None:
    seen: list[whilst.Metrics] = []
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        go_on.wait(SECONDS)
        loop.stop()

    def look() -> None:
        try:
            assert held.wait(SECONDS)
            time.sleep(0.1)
            seen.append(loop.metrics())
        finally:
            go_on.set()

    loop.metrics()
    loop.call_later(0.001, hold)
    join = _in_thread(look)
    loop.run_forever()
    join()
    assert seen[0].state == "running"
    assert seen[0].held >= 0.1
    assert seen[0].lag_max_10s >= 0.1
    assert seen[0].callback_seconds >= 0.1
    assert loop.metrics().held == 0.0


def test_the_first_question_comes_while_the_loop_waits(loop: whilst.Loop) -> None:
    """What runs after that wait is no part of it."""
    asked = threading.Event()

    def hold() -> None:
        asked.wait(SECONDS)
        time.sleep(0.2)
        loop.stop()

    def look() -> None:
        deadline = time.monotonic() + SECONDS
        while not loop.is_running() and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.05)
        first = loop.metrics()
        assert first.state == "polling"
        loop.call_soon_threadsafe(hold)
        asked.set()

    join = _in_thread(look)
    loop.run_forever()
    join()
    metrics = loop.metrics()
    assert metrics.callback_seconds >= 0.2
    assert metrics.poll_seconds < 0.2


def test_many_threads_ask_a_busy_loop(loop: whilst.Loop) -> None:
    over = threading.Event()

    def look() -> None:
        before = loop.metrics()
        while not over.is_set():
            after = loop.metrics()
            for name in (
                "iterations",
                "callbacks",
                "polls",
                "bytes_received",
                "bytes_sent",
                "callback_seconds",
                "poll_seconds",
                "lag_count",
            ):
                assert getattr(after, name) >= getattr(before, name), name
            before = after

    async def main() -> None:
        server = await asyncio.start_server(_echo_once, "127.0.0.1", 0)
        async with server:
            for _ in range(30):
                connection = await asyncio.open_connection(*server.sockets[0].getsockname())
                await _exchange(*connection, 10_000)
                await asyncio.sleep(0.001)

    joins = [_in_thread(look) for _ in range(3)]
    try:
        run(loop, main())
    finally:
        over.set()
    for join in joins:
        join()
    assert (loop.metrics().bytes_sent, loop.metrics().bytes_received) == (600_000, 600_000)


def test_after_close(driver: str) -> None:
    loop = whilst.new_event_loop()
    run(loop, asyncio.sleep(0.001))
    loop.call_later(100, lambda: None)
    before = loop.metrics()
    loop.close()
    after = loop.metrics()
    assert after.state == "closed"
    assert after.iterations == before.iterations
    assert (after.timers, after.ready, after.servers) == (0, 0, 0)


def test_debug_mode_measures_the_same(loop: whilst.Loop) -> None:
    loop.set_debug(True)
    loop.slow_callback_duration = 100.0
    loop.metrics()

    async def main() -> None:
        time.sleep(0.05)
        await asyncio.sleep(0.01)

    run(loop, main())
    assert loop.metrics().callback_seconds >= 0.05
    assert loop.metrics().poll_seconds >= 0.005


def test_iterations_that_do_not_wait_are_timed_too(loop: whilst.Loop) -> None:
    loop.metrics()

    async def main() -> None:
        for _ in range(500):
            await asyncio.sleep(0)

    run(loop, main())
    metrics = loop.metrics()
    assert metrics.iterations > 500 > metrics.polls
    assert metrics.lag_count == metrics.iterations
