"""`asyncio.StreamReader` fed without Python code in between: only where nobody could tell."""

import asyncio
import contextlib
import functools
import gc
import socket
import sys
import sysconfig
from collections.abc import AsyncIterator, Callable
from typing import Any
from unittest import mock

import pytest
import tls
from oracle import error_of_awaiting, handler_notes, program, run, same, socket_pair, turns, until

pytestmark = pytest.mark.usefixtures("driver")

READER = asyncio.StreamReader
PROTOCOL = asyncio.StreamReaderProtocol


class Connection:
    """A stream and the socket at its other end."""

    def __init__(self, reader: Any, writer: Any, peer: Any) -> None:
        self.reader = reader
        self.writer = writer
        self.protocol = writer.transport.get_protocol()
        self.peer = peer

    async def buffered(self, data: bytes) -> None:
        """Have the peer send something, and wait until it is in the reader's buffer."""
        wanted = len(self.reader._buffer) + len(data)
        self.peer.send(data)
        await until(lambda: len(self.reader._buffer) >= wanted)

    async def arrived(self, data: bytes) -> None:
        """Have the peer send something, and give it the time to arrive."""
        self.peer.send(data)
        await turns(10)


@contextlib.asynccontextmanager
async def connected(**keywords: Any) -> AsyncIterator[Connection]:
    """A connection whose reader has been fed before, so that nothing is looked at for the first time."""
    with socket_pair() as (first, second):
        reader, writer = await asyncio.open_connection(sock=first, **keywords)
        connection = Connection(reader, writer, second)
        await connection.buffered(b"begin")
        assert await reader.readexactly(5) == b"begin"
        try:
            yield connection
        finally:
            writer.close()
            with contextlib.suppress(Exception):
                await writer.wait_closed()


def noting(notes: list[Any], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that notes its call and calls another."""

    def call(*arguments: Any) -> Any:
        notes.append((name, *(bytes(it) for it in arguments if isinstance(it, bytes | bytearray))))
        return function(*arguments)

    return call


def calls_of_streams(connection: Connection, profile_notes: list[str]) -> None:
    def profile(frame: Any, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code.co_filename == asyncio.streams.__file__:
            profile_notes.append(frame.f_code.co_name)

    sys.setprofile(profile)


@pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="on this build asyncio's own functions are called",
)
@pytest.mark.fresh_process
@pytest.mark.parametrize("kind", ["client", "server"])
def test_no_python_function_is_called_in_between(kind: str) -> None:
    called: list[str] = []

    async def client() -> None:
        async with connected() as connection:
            task = asyncio.create_task(connection.reader.readexactly(5))
            await turns()
            calls_of_streams(connection, called)
            await connection.arrived(b"12345")
            sys.setprofile(None)
            assert await task == b"12345"

    async def server() -> None:
        done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readexactly(5))
            calls_of_streams(Connection(reader, writer, None), called)
            done.set_result(await reader.readexactly(5))
            sys.setprofile(None)
            writer.close()

        async with await asyncio.start_server(handle, "127.0.0.1", 0) as listening:
            reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
            writer.write(b"begin")
            await reader.readexactly(5)
            called.clear()
            writer.write(b"12345")
            assert await done == b"12345"
            writer.close()

    try:
        run(client() if kind == "client" else server())
    finally:
        sys.setprofile(None)
    assert called
    assert not {"data_received", "feed_data", "_wakeup_waiter"} & set(called), called


@pytest.mark.fresh_process
@pytest.mark.parametrize("patched", [False, True])
def test_under_tls(patched: bool) -> None:
    called: list[Any] = []

    async def main() -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(10):
                writer.write(data)
            writer.close()

        async with await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls.server_context()) as server:
            reader, writer = await asyncio.open_connection(
                *server.sockets[0].getsockname(),
                ssl=tls.client_context(),
                server_hostname="localhost",
            )
            feed_data = noting(called, "feed_data", READER.feed_data)
            for _ in range(2):
                with (
                    mock.patch.object(READER, "feed_data", feed_data) if patched else contextlib.nullcontext()
                ):
                    writer.write(b"12345")
                    assert await reader.readexactly(5) == b"12345"
            if not patched:
                calls_of_streams(Connection(reader, writer, None), called)
                writer.write(b"12345")
                assert await reader.readexactly(5) == b"12345"
                sys.setprofile(None)
            writer.close()
            await writer.wait_closed()

    try:
        run(main())
    finally:
        sys.setprofile(None)
    if patched:
        assert called == [("feed_data", b"12345")] * 4
    elif not sysconfig.get_config_var("Py_GIL_DISABLED"):
        assert called
        assert not {"data_received", "feed_data", "_wakeup_waiter"} & set(called), called


def test_in_debug_mode_asyncios_functions_are_called() -> None:
    called: list[str] = []

    async def main() -> None:
        async with connected() as connection:
            calls_of_streams(connection, called)
            await connection.arrived(b"12345")
            sys.setprofile(None)

    try:
        run(main(), debug=True)
    finally:
        sys.setprofile(None)
    assert called[:3] == ["data_received", "_stream_reader", "feed_data"]


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (READER, "feed_data"),
        (READER, "_wakeup_waiter"),
        (PROTOCOL, "data_received"),
        (PROTOCOL.__mro__[1], "data_received"),
    ],
)
def test_a_patched_method_is_called_for_as_long_as_it_is_patched(owner: Any, name: str) -> None:
    async def scenario(notes: list[Any]) -> None:
        async with connected() as connection:
            reader = connection.reader
            for number in range(2):
                with mock.patch.object(owner, name, noting(notes, name, getattr(owner, name))):
                    task = asyncio.create_task(reader.readexactly(4))
                    await turns()
                    await connection.arrived(b"%d aa" % number)
                    notes.append(await task)
                task = asyncio.create_task(reader.readexactly(2))
                await turns()
                await connection.arrived(b"bb")
                notes.append(await task)

    same(scenario)


def test_a_mocked_method_takes_the_data() -> None:
    async def scenario(notes: list[Any]) -> None:
        async with connected() as connection:
            with mock.patch.object(READER, "feed_data") as feed_data:
                await connection.arrived(b"12")
            notes.append([call.args for call in feed_data.mock_calls])
            notes.append(bytes(connection.reader._buffer))
            await connection.arrived(b"34")
            notes.append(bytes(connection.reader._buffer))

    same(scenario)


@pytest.mark.parametrize("wrap", [staticmethod, classmethod])
def test_a_method_that_became_another_kind_of_one(wrap: Any) -> None:
    async def scenario(notes: list[Any]) -> None:
        handler_notes(asyncio.get_running_loop(), notes)
        async with connected() as connection:
            with mock.patch.object(READER, "feed_data", wrap(READER.feed_data)):
                await connection.arrived(b"12")
            notes.append(bytes(connection.reader._buffer))
            notes.append(connection.writer.is_closing())

    same(scenario)


def test_another_code_in_a_function() -> None:
    async def scenario(notes: list[Any]) -> None:
        async with connected() as connection:
            code = READER.feed_data.__code__
            try:
                READER.feed_data.__code__ = (lambda self, data: setattr(self, "seen", data)).__code__
                await connection.arrived(b"12")
            finally:
                READER.feed_data.__code__ = code
            notes.append((connection.reader.seen, bytes(connection.reader._buffer)))

    same(scenario)


def test_a_patched_property() -> None:
    async def scenario(notes: list[Any]) -> None:
        async with connected() as connection, connected() as other:
            with mock.patch.object(PROTOCOL, "_stream_reader", other.reader):
                await connection.arrived(b"12")
            notes.append((bytes(connection.reader._buffer), bytes(other.reader._buffer)))

    same(scenario)


@pytest.mark.parametrize("name", ["__setattr__", "__getattribute__"])
def test_patched_access_to_attributes(name: str) -> None:
    async def scenario(notes: list[Any]) -> None:
        def access(self: Any, name: str, *value: Any) -> Any:
            notes.append((name, repr(value)))
            return original(self, name, *value)

        original = getattr(object, name)
        async with connected() as connection:
            task = asyncio.create_task(connection.reader.readexactly(2))
            await turns()
            with mock.patch.object(READER, name, access, create=True):
                await connection.arrived(b"12")
            notes.append(await task)

    same(scenario)


def test_a_descriptor_in_the_place_of_an_attribute() -> None:
    async def scenario(notes: list[Any]) -> None:
        limits = iter([1, 1000])

        def limit(_self: object) -> int:
            notes.append("asked for the limit")
            return next(limits, 1000)

        async with connected() as connection:
            with mock.patch.object(READER, "_limit", property(limit), create=True):
                await connection.arrived(b"12345")
            notes.append((connection.reader._paused, bytes(connection.reader._buffer)))

    same(scenario)


@pytest.mark.parametrize("by_dictionary", [False, True])
@pytest.mark.parametrize(
    ("owner", "name"), [("reader", "feed_data"), ("reader", "_wakeup_waiter"), ("protocol", "data_received")]
)
def test_a_method_hidden_by_an_attribute_of_the_instance(owner: str, name: str, by_dictionary: bool) -> None:
    async def scenario(notes: list[Any]) -> None:
        async with connected() as connection, connected() as other:
            instance = getattr(connection, owner)
            function = noting(notes, name, getattr(instance, name))
            if by_dictionary:
                vars(instance)[name] = function
            else:
                setattr(instance, name, function)
            for _ in range(2):
                task = asyncio.create_task(connection.reader.readexactly(2))
                await turns()
                await connection.arrived(b"12")
                notes.append(await task)
                await other.arrived(b"34")
            delattr(instance, name)
            await connection.arrived(b"56")
            notes.append((bytes(connection.reader._buffer), bytes(other.reader._buffer)))

    same(scenario)


def test_attributes_that_are_none_of_asyncios_and_such_that_are_gone() -> None:
    async def scenario(notes: list[Any]) -> None:
        handler_notes(asyncio.get_running_loop(), notes)
        async with connected() as connection:
            connection.reader.note = 1
            await connection.arrived(b"12")
            vars(connection.reader)["other"] = 2
            await connection.arrived(b"34")
            notes.append(bytes(connection.reader._buffer))
            del connection.reader._limit
            await connection.arrived(b"56")
            notes.append(connection.writer.is_closing())

    same(scenario)


def test_subclasses() -> None:
    async def scenario(notes: list[Any]) -> None:
        class Reader(asyncio.StreamReader):
            def feed_data(self, data: Any) -> None:
                notes.append(("feed_data", bytes(data)))
                super().feed_data(data)

        class Protocol(asyncio.StreamReaderProtocol):
            def data_received(self, data: bytes) -> None:
                notes.append(("data_received", bytes(data)))
                super().data_received(data)

        loop = asyncio.get_running_loop()
        for reader_class, protocol_class in [
            (Reader, asyncio.StreamReaderProtocol),
            (asyncio.StreamReader, Protocol),
        ]:
            with socket_pair() as (first, second):
                reader = reader_class()
                transport, _ = await loop.create_connection(
                    functools.partial(protocol_class, reader), sock=first
                )
                for _ in range(2):
                    second.send(b"12")
                    notes.append(await reader.readexactly(2))
                transport.close()
                await turns()

    same(scenario)


def test_another_class_for_an_instance() -> None:
    async def scenario(notes: list[Any]) -> None:
        class Reader(asyncio.StreamReader):
            def feed_data(self, data: Any) -> None:
                notes.append(("feed_data", bytes(data)))
                super().feed_data(data)

        async with connected() as connection:
            connection.reader.__class__ = Reader
            await connection.arrived(b"12")
            connection.reader.__class__ = asyncio.StreamReader
            await connection.arrived(b"34")
            notes.append(bytes(connection.reader._buffer))

    same(scenario)


def test_another_protocol() -> None:
    async def scenario(notes: list[Any]) -> None:
        class Protocol(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                notes.append(("data_received", bytes(data)))

        async with connected() as connection, connected() as other:
            transport = connection.writer.transport
            transport.set_protocol(Protocol())
            await connection.arrived(b"12")
            transport.set_protocol(other.protocol)
            await connection.arrived(b"34")
            transport.set_protocol(connection.protocol)
            await connection.arrived(b"56")
            notes.append((bytes(connection.reader._buffer), bytes(other.reader._buffer)))

    same(scenario)


def test_a_reader_with_an_exception_and_one_at_its_end() -> None:
    async def scenario(notes: list[Any]) -> None:
        handler_notes(asyncio.get_running_loop(), notes)
        async with connected() as connection:
            connection.reader.set_exception(ValueError("nonsense"))
            await connection.arrived(b"12")
            notes.append(bytes(connection.reader._buffer))
            notes.append(await error_of_awaiting(connection.reader.read(1)))
        async with connected() as connection:
            connection.reader.feed_eof()
            await connection.arrived(b"12")
            notes.append((bytes(connection.reader._buffer), connection.writer.is_closing()))

    same(scenario)


def test_a_reader_pauses_and_resumes_at_its_limit() -> None:
    async def scenario(notes: list[Any]) -> None:
        async with connected(limit=10) as connection:
            reader, transport = connection.reader, connection.writer.transport

            def note() -> None:
                notes.append((len(reader._buffer), reader._paused, transport.is_reading()))

            for data in [b"x" * 10, b"y" * 10, b"z", b"after"]:
                await connection.arrived(data)
                note()
            for count in [5, 6, 1]:
                notes.append(await reader.readexactly(count))
                await turns()
                note()
            notes.append(await reader.readexactly(14))
            await connection.arrived(b"more than twice the limit" * 3)
            note()
            notes.append(await reader.readexactly(75))
            note()
            reader._transport = None
            await connection.arrived(b"x" * 30)
            note()

    same(scenario)


@pytest.mark.parametrize("limit", [2**80, 2.5, 10**6])
def test_limits_of_all_kinds(limit: Any) -> None:
    async def scenario(notes: list[Any]) -> None:
        async with connected(limit=limit) as connection:
            await connection.arrived(b"123456")
            notes.append((bytes(connection.reader._buffer), connection.reader._paused))

    same(scenario)


def test_replaced_parts() -> None:
    class Buffer(bytearray):
        pass

    class Waiter:
        def __init__(self, notes: list[Any]) -> None:
            self.notes = notes

        def __getattr__(self, name: str) -> Any:
            self.notes.append(name)
            return lambda *_arguments: False

    async def scenario(notes: list[Any]) -> None:
        handler_notes(asyncio.get_running_loop(), notes)
        async with connected() as connection:
            reader = connection.reader
            reader._buffer = bytearray(b"before ")
            await connection.arrived(b"12")
            reader._buffer = Buffer(reader._buffer)
            await connection.arrived(b"34")
            notes.append((type(reader._buffer).__name__, bytes(reader._buffer)))
            reader._waiter = Waiter(notes)
            await connection.arrived(b"56")
            notes.append(reader._waiter)
            reader._buffer = None
            await connection.arrived(b"78")
            notes.append(connection.writer.is_closing())

    same(scenario)


def test_futures_of_other_kinds_and_in_other_states() -> None:
    class Future(asyncio.Future):  # type: ignore[type-arg]
        pass

    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        handler_notes(loop, notes)
        async with connected() as connection:
            reader = connection.reader
            for make in [asyncio.Future, Future, asyncio.futures._PyFuture]:  # type: ignore[attr-defined]
                for cancel in [False, True]:
                    waiter = make(loop=loop)
                    waiter.add_done_callback(
                        lambda it: notes.append((it.cancelled(), reader._waiter is None))
                    )
                    reader._waiter = waiter
                    if cancel:
                        waiter.cancel()
                    await connection.arrived(b"12")
                    notes.append((waiter.done(), reader._waiter is None))
            reader._waiter = loop.create_future()
            reader._waiter.set_result(1)
            await connection.arrived(b"34")
            notes.append((bytes(reader._buffer), connection.writer.is_closing()))

    same(scenario)


def test_somebody_looks_at_the_buffer() -> None:
    async def scenario(notes: list[Any]) -> None:
        handler_notes(asyncio.get_running_loop(), notes)
        async with connected() as connection:
            await connection.arrived(b"12")
            with memoryview(connection.reader._buffer):
                await connection.arrived(b"34")
            notes.append((bytes(connection.reader._buffer), connection.writer.is_closing()))

    same(scenario)


def test_a_read_cancelled_in_the_iteration_in_which_the_data_arrive() -> None:
    async def scenario(notes: list[Any]) -> None:
        async with connected() as connection:
            task = asyncio.create_task(connection.reader.read(10))
            await turns()
            connection.peer.send(b"12")
            task.cancel()
            notes.append([type(it).__name__ for it in await asyncio.gather(task, return_exceptions=True)])
            await turns(10)
            notes.append((task.cancelled(), await connection.reader.read(10)))

    same(scenario)


def test_two_reads_at_once_and_two_transports() -> None:
    async def scenario(notes: list[Any]) -> None:
        async with connected() as connection:
            task = asyncio.create_task(connection.reader.read(10))
            await turns()
            notes.append(await error_of_awaiting(connection.reader.readline()))
            await connection.arrived(b"12")
            notes.append(await task)
            try:
                connection.reader.set_transport(connection.writer.transport)
            except AssertionError as error:
                notes.append(str(error))

    same(scenario)


def test_a_reader_that_nobody_has_any_more() -> None:
    async def scenario(notes: list[Any]) -> None:
        handler_notes(asyncio.get_running_loop(), notes)
        loop = asyncio.get_running_loop()
        with socket_pair() as (first, second):
            reader = asyncio.StreamReader()
            transport, protocol = await loop.create_connection(
                lambda: asyncio.StreamReaderProtocol(reader), sock=first
            )
            del reader
            gc.collect()
            second.send(b"12")
            await turns(10)
            notes.append((vars(protocol)["_stream_reader_wr"](), transport.is_closing()))
            transport.close()
            await turns()

    same(scenario)


def test_the_end_and_what_comes_before_it() -> None:
    async def scenario(notes: list[Any]) -> None:
        async with connected() as connection:
            task = asyncio.create_task(connection.reader.read(-1))
            await turns()
            for number in range(3):
                await connection.arrived(b"%d" % number)
            connection.peer.close()
            notes.append((await task, connection.reader.at_eof()))
            notes.append(await connection.reader.read(1))

    same(scenario)


@pytest.mark.parametrize("pauses", [0, 1, 2, 3])
def test_an_end_that_is_there_with_the_bytes_is_seen_as_soon(pauses: int) -> None:
    """Between the bytes and the task that they wake the loop polls only if that could show something."""

    async def scenario(notes: list[Any]) -> None:
        async with connected() as connection:
            reader = connection.reader
            task = asyncio.create_task(reader.readexactly(3))
            await turns()
            # Both are there before the loop looks.
            connection.peer.send(b"end")
            connection.peer.shutdown(socket.SHUT_WR)
            notes.append(await task)
            await turns(pauses)
            notes.append((reader._eof, reader.at_eof()))

    same(scenario)


def test_the_first_bytes_meet_a_patched_class() -> None:
    """As when a program patches before its first connection: in a process of its own nothing is known of the classes."""
    result = program(
        """
        import asyncio, whilst
        from unittest import mock

        async def main():
            seen = []
            def feed_data(self, data, original=asyncio.StreamReader.feed_data):
                seen.append(bytes(data))
                original(self, data)
            async def handle(reader, writer):
                writer.write(await reader.readexactly(2))
                writer.close()
            async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
                async def ask():
                    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                    writer.write(b"12")
                    assert await reader.read() == b"12"
                    writer.close()
                with mock.patch.object(asyncio.StreamReader, "feed_data", feed_data):
                    await ask()
                assert seen == [b"12", b"12"], seen
                await ask()
                assert seen == [b"12", b"12"], seen
        whilst.run(main())
        """
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""


@pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="on this build asyncio's own functions are called",
)
def test_the_first_of_many_clients_is_fed_as_well() -> None:
    """Instances made before the first bytes arrive leave later ones less room for attributes."""
    result = program(
        """
        import asyncio, socket, sys, whilst

        called = []
        def profile(frame, event, _argument):
            if event == "call" and frame.f_code.co_filename == asyncio.streams.__file__:
                called.append(frame.f_code.co_name)

        async def main():
            pairs = [socket.socketpair() for _ in range(60)]
            readers = []
            for ours, _theirs in pairs:
                readers.append(await asyncio.open_connection(sock=ours))
            sys.setprofile(profile)
            for (_ours, theirs), (reader, _writer) in zip(pairs, readers):
                theirs.send(b"12")
                assert await reader.readexactly(2) == b"12"
            sys.setprofile(None)
            for (_ours, theirs), (_reader, writer) in zip(pairs, readers):
                writer.close()
                theirs.close()
        whilst.run(main())
        assert "readexactly" in called and "feed_data" not in called, called
        """
    )
    assert result.returncode == 0, result.stderr
