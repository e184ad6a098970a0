"""Writing to pipes, FIFOs and sockets by `connect_write_pipe`, as asyncio's own loop does (see `oracle`)."""

import asyncio
import contextlib
import logging
import os
from typing import Any

import pytest
import whilst
from oracle import (
    error_of,
    handler_notes,
    run,
    same,
    stdlib_loop,
    turns,
    until,
)
from pipe_ends import (
    Reader,
    drain,
    is_closed,
    kinds,
    named,
    pipe,
    put,
    reading,
    sockets,
    writing,
)

pytestmark = pytest.mark.usefixtures("driver", "left_behind")


def fill(end: Any) -> int:
    """Write until there is no room. Return how much there was."""
    os.set_blocking(end.fileno(), False)
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            count += os.write(end.fileno(), bytes(65536))
    return count


@kinds
def test_writes_leave_at_once(ends: Any) -> None:
    async def scenario(notes: list[Any]) -> None:
        with ends() as (there, here):
            transport, protocol = await writing(here, notes)
            for data in (b"bytes ", bytearray(b"array "), memoryview(b"view "), b""):
                transport.write(data)
            # No iteration has passed.
            notes.append((os.read(there.fileno(), 100), transport.get_write_buffer_size()))
            transport.writelines([b"1", bytearray(b"2"), memoryview(b"3"), b""])
            notes.append((os.read(there.fileno(), 100), os.get_blocking(here.fileno())))
            notes.append((transport.is_closing(), transport.get_extra_info("pipe") is here))
            transport.write_eof()
            transport.write_eof()
            notes.append((transport.is_closing(), is_closed(here)))
            await protocol.lost
            await turns()
            notes.append((os.read(there.fileno(), 100), is_closed(here), named(transport)))
            transport.close()

    same(scenario)


def test_no_bytes() -> None:
    async def main() -> None:
        with pipe() as (_there, here):
            transport, protocol = await writing(here)
            # CPython asserts it, unless it is told not to (python -O).
            for data in ("text", None, 1, [b"1"]):
                kind, words = error_of(transport.write, data)
                assert (kind, words[:46]) == ("TypeError", "data argument must be a bytes-like object, not")
            transport.close()
            await protocol.lost

    run(main())


@kinds
def test_five_mib_with_flow_control(ends: Any) -> None:
    size = 5 << 20

    async def main(factory: Any) -> None:
        data = os.urandom(size)
        with ends() as (there, here):
            notes: list[Any] = []
            _, reader = await reading(there)
            transport, writer = await writing(here, notes)
            transport.write(data[: size // 2])
            assert notes == [("connection_made",), ("pause_writing",)]
            assert transport.get_write_buffer_size() > 64 * 1024
            transport.write(memoryview(data)[size // 2 :])
            assert notes[-1] == ("pause_writing",)
            assert named(transport).startswith("<WritePipeTransport fd=N polling bufsize=")
            transport.write_eof()
            transport.write(b"too late")
            assert await writer.lost is None
            assert await reader.lost is None
            assert reader.data == data
            assert notes[2:] == [("resume_writing",), ("connection_lost", "NoneType", "None")]

    for factory in (stdlib_loop, whilst.new_event_loop):
        run(main(factory), factory)


def test_many_small_writes_behind_a_full_pipe() -> None:
    async def main() -> None:
        with pipe() as (there, here):
            transport, writer = await writing(here)
            there_was = fill(here)
            expected = bytearray()
            for number in range(2000):
                piece = f"{number}\n".encode()
                transport.write(piece)
                expected += piece
            assert transport.get_write_buffer_size() == len(expected)
            assert drain(there) == there_was
            _, reader = await reading(there)
            transport.close()
            await writer.lost
            await reader.lost
            assert reader.data == expected

    run(main())


def test_water_marks() -> None:
    async def scenario(notes: list[Any]) -> None:
        with pipe() as (there, here):
            transport, protocol = await writing(here, notes)
            for high, low in ((None, None), (100, None), (None, 10), (30, 20), (0, 0)):
                transport.set_write_buffer_limits(high, low)
                notes.append(transport.get_write_buffer_limits())
            notes.append(error_of(transport.set_write_buffer_limits, high=1, low=2))
            notes.append(error_of(transport.set_write_buffer_limits, high=-1))
            transport.set_write_buffer_limits(high=100, low=50)
            fill(here)
            transport.write(bytes(100))
            notes.append(transport.get_write_buffer_size())
            transport.set_write_buffer_limits(high=99)
            transport.set_write_buffer_limits(high=1000)
            drain(there)
            await until(lambda: transport.get_write_buffer_size() == 0)
            await turns()
            notes.append(named(transport))
            transport.close()
            await protocol.lost

    same(scenario)


def test_pause_and_resume_that_raise() -> None:
    async def scenario(notes: list[Any]) -> None:
        handler_notes(asyncio.get_running_loop(), notes)

        def fail(_protocol: object) -> None:
            raise LookupError("words")

        with pipe() as (there, here):
            transport, protocol = await writing(here, notes, pause_writing=fail, resume_writing=fail)
            transport.write(bytes(1 << 20))
            _, reader = await reading(there)
            transport.close()
            await protocol.lost
            notes.append(len(reader.data))

    same(scenario)


def test_writing_and_closing_when_writing_resumes() -> None:
    async def main() -> None:
        def more(it: Reader) -> None:
            if not it.transport.is_closing():
                it.transport.write(b"more")
                it.transport.close()

        with pipe() as (there, here):
            transport, protocol = await writing(here, resume_writing=more)
            transport.write(bytes(1 << 20))
            _, reader = await reading(there)
            await protocol.lost
            await reader.lost
            assert reader.data[1 << 20 :] == b"more"
            assert protocol.notes.count(("connection_lost", "NoneType", "None")) == 1

    run(main())


@kinds
def test_the_reader_goes(ends: Any) -> None:
    async def scenario(notes: list[Any]) -> None:
        handler_notes(asyncio.get_running_loop(), notes)
        with ends() as (there, here):
            transport, protocol = await writing(here, notes)
            there.close()
            await protocol.lost
            notes.append((is_closed(here), transport.is_closing()))

    same(scenario)


@kinds
def test_the_reader_goes_while_the_writer_waits(ends: Any) -> None:
    async def scenario(notes: list[Any]) -> None:
        handler_notes(asyncio.get_running_loop(), notes)
        with ends() as (there, here):
            transport, protocol = await writing(here, notes)
            transport.write(bytes(1 << 20))
            await turns()
            there.close()
            await protocol.lost
            notes.append((is_closed(here), transport.is_closing(), transport.get_write_buffer_size()))

    same(scenario)


@kinds
def test_the_reader_goes_and_the_writer_notices_by_writing(
    ends: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(notes: list[Any]) -> None:
        handler_notes(asyncio.get_running_loop(), notes)
        with ends() as (there, here):
            transport, protocol = await writing(here, notes)
            there.close()
            caplog.clear()
            for _ in range(8):
                transport.write(b"data")
            notes.append((transport.is_closing(), [record.message for record in caplog.records]))
            notes.append(str(await protocol.lost))

    with caplog.at_level(logging.WARNING, "asyncio"):
        same(scenario)


def test_the_loss_while_the_close_waits_for_the_reader() -> None:
    async def scenario(notes: list[Any]) -> None:
        with pipe() as (there, here):
            transport, protocol = await writing(here, notes)
            transport.write(bytes(1 << 20))
            transport.close()
            await turns()
            notes.append(protocol.lost.done())
            there.close()
            await protocol.lost

    same(scenario)


def test_aborting() -> None:
    async def scenario(notes: list[Any]) -> None:
        with pipe() as (there, here):
            transport, protocol = await writing(here, notes)
            transport.write(bytes(1 << 20))
            transport.close()
            transport.abort()
            notes.append((transport.get_write_buffer_size(), transport.is_closing()))
            await protocol.lost
            notes.append(drain(there))

    same(scenario)


def test_a_socket_whose_peer_sends_counts_as_hung_up() -> None:
    async def scenario(notes: list[Any]) -> None:
        with sockets() as (there, here):
            _, protocol = await writing(here, notes)
            put(there, b"data")
            await protocol.lost

    same(scenario)
