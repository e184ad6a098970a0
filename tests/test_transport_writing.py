"""What is written to stream transports, and the flow control of it."""

import array
import asyncio
import random
import socket
import threading
import time
from typing import Any

import pytest
from oracle import (
    SECONDS,
    error_of,
    handler_notes,
    no_descriptor_leaks,
    reset,
    run,
    same,
    socket_pair,
    turns,
    until,
)
from transports import Record, connect, drain, pattern

pytestmark = pytest.mark.usefixtures("driver")


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
