"""Reading from pipes, FIFOs and sockets by `connect_read_pipe`, as asyncio's own loop does (see `oracle`)."""

import asyncio
import contextlib
import fcntl
import os
import weakref
from typing import Any

import pytest
import whilst
from oracle import (
    SECONDS,
    run,
    same,
    stdlib_loop,
    turns,
    until,
)
from pipe_ends import (
    Reader,
    is_closed,
    kinds,
    named,
    pipe,
    put,
    reading,
    writing,
)

pytestmark = pytest.mark.usefixtures("driver", "left_behind")


@kinds
def test_bytes_then_the_end(ends: Any) -> None:
    async def scenario(notes: list[Any]) -> None:
        with ends() as (there, here):
            transport, protocol = await reading(there, notes)
            notes.append((transport.is_reading(), transport.is_closing(), os.get_blocking(there.fileno())))
            notes.append(transport.get_extra_info("pipe") is there)
            notes.append(transport.get_extra_info("nothing", "default"))
            notes.append(transport.get_protocol() is protocol)
            put(here, b"some")
            await until(lambda: len(protocol.data) == 4)
            put(here, b"thing")
            here.close()
            notes.append(await protocol.lost)
            await turns()
            notes.append((transport.is_reading(), transport.is_closing(), is_closed(there)))
            notes.append(transport.get_extra_info("pipe") is there)
            notes.append(transport.get_protocol())

    same(scenario)


def test_a_class_of_asyncios() -> None:
    async def scenario(notes: list[Any]) -> None:
        with pipe() as (there, here):
            transport, _ = await reading(there)
            other, _ = await writing(here)
            for one in (transport, other):
                classes = (
                    asyncio.BaseTransport,
                    asyncio.ReadTransport,
                    asyncio.WriteTransport,
                    asyncio.Transport,
                )
                notes.append([isinstance(one, cls) for cls in classes])
                one.attribute = 1
                notes.append((one.attribute, weakref.ref(one)() is one))
            notes.append((other.can_write_eof(), other.get_write_buffer_limits()))
            transport.close()
            other.close()
            await turns()

    same(scenario)


@pytest.mark.parametrize("size", [1, 4096, 65536, 300_000])
def test_what_is_there_arrives_at_once_up_to_256_kib(size: int) -> None:
    async def scenario(notes: list[Any]) -> None:
        with pipe() as (there, here):
            fcntl.fcntl(here, fcntl.F_SETPIPE_SZ, 1 << 20)
            sizes = []
            for _ in range(3):
                put(here, bytes(size))
            put(here, b"end")
            transport, protocol = await reading(
                there, data_received=lambda it: (sizes.append(len(it.data)), it.data.clear())
            )
            await until(lambda: sum(sizes) == 3 * size + 3)
            notes.append(sizes)
            put(here, b"more")
            await until(lambda: sizes[-1] == 4)
            transport.close()
            await protocol.lost

    same(scenario)


def test_the_bytes_are_those_that_were_written() -> None:
    async def main() -> None:
        data = os.urandom(1 << 20)
        with pipe() as (there, here):
            _, reader = await reading(there)
            transport, _ = await writing(here)
            transport.write(data)
            transport.close()
            await reader.lost
            assert reader.data == data

    run(main())


def test_a_small_read_after_large_ones_and_the_end_after_a_large_one() -> None:
    async def main() -> None:
        with pipe() as (there, here):
            _, reader = await reading(there)
            expected = b""
            for size in (20_000, 3, 40_000, 60_000, 1, 30_000):
                data = os.urandom(size)
                put(here, data)
                expected += data
                await until(lambda: len(reader.data) == len(expected))
            here.close()
            await reader.lost
            assert reader.data == expected

    run(main())


@kinds
def test_pausing_and_resuming(ends: Any) -> None:
    async def scenario(notes: list[Any]) -> None:
        with ends() as (there, here):
            transport, protocol = await reading(there, notes)
            transport.pause_reading()
            transport.pause_reading()
            notes.append((transport.is_reading(), named(transport)))
            put(here, b"kept")
            await asyncio.sleep(0.01)
            notes.append(bytes(protocol.data))
            transport.resume_reading()
            transport.resume_reading()
            notes.append((transport.is_reading(), named(transport)))
            await until(lambda: protocol.data == b"kept")
            transport.pause_reading()
            here.close()
            await asyncio.sleep(0.01)
            transport.resume_reading()
            await protocol.lost
            transport.pause_reading()
            transport.resume_reading()
            notes.append(transport.is_reading())

    same(scenario)


def test_paused_in_connection_made_and_in_data_received() -> None:
    async def scenario(notes: list[Any]) -> None:
        with pipe() as (there, here):
            put(here, b"1")
            transport, protocol = await reading(
                there,
                notes,
                connection_made=lambda it: it.transport.pause_reading(),
                data_received=lambda it: it.transport.pause_reading(),
            )
            await asyncio.sleep(0.01)
            notes.append(bytes(protocol.data))
            transport.resume_reading()
            await until(lambda: protocol.data)
            put(here, b"2")
            await asyncio.sleep(0.01)
            notes.append(bytes(protocol.data))
            transport.resume_reading()
            await until(lambda: len(protocol.data) == 2)
            transport.close()
            await protocol.lost

    same(scenario)


@pytest.mark.parametrize("where", ["connection_made", "data_received", "eof_received", "connection_lost"])
@pytest.mark.parametrize("end", ["read", "write"])
def test_closing_in_a_callback(where: str, end: str) -> None:
    async def scenario(notes: list[Any]) -> None:
        with pipe() as (there, here):
            on = {where: lambda it: it.transport.close()}
            if end == "read":
                put(here, b"data")
                _, protocol = await reading(there, notes, **on)
                if where != "data_received":
                    here.close()
            else:
                transport, protocol = await writing(here, notes, **on)
                if where != "connection_made":
                    transport.close()
            await protocol.lost
            await turns()
            notes.append(bytes(protocol.data))

    # In debug mode connect_read_pipe() asks the pipe, which is closed by then, for its number.
    same(scenario, debug=False)


@pytest.mark.parametrize("where", ["connection_made", "data_received", "eof_received", "connection_lost"])
def test_an_exception_in_a_readers_callback(where: str) -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        seen: list[str] = []

        def handler(_loop: object, context: dict[str, Any]) -> None:
            seen.append(context["message"].split()[0])
            notes.append((type(context["exception"]).__name__, str(context["exception"])))

        def fail(_protocol: object) -> None:
            raise LookupError(where)

        loop.set_exception_handler(handler)
        with pipe() as (there, here):
            put(here, b"1")
            _, protocol = await reading(there, notes, **{where: fail})
            await until(lambda: protocol.data)
            # data_received() may raise and the transport goes on.
            put(here, b"2")
            await until(lambda: len(protocol.data) == 2)
            here.close()
            await until(lambda: there.closed)
            notes.append(bytes(protocol.data))

    same(scenario)


def test_what_ends_the_run_leaves_and_the_pipe_goes_on() -> None:
    for factory in (stdlib_loop, whilst.new_event_loop):
        with contextlib.closing(factory()) as loop, pipe() as (there, here):

            def interrupt(_protocol: object) -> None:
                raise KeyboardInterrupt

            async def connect(there: Any = there, interrupt: Any = interrupt) -> Reader:
                return (await reading(there, data_received=interrupt))[1]

            protocol = loop.run_until_complete(connect())
            put(here, b"1")
            with pytest.raises(KeyboardInterrupt):
                loop.run_forever()
            del protocol.on["data_received"]
            put(here, b"2")
            here.close()
            assert loop.run_until_complete(asyncio.wait_for(protocol.lost, SECONDS)) is None
            assert protocol.data == b"12"


def test_another_protocol() -> None:
    async def scenario(notes: list[Any]) -> None:
        with pipe() as (there, here):
            transport, protocol = await reading(there, notes)
            other = Reader(notes)
            transport.set_protocol(other)
            notes.append(transport.get_protocol() is other)
            put(here, b"data")
            here.close()
            await other.lost
            notes.append((bytes(protocol.data), bytes(other.data), protocol.lost.done()))

    same(scenario)


@pytest.mark.parametrize("end", ["read", "write"])
def test_the_order_of_what_is_scheduled(end: str) -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()

        def soon(what: str) -> Any:
            return lambda it: loop.call_soon(notes.append, f"scheduled in {what}")

        with pipe() as (there, here):
            on = {name: soon(name) for name in ("connection_made", "data_received", "eof_received")}
            if end == "read":
                put(here, b"data")
                here.close()
                _, protocol = await reading(there, notes, **on)
            else:
                transport, protocol = await writing(here, notes, **on)
                loop.call_soon(notes.append, "before close")
                transport.close()
                loop.call_soon(notes.append, "after close")
            await protocol.lost
            await turns()

    same(scenario)
