"""Stream transports and what they tell their protocols."""

import array
import asyncio
import contextlib
import contextvars
import gc
import random
import socket
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import whilst
from oracle import (
    SECONDS,
    error_of,
    handler_notes,
    no_descriptor_leaks,
    notes_of,
    program,
    reset,
    run,
    same,
    socket_pair,
    stdlib_loop,
    turns,
    until,
)

pytestmark = pytest.mark.usefixtures("driver")


class Record(asyncio.Protocol):
    """Notes what it is told, joining what comes in pieces."""

    def __init__(self, notes: list[Any] | None = None) -> None:
        self.notes: list[Any] = [] if notes is None else notes
        self.data = bytearray()
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.eof = False
        self.keeps_open = False
        self.paused = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.notes.append("made")

    def data_received(self, data: bytes) -> None:
        assert type(data) is bytes and data
        self.data += data

    def eof_received(self) -> bool:
        self.eof = True
        self.notes.append(("eof", bytes(self.data)))
        return self.keeps_open

    def pause_writing(self) -> None:
        self.paused += 1
        self.notes.append("pause")

    def resume_writing(self) -> None:
        self.paused -= 1
        self.notes.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.notes.append(("lost", type(exc).__name__, str(exc)))
        self.lost.set_result(exc)


async def connect(sock: socket.socket, protocol: Any) -> Any:
    """Return a transport over a socket, which it takes over."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(lambda: protocol, sock=sock)
    return transport


async def drain(sock: socket.socket, count: int | None = None, chunk: int = 65536) -> bytes:
    """Receive so many bytes, or all to the end."""
    loop = asyncio.get_running_loop()
    received = bytearray()
    while count is None or len(received) < count:
        try:
            data = await asyncio.wait_for(loop.sock_recv(sock, chunk), SECONDS)
        except ConnectionResetError:
            break
        if not data:
            break
        received += data
    return bytes(received)


def pattern(length: int) -> bytes:
    """Bytes of which no piece can be missing or moved without a difference."""
    return random.Random(length).randbytes(length)


# -- Writing ------------------------------------------------------------------------------------------------------------------


def test_what_can_be_written() -> None:
    async def scenario(notes: list[Any]) -> None:
        with socket_pair() as (first, second):
            transport = await connect(first, Record())
            buffer = bytearray(b"bytearray")
            transport.write(b"bytes ")
            transport.write(buffer)
            buffer[:] = b"CHANGED!!"  # What was written is what it was.
            transport.write(memoryview(b"0123456789")[2:5])
            transport.write(b"")
            transport.write(bytearray())
            transport.writelines([b"a", bytearray(b"b"), memoryview(b"c"), b""])
            transport.writelines(iter((b"d", b"e")))
            transport.writelines([])
            for wrong in ("text", None, 1, [1], array.array("B", [1])):
                notes.append(error_of(transport.write, wrong))
            for wrong in (5, ["text"], [b"x", 1]):
                notes.append(error_of(transport.writelines, wrong)[0])
            for arguments in ((), (b"x", b"y")):
                notes.append(error_of(transport.write, *arguments)[1].rpartition(".")[2])
            transport.write_eof()
            notes.append(await drain(second))
            transport.close()
            await turns()

    assert b"bytes bytearray234abcde" in same(scenario)


def test_views_of_items_larger_than_a_byte() -> None:
    """(CPython's transports slice them by items, and lose the connection from 3.12 on.)"""

    async def main() -> None:
        with socket_pair() as (first, second):
            transport = await connect(first, Record())
            transport.write(memoryview(array.array("H", [0x4142, 0x4344])))
            transport.writelines([memoryview(array.array("H", [0x4546]))])
            transport.write(memoryview(b"abcdef")[::2])
            transport.write_eof()
            assert await drain(second) == b"BADCFEace"
            transport.close()
            await turns()

    run(main())


def test_many_small_writes_and_large_ones_keep_their_order() -> None:
    async def main() -> None:
        data = pattern(3_000_000)
        with socket_pair(socket.AF_INET) as (first, second):
            transport = await connect(first, Record())
            reading = asyncio.create_task(drain(second, len(data)))
            cuts = sorted(random.Random(1).sample(range(len(data)), 3000))
            for index, (begin, end) in enumerate(zip([0, *cuts], [*cuts, len(data)], strict=True)):
                piece = data[begin:end]
                if index % 3 == 0:
                    transport.write(bytearray(piece))
                elif index % 3 == 1:
                    transport.writelines([piece[:7], piece[7:]])
                else:
                    transport.write(piece)
                if index % 50 == 0:
                    await asyncio.sleep(0)
            assert await reading == data
            transport.close()
            await turns()

    run(main())


def test_more_pieces_than_one_send_takes() -> None:
    async def main() -> None:
        with socket_pair() as (first, second):
            transport = await connect(first, Record())
            for number in range(5000):
                transport.write(b"%d," % number)
            expected = b"".join(b"%d," % number for number in range(5000))
            assert await drain(second, len(expected)) == expected
            transport.writelines([b"%d," % number for number in range(5000)])
            assert await drain(second, len(expected)) == expected
            transport.close()
            await turns()

    run(main())


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET])
@pytest.mark.parametrize("way", ["close", "eof", "loop"])
def test_close_loses_nothing_that_was_written(family: int, way: str) -> None:
    """A large write, a slow reader."""

    async def main() -> None:
        data = pattern(4_000_000)
        with socket_pair(family) as (first, second):
            protocol = Record()
            transport = await connect(first, protocol)
            transport.write(data[:1000])
            transport.write(data[1000:])
            transport.write_eof() if way == "eof" else None
            transport.close()
            transport.close()
            assert transport.is_closing()
            received = bytearray()
            loop = asyncio.get_running_loop()
            while piece := await loop.sock_recv(second, 50_000):
                received += piece
                if len(received) < 500_000:
                    await asyncio.sleep(0.001)
            assert received == data
            assert await asyncio.wait_for(protocol.lost, SECONDS) is None

    with no_descriptor_leaks():
        run(main())


def test_half_close_both_ways() -> None:
    async def scenario(notes: list[Any]) -> None:
        with socket_pair(socket.AF_INET) as (first, second):
            one, two = Record(notes), Record([])
            one.keeps_open = two.keeps_open = True
            a, b = await connect(first, one), await connect(second, two)
            notes.append((a.can_write_eof(), b.can_write_eof()))
            a.write(b"request")
            a.write_eof()
            a.write_eof()
            notes.append(error_of(a.write, b"more"))
            notes.append(error_of(a.writelines, [b"more"])[0])
            await until(lambda: two.eof)
            notes.append((b.is_closing(), bytes(two.data)))
            await asyncio.sleep(0.002)
            b.write(b"answer" * 1000)
            await until(lambda: len(one.data) == 6000)
            b.write(b" end")
            b.close()
            await until(lambda: one.eof)
            notes.append((a.is_closing(), one.data[-4:]))
            a.close()
            await one.lost
            await two.lost

    same(scenario)


def test_write_eof_when_resumed_after_the_peers_end() -> None:
    """The peer is told once: the second time there is no connection any more, which is an error."""

    class Ends(Record):
        def resume_writing(self) -> None:
            super().resume_writing()
            self.transport.write_eof()
            thread.join(SECONDS)

    received = bytearray()

    def receive(sock: socket.socket) -> None:
        sock.settimeout(SECONDS)
        while piece := sock.recv(1_000_000):
            received.extend(piece)

    async def main() -> None:
        nonlocal thread
        complaints: list[Any] = []
        handler_notes(asyncio.get_running_loop(), complaints)
        with socket_pair(socket.AF_INET) as (first, second):
            protocol = Ends()
            protocol.keeps_open = True
            transport = await connect(first, protocol)
            second.shutdown(socket.SHUT_WR)
            await until(lambda: protocol.eof)
            data = pattern(8_000_000)
            transport.write(data)
            assert protocol.paused
            thread = threading.Thread(target=receive, args=(second,))
            thread.start()
            await until(lambda: not protocol.paused)
            await turns()
            assert received == data and not complaints
            transport.close()
            assert await protocol.lost is None

    thread: Any = None
    run(main())


def test_write_eof_after_close_and_after_the_peer_has_gone() -> None:
    async def scenario(notes: list[Any]) -> None:
        with socket_pair(socket.AF_INET) as (first, second):
            protocol = Record(notes)
            transport = await connect(first, protocol)
            transport.close()
            notes.append(error_of(transport.write_eof))
            await protocol.lost
            notes.append(error_of(transport.write_eof))
            second.close()
        with socket_pair(socket.AF_INET) as (first, second):
            protocol = Record(notes)
            transport = await connect(first, protocol)
            transport.pause_reading()
            reset(second)
            await asyncio.sleep(0.002)
            notes.append(error_of(transport.write_eof))
            transport.abort()
            await protocol.lost

    same(scenario)


def test_the_run_survives_a_peer_that_resets_before_the_end_is_told() -> None:
    """All is sent, and shutdown(2) fails: CPython's loop tells its exception handler."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        told: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _loop, context: told.append(context))
        with socket_pair(socket.AF_INET) as (first, second):
            protocol = Record()
            transport = await connect(first, protocol)
            transport.pause_reading()

            def gone() -> None:
                reset(second)
                time.sleep(0.01)

            transport.write(b"x" * 100)
            transport.write_eof()
            loop.call_soon(gone)
            await asyncio.sleep(0.02)
            transport.abort()
            await protocol.lost
            assert all("Exception in callback" in context["message"] for context in told)

    run(main())


def test_the_run_survives_a_descriptor_closed_behind_the_transports_back() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        told: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _loop, context: told.append(context))
        first, second = socket.socketpair()
        protocol = Record()
        transport = await connect(first, protocol)
        await turns()
        import os

        os.close(first.fileno())
        transport.close()
        await protocol.lost
        await turns()
        assert any(isinstance(context["exception"], OSError) for context in told)
        second.close()
        first.detach()

    run(main())


# -- Flow control -------------------------------------------------------------------------------------------------------------


def test_marks() -> None:
    async def scenario(notes: list[Any]) -> None:
        with socket_pair() as (first, _second):
            transport = await connect(first, Record())
            notes.append(transport.get_write_buffer_limits())
            for keywords in (
                {"high": 0},
                {"high": 100},
                {"low": 100},
                {"high": 100, "low": 100},
                {"high": 200, "low": 0},
                {"high": None, "low": None},
                {"high": 10, "low": 11},
                {"high": -1},
                {"low": -1},
                {},
                {"nonsense": 1},
            ):
                kind, words = error_of(transport.set_write_buffer_limits, **keywords)
                notes.append((keywords, kind, words.rpartition(".")[2], transport.get_write_buffer_limits()))
            transport.set_write_buffer_limits(1000, 10)
            notes.append(transport.get_write_buffer_limits())
            notes.append(transport.get_write_buffer_size())
            transport.close()
            await turns()

    same(scenario)


@pytest.mark.parametrize(("high", "low"), [(65536, 16384), (0, 0), (1000, 1000), (3_000_000, 10)])
def test_the_protocol_is_paused_and_resumed_once_each(high: int, low: int) -> None:
    async def scenario(notes: list[Any]) -> None:
        with socket_pair() as (first, second):
            protocol = Record(notes)
            transport = await connect(first, protocol)
            transport.set_write_buffer_limits(high, low)
            for _ in range(10):
                transport.write(bytes(400_000))
            notes.append(protocol.paused)
            assert transport.get_write_buffer_size() > high
            task = asyncio.create_task(drain(second, 4_000_000))
            await until(lambda: not protocol.paused)
            assert transport.get_write_buffer_size() <= low
            notes.append(len(await task))
            notes.append(transport.get_write_buffer_size())
            transport.close()
            await protocol.lost

    assert same(scenario).count("pause") == 1


def test_small_writes_pause_nobody() -> None:
    async def main() -> None:
        with socket_pair() as (first, second):
            protocol = Record()
            transport = await connect(first, protocol)
            for _ in range(100):
                transport.write(bytes(10_000))
                await drain(second, 10_000)
            assert "pause" not in protocol.notes
            transport.close()
            await protocol.lost

    run(main())


def test_large_writes_leave_at_once() -> None:
    """Before the iteration ends, unlike small ones, and behind what was written before."""

    async def main() -> None:
        with socket_pair() as (first, second):
            transport = await connect(first, Record())
            data = pattern(40_000)
            transport.write(b"small")
            with pytest.raises(BlockingIOError):
                second.recv(1)
            transport.write(data)
            assert second.recv(100_000) == b"small" + data
            transport.close()
            await turns()

    run(main())


def test_a_protocol_that_writes_until_it_is_paused_does_not_fill_the_kernel_first() -> None:
    class Writer(Record):
        written = 0
        most = 0

        def fill(self) -> None:
            begin = self.written
            while not self.paused and self.written < len(data):
                self.transport.write(data[self.written : self.written + 64 * 1024])
                self.written += 64 * 1024
            self.most = max(self.most, self.written - begin)

        def resume_writing(self) -> None:
            super().resume_writing()
            self.fill()

    async def main() -> None:
        with socket_pair(socket.AF_INET) as (first, second):
            protocol = Writer()
            transport = await connect(first, protocol)
            protocol.fill()
            assert await drain(second, len(data)) == data
            # The kernel alone would have taken more than 1.5 MB the first time.
            assert 256 * 1024 <= protocol.most <= 512 * 1024
            transport.close()
            await protocol.lost

    data = pattern(8 * 1024 * 1024)
    run(main())


def test_marks_lowered_while_something_waits() -> None:
    async def scenario(notes: list[Any]) -> None:
        with socket_pair() as (first, second):
            protocol = Record(notes)
            transport = await connect(first, protocol)
            transport.set_write_buffer_limits(10_000_000)
            transport.write(bytes(5_000_000))
            await turns()
            notes.append(protocol.paused)
            transport.set_write_buffer_limits(1000)
            notes.append(protocol.paused)
            await drain(second, 5_000_000)
            await until(lambda: not protocol.paused)
            transport.close()
            await protocol.lost

    same(scenario)


def test_writing_more_when_resumed() -> None:
    async def main() -> None:
        data = pattern(5_000_000)
        with socket_pair() as (first, second):

            class Writer(Record):
                position = 0

                def fill(self) -> None:
                    while not self.paused and self.position < len(data):
                        self.transport.write(data[self.position : self.position + 10_000])
                        self.position += 10_000
                    if self.position >= len(data) and not self.transport.is_closing():
                        self.transport.close()

                def resume_writing(self) -> None:
                    super().resume_writing()
                    self.fill()

            protocol = Writer()
            await connect(first, protocol)
            protocol.fill()
            assert await drain(second, chunk=30_000) == data
            assert await protocol.lost is None

    run(main())


def test_closed_before_it_is_resumed() -> None:
    """What a paused protocol writes when it is resumed is sent, also if the transport was closed once it had sent everything."""

    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        data = pattern(2_000_000)
        with socket_pair() as (first, second):

            class Last(Record):
                def resume_writing(self) -> None:
                    super().resume_writing()
                    self.transport.write(b"the last")

            protocol = Last(notes)
            transport = await connect(first, protocol)
            transport.write(data)
            assert protocol.paused

            def close_when_empty() -> None:
                if transport.get_write_buffer_size() == 0:
                    transport.close()
                else:
                    loop.call_soon(close_when_empty)

            loop.call_soon(close_when_empty)
            assert await drain(second, chunk=30_000) == data + b"the last"
            await protocol.lost

    same(scenario)


# -- Reading ------------------------------------------------------------------------------------------------------------------


def test_pause_and_resume_keep_every_byte_in_order() -> None:
    """At random moments, inside and outside of callbacks, with data under way."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        data = pattern(2_000_000)
        chance = random.Random(7)
        with socket_pair(socket.AF_INET) as (first, second):

            class Pauser(Record):
                reads = True

                def data_received(self, received: bytes) -> None:
                    assert self.reads, "nothing is handed over while paused"
                    super().data_received(received)
                    if chance.random() < 0.5:
                        self.pause()
                        if chance.random() < 0.3:
                            self.resume()
                        else:
                            loop.call_later(chance.random() * 0.001, self.resume)

                def pause(self) -> None:
                    self.transport.pause_reading()
                    self.reads = False
                    assert not self.transport.is_reading()

                def resume(self) -> None:
                    self.reads = True
                    self.transport.resume_reading()

            protocol = Pauser()
            await connect(first, protocol)
            sending = loop.create_task(loop.sock_sendall(second, data))
            for _ in range(200):
                if chance.random() < 0.5:
                    protocol.pause()
                await asyncio.sleep(0 if chance.random() < 0.7 else 0.0005)
                protocol.resume()
            await asyncio.wait_for(sending, SECONDS)
            second.close()
            while not protocol.lost.done():
                protocol.resume()
                await asyncio.sleep(0.001)
            assert protocol.data == data

    run(main())


def test_paused_is_paused() -> None:
    async def scenario(notes: list[Any]) -> None:
        with socket_pair() as (first, second):
            protocol = Record(notes)
            transport = await connect(first, protocol)
            notes.append(transport.is_reading())
            transport.pause_reading()
            transport.pause_reading()
            notes.append(transport.is_reading())
            second.send(b"while paused")
            await asyncio.sleep(0.005)
            notes.append(bytes(protocol.data))
            second.close()
            await asyncio.sleep(0.005)
            notes.append(protocol.eof)
            transport.resume_reading()
            transport.resume_reading()
            await protocol.lost
            notes.append((bytes(protocol.data), transport.is_reading()))
            transport.pause_reading()
            transport.resume_reading()

    same(scenario)


def test_paused_before_the_beginning() -> None:
    async def scenario(notes: list[Any]) -> None:
        class Pauses(Record):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                transport.pause_reading()

        with socket_pair() as (first, second):
            second.send(b"early")
            protocol = Pauses(notes)
            transport = await connect(first, protocol)
            await asyncio.sleep(0.005)
            notes.append(bytes(protocol.data))
            transport.resume_reading()
            await until(lambda: protocol.data)
            transport.close()
            await protocol.lost

    same(scenario)


def test_another_protocol_gets_what_comes_after() -> None:
    """Set inside of data_received, with more on its way."""

    async def main() -> None:
        data = pattern(500_000)
        with socket_pair(socket.AF_INET) as (first, second):
            received = bytearray()
            switches = 0

            class Relay(Record):
                def data_received(self, piece: bytes) -> None:
                    nonlocal switches
                    assert self.transport.get_protocol() is self
                    received.extend(piece)
                    other = Relay()
                    other.transport = self.transport
                    self.transport.set_protocol(other)
                    switches += 1

            protocol = Relay()
            await connect(first, protocol)
            loop = asyncio.get_running_loop()
            for begin in range(0, len(data), 5000):
                await loop.sock_sendall(second, data[begin : begin + 5000])
                if begin % 20_000 == 0:
                    await asyncio.sleep(0)
            await until(lambda: len(received) == len(data))
            assert received == data and switches > 2
            protocol.transport.close()
            await turns()

    run(main())


class Buffered(asyncio.BufferedProtocol):
    """Gives a buffer of a size and a kind, and keeps what comes."""

    def __init__(self, make: Any) -> None:
        self.make = make
        self.data = bytearray()
        self.hints: set[int] = set()
        self.lost = asyncio.get_running_loop().create_future()
        self.notes: list[Any] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def get_buffer(self, hint: int) -> Any:
        self.hints.add(hint)
        self.buffer = self.make()
        return self.buffer

    def buffer_updated(self, count: int) -> None:
        assert count > 0
        self.data += memoryview(self.buffer).cast("B")[:count]

    def eof_received(self) -> None:
        self.notes.append("eof")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


@pytest.mark.parametrize(
    "make",
    [
        lambda: bytearray(1),
        lambda: bytearray(7),
        lambda: bytearray(100_000),
        lambda: memoryview(bytearray(100))[10:50],
        lambda: array.array("B", bytes(300)),
        lambda: array.array("I", [0] * 10),
    ],
)
def test_buffered_protocols(make: Any) -> None:
    async def main() -> None:
        data = pattern(5_000)
        with socket_pair() as (first, second):
            protocol = Buffered(make)
            await connect(first, protocol)
            await asyncio.get_running_loop().sock_sendall(second, data)
            second.close()
            assert await asyncio.wait_for(protocol.lost, SECONDS) is None
            assert protocol.data == data
            assert protocol.hints == {-1}
            assert protocol.notes == ["eof"]

    run(main())


def test_buffered_protocols_that_pause_and_change_places() -> None:
    """In the middle of what came at once: the rest is for whoever is there, when it reads again."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        data = pattern(3_000)
        with socket_pair() as (first, second):
            received = bytearray()

            class Relay(Buffered):
                paused = False

                def buffer_updated(self, count: int) -> None:
                    assert not self.paused
                    assert self.transport.get_protocol() is self
                    received.extend(self.buffer[:count])
                    if len(received) % 5 == 0:
                        self.paused = True
                        self.transport.pause_reading()
                        loop.call_later(0.0001, self.resume)
                    elif len(received) % 7 == 0:
                        other: Any = Relay(lambda: bytearray(11)) if len(received) % 2 else Plain()
                        other.transport = self.transport
                        self.transport.set_protocol(other)

                def resume(self) -> None:
                    self.paused = False
                    self.transport.resume_reading()

            class Plain(Record):
                def data_received(self, piece: bytes) -> None:
                    received.extend(piece)
                    other = Relay(lambda: bytearray(13))
                    other.transport = self.transport
                    self.transport.set_protocol(other)

            protocol = Relay(lambda: bytearray(1))
            transport = await connect(first, protocol)
            for begin in range(0, len(data), 300):
                await loop.sock_sendall(second, data[begin : begin + 300])
                await asyncio.sleep(0.0002)
            await until(lambda: len(received) == len(data))
            assert received == data
            transport.close()
            await turns()

    run(main())


# -- The end ------------------------------------------------------------------------------------------------------------------


def test_abort() -> None:
    async def scenario(notes: list[Any]) -> None:
        with socket_pair() as (first, _second):
            protocol = Record(notes)
            transport = await connect(first, protocol)
            transport.write(bytes(5_000_000))
            transport.abort()
            transport.abort()
            transport.close()
            notes.append((transport.is_closing(), transport.get_write_buffer_size()))
            await protocol.lost
            transport.abort()

    same(scenario)


def test_abort_while_closing() -> None:
    async def scenario(notes: list[Any]) -> None:
        with socket_pair() as (first, second):
            protocol = Record(notes)
            transport = await connect(first, protocol)
            transport.write(bytes(5_000_000))
            transport.close()
            await asyncio.sleep(0.002)
            notes.append(protocol.lost.done())
            transport.abort()
            await protocol.lost
            # What was sent before is there, and then the end.
            notes.append(0 < len(await drain(second)) < 5_000_000)

    same(scenario)


def test_the_peer_sees_the_end_of_a_closed_transport() -> None:
    async def main() -> None:
        for end in ("close", "abort"):
            for busy in (False, True):
                with socket_pair(socket.AF_INET) as (first, second):
                    protocol = Record()
                    transport = await connect(first, protocol)
                    await asyncio.sleep(0.001)
                    if busy:
                        transport.pause_reading()
                        second.send(b"unread")
                        await asyncio.sleep(0.001)
                        transport.resume_reading()
                    getattr(transport, end)()
                    await protocol.lost
                    try:
                        assert (
                            await asyncio.wait_for(asyncio.get_running_loop().sock_recv(second, 10), 5) == b""
                        )
                    except ConnectionResetError:
                        assert busy

    run(main())


def test_write_after_close_warns_from_the_fifth_on(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(notes: list[Any]) -> None:
        with socket_pair() as (first, _second):
            protocol = Record()
            transport = await connect(first, protocol)
            transport.close()
            await protocol.lost
            caplog.clear()
            for _ in range(8):
                transport.write(b"x")
            notes.extend(record.getMessage() for record in caplog.records)

    assert same(scenario)


@pytest.mark.parametrize("then", ["goes on", "pauses", "closes", "is replaced"])
def test_much_that_has_arrived_at_once_is_handed_over_in_pieces(then: str) -> None:
    """No more at once than CPython's loop reads, and after each piece the protocol may want no more."""

    class Pieces(Record):
        def __init__(self) -> None:
            super().__init__()
            self.sizes: list[int] = []

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.sizes.append(len(data))
            if len(self.sizes) == 2:
                if then == "pauses":
                    self.transport.pause_reading()
                elif then == "closes":
                    self.transport.close()
                elif then == "is replaced":
                    self.transport.set_protocol(other)

    async def main() -> None:
        nonlocal other
        data = pattern(20_000_000)
        other = Record()
        with socket_pair(socket.AF_INET) as (first, second):
            sent = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    sent += second.send(data[sent:])
            assert sent > 1_500_000  # much more than one piece
            protocol = Pieces()
            transport = await connect(first, protocol)
            if then == "goes on":
                await until(lambda: len(protocol.data) == sent)
                assert protocol.data == data[:sent]
            else:
                await until(lambda: len(protocol.sizes) == 2)
                await turns(20)
                assert len(protocol.sizes) == 2
                if then == "closes":
                    assert await protocol.lost is None
                elif then == "is replaced":
                    await until(lambda: len(protocol.data) + len(other.data) == sent)
                    assert protocol.data + other.data == data[:sent]
                else:
                    transport.resume_reading()
                    await until(lambda: len(protocol.data) == sent)
                    assert protocol.data == data[:sent]
            assert max(protocol.sizes) <= 256 * 1024
            transport.abort()

    other: Any = None
    run(main())


class Filler(asyncio.BufferedProtocol):
    """Notes what it is told as `Record` does, from a buffer of its own."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.buffer = bytearray(200_000)
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.eof = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data += self.buffer[:nbytes]

    def eof_received(self) -> None:
        self.eof = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
@pytest.mark.parametrize("make", [Record, Filler])
@pytest.mark.parametrize("pauses", [False, True])
def test_much_and_little_by_turns(family: int, make: Any, pauses: bool) -> None:
    """How bytes are read goes by how many come in. None is lost where that changes."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket_pair(family) as (first, second):
            protocol = make()
            transport = await connect(first, protocol)
            sent = bytearray()
            for turn in range(3):
                much = pattern(3_000_000 + turn)
                sent += much
                sending = asyncio.ensure_future(loop.sock_sendall(second, much))
                while not sending.done() or len(protocol.data) < len(sent):
                    if pauses:
                        transport.pause_reading()
                        await turns(2)
                        transport.resume_reading()
                    await asyncio.wait([sending], timeout=0.001)
                for length in range(1, 40):
                    little = pattern(length * 50)
                    sent += little
                    second.send(little)
                    await until(lambda: len(protocol.data) == len(sent))
            last = pattern(100_000)
            sent += last
            await loop.sock_sendall(second, last)
            second.shutdown(socket.SHUT_WR)
            assert await asyncio.wait_for(protocol.lost, SECONDS) is None
            assert protocol.eof and protocol.data == sent

    run(main())


def test_a_reset_behind_much_is_a_failure() -> None:
    """It is found by a read that follows another in the same iteration, and the kernel says it only once."""

    class Resets(Record):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if len(data) == 256 * 1024 and there.fileno() != -1:
                reset(there)
            elif there.fileno() != -1:
                fill()

    def fill() -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                there.send(bytes(1_000_000))

    async def main() -> None:
        nonlocal there
        with socket_pair(socket.AF_INET) as (first, there):
            fill()
            protocol = Resets()
            await connect(first, protocol)
            lost = await asyncio.wait_for(protocol.lost, SECONDS)
            assert type(lost) is ConnectionResetError
            assert not protocol.eof

    there: Any = None
    run(main())


def test_reset_while_reading_and_while_writing() -> None:
    async def scenario(notes: list[Any]) -> None:
        for writes in (False, True):
            with socket_pair(socket.AF_INET) as (first, second):
                protocol = Record()
                transport = await connect(first, protocol)
                handler_notes(asyncio.get_running_loop(), notes)
                if writes:
                    transport.pause_reading()
                    transport.write(bytes(5_000_000))
                    await asyncio.sleep(0.002)
                reset(second)
                exception = await asyncio.wait_for(protocol.lost, SECONDS)
                notes.append((writes, type(exception).__name__, str(exception)))
                notes.append(transport.is_closing())
                transport.write(b"x")

    notes = same(scenario)
    assert (False, "ConnectionResetError", "[Errno 104] Connection reset by peer") in notes


def test_a_reset_that_a_send_hears_of_first_is_no_end() -> None:
    """A kernel says once that a connection was reset. What did not hear of it finds the end of the stream, and a protocol that is
    told of that would take what it has for whole."""

    async def scenario(notes: list[Any]) -> None:
        for _ in range(50):
            with socket_pair(socket.AF_INET) as (first, second):
                protocol = Record()
                transport = await connect(first, protocol)
                transport.write(bytes(20_000_000))
                await until(lambda: transport.get_write_buffer_size() < 20_000_000)
                # By another thread, while the loop waits for the socket to be writable, and to be readable.
                await asyncio.to_thread(reset, second)
                exception = await asyncio.wait_for(protocol.lost, SECONDS)
                notes.append((protocol.eof, type(exception).__name__))

    assert same(scenario) == [(False, "ConnectionResetError")] * 50


def test_an_end_that_comes_with_a_failed_send_is_no_orderly_one() -> None:
    """What was written is lost, and the protocol hears of that and not only of the peer's end."""

    async def scenario(notes: list[Any]) -> None:
        for family in (socket.AF_UNIX, socket.AF_INET):
            with socket_pair(family) as (first, second):
                protocol = Record()
                transport = await connect(first, protocol)
                transport.write(b"AAAAA")
                second.close() if family == socket.AF_UNIX else reset(second)
                transport.write(b"AAAAA")
                notes.append(type(await asyncio.wait_for(protocol.lost, SECONDS)).__name__ != "NoneType")

    assert same(scenario) == [True, True]


def test_the_peers_end_while_something_is_written() -> None:
    async def main() -> None:
        data = pattern(3_000_000)
        with socket_pair() as (first, second):
            protocol = Record()
            protocol.keeps_open = False
            transport = await connect(first, protocol)
            transport.write(data)
            second.shutdown(socket.SHUT_WR)
            await until(lambda: protocol.eof)
            # It closes by itself, and what was written still leaves.
            assert await drain(second) == data
            assert await protocol.lost is None

    run(main())


CALLBACKS = [
    "connection_made",
    "data_received",
    "eof_received",
    "get_buffer",
    "buffer_updated",
    "pause_writing",
    "resume_writing",
    "connection_lost",
]


@pytest.mark.parametrize("kind", [ValueError, OSError, asyncio.CancelledError])
@pytest.mark.parametrize("name", CALLBACKS)
def test_protocols_that_raise(name: str, kind: type[BaseException]) -> None:
    """What the exception handler hears of it, and what becomes of the connection."""

    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()

        def handler(_loop: object, context: dict[str, Any]) -> None:
            message = context["message"]
            if message.startswith("Exception in callback"):
                # CPython names its own callback, which differs.
                message = "Exception in callback"
            notes.append((message, type(context["exception"]).__name__, str(context["exception"])))

        loop.set_exception_handler(handler)

        class Base:
            def __init__(self) -> None:
                self.lost = loop.create_future()

            def fail(self, what: str) -> None:
                if what == name:
                    raise kind("raised")

            def connection_made(self, transport: Any) -> None:
                self.transport = transport
                self.fail("connection_made")

            def eof_received(self) -> None:
                self.fail("eof_received")

            def pause_writing(self) -> None:
                self.fail("pause_writing")

            def resume_writing(self) -> None:
                self.fail("resume_writing")

            def connection_lost(self, exc: Any) -> None:
                notes.append(("lost", type(exc).__name__))
                self.lost.set_result(None)
                self.fail("connection_lost")

        class Plain(Base, asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                notes.append(data)
                self.fail("data_received")

        class Filled(Base, asyncio.BufferedProtocol):
            def get_buffer(self, _hint: int) -> Any:
                self.fail("get_buffer")
                self.buffer = bytearray(100)
                return self.buffer

            def buffer_updated(self, count: int) -> None:
                notes.append(bytes(self.buffer[:count]))
                self.fail("buffer_updated")

        protocol: Any = Filled() if "buffer" in name else Plain()
        with socket_pair() as (first, second):
            transport = await connect(first, protocol)
            second.send(b"x")
            await until(lambda: b"x" in notes or transport.is_closing())
            await turns()
            notes.append(("closing after data", transport.is_closing()))
            transport.write(bytes(1_000_000))
            task = asyncio.create_task(drain(second))
            # What eof_received() raises would have what is left dropped.
            await until(lambda: transport.get_write_buffer_size() == 0 or transport.is_closing())
            second.shutdown(socket.SHUT_WR)
            await asyncio.wait_for(protocol.lost, SECONDS)
            count = len(await task)
            notes.append(count == 1_000_000)
            await turns()

    same(scenario)


def test_buffers_that_are_no_good() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        for wrong in (b"read-only", bytearray(), memoryview(bytearray(8))[::2], None, 5, "text"):
            handler_notes(loop, notes)
            with socket_pair() as (first, second):
                protocol = Buffered(lambda wrong=wrong: wrong)
                await connect(first, protocol)
                second.send(b"x")
                exception = await asyncio.wait_for(protocol.lost, SECONDS)
                notes.append(type(exception).__name__)

    expected = notes_of(scenario, stdlib_loop)
    actual = notes_of(scenario, whilst.new_event_loop)
    # A buffer that cannot be written to is refused in other words: recv_into() is not what fills it.
    assert [note if isinstance(note, str) else note[0] for note in actual] != []
    assert len(actual) == len(expected)
    assert all("get_buffer() call failed" in note[1] or "Fatal read error" in note[1] for note in actual[::2])


def test_closing_and_aborting_inside_of_callbacks() -> None:
    async def scenario(notes: list[Any]) -> None:
        for where in ("connection_made", "data_received", "eof_received", "pause_writing"):
            for how in ("close", "abort"):

                class Ends(Record):
                    def end(self, place: str, where: str = where, how: str = how) -> None:
                        if place == where:
                            getattr(self.transport, how)()

                    def connection_made(self, transport: Any) -> None:
                        super().connection_made(transport)
                        self.end("connection_made")

                    def data_received(self, data: bytes) -> None:
                        super().data_received(data)
                        self.end("data_received")

                    def eof_received(self) -> bool:
                        super().eof_received()
                        self.end("eof_received")
                        return True

                    def pause_writing(self) -> None:
                        super().pause_writing()
                        self.end("pause_writing")

                with socket_pair() as (first, second):
                    mine: list[Any] = []
                    protocol = Ends(mine)
                    transport = await connect(first, protocol)
                    with contextlib.suppress(BrokenPipeError):
                        second.send(b"data")
                    await asyncio.sleep(0.002)
                    second.shutdown(socket.SHUT_WR)
                    await asyncio.sleep(0.002)
                    transport.write(bytes(1_000_000))
                    await asyncio.sleep(0.002)
                    task = asyncio.create_task(drain(second))
                    await asyncio.wait_for(protocol.lost, SECONDS)
                    await task
                    notes.append((where, how, mine, bytes(protocol.data)))

    same(scenario)


# -- What a transport is ------------------------------------------------------------------------------------------------------


def test_transports_are_transports() -> None:
    async def main() -> None:
        with socket_pair() as (first, _second):
            transport = await connect(first, Record())
            assert isinstance(transport, asyncio.Transport)
            assert isinstance(transport, asyncio.ReadTransport)
            assert isinstance(transport, asyncio.WriteTransport)
            assert weakref.ref(transport)() is transport
            transport.own = "attribute"
            assert transport.own == "attribute" and vars(transport) == {"own": "attribute"}
            assert {transport: 1}[transport] == 1
            assert f"fd={first.fileno()}" in repr(transport)
            with pytest.raises(TypeError):
                type(transport)()
            transport.close()
            assert "closing" in repr(transport)
            await turns()
            assert "closed" in repr(transport)

    run(main())


@pytest.mark.parametrize("kind", ["IPv4", "IPv6", "path", "abstract", "pair"])
def test_extra_information(kind: str, tmp_path: Path) -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        accepted: asyncio.Future[Any] = loop.create_future()

        class Accepts(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                accepted.set_result(transport)

        path = str(tmp_path / f"socket {len(list(tmp_path.iterdir()))} {type(loop).__name__}")
        abstract = "\0whilst test of extra information"
        if kind == "pair":
            first, second = socket.socketpair()
            transport = await connect(first, asyncio.Protocol())
            other = await connect(second, asyncio.Protocol())
            server = None
        else:
            if kind in ("IPv4", "IPv6"):
                server = await loop.create_server(Accepts, "127.0.0.1" if kind == "IPv4" else "::1", 0)
                address = server.sockets[0].getsockname()
                transport, _ = await loop.create_connection(asyncio.Protocol, *address[:2])
            else:
                address = path if kind == "path" else abstract
                server = await loop.create_unix_server(Accepts, address)
                transport, _ = await loop.create_unix_connection(asyncio.Protocol, address)
            other = await asyncio.wait_for(accepted, SECONDS)
        for each in (transport, other):
            sock = each.get_extra_info("socket")
            for name in ("sockname", "peername"):
                value = each.get_extra_info(name)
                actual = sock.getsockname() if name == "sockname" else sock.getpeername()
                notes.append((name, value == actual, type(value).__name__))
            notes.append((type(sock).__name__, sock.family, sock.type, sock.gettimeout()))
            if kind in ("IPv4", "IPv6"):
                notes.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0)
            notes.append(each.get_extra_info("nonsense"))
            notes.append(each.get_extra_info("nonsense", "default"))
            notes.append(each.get_extra_info("sslcontext"))
            notes.append(error_of(each.get_extra_info)[0])
            notes.append(sock is each.get_extra_info("socket"))
        names = [transport.get_extra_info(name) for name in ("sockname", "peername")]
        transport.close()
        other.close()
        await turns()
        notes.append(names == [transport.get_extra_info(name) for name in ("sockname", "peername")])
        notes.append(transport.get_extra_info("socket").fileno())
        notes.append(other.get_extra_info("socket").fileno())
        if server is not None:
            server.close()
            await server.wait_closed()
        Path(path).unlink(missing_ok=True)

    same(scenario)


def test_the_socket_is_known_after_the_end_although_nobody_asked_before() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        accepted: asyncio.Future[Any] = loop.create_future()

        class Accepts(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                accepted.set_result(transport)

        server = await loop.create_server(Accepts, "127.0.0.1", 0)
        transport, _ = await loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname())
        other = await asyncio.wait_for(accepted, SECONDS)
        transport.close()
        other.close()
        await turns(10)
        for each in (transport, other):
            sock = each.get_extra_info("socket")
            notes.append(sock is not None and sock.fileno())
        server.close()
        await server.wait_closed()

    same(scenario)


def test_an_unclosed_transport_warns_and_its_descriptor_is_closed() -> None:
    with no_descriptor_leaks():
        loop: Any = whilst.Loop()
        first, second = socket.socketpair()
        transport, _ = loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=first))
        del first
        reference = weakref.ref(transport)
        loop.close()
        with pytest.warns(ResourceWarning, match="unclosed transport <StreamTransport"):
            del transport, _
            gc.collect()
        assert reference() is None
        second.settimeout(SECONDS)
        assert second.recv(1) == b""
        second.close()


def test_a_transport_used_after_its_loop_is_closed() -> None:
    records = []
    for factory in (stdlib_loop, whilst.new_event_loop):
        loop: Any = factory()
        first, second = socket.socketpair()
        first.setblocking(False)
        transport, _ = loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=first))
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        record = [
            transport.is_closing(),
            error_of(transport.write, b"after"),
            transport.get_write_buffer_size(),
            error_of(transport.get_extra_info, "peername"),
            error_of(transport.close),
            transport.is_closing(),
            error_of(transport.close),
            error_of(transport.abort)[0],
        ]
        second.settimeout(SECONDS)
        record.append(second.recv(100))
        second.close()
        with pytest.warns(ResourceWarning):
            del transport, _
            gc.collect()
        first.close()
        records.append(record)
    assert records[0] == records[1]


def test_a_lost_connection_is_let_go_of() -> None:
    """Neither the transport nor the protocol refers to the other any more, and the loop to neither."""

    async def main() -> None:
        with socket_pair() as (first, _second):
            protocol = Record()
            transport = await connect(first, protocol)
            await turns()
            references = [weakref.ref(transport), weakref.ref(protocol)]
            lost = protocol.lost
            transport.close()
            await lost
            del transport
            protocol.transport = None
            del protocol, lost
            await turns()
            assert [reference() for reference in references] == [None, None]

    gc.disable()
    try:
        run(main())
    finally:
        gc.enable()


def test_contexts_of_callbacks() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nothing")

    async def scenario(notes: list[Any]) -> None:
        class Notes(Record):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                notes.append(("made", variable.get()))

            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                notes.append(("data", variable.get()))

            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                notes.append(("lost", variable.get()))

        with socket_pair() as (first, second):
            variable.set("connecting")
            protocol = Notes()
            transport = await connect(first, protocol)
            variable.set("later")
            second.send(b"x")
            await until(lambda: protocol.data)
            del notes[2:]
            transport.close()
            await protocol.lost
            del notes[2:]

    same(scenario)


# -- Under stress -------------------------------------------------------------------------------------------------------------

STRESS = """
    import asyncio, gc, random, socket, sys, threading, time
    import whilst

    seed, seconds = int(sys.argv[1]), float(sys.argv[2])
    chance = random.Random(seed)

    class Wild(asyncio.Protocol):
        def __init__(self):
            self.me = self  # A cycle, for the collector.
            self.alive = False

        def act(self):
            transport = self.transport
            what = chance.randrange(16)
            if what < 4:
                transport.write(bytes(chance.choice((1, 100, 5000, 200_000))))
            elif what == 4:
                transport.writelines([b"a", b"b" * 1000, bytearray(10)])
            elif what == 5:
                transport.pause_reading()
            elif what in (6, 7):
                transport.resume_reading()
            elif what == 8:
                transport.close()
            elif what == 9:
                transport.abort()
            elif what == 10:
                transport.write_eof()
            elif what == 11:
                gc.collect(0)
            elif what == 12:
                other = chance.choice((Wild, WildBuffered))()
                other.transport, other.alive = transport, True
                self.alive = False
                transport.set_protocol(other)
            elif what == 13:
                transport.set_write_buffer_limits(chance.choice((0, 100, 100_000)))
            elif what == 14:
                raise ValueError("wild")
            else:
                transport.get_extra_info("socket"), repr(transport), transport.get_extra_info("peername")

        def guarded(self):
            try:
                self.act()
            except (RuntimeError, OSError):
                pass  # After write_eof(), and of a peer that has gone.

        def connection_made(self, transport):
            self.transport = transport
            self.alive = True
            if chance.random() < 0.2:
                self.guarded()

        def data_received(self, data):
            assert data
            if chance.random() < 0.3:
                self.guarded()

        def eof_received(self):
            if chance.random() < 0.3:
                self.guarded()
            return chance.random() < 0.5

        def pause_writing(self):
            if chance.random() < 0.2:
                self.guarded()

        def resume_writing(self):
            if chance.random() < 0.2:
                self.guarded()

        def connection_lost(self, exc):
            self.alive = False
            if chance.random() < 0.2:
                self.guarded()

    class WildBuffered(Wild, asyncio.BufferedProtocol):
        def get_buffer(self, hint):
            if chance.random() < 0.1:
                self.guarded()
            return bytearray(chance.choice((1, 10, 1000, 100_000)))

        def buffer_updated(self, count):
            if chance.random() < 0.3:
                self.guarded()

    async def main():
        loop = asyncio.get_running_loop()
        unexpected = []

        def handler(loop, context):
            if not isinstance(context.get("exception"), (ValueError, OSError, RuntimeError)):
                unexpected.append(context)

        loop.set_exception_handler(handler)
        server = await loop.create_server(lambda: chance.choice((Wild, WildBuffered))(), "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        ends = time.monotonic() + seconds
        stop = threading.Event()
        calls = [0]

        def call():
            calls[0] += 1

        def thread():
            while not stop.is_set():
                for _ in range(20):
                    loop.call_soon_threadsafe(call)
                stop.wait(0.001)

        threads = [threading.Thread(target=thread) for _ in range(2)]
        for each in threads:
            each.start()

        async def client():
            count = 0
            while time.monotonic() < ends:
                protocol = chance.choice((Wild, WildBuffered))()
                try:
                    transport, _ = await loop.create_connection(lambda: protocol, *address)
                except OSError:
                    continue
                for _ in range(chance.randrange(30)):
                    if not protocol.alive:
                        break
                    try:
                        protocol.guarded()
                    except ValueError:
                        pass
                    await asyncio.sleep(chance.choice((0, 0, 0, 0.0005)))
                if chance.random() < 0.9:
                    transport.abort()
                count += 1
            return count

        try:
            counts = await asyncio.gather(*(client() for _ in range(10)))
        finally:
            stop.set()
            for each in threads:
                each.join()
        server.close()
        await asyncio.sleep(0.01)
        assert sum(counts) > 20, counts
        assert calls[0] > 0
        assert not unexpected, unexpected
        print("connections", sum(counts), file=sys.stderr)

    import warnings
    warnings.simplefilter("ignore", ResourceWarning)
    whilst.run(main())
    gc.collect()
    print("fine")
"""


@pytest.mark.parametrize("seed", [1, 2])
def test_wild_protocols(seed: int) -> None:
    """Random deeds in random callbacks, other threads calling, the collector in between, memory checked."""
    import os

    environment = {**os.environ, "PYTHONMALLOC": "debug"}
    result = program(STRESS, str(seed), "1.5", options=("-X", "dev"), env=environment)
    assert (result.stdout, result.returncode) == ("fine\n", 0), result.stderr[-5000:]
    assert "Panic" not in result.stderr and "panicked" not in result.stderr, result.stderr[-5000:]


# -- Other threads ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deed", ["close", "abort", "write", "collected"])
def test_used_by_another_thread_while_the_loop_sleeps(deed: str) -> None:
    """Not thread-safe by the documentation; but the garbage collector, which runs in any thread, closes transports (so does
    `StreamWriter.__del__`), and what CPython's loop takes must not leave a peer waiting for ever here."""
    loop = whilst.Loop()
    first, second = socket.socketpair()
    first.setblocking(False)
    second.settimeout(SECONDS)
    transports: list[Any] = []

    async def begin() -> None:
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=first)
        transports.append(transport)

    class Closes:
        def __init__(self, transport: Any) -> None:
            self.me = self
            self.transport = transport

        def __del__(self) -> None:
            self.transport.close()

    loop.run_until_complete(begin())
    asleep = threading.Event()
    loop.call_soon(asleep.set)
    answers: list[bytes] = []

    def other() -> None:
        assert asleep.wait(SECONDS)
        time.sleep(0.02)
        transport = transports.pop()
        if deed == "write":
            transport.write(b"from another thread")
            answers.append(second.recv(100))
            transport.close()
        elif deed == "collected":
            Closes(transport)
            del transport
            gc.collect()
        else:
            getattr(transport, deed)()
        try:
            answers.append(second.recv(100))
        finally:
            loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=other)
    thread.start()
    loop.run_forever()
    thread.join(SECONDS)
    loop.close()
    second.close()
    assert answers == ([b"from another thread", b""] if deed == "write" else [b""])
