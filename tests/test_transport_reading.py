"""What stream transports receive and hand to their protocols."""

import array
import asyncio
import contextlib
import random
import socket
from typing import Any

import pytest
from oracle import (
    SECONDS,
    reset,
    run,
    same,
    socket_pair,
    turns,
    until,
)
from transports import Buffered, Record, connect, pattern

pytestmark = pytest.mark.usefixtures("driver")


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
