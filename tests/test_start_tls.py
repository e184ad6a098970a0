"""`loop.start_tls()`: over plain connections, over TLS and over transports of others."""

import asyncio
import socket
import ssl
from typing import Any

import pytest
from oracle import error_of_awaiting, handler_notes, run, same, socket_pair, turns, until
from tls import (
    WRONG_NAME,
    Bare,
    BufferedRecord,
    Record,
    client_context,
    connect,
    listening,
    plain_client,
    plain_server,
    server_context,
)

pytestmark = pytest.mark.usefixtures("driver", "tls_engine")


async def plain_pair(
    server: asyncio.Protocol, client: asyncio.Protocol, family: int = socket.AF_UNIX
) -> tuple[Any, Any]:
    """Connect two protocols without TLS. Return their transports."""
    loop = asyncio.get_running_loop()
    with socket_pair(family) as (first, second):
        one, _ = await loop.create_connection(lambda: server, sock=first.dup())
        other, _ = await loop.create_connection(lambda: client, sock=second.dup())
    return one, other


async def upgrade(server: Any, client: Any, protocols: tuple[Any, Any], **keywords: Any) -> list[Any]:
    """Begin TLS at both ends at once. Return the transports of both."""
    loop = asyncio.get_running_loop()
    return list(
        await asyncio.gather(
            loop.start_tls(server, protocols[0], server_context(), server_side=True, **keywords),
            loop.start_tls(client, protocols[1], client_context(), server_hostname="localhost", **keywords),
        )
    )


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET])
@pytest.mark.parametrize("kind", [Record, BufferedRecord])
def test_upgrade(family: int, kind: type[Record]) -> None:
    async def scenario(notes: list[Any]) -> None:
        server, client = kind(notes, "server"), kind(notes, "client")
        below = await plain_pair(server, client, family)
        below[1].write(b"in the clear")
        await until(lambda: server.data == b"in the clear")
        server_side, client_side = await upgrade(*below, (server, client))
        notes.append((below[0].get_protocol() is server, server_side.get_protocol() is server))
        # The protocols are not told again.
        notes.append((server.transport is below[0], server_side.is_closing()))
        client_side.write(b", in secret")
        await until(lambda: server.data == b"in the clear, in secret")
        server_side.write(b"x" * 300_000)
        await until(lambda: len(client.data) == 300_000)
        notes.append(client_side.get_extra_info("peercert")["subjectAltName"])
        notes.append(client_side.get_extra_info("socket") is not None)
        client_side.close()
        await client.lost
        await server.lost

    same(scenario)


def test_upgrade_of_streams() -> None:
    async def scenario(notes: list[Any]) -> None:
        with socket_pair() as (first, second):
            reader, writer = await asyncio.open_connection(sock=first.dup())
            other_reader, other_writer = await asyncio.open_connection(sock=second.dup())
        writer.write(b"STARTTLS\n")
        notes.append(await other_reader.readline())
        loop = asyncio.get_running_loop()
        accepting = loop.create_task(
            loop.start_tls(
                other_writer.transport,
                other_writer.transport.get_protocol(),
                server_context(),
                server_side=True,
            )
        )
        await writer.start_tls(client_context(), server_hostname="localhost")
        accepted = await accepting
        writer.write(b"hello\n")
        await writer.drain()
        notes.append(await other_reader.readline())
        accepted.write(b"goodbye\n")
        notes.append(await reader.readline())
        writer.close()
        await writer.wait_closed()
        accepted.close()

    assert same(scenario)[:3] == [b"STARTTLS\n", b"hello\n", b"goodbye\n"]


def test_wrong_arguments() -> None:
    class Fake:
        def __repr__(self) -> str:
            return "<Fake>"

    async def scenario(notes: list[Any]) -> None:
        loop: Any = asyncio.get_running_loop()
        client = Record(notes)
        one, other = await plain_pair(Record(), client)
        calls = [
            loop.start_tls(one, client, None),
            loop.start_tls(one, client, "context"),
            loop.start_tls(Fake(), client, client_context()),
            loop.start_tls(one, client, client_context(), server_hostname="x", ssl_handshake_timeout=0),
            loop.start_tls(one, client, client_context(), server_hostname="x", ssl_shutdown_timeout=-1),
        ]
        for call in calls:
            notes.append(await error_of_awaiting(call))
        # Nothing has happened to the connection.
        notes.append((one.get_protocol() is not client, one.is_closing()))
        one.write(b"fine")
        await until(lambda: client.data == b"fine")
        one.abort()
        other.abort()
        await client.lost

    same(scenario)


def test_handshake_fails() -> None:
    """The transport below is closed, and the protocols are told."""

    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        server, client = Record([], "server"), Record(notes, "client")
        below = await plain_pair(server, client)
        accepting = asyncio.ensure_future(
            loop.start_tls(below[0], server, server_context(), server_side=True)
        )
        notes.append(
            await error_of_awaiting(
                loop.start_tls(below[1], client, client_context(), server_hostname=WRONG_NAME)
            )
        )
        await error_of_awaiting(accepting)
        await client.lost
        notes.append([transport.is_closing() for transport in below])

    same(scenario)


@pytest.mark.parametrize("immediately", [False, True])
def test_cancelled(immediately: bool) -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        client = Record([])
        below = await plain_pair(Record(), client)
        task = asyncio.ensure_future(
            loop.start_tls(below[1], client, client_context(), server_hostname="localhost")
        )
        await turns(1 if immediately else 10)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            notes.append("cancelled")
        notes.append(below[1].is_closing())
        await turns(5)
        below[0].abort()
        await turns(5)

    same(scenario)


def test_timeout() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        client = Record(notes)
        below = await plain_pair(Record(), client)
        notes.append(
            await error_of_awaiting(
                loop.start_tls(
                    below[1], client, client_context(), server_hostname="x", ssl_handshake_timeout=0.05
                )
            )
        )
        await turns(5)
        below[0].abort()
        await turns(5)

    same(scenario)


def test_client_that_does_not_wait() -> None:
    """Who sends the beginning of the handshake right behind the last plain bytes.

    What a protocol has not looked at is in its hands, and only the protocol of streams is known well enough to take it out of
    them, as CPython does from 3.14 on.
    """
    done: list[bytes] = []

    def talk(sock: socket.socket) -> None:
        context = client_context()
        end = Bare.__new__(Bare)
        end.sock, end.incoming, end.outgoing = sock, ssl.MemoryBIO(), ssl.MemoryBIO()
        end.tls = context.wrap_bio(end.incoming, end.outgoing, server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            end.tls.do_handshake()
        sock.sendall(b"STARTTLS\n" + end.outgoing.read())
        end.until_done(end.tls.do_handshake)
        end.write(b"hello\n")
        done.append(end.read(3))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == b"STARTTLS\n"
        await writer.start_tls(server_context())
        assert await reader.readline() == b"hello\n"
        writer.write(b"bye")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        with plain_client(server.sockets[0].getsockname(), talk):
            await until(lambda: done)
        server.close()
        assert done == [b"bye"]

    run(main())


def test_bytes_that_arrive_meanwhile() -> None:
    """What arrives between `start_tls()` and the beginning of the handshake is the handshake's."""

    async def scenario(notes: list[Any]) -> None:
        def talk(sock: socket.socket) -> None:
            assert sock.recv(100) == b"ready"
            end = Bare(sock, client_context(), server_side=False)
            end.write(b"hello")
            notes.append(end.read(5))

        class Upgrades(Record):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                self.task = asyncio.ensure_future(
                    asyncio.get_running_loop().start_tls(transport, self, server_context(), server_side=True)
                )
                transport.write(b"ready")
                made.append(self)

        loop = asyncio.get_running_loop()
        made: list[Upgrades] = []
        server = await loop.create_server(Upgrades, "127.0.0.1", 0)
        with plain_client(server.sockets[0].getsockname(), talk):
            # It is made before it is told of its connection.
            await until(lambda: made and hasattr(made[0], "task"))
            transport: Any = await made[0].task
            await until(lambda: made[0].data == b"hello")
            transport.write(b"world")
            await until(lambda: notes)
            transport.abort()
            await made[0].lost
        server.close()

    assert same(scenario) == [b"world"]


def test_tls_in_tls() -> None:
    """As with an HTTPS proxy: TLS to the proxy, and inside of it TLS to the server, three deep."""

    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        accepted: list[Record] = []

        def factory() -> Record:
            accepted.append(Record(notes, "server"))
            return accepted[0]

        async with listening(factory) as address:
            client = Record(notes, "client")
            outside = await connect(client, address)
            await accepted[0].made
            sides = [accepted[0].transport, outside]
            for _ in range(2):
                sides = await upgrade(*sides, (accepted[0], client))
            data = bytes(range(256)) * 3000
            sides[0].write(data)
            sides[1].write(b"a question")
            await until(lambda: len(client.data) == len(data) and accepted[0].data == b"a question")
            notes.append(client.data == data)
            notes.append(sides[1].get_extra_info("peername") == outside.get_extra_info("peername"))
            notes.append(sides[1].get_extra_info("ssl_object") is not outside.get_extra_info("ssl_object"))
            client.transport = sides[1]
            sides[1].pause_reading()
            sides[0].write(b"later")
            await asyncio.sleep(0.05)
            notes.append(len(client.data) == len(data))
            sides[1].resume_reading()
            await until(lambda: len(client.data) == len(data) + 5)
            sides[1].close()
            await client.lost
            await accepted[0].lost
            notes.append(outside.is_closing())
        assert loop.is_running()

    same(scenario)


class Wire(asyncio.Transport):
    """A transport of somebody else's: bytes go to its peer through memory."""

    _start_tls_compatible = True

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.loop = asyncio.get_running_loop()
        self.peer: Wire
        self.kept = bytearray()
        self.paused = self.closed = False
        self.set_protocol(protocol)

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_protocol(self) -> Any:
        return self.protocol

    def write(self, data: Any) -> None:
        assert type(data) is bytes and data
        self.peer.kept += data
        self.loop.call_soon(self.peer.deliver)

    def deliver(self) -> None:
        while self.kept and not self.paused and not self.closed:
            if isinstance(self.protocol, asyncio.BufferedProtocol):
                memory = self.protocol.get_buffer(-1)
                count = min(len(memory), len(self.kept))
                memoryview(memory)[:count] = self.kept[:count]
                del self.kept[:count]
                self.protocol.buffer_updated(count)
            else:
                data = bytes(self.kept)
                self.kept.clear()
                self.protocol.data_received(data)

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False
        self.loop.call_soon(self.deliver)

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self._force_close(None)

    def close(self) -> None:
        self._force_close(None)

    def _force_close(self, error: Exception | None) -> None:
        if not self.closed:
            self.closed = True
            self.loop.call_soon(self.protocol.connection_lost, error)
            self.loop.call_soon(self.peer.end)

    def end(self) -> None:
        if not self.closed and not self.protocol.eof_received():
            self.close()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return "a wire" if name == "kind" else default


def wires(server: Any, client: Any) -> tuple[Wire, Wire]:
    """Two wires, connected."""
    one, other = Wire(server), Wire(client)
    one.peer, other.peer = other, one
    return one, other


@pytest.mark.parametrize("kind", [Record, BufferedRecord])
def test_transport_of_somebody_else(kind: type[Record]) -> None:
    async def scenario(notes: list[Any]) -> None:
        server, client = kind(notes, "server"), kind(notes, "client")
        below = wires(server, client)
        server_side, client_side = await upgrade(*below, (server, client))
        notes.append((client_side.get_extra_info("kind"), client_side.get_extra_info("other", 5)))
        client_side.write(b"x" * 1_000_000)
        server_side.write(b"reply")
        await until(lambda: len(server.data) == 1_000_000 and client.data == b"reply")
        client_side.close()
        await client.lost
        await server.lost

    same(scenario)


def test_somebody_else_pauses_writing() -> None:
    """A transport below that is full is written to no more; the program's protocol is paused at its own mark."""

    async def scenario(notes: list[Any]) -> None:
        server, client = Record([], "server"), Record(notes, "client")
        below = wires(server, client)
        sides = await upgrade(*below, (server, client))
        below[1].protocol.pause_writing()
        sides[1].write(b"x" * 1000)
        await turns(3)
        notes.append((len(server.data), sides[1].get_write_buffer_size() > 1000))
        sides[1].write(b"x" * 600_000)
        await turns(3)
        notes.append((len(server.data), sides[1].get_write_buffer_size() > 600_000))
        below[1].protocol.resume_writing()
        notes.append(sides[1].get_write_buffer_size())
        await until(lambda: len(server.data) == 601_000)
        sides[1].abort()
        await client.lost
        await turns(5)

    notes = same(scenario)
    assert ("client", "pause") in notes and ("client", "resume") in notes


def test_unsupported_transports() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        )
        error = await error_of_awaiting(
            loop.start_tls(transport, Record(), client_context(), server_hostname="localhost")  # type: ignore[arg-type]
        )
        notes.append(
            (
                error[0],
                error[1].startswith("transport <"),
                error[1].endswith("> is not supported by start_tls()"),
            )
        )
        transport.close()
        await turns(3)

    assert same(scenario) == [("TypeError", True, True)]


def test_peer_ends_in_the_middle() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        told: list[Any] = []
        handler_notes(loop, told)
        with plain_server(lambda sock: sock.recv(65536)) as address:
            client = Record(notes)
            transport, _ = await loop.create_connection(lambda: client, *address)
            notes.append(
                await error_of_awaiting(
                    loop.start_tls(transport, client, client_context(), server_hostname="localhost")
                )
            )
            await client.lost
        notes.append(told)

    same(scenario)
