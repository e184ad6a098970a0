"""HTTPS, HTTP/2 and WebSockets over TLS: three servers on whilst's loop as processes of their own, with clients that have no
loop, and clients on whilst's loop in the process of the tests."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import socket
import ssl
from collections.abc import AsyncIterator

import aiohttp
import certificates
import httpx
import pytest
from servers import HTTPS_KINDS, WSS_KINDS, RunningServer
from serving import MIB, WAIT_SECONDS, connect, payload, payload_sha256, reset
from test_clients import no_socket_left, on_whilst  # noqa: F401
from websockets.asyncio.client import connect as connect_websocket
from websockets.exceptions import ConnectionClosed

LARGE = 16 * MIB

every_https_server = pytest.mark.parametrize("kind", HTTPS_KINDS)
with_http2 = pytest.mark.parametrize("kind", ["hypercorn-tls"])


def secured(sock: socket.socket) -> ssl.SSLSocket:
    return certificates.client_context().wrap_socket(sock, server_hostname="127.0.0.1")


async def large_body() -> AsyncIterator[bytes]:
    for piece in payload(LARGE):
        yield piece


# -- Clients without a loop ---------------------------------------------------------------------------------------------------


@every_https_server
def test_many_requests_on_one_connection(server: RunningServer) -> None:
    connection = server.connect()
    clients = set()
    for number in range(200):
        connection.request("GET", f"/hello?number={number}")
        answer = json.load(connection.getresponse())
        assert answer["number"] == str(number)
        clients.add(tuple(answer["client"]))
    assert clients == {connection.sock.getsockname()}
    connection.close()


@every_https_server
def test_large_bodies(server: RunningServer) -> None:
    connection = server.connect()
    connection.request("POST", "/upload", payload(LARGE), {"Content-Length": str(LARGE)})
    answer = json.load(connection.getresponse())
    assert answer == {"size": LARGE, "sha256": payload_sha256(LARGE)}
    connection.request("GET", f"/download?size={LARGE}")
    digest, response = hashlib.sha256(), connection.getresponse()
    while piece := response.read(100_000):
        digest.update(piece)
    assert digest.hexdigest() == payload_sha256(LARGE)
    connection.close()


@every_https_server
def test_what_is_written_before_a_close_is_not_lost(server: RunningServer) -> None:
    size = 8 * MIB
    for _ in range(3):
        connection = server.connect()
        connection.request("GET", f"/blob?size={size}", headers={"Connection": "close"})
        digest, response = hashlib.sha256(), connection.getresponse()
        while piece := response.read(8 * 1024):
            digest.update(piece)
        assert digest.hexdigest() == payload_sha256(size)
        connection.close()


@every_https_server
def test_clients_that_go_away(server: RunningServer) -> None:
    """In the handshake, before it, in the middle of a request and of a response, with a reset and without a word of TLS."""
    reset(connect(server.number))
    with connect(server.number) as sock:
        sock.sendall(b"\x16\x03\x01")
        reset(sock)
    with connect(server.number) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"HTTP" not in sock.recv(1000)
    for _ in range(5):
        with secured(connect(server.number)) as sock:
            sock.sendall(b"GET /hello?num")
        with secured(connect(server.number)) as sock:
            sock.sendall(f"GET /download?size={LARGE} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert sock.recv(1000)
            reset(sock)
        with secured(connect(server.number)) as sock:
            sock.sendall(f"GET /download?size={LARGE} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert sock.recv(1000)
    connection = server.connect()
    connection.request("GET", "/hello?number=1")
    assert json.load(connection.getresponse())["number"] == "1"
    connection.close()


@every_https_server
def test_an_orderly_end(server: RunningServer) -> None:
    """The server answers a client's close_notify, or at least closes: the client's `unwrap` ends."""
    connection = server.connect()
    connection.request("GET", "/hello?number=1")
    assert connection.getresponse().read()
    assert isinstance(connection.sock, ssl.SSLSocket)
    try:
        connection.sock.unwrap().close()
    except (ssl.SSLError, OSError):
        connection.close()


# -- Clients on whilst's loop -------------------------------------------------------------------------------------------------


class TestHttpx:
    @staticmethod
    def client(server: RunningServer, http2: bool) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=f"https://127.0.0.1:{server.number}",
            verify=certificates.client_context(),
            http2=http2,
            timeout=WAIT_SECONDS,
            limits=httpx.Limits(max_connections=100),
        )

    @every_https_server
    @pytest.mark.parametrize("http2", [False, True], ids=["http/1.1", "http/2"])
    def test_many_at_the_same_time(self, server: RunningServer, http2: bool) -> None:
        async def main() -> None:
            count = (
                20  # handshakes take their time, and hypercorn soon gives up a connection without a request
            )
            async with self.client(server, http2) as client:
                version = (await client.get("/hello?number=1")).http_version
                assert version == ("HTTP/2" if http2 and server.kind == "hypercorn-tls" else "HTTP/1.1")
                for _ in range(3):
                    answers = await asyncio.gather(
                        *(client.get(f"/barrier?count={count}&number={number}") for number in range(count))
                    )
                    assert [int(answer.json()["number"]) for answer in answers] == list(range(count))

        on_whilst(main())

    @every_https_server
    @pytest.mark.parametrize("http2", [False, True], ids=["http/1.1", "http/2"])
    def test_large_bodies(self, server: RunningServer, http2: bool) -> None:
        if http2 and server.kind != "hypercorn-tls":
            pytest.skip("this server has no HTTP/2")

        async def main() -> None:
            size = 4 * MIB if http2 else LARGE  # in Python, with a window of 64 KiB, HTTP/2 takes its time

            async def body() -> AsyncIterator[bytes]:
                for piece in payload(size):
                    yield piece

            async with self.client(server, http2) as client:
                response = await client.post("/upload", content=body())
                assert response.json() == {"size": size, "sha256": payload_sha256(size)}
                async with client.stream("GET", f"/download?size={size}") as response:
                    digest = hashlib.sha256()
                    async for piece in response.aiter_bytes():
                        digest.update(piece)
                assert digest.hexdigest() == payload_sha256(size)

        on_whilst(main())

    @with_http2
    def test_streams_of_one_connection(self, server: RunningServer) -> None:
        """Downloads, some given up in the middle, and small requests, on one connection by HTTP/2."""

        async def main() -> None:
            async with self.client(server, True) as client:
                clients = set()

                async def small() -> None:
                    for number in range(20):
                        answer = (await client.get(f"/hello?number={number}")).json()
                        assert answer["number"] == str(number)
                        clients.add(tuple(answer["client"]))

                async def download(give_up: bool) -> None:
                    async with client.stream("GET", f"/download?size={MIB}") as response:
                        digest = hashlib.sha256()
                        async for piece in response.aiter_bytes():
                            digest.update(piece)
                            if give_up:
                                return
                        assert digest.hexdigest() == payload_sha256(MIB)

                await small()
                async with asyncio.TaskGroup() as group:
                    for number in range(6):
                        group.create_task(download(number % 3 == 0))
                        group.create_task(small())
                assert len(clients) == 1

        on_whilst(main())

    @every_https_server
    def test_a_server_that_is_not_trusted(self, server: RunningServer) -> None:
        async def main() -> None:
            async with httpx.AsyncClient() as client:
                for _ in range(3):
                    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                        await client.get(f"https://127.0.0.1:{server.number}/")

        on_whilst(main())


class TestAiohttp:
    @staticmethod
    def session(server: RunningServer) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=100, ssl=certificates.client_context())
        return aiohttp.ClientSession(f"https://127.0.0.1:{server.number}", connector=connector)

    @every_https_server
    def test_many_at_the_same_time(self, server: RunningServer) -> None:
        async def main() -> None:
            count = (
                20  # handshakes take their time, and hypercorn soon gives up a connection without a request
            )
            async with self.session(server) as session:

                async def one(number: int) -> int:
                    async with session.get(f"/barrier?count={count}&number={number}") as response:
                        return int((await response.json())["number"])

                for _ in range(3):
                    assert await asyncio.gather(*map(one, range(count))) == list(range(count))

        on_whilst(main())

    @every_https_server
    def test_large_bodies(self, server: RunningServer) -> None:
        async def main() -> None:
            async with self.session(server) as session:
                async with session.post("/upload", data=large_body()) as response:
                    assert await response.json() == {"size": LARGE, "sha256": payload_sha256(LARGE)}
                async with session.get(f"/download?size={LARGE}") as response:
                    digest = hashlib.sha256()
                    async for piece in response.content.iter_any():
                        digest.update(piece)
                assert digest.hexdigest() == payload_sha256(LARGE)

        on_whilst(main())


def test_aiohttp_server_and_client_in_one_loop() -> None:
    async def main() -> None:
        from aiohttp import web

        async def upload(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            async for piece in request.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response

        app = web.Application()
        app.router.add_post("/upload", upload)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=certificates.server_context())
        await site.start()
        port = runner.addresses[0][1]
        digest = hashlib.sha256()
        async with (
            aiohttp.ClientSession(f"https://127.0.0.1:{port}") as session,
            session.post("/upload", data=large_body(), ssl=certificates.client_context()) as response,
        ):
            async for piece in response.content.iter_any():
                digest.update(piece)
        await runner.cleanup()
        assert digest.hexdigest() == payload_sha256(LARGE)

    on_whilst(main())


# -- WebSockets ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WSS_KINDS)
def test_websockets(server: RunningServer) -> None:
    async def main() -> None:
        url, context = f"wss://127.0.0.1:{server.number}", certificates.client_context()
        async with connect_websocket(f"{url}/echo", max_size=None, ssl=context, compression=None) as socket:
            messages = [f"message {number}" * number for number in range(1, 200)]

            async def send() -> None:
                for message in messages:
                    await socket.send(message)

            async with asyncio.TaskGroup() as group:
                group.create_task(send())
                for message in messages:
                    assert await socket.recv() == message
            large = random.Random(6).randbytes(4 * MIB)
            await socket.send(large)
            assert await socket.recv() == large
        async with connect_websocket(f"{url}/bye", ssl=context) as socket:
            with pytest.raises(ConnectionClosed):
                await socket.recv()
            assert (socket.close_code, socket.close_reason) == (4000, "bye")
        for number in range(6):
            async with connect_websocket(f"{url}/echo", ssl=context, compression=None) as socket:
                await socket.send("here")
                assert await socket.recv() == "here"
                if number % 2:
                    await socket.send(bytes(MIB))  # on its way back when the connection goes
                socket.transport.abort()

        async def one(number: int) -> None:
            async with connect_websocket(f"{url}/echo", ssl=context) as socket:
                for turn in range(3):
                    await socket.send(f"{number} {turn}")
                    assert await socket.recv() == f"{number} {turn}"

        async with asyncio.TaskGroup() as group:
            for number in range(30):
                group.create_task(one(number))

    on_whilst(main())
