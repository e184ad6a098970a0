"""Protocols over TCP and UDP, the `sock_*` methods and names, with both ends in the one loop."""

import asyncio
import socket
from typing import cast

from .row import LoopFactory, Measurement, clock, inside, run

MESSAGE = b"." * 64
MEBIBYTE = 1 << 20
CHUNK = b"." * (256 * 1024)


@inside("`create_connection` and close", group="Sockets", operations=5_000, target=1.2)
def connect(new_loop: LoopFactory, n: int) -> Measurement:
    """Connections one after the other, each seen closed by its own end."""

    class Ends(asyncio.Protocol):
        def __init__(self) -> None:
            self.lost = asyncio.get_running_loop().create_future()

        def connection_lost(self, exc: Exception | None) -> None:
            self.lost.set_result(None)

    async def main() -> Measurement:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        start = clock()
        for _ in range(n):
            transport, protocol = await loop.create_connection(Ends, host, port)
            transport.close()
            await protocol.lost
        seconds = clock() - start
        server.close()
        await server.wait_closed()
        return Measurement(n, seconds)

    return run(new_loop, main())


class Pong(asyncio.Protocol):
    """Sends back what comes in."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Ping(asyncio.Protocol):
    """Sends the message anew when the whole of it has come back, so often."""

    def __init__(self, times: int) -> None:
        self.left = times
        self.missing = len(MESSAGE)
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def begin(self) -> None:
        self.transport.write(MESSAGE)

    def data_received(self, data: bytes) -> None:
        self.missing -= len(data)
        if self.missing:
            return
        self.missing = len(MESSAGE)
        self.left -= 1
        if self.left:
            self.transport.write(MESSAGE)
        else:
            self.done.set_result(None)


@inside("protocol ping-pong, 64 B", group="Sockets", operations=60_000, target=1.2)
def protocol_ping_pong(new_loop: LoopFactory, n: int) -> Measurement:
    """A round trip between two protocols."""

    async def main() -> Measurement:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Pong, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        transport, ping = await loop.create_connection(lambda: Ping(n), host, port)
        start = clock()
        ping.begin()
        await ping.done
        seconds = clock() - start
        transport.close()
        server.close()
        return Measurement(n, seconds)

    return run(new_loop, main())


class Source(asyncio.Protocol):
    """Writes so many bytes as fast as flow control lets it."""

    def __init__(self, length: int) -> None:
        self.left = length
        self.paused = False
        self.begun = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def begin(self) -> None:
        self.begun = True
        self.fill()

    def fill(self) -> None:
        while self.left and not self.paused:
            chunk = CHUNK[: self.left]
            self.left -= len(chunk)
            self.transport.write(chunk)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self.begun:
            self.fill()


class Sink(asyncio.Protocol):
    """Counts the bytes that come in."""

    def __init__(self, length: int, done: "asyncio.Future[None]") -> None:
        self.missing = length
        self.done = done

    def data_received(self, data: bytes) -> None:
        self.missing -= len(data)
        if not self.missing:
            self.done.set_result(None)


@inside("bulk TCP, per MiB", group="Sockets", operations=1_024, target=1.0)
def bulk_tcp(new_loop: LoopFactory, n: int) -> Measurement:
    """Chunks of 256 KiB one way, from a protocol that minds flow control to one that counts."""

    async def main() -> Measurement:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        server = await loop.create_server(lambda: Sink(n * MEBIBYTE, done), "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        transport, source = await loop.create_connection(lambda: Source(n * MEBIBYTE), host, port)
        start = clock()
        source.begin()
        await done
        seconds = clock() - start
        transport.close()
        server.close()
        return Measurement(n, seconds)

    return run(new_loop, main())


class DatagramPong(asyncio.DatagramProtocol):
    """Sends datagrams back to whom they are from."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(data, addr)


class DatagramPing(asyncio.DatagramProtocol):
    """Sends a datagram anew when it has come back, so often."""

    def __init__(self, times: int) -> None:
        self.left = times
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.left -= 1
        if self.left:
            self.transport.sendto(MESSAGE)
        else:
            self.done.set_result(None)


@inside("UDP ping-pong", group="Sockets", operations=60_000, target=1.2)
def udp_ping_pong(new_loop: LoopFactory, n: int) -> Measurement:
    """A round trip of a datagram; the loopback loses none as long as one is under way."""

    async def main() -> Measurement:
        loop = asyncio.get_running_loop()
        pong, _ = await loop.create_datagram_endpoint(DatagramPong, local_addr=("127.0.0.1", 0))
        address = pong.get_extra_info("socket").getsockname()
        transport, ping = await loop.create_datagram_endpoint(lambda: DatagramPing(n), remote_addr=address)
        start = clock()
        transport.sendto(MESSAGE)
        await ping.done
        seconds = clock() - start
        transport.close()
        pong.close()
        return Measurement(n, seconds)

    return run(new_loop, main())


@inside("`sock_sendall`/`sock_recv` ping-pong", group="Sockets", operations=30_000, target=1.2)
def sock_ping_pong(new_loop: LoopFactory, n: int) -> Measurement:
    """A round trip between two tasks over a pair of sockets."""

    async def main() -> Measurement:
        loop = asyncio.get_running_loop()
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)

        async def pong() -> None:
            while data := await loop.sock_recv(far, 1024):
                await loop.sock_sendall(far, data)

        other = asyncio.ensure_future(pong())
        start = clock()
        for _ in range(n):
            await loop.sock_sendall(near, MESSAGE)
            await loop.sock_recv(near, 1024)
        seconds = clock() - start
        near.close()
        await other
        far.close()
        return Measurement(n, seconds)

    return run(new_loop, main())


@inside("`getaddrinfo` of a literal", group="Sockets", operations=10_000, target=1.2, cores=2)
def getaddrinfo(new_loop: LoopFactory, n: int) -> Measurement:
    """An address that needs no resolving, as most of a server's do."""

    async def main() -> Measurement:
        loop = asyncio.get_running_loop()
        await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
        start = clock()
        for _ in range(n):
            await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
        seconds = clock() - start
        await loop.shutdown_default_executor()
        return Measurement(n, seconds)

    return run(new_loop, main())


ROWS = (connect, protocol_ping_pong, bulk_tcp, udp_ping_pong, sock_ping_pong, getaddrinfo)
