"""How stream transports end, and what becomes of protocols that fail."""

import asyncio
import contextlib
import socket
from typing import Any

import pytest
import whilst
from oracle import (
    SECONDS,
    handler_notes,
    notes_of,
    reset,
    run,
    same,
    socket_pair,
    stdlib_loop,
    turns,
    until,
)
from transports import Buffered, Record, connect, drain, pattern

pytestmark = pytest.mark.usefixtures("driver")


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
