"""The end of TLS connections: `close()`, `abort()`, half-closed and cut connections, limits of time, and what is left behind."""

import asyncio
import gc
import logging
import socket
import ssl
import threading
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import whilst
from oracle import (
    SECONDS,
    handler_notes,
    no_descriptor_leaks,
    notes_of,
    program,
    reset,
    run,
    same,
    stdlib_loop,
    turns,
    until,
)
from tls import (
    Bare,
    BufferedRecord,
    Echo,
    Record,
    client_context,
    connect,
    listening,
    pair,
    plain_server,
    server_context,
)

pytestmark = pytest.mark.usefixtures("driver", "tls_engine")

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture
def log() -> Iterator[list[tuple[str, str]]]:
    """What asyncio's logger says, from warnings on."""
    said: list[tuple[str, str]] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append((record.levelname, record.getMessage()))

    handler = Handler(logging.WARNING)
    logging.getLogger("asyncio").addHandler(handler)
    yield said
    logging.getLogger("asyncio").removeHandler(handler)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", [Record, BufferedRecord])
def test_close(version: ssl.TLSVersion, kind: type[Record]) -> None:
    """What was written before arrives; then each side is told once, in the stdlib's order."""

    async def scenario(notes: list[Any]) -> None:
        async with pair(lambda: kind(notes, "server"), lambda: kind(notes, "client"), version) as sides:
            server, client = sides
            client.transport.write(b"x" * 1_000_000)
            client.transport.close()
            notes.append(client.transport.is_closing())
            client.transport.close()
            await client.lost
            await server.lost
            notes.append(server.transport.is_closing())

    same(scenario)


def test_close_while_much_is_unsent() -> None:
    async def scenario(notes: list[Any]) -> None:
        async with pair(lambda: Record(notes, "server"), Record) as (server, client):
            server.transport.pause_reading()
            client.transport.write(b"x" * (8 << 20))
            await turns(5)
            client.transport.close()
            await turns(5)
            notes.append(client.lost.done())
            server.transport.resume_reading()
            await server.lost
            await client.lost
            notes.append(len(server.data) == 8 << 20)

    same(scenario)


@pytest.mark.parametrize("way", ["close", "abort"])
@pytest.mark.parametrize("where", ["connection_made", "data_received", "buffer_updated", "eof_received"])
def test_end_in_a_callback(way: str, where: str) -> None:
    base: Any = BufferedRecord if where == "buffer_updated" else Record

    class Ends(base):  # type: ignore[misc]
        def end(self) -> None:
            self.note("ends")
            getattr(self.transport, way)()
            self.note(self.transport.is_closing())

    def method(self: Any, *arguments: Any) -> None:
        getattr(base, where)(self, *arguments)
        self.end()

    setattr(Ends, where, method)

    async def scenario(notes: list[Any]) -> None:
        handler_notes(asyncio.get_running_loop(), notes)
        # What the other side sees of an abort is a matter of time.
        other: list[Any] = notes if way == "close" and where != "connection_made" else []
        async with listening(lambda: Record(other, "server")) as address:
            client = Ends(notes, "client")
            transport = await connect(client, address)
            if where in ("data_received", "buffer_updated", "eof_received"):
                server = next(
                    it
                    for it in gc.get_objects()
                    if type(it) is Record and it.notes is other and it.name == "server"
                )
                await until(lambda: server.made.done())
                server.transport.write(b"data")
                if where == "eof_received":
                    server.transport.close()
            await client.lost
            notes.append(transport.is_closing())

    same(scenario)


def test_abort_twice_and_close_after_it() -> None:
    async def scenario(notes: list[Any]) -> None:
        async with pair(Record, lambda: Record(notes)) as (_, client):
            transport = client.transport
            transport.abort()
            transport.abort()
            transport.close()
            transport.close()
            notes.append(transport.is_closing())
            await client.lost
            transport.abort()
            notes.append(transport.is_closing())

    same(scenario)


def test_abort_loses_what_is_unsent() -> None:
    async def scenario(notes: list[Any]) -> None:
        async with pair(Record, lambda: Record(notes)) as (server, client):
            server.transport.pause_reading()
            client.transport.write(b"x" * (8 << 20))
            await turns(3)
            client.transport.abort()
            await client.lost
            notes.append(client.transport.get_write_buffer_size())
            server.transport.resume_reading()
            await server.lost
            notes.append(len(server.data) < 8 << 20)

    same(scenario)


def test_shutdown_timeout() -> None:
    """A peer that does not answer `close_notify`."""

    async def scenario(notes: list[Any]) -> None:
        release = threading.Event()

        def talk(sock: socket.socket) -> None:
            Bare(sock, server_context(), server_side=True)
            assert release.wait(SECONDS)

        with plain_server(talk) as address:
            client = Record(notes)
            transport = await connect(client, address, ssl_shutdown_timeout=0.05)
            transport.close()
            error = await client.lost
            notes.append(isinstance(error, TimeoutError))
            release.set()

    assert same(scenario)[-1] is True


def test_shutdown_timeout_of_a_peer_that_does_not_read() -> None:
    """It holds to the end, as in CPython from 3.15 on: what is unsent keeps no transport for ever.

    The peer sends its `close_notify` and reads nothing. Before, the limit of time was called off with that.
    """
    release = threading.Event()

    def talk(sock: socket.socket) -> None:
        end = Bare(sock, server_context(), server_side=True)
        assert written.wait(SECONDS)
        with pytest.raises(ssl.SSLWantReadError):
            end.tls.unwrap()
        end.flush()
        assert release.wait(SECONDS)

    written = threading.Event()

    async def main() -> None:
        try:
            client = Record()
            transport = await connect(client, address, ssl_shutdown_timeout=0.2)
            transport.write(b"x" * (32 << 20))
            written.set()
            error = await client.lost
            assert isinstance(error, TimeoutError) and str(error) == "SSL shutdown timed out"
        finally:
            release.set()

    try:
        with plain_server(talk) as address:
            run(main())
    except ConnectionResetError:
        pass


@pytest.mark.parametrize("version", VERSIONS)
def test_half_closed_peer(version: ssl.TLSVersion) -> None:
    """The end of the stream without `close_notify` is an end; what came before it is delivered."""

    async def scenario(notes: list[Any]) -> None:
        def talk(sock: socket.socket) -> None:
            end = Bare(sock, server_context(version=version), server_side=True)
            assert end.read(2) == b"go"
            end.write(b"x" * 100_000)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass

        with plain_server(talk) as address:
            client = Record(notes)
            transport = await connect(client, address, client_context(version=version))
            transport.write(b"go")
            await client.lost

    same(scenario)


@pytest.mark.parametrize("pauses", [False, True])
def test_half_closed_peer_of_a_buffered_protocol(pauses: bool) -> None:
    """All of what came before the end, in many buffers, is delivered, even if the protocol pauses in between.

    CPython delivers one buffer more when the end comes and loses the rest; it is no oracle here.
    """

    def talk(sock: socket.socket) -> None:
        end = Bare(sock, server_context(), server_side=True)
        assert end.read(2) == b"go"
        for _ in range(100):
            end.tls.write(b"x" * 1000)
        end.flush()
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):
            pass

    class Pauses(BufferedRecord):
        def buffer_updated(self, count: int) -> None:
            super().buffer_updated(count)
            if pauses:
                self.transport.pause_reading()
                asyncio.get_running_loop().call_later(0.001, self.transport.resume_reading)

    async def main() -> None:
        notes: list[Any] = []
        client = Pauses(notes, size=1500)
        transport = await connect(client, address)
        transport.write(b"go")
        assert await client.lost is None
        assert notes == [("made",), ("eof", 100_000), ("lost", "NoneType", "None", 100_000)]

    with plain_server(talk) as address:
        run(main())


@pytest.mark.parametrize("version", VERSIONS)
def test_peer_that_says_close_notify_only(version: ssl.TLSVersion) -> None:
    """TLS has half-closed connections; asyncio has not: the answer to `close_notify` is the end of both directions."""

    async def scenario(notes: list[Any]) -> None:
        def talk(sock: socket.socket) -> None:
            end = Bare(sock, server_context(version=version), server_side=True)
            assert end.read(2) == b"go"
            end.write(b"last words")
            end.until_done(end.tls.unwrap)
            received.append(sock.recv(1))

        received: list[bytes] = []
        with plain_server(talk) as address:
            client = Record(notes)
            transport = await connect(client, address, client_context(version=version))
            transport.write(b"go")
            await client.lost
        notes.extend(received)

    assert same(scenario)[-1] == b""


def test_close_notify_behind_data_in_one_delivery() -> None:
    async def scenario(notes: list[Any]) -> None:
        def talk(sock: socket.socket) -> None:
            end = Bare(sock, server_context(), server_side=True)
            assert end.read(2) == b"go"
            end.tls.write(b"last words")
            with pytest.raises(ssl.SSLWantReadError):
                end.tls.unwrap()
            end.flush()
            sock.recv(65536)

        with plain_server(talk) as address:
            client = Record(notes)
            transport = await connect(client, address)
            transport.write(b"go")
            await client.lost
            notes.append(bytes(client.data))

    assert same(scenario)[-1] == b"last words"


def test_peer_goes_on_sending_after_close() -> None:
    """Bytes that arrive after `close()` do not hang or crash; which end the connection finds is OpenSSL's business."""

    async def scenario(notes: list[Any]) -> None:
        def talk(sock: socket.socket) -> None:
            end = Bare(sock, server_context(), server_side=True)
            assert end.read(2) == b"go"
            end.write(b"x" * 1000)
            sock.recv(1)

        try:
            with plain_server(talk) as address:
                client = Record(notes)
                transport = await connect(client, address)
                transport.write(b"go")
                transport.close()
                await client.lost
        except ConnectionResetError:
            pass

    for factory in (stdlib_loop, whilst.new_event_loop):
        made, *lost = notes_of(scenario, factory)
        assert made == ("made",)
        # Of both loops: the reset with which the peer answers bytes that nobody takes comes first or last.
        assert [note[:2] for note in lost] in ([("lost", "SSLError")], [("lost", "ConnectionResetError")])


def test_cut_in_the_middle() -> None:
    async def scenario(notes: list[Any]) -> None:
        def talk(sock: socket.socket) -> None:
            end = Bare(sock, server_context(), server_side=True)
            assert end.read(2) == b"go"
            end.tls.write(b"x" * 10_000)
            sock.sendall(end.outgoing.read()[:5000])
            # So that the bytes arrive before the reset.
            assert half.wait(SECONDS)
            reset(sock)

        half = threading.Event()
        with plain_server(talk) as address:
            client = Record(notes)
            transport = await connect(client, address)
            transport.write(b"go")
            await until(
                lambda: (
                    transport.get_read_buffer_size() or transport.get_extra_info("ssl_object").pending() == 0
                )
            )
            await asyncio.sleep(0.05)
            half.set()
            await client.lost

    assert same(scenario)[-1] == ("lost", "ConnectionResetError", "[Errno 104] Connection reset by peer", 0)


def test_cut_record_and_end() -> None:
    """The end of the stream in the middle of a record."""

    async def scenario(notes: list[Any]) -> None:
        def talk(sock: socket.socket) -> None:
            end = Bare(sock, server_context(), server_side=True)
            assert end.read(2) == b"go"
            end.write(b"whole")
            end.tls.write(b"x" * 10_000)
            sock.sendall(end.outgoing.read()[:5000])
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass

        with plain_server(talk) as address:
            client = Record(notes)
            transport = await connect(client, address)
            transport.write(b"go")
            await client.lost

    assert same(scenario)[-1][-1] == len(b"whole")


def test_end_while_paused() -> None:
    """What came before the end waits for `resume_reading()`, and so does the end."""

    async def scenario(notes: list[Any]) -> None:
        def talk(sock: socket.socket) -> None:
            end = Bare(sock, server_context(), server_side=True)
            assert end.read(2) == b"go"
            end.write(b"x" * 1000)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass

        with plain_server(talk) as address:
            client = Record(notes)
            transport = await connect(client, address)
            transport.pause_reading()
            transport.write(b"go")
            await asyncio.sleep(0.1)
            notes.append((len(client.data), client.lost.done()))
            transport.resume_reading()
            await client.lost

    same(scenario)


def test_close_while_paused_at_the_end() -> None:
    """Who closes reads no more, so that nothing need be kept. (CPython's loop waits for `resume_reading()` for ever.)"""

    sent = threading.Event()

    def talk(sock: socket.socket) -> None:
        end = Bare(sock, server_context(), server_side=True)
        assert end.read(2) == b"go"
        end.write(b"x" * 1000)
        sock.shutdown(socket.SHUT_WR)
        sent.set()
        while sock.recv(65536):
            pass

    async def main() -> None:
        client = Record()
        transport = await connect(client, address)
        transport.pause_reading()
        transport.write(b"go")
        below = transport._ssl_protocol._transport
        # On the loopback what was sent has arrived by then, and some iterations take it in.
        await until(lambda: sent.is_set() and "read=idle" in repr(below))
        await turns(10)
        transport.close()
        assert await client.lost is None
        assert not client.data

    with plain_server(talk) as address:
        run(main())


def test_eof_received_returns_true(log: list[tuple[str, str]]) -> None:
    class Keeps(Record):
        def eof_received(self) -> bool:
            super().eof_received()
            return True

    async def scenario(notes: list[Any]) -> None:
        log.clear()
        async with pair(Record, lambda: Keeps(notes)) as (server, client):
            server.transport.close()
            await client.lost
        notes.extend(log)

    words = "returning true from eof_received() has no effect when using ssl"
    assert ("WARNING", words) in same(scenario)


@pytest.mark.parametrize("name", ["eof_received", "connection_lost"])
@pytest.mark.parametrize("error", [LookupError("oh"), asyncio.CancelledError("oh"), ConnectionError("oh")])
def test_protocol_raises(name: str, error: BaseException) -> None:
    async def scenario(notes: list[Any]) -> None:
        told: list[Any] = []
        handler_notes(asyncio.get_running_loop(), told)

        class Raises(Record):
            pass

        def raises(self: Any, *arguments: Any) -> None:
            getattr(Record, name)(self, *arguments)
            raise error

        setattr(Raises, name, raises)
        async with pair(Record, lambda: Raises(notes)) as (server, client):
            server.transport.close()
            await client.lost
            await turns(3)
        # What is said of a callback has the loop's own names in it.
        notes.extend((message.split("(")[0].split("<")[0], *rest) for _, message, *rest in told)

    same(scenario)


def test_callbacks_see_their_context() -> None:
    import contextvars

    where: contextvars.ContextVar[str] = contextvars.ContextVar("where", default="nowhere")

    class Looks(Record):
        def note(self, *what: Any) -> None:
            super().note(what[0], where.get())

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.note("data")

    async def scenario(notes: list[Any]) -> None:
        where.set("server")
        async with listening(lambda: Looks(notes, "server")) as address:
            where.set("client")
            client = Looks(notes, "client")
            transport = await connect(client, address)
            where.set("elsewhere")
            transport.write(b"data")
            await until(lambda: ("server", "data", "server") in notes)
            transport.close()
            await client.lost
            await until(lambda: ("server", "lost", "server") in notes)

    same(scenario)


def test_unclosed_transport_warns() -> None:
    async def main() -> None:
        transports: list[Any] = []

        class Forgets(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                transports.append(transport)

        async with listening(Echo) as address:
            await connect(Forgets(), address)
            tls = weakref.ref(transports[0]._ssl_protocol)
            below = transports[0]._ssl_protocol._transport
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                # The transport below lives on, and is told nothing: it has another protocol.
                below.set_protocol(asyncio.Protocol())
                transports.clear()
                gc.collect()
            assert tls() is None
            words = [str(warning.message) for warning in caught if warning.category is ResourceWarning]
            assert words == ["unclosed transport <whilst.SSLTransport object>"]
            below.abort()

    run(main())


def test_loop_that_is_closed_while_connections_are_open() -> None:
    """It leaves no descriptor, and transports that can be used in vain."""
    kept: list[Any] = []

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Record, "127.0.0.1", 0, ssl=server_context())
        for _ in range(3):
            client = Record()
            await connect(client, server.sockets[0].getsockname())
            kept.append(client.transport)
        kept[0].write(b"x" * 100_000)
        kept[1].close()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        with no_descriptor_leaks():
            run(main())
            for transport in kept:
                transport.write(b"in vain")
                with pytest.raises(RuntimeError, match="Event loop is closed"):
                    transport.abort()
                    raise RuntimeError("Event loop is closed")
                repr(transport)
            del transport
            kept.clear()
            gc.collect()


def counted(*names: str) -> int:
    """How many objects of these classes there are."""
    gc.collect()
    return sum(type(it).__name__ in names for it in gc.get_objects())


@pytest.mark.parametrize("way", ["close", "abort", "cut", "mixed"])
def test_two_hundred_connections_leave_nothing(way: str) -> None:
    names = "SSLProtocol", "SSLTransport", "StreamTransport", "SSLObject", "_SSLSocket", "MemoryBIO", "Record"

    async def main() -> None:
        async with listening(Record) as address:
            clients = [Record() for _ in range(200)]
            for batch in range(0, 200, 20):
                await asyncio.gather(*(connect(client, address) for client in clients[batch : batch + 20]))
            for number, client in enumerate(clients):
                client.transport.write(b"hello")
                if way == "close" or (way == "mixed" and number % 2):
                    client.transport.close()
                elif way == "cut":
                    reset(client.transport.get_extra_info("socket")._sock.dup())
                    client.transport.abort()
                else:
                    client.transport.abort()
            for client in clients:
                await client.lost
            await until(lambda: True)

    with no_descriptor_leaks():
        before = counted(*names)
        run(main())
        assert counted(*names) <= before


def test_no_garbage_is_left() -> None:
    """References alone take a connection apart when it is over; the collector has nothing to do."""

    async def main() -> None:
        async with listening(Record) as address:
            client = Record()
            transport = await connect(client, address)
            watched = [
                weakref.ref(it)
                for it in (transport, transport._ssl_protocol, transport._ssl_protocol._transport)
            ]
            watched.append(weakref.ref(transport.get_extra_info("ssl_object")))
            client.transport = None
            transport.close()
            await client.lost
            await turns(3)
            del transport
            assert [it() for it in watched] == [None] * 4

    gc.collect()
    gc.disable()
    try:
        run(main())
    finally:
        gc.enable()


def test_closing_twice_lets_go_of_the_context() -> None:
    """Even if the loop stops before the protocol is told of the end."""
    contexts: list[Any] = []

    async def main() -> None:
        ended = asyncio.get_running_loop().create_future()

        class Ends(Record):
            def eof_received(self) -> None:
                ended.set_result(None)

        context = client_context()
        contexts.append(weakref.ref(context))
        client = Ends()
        transport = await connect(client, address, context)
        await ended
        transport.close()

    def talk(sock: socket.socket) -> None:
        end = Bare(sock, server_context(), server_side=True)
        end.until_done(end.tls.unwrap)

    loop = whilst.new_event_loop()
    with plain_server(talk) as address:
        loop.run_until_complete(main())
    assert contexts[0]() is None
    loop.run_until_complete(turns())
    loop.close()


def test_interpreter_ends_with_connections_open(tmp_path: Any) -> None:
    """Whatever is open when the interpreter shuts down, it does so in peace."""
    result = program(
        """
        import asyncio, ssl, sys
        sys.path.insert(0, sys.argv[1])
        import whilst
        from tls import Record, connect, server_context

        loop = whilst.new_event_loop()

        async def main():
            server = await loop.create_server(Record, "127.0.0.1", 0, ssl=server_context())
            protocol = Record()
            await connect(protocol, server.sockets[0].getsockname())
            return server, protocol

        kept = loop.run_until_complete(main())
        print("made")
        """,
        str(__import__("pathlib").Path(__file__).parent),
    )
    assert (result.returncode, result.stdout) == (0, "made\n"), result.stderr
    assert "Traceback" not in result.stderr and "panicked" not in result.stderr
    assert whilst is not None
