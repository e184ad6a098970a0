"""Servers, each on a core of its own, with the load on another."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any, cast

from .row import Idle, Kept, LoopFactory, Throughput

Ready = Callable[[int], None]

BODY = b"Hello, world!"


def _serve_for_good(new_loop: LoopFactory, start: Callable[[socket.socket], Any], ready: Ready) -> None:
    """Run the server that `start` makes on a listening socket of the loopback address."""
    # asyncio switches Nagle's algorithm off only where the socket names its protocol, as those that it makes
    # itself do.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen(1024)
    listening.setblocking(False)
    # Asked for now, as rloop takes the descriptor out of the socket object.
    port = listening.getsockname()[1]
    loop = new_loop()
    asyncio.set_event_loop(loop)

    async def main() -> None:
        # Kept, since a server may close with its last reference.
        server = await start(listening)
        ready(port)
        await asyncio.get_running_loop().create_future()
        del server

    loop.run_until_complete(main())


class Echo(asyncio.Protocol):
    """Sends back what comes in, and stops reading while the client does not take it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


def protocol_echo(new_loop: LoopFactory, ready: Ready) -> None:
    """An echo server of protocols."""

    async def start(listening: socket.socket) -> asyncio.Server:
        return await asyncio.get_running_loop().create_server(Echo, sock=listening)

    _serve_for_good(new_loop, start, ready)


def streams_echo(new_loop: LoopFactory, ready: Ready) -> None:
    """An echo server of streams, with a task a connection."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def start(listening: socket.socket) -> asyncio.Server:
        return await asyncio.start_server(echo, sock=listening)

    _serve_for_good(new_loop, start, ready)


def sock_echo(new_loop: LoopFactory, ready: Ready) -> None:
    """An echo server of the loop's `sock_*` methods, with a task a connection."""

    async def echo(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> None:
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while data := await loop.sock_recv(connection, 65536):
                await loop.sock_sendall(connection, data)

    async def start(listening: socket.socket) -> object:
        loop = asyncio.get_running_loop()
        tasks = set()

        async def accept() -> None:
            while True:
                connection, _ = await loop.sock_accept(listening)
                tasks.add(asyncio.ensure_future(echo(loop, connection)))

        return asyncio.ensure_future(accept())

    _serve_for_good(new_loop, start, ready)


class Answer(asyncio.Protocol):
    """Answers every request alike, and knows no more of HTTP than where one without a body ends."""

    ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)

    def __init__(self) -> None:
        self.pending = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        *requests, self.pending = (self.pending + data).split(b"\r\n\r\n")
        for _ in requests:
            self.transport.write(self.ANSWER)


def raw_http(new_loop: LoopFactory, ready: Ready) -> None:
    """An HTTP answer from a protocol."""

    async def start(listening: socket.socket) -> asyncio.Server:
        return await asyncio.get_running_loop().create_server(Answer, sock=listening)

    _serve_for_good(new_loop, start, ready)


def uvicorn(new_loop: LoopFactory, ready: Ready) -> None:
    """The smallest ASGI application under uvicorn, with httptools for its parser."""
    import uvicorn

    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(BODY))]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": BODY})

    async def start(listening: socket.socket) -> object:
        config = uvicorn.Config(
            app, http="httptools", loop="none", lifespan="off", log_level="warning", access_log=False
        )
        server = uvicorn.Server(config)
        serving = asyncio.ensure_future(server.serve(sockets=[listening]))
        # uvicorn tells nobody when it has started: it sets an attribute.
        while not server.started and not serving.done():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        if serving.done():
            serving.result()
        return serving

    _serve_for_good(new_loop, start, ready)


def aiohttp(new_loop: LoopFactory, ready: Ready) -> None:
    """The smallest application of aiohttp's server."""
    from aiohttp import web

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=BODY, content_type="text/plain")

    async def start(listening: socket.socket) -> object:
        app = web.Application()
        app.router.add_get("/", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.SockSite(runner, listening)
        await site.start()
        return site

    _serve_for_good(new_loop, start, ready)


SERVER, BUSY, MEMORY = "A server under load", "Beside a busy thread", "Memory of an idle connection"


def _echo(name: str, title: str, serve: Any, size: int, **more: Any) -> Throughput:
    return Throughput(
        name, title, goal=None, group=SERVER, serve=serve, load="echo", connections=32, size=size, **more
    )


def _http(name: str, title: str, serve: Any, **more: Any) -> Throughput:
    return Throughput(
        name, title, 1.2, goal=None, group=SERVER, serve=serve, load="http", connections=64, size=0, **more
    )


def _kept(name: str, title: str, goal: float | None, connections: int, busy_poll: float = 0.0) -> Kept:
    return Kept(name, title, None, goal, BUSY, protocol_echo, "echo", connections, 1024, busy_poll=busy_poll)


def _idle(name: str, title: str, goal: float, serve: Any) -> Idle:
    return Idle(name, title, None, goal, MEMORY, serve, "idle", 5000, 64)


ROWS = (
    _echo(
        "echo_1k",
        "protocol echo, 1 KiB",
        protocol_echo,
        1024,
        target=1.2,
        by_cpu=True,
        limit=True,
        limit_target=0.85,
    ),
    _echo("echo_64k", "protocol echo, 64 KiB", protocol_echo, 65536, target=1.0, limit=True),
    _echo("streams_echo_1k", "streams echo, 1 KiB", streams_echo, 1024, target=1.2, by_cpu=True),
    _echo("sock_echo_1k", "`sock_*` echo, 1 KiB", sock_echo, 1024, target=1.2),
    _http("raw_http", "raw HTTP answer, 64 connections", raw_http, by_cpu=True),
    _http("uvicorn", "uvicorn, httptools, 64 connections", uvicorn),
    _http("aiohttp", "aiohttp's server, 64 connections", aiohttp),
    _kept("kept", "echo kept while another thread computes", 45.0, 32),
    _kept("kept_1", "the same, one connection", None, 1),
    _kept("kept_1_busy_poll", "the same, one connection, `busy_poll`", 30.0, 1, busy_poll=1e-3),
    _idle("idle_protocol", "memory of an idle connection, protocol", 800.0, protocol_echo),
    _idle("idle_streams", "memory of an idle connection, streams", 2500.0, streams_echo),
)
