"""HTTP servers on whilst's loop, each as a process of its own, with clients that are plain blocking sockets.

The clients have no loop: what these tests see is the server's doing alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import select
import signal
import socket
from typing import Any, BinaryIO

import pytest
import whilst
from servers import BACK_PRESSURE_KINDS, HTTP_KINDS, RunningServer
from serving import MIB, WAIT_SECONDS, connect, kernel_listens, payload, payload_sha256, reset, wait_for

LARGE = 32 * MIB

KERNEL_KEEPS = 16 * MIB
"""More than two sockets' kernel buffers hold (tcp_rmem and tcp_wmem let them grow to some 10 MiB
together)."""

every_http_server = pytest.mark.parametrize("kind", HTTP_KINDS)


def request(sock: socket.socket, head: str, body: bytes = b"") -> None:
    """Send a request as it stands; `head` without the Host line."""
    sock.sendall(f"{head}\r\nHost: localhost\r\n\r\n".encode() + body)


def read_head(file: BinaryIO) -> tuple[int, dict[str, str]]:
    """The status and the headers (names in lower case) of the next response."""
    status = int(file.readline().split()[1])
    headers = {}
    while (line := file.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    return status, headers


def read_chunked(file: BinaryIO) -> bytes:
    """The next chunk of a chunked body, empty at its end."""
    size = int(file.readline(), 16)
    data = file.read(size)
    assert file.readline() == b"\r\n"
    return data


@every_http_server
def test_many_requests_on_one_connection(server: RunningServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.number, timeout=WAIT_SECONDS)
    clients = set()
    for number in range(300):
        if number % 3:
            connection.request("GET", f"/hello?number={number}")
            answer = json.load(connection.getresponse())
            assert answer["number"] == str(number)
            clients.add(tuple(answer["client"]))
        else:
            body = str(number).encode() * 10
            connection.request("POST", "/upload", body)
            answer = json.load(connection.getresponse())
            assert answer == {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    # http.client connects again without a word when the server has closed; the server saw one client.
    assert clients == {connection.sock.getsockname()}
    connection.close()


@every_http_server
def test_requests_sent_at_once_are_answered_in_order(server: RunningServer) -> None:
    """Pipelining: many requests in one packet, or cut anywhere between two."""
    numbers = range(50)
    everything = b"".join(
        f"GET /hello?number={number} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() for number in numbers
    )
    with connect(server.number) as sock, sock.makefile("rb") as file:
        for start in range(0, len(everything), 1001):
            sock.sendall(everything[start : start + 1001])
        for number in numbers:
            status, headers = read_head(file)
            assert status == 200
            if "content-length" in headers:
                body = file.read(int(headers["content-length"]))
            else:
                body = read_chunked(file)
                assert read_chunked(file) == b""
            assert json.loads(body)["number"] == str(number)


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@every_http_server
def test_large_upload(server: RunningServer, chunked: bool) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.number, timeout=WAIT_SECONDS)
    headers = {} if chunked else {"Content-Length": str(LARGE)}
    connection.request("POST", "/upload", payload(LARGE), headers, encode_chunked=chunked)
    answer = json.load(connection.getresponse())
    assert answer == {"size": LARGE, "sha256": payload_sha256(LARGE)}
    connection.close()


@every_http_server
def test_large_download_to_a_slow_reader(server: RunningServer) -> None:
    """The app is stopped while the client does not read, and every byte is there once it does."""
    with connect(server.number, receive_buffer=64 * 1024) as sock, sock.makefile("rb") as file:
        request(sock, f"GET /download?size={LARGE} HTTP/1.1")
        status, headers = read_head(file)
        assert (status, headers["content-length"]) == (200, str(LARGE))
        # Each question is an iteration or more of the server's loop, in which an app that nobody stops
        # would go on.
        for _ in range(30):
            produced = server.facts()["produced"]
        assert 0 < produced < KERNEL_KEEPS
        digest, rest = hashlib.sha256(), LARGE
        while rest:
            piece = file.read(min(rest, 100_000))
            assert piece, f"the connection ended {rest} bytes before the body's end"
            digest.update(piece)
            rest -= len(piece)
        assert digest.hexdigest() == payload_sha256(LARGE)
        # The connection is as good as new.
        request(sock, "GET /hello?number=1 HTTP/1.1")
        assert read_head(file)[0] == 200


@every_http_server
def test_what_is_written_before_a_close_is_not_lost(server: RunningServer) -> None:
    """The app answers with 8 MiB in one piece, and the server closes the connection behind it at once,
    while the client has read next to nothing."""
    size = 8 * MIB
    for _ in range(5):
        with connect(server.number, receive_buffer=16 * 1024) as sock:
            request(sock, f"GET /blob?size={size} HTTP/1.1\r\nConnection: close")
            digest, file = hashlib.sha256(), sock.makefile("rb")
            assert read_head(file)[0] == 200
            while piece := file.read(8 * 1024):
                digest.update(piece)
            assert digest.hexdigest() == payload_sha256(size)
            file.close()


@pytest.mark.parametrize("kind", BACK_PRESSURE_KINDS)
def test_large_upload_to_an_app_that_does_not_read_yet(server: RunningServer) -> None:
    """The server stops reading from the connection, so that the client has to wait, and goes on when the
    app reads."""
    with connect(server.number) as sock, sock.makefile("rb") as file:
        request(sock, f"POST /held-upload HTTP/1.1\r\nContent-Length: {LARGE}")
        data = memoryview(b"".join(payload(LARGE)))
        sent, full = 0, 0
        while full < 30:
            _, writable, _ = select.select([], [sock], [], 0)
            if writable:
                sent += sock.send(data[sent : sent + 256 * 1024], socket.MSG_DONTWAIT)
                assert sent < KERNEL_KEEPS, "the server reads what the app does not"
                full = 0
            else:
                full += 1
                # lets the server's loop run: one that does not stop reading would empty the socket
                server.facts()
        assert server.post("/release") == 204
        sock.sendall(data[sent:])
        status, headers = read_head(file)
        assert status == 200
        assert json.loads(file.read(int(headers["content-length"]))) == {
            "size": LARGE,
            "sha256": payload_sha256(LARGE),
        }


@pytest.mark.parametrize("how", ["reset", "close"])
@every_http_server
def test_clients_that_go_away_in_a_download(server: RunningServer, how: str) -> None:
    for _ in range(5):
        sock = connect(server.number, receive_buffer=64 * 1024)
        with sock.makefile("rb") as file:
            request(sock, f"GET /download?size={LARGE} HTTP/1.1")
            assert read_head(file)[0] == 200
            assert file.read(100_000)
            if how == "reset":
                reset(sock)
        sock.close()
    assert server.get("/hello?number=1")["number"] == "1"


@pytest.mark.parametrize("how", ["reset", "close"])
@every_http_server
def test_clients_that_go_away_in_an_upload(server: RunningServer, how: str) -> None:
    for _ in range(5):
        sock = connect(server.number)
        request(sock, f"POST /upload HTTP/1.1\r\nContent-Length: {LARGE}", bytes(300_000))
        if how == "reset":
            reset(sock)
        sock.close()
    assert server.get("/hello?number=1")["number"] == "1"


@every_http_server
def test_clients_that_say_nothing(server: RunningServer) -> None:
    """Connections without a request, and with half of one, that end."""
    for number in range(20):
        sock = connect(server.number)
        if number % 2:
            sock.sendall(b"GET /hello?num")
        if number % 4 > 1:
            reset(sock)
        sock.close()
    assert server.get("/hello?number=1")["number"] == "1"


@every_http_server
def test_many_connections_at_the_same_time(server: RunningServer, here: str) -> None:
    """Every connection's request waits in the server until the requests of all are there, five times over.

    The clients are 200 streams on whilst's loop in this process.
    """
    count, rounds = 200, 5

    async def client(number: int) -> list[int]:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.number)
        seen = []
        for _ in range(rounds):
            writer.write(
                f"GET /barrier?count={count}&number={number} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            body = await reader.readexactly(int(lengths[0].split(b":")[1]))
            seen.append(int(json.loads(body)["number"]))
        writer.close()
        await writer.wait_closed()
        return seen

    async def main() -> list[list[int]]:
        assert isinstance(asyncio.get_running_loop(), whilst.Loop)
        async with asyncio.timeout(WAIT_SECONDS):
            return await asyncio.gather(*map(client, range(count)))

    assert whilst.run(main()) == [[number] * rounds for number in range(count)]


STOPS: dict[tuple[str, signal.Signals], Any] = {
    ("hypercorn", signal.SIGTERM): 0,
    ("hypercorn", signal.SIGINT): 0,
    # uvicorn sends itself the signal again once it has stopped, so that its parent sees why; its command
    # line then takes the KeyboardInterrupt of a SIGINT for an orderly end.
    ("uvicorn-h11", signal.SIGTERM): -signal.SIGTERM,
    ("uvicorn-h11", signal.SIGINT): 0,
    ("uvicorn-httptools", signal.SIGTERM): -signal.SIGTERM,
    ("uvicorn-httptools", signal.SIGINT): 0,
    ("aiohttp", signal.SIGTERM): 0,
    ("aiohttp", signal.SIGINT): 0,
}
"""The exit code of each server after each signal."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@every_http_server
def test_graceful_stop(kind: str, driver: str, number: signal.Signals) -> None:
    """After the signal nobody is let in any more, a request under way is answered whole, and the server
    ends in order."""
    with RunningServer(kind, driver) as server:
        idle = connect(server.number)
        idle_file = idle.makefile("rb")
        request(idle, "GET /hello?number=1 HTTP/1.1")
        status, headers = read_head(idle_file)
        assert status == 200
        assert idle_file.read(int(headers["content-length"]))

        with connect(server.number) as sock, sock.makefile("rb") as file:
            # The app answers with what it reads, so the response is under way until the request is whole.
            # aiohttp reads nothing any more once it stops; its app holds the second half back until then.
            halves = (b"first", b"after") if kind != "aiohttp" else (b"firstafter", b"")
            request(sock, "POST /in-flight HTTP/1.1\r\nContent-Length: 10", halves[0])
            status, headers = read_head(file)
            assert (status, headers["transfer-encoding"]) == (200, "chunked")
            answer = b""
            while len(answer) < len(b"started\nfirst"):
                answer += read_chunked(file)
            assert answer == b"started\nfirst"

            assert kernel_listens(server.number)
            server.signal(number)
            wait_for(lambda: not kernel_listens(server.number), "the server listens no more")
            sock.sendall(halves[1])
            while piece := read_chunked(file):
                answer += piece
            assert answer == b"started\nfirstafter"
            assert file.read() == b"", "the server closes the connection"

        assert idle_file.read() == b"", "the server closes the connection that waits for a next request"
        idle_file.close()
        idle.close()
        assert server.wait() == STOPS[kind, number]
        assert "the app's own shutdown ran" in server.output()
        assert server.complaints() == []
