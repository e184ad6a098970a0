"""What a loop leaves behind when it is closed, and a connection when it is over: nothing.

Measured in processes of their own (`leaking.py`): descriptors, threads, children, the objects that the garbage collector
knows by their type, the blocks of Python's allocator, the bytes of malloc's and the resident memory, early and late. What is
made once, and stays, is there by the first measurement; what is left by each turn is not.
"""

import json
import resource
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import leaking
import pytest

HERE = Path(__file__).resolve().parent

SECONDS = 20.0
"""The limit of a wait."""

CYCLES = 750
"""How many loops are made, used and closed. Up to the 500th CPython 3.13 and 3.14 take blocks that they keep, two a loop."""

CONNECTIONS = 10_000
TLS_CONNECTIONS = 1_000

Measurement = dict[str, Any]


def check_growth(early: Measurement, late: Measurement, turns: int) -> None:
    """Nothing is there that was not, and what a turn has left is less than what a single small object would be.

    An object of each type in five turns, or a block in two, is what caches take that fill up slowly, and some hundred blocks
    is what free lists keep more at one time than at another. A block of malloc's is 24 bytes or more, and so a turn that
    leaves one leaves those.
    """
    assert late["descriptors"] == early["descriptors"]
    assert (late["threads"], late["children"]) == (early["threads"], early["children"])
    grown = {
        kind: count - early["objects"].get(kind, 0)
        for kind, count in late["objects"].items()
        if count - early["objects"].get(kind, 0) > turns / 5
    }
    assert not grown, grown
    print(
        *(
            f"{what}: {(late[what] - early[what]) / turns:.2f} a turn"
            for what in ("blocks", "heap", "resident")
        ),
        sep=", ",
    )
    assert late["blocks"] - early["blocks"] < turns / 2 + 400
    assert late["heap"] - early["heap"] < 16 * turns + 50_000
    # Of 5,000 connections it was 0.2 to 1.1 MiB, however many had come before: pages that the allocator has touched anew.
    assert late["resident"] - early["resident"] < 2 << 20


def program(*arguments: str, **keywords: Any) -> "subprocess.Popen[str]":
    """Start a program of `leaking.py`. Warnings of what was not closed are off: the untidy leave things open on purpose."""
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", str(HERE / "leaking.py"), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **keywords,
    )


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize("how", ["tidy", "untidy"])
def test_loops(how: str) -> None:
    """A loop is made, used in every way there is, and closed, 750 times: tidily, or with all of it still open."""
    with program("cycles", str(CYCLES), how) as process:
        try:
            out, errors = process.communicate(timeout=110)
        finally:
            process.kill()
    assert process.returncode == 0, errors[-3000:]
    first, second, third = map(json.loads, out.splitlines())
    start = third["descriptors"]
    assert not [what for what in start if what.startswith(("socket", "anon_inode"))], start
    assert (third["threads"], third["children"]) == (1, 0)
    # The first third is for what fills up once.
    assert first["descriptors"] == third["descriptors"]
    check_growth(second, third, CYCLES // 3)
    if how == "tidy":
        assert errors == ""


class Program:
    """The program with many connections, asked by lines."""

    def __init__(self) -> None:
        self.process = program("connections")

    def tell(self, *words: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()

    def hear(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"the program ended: {self.process.communicate()[1]}")
        return line.strip() if line.startswith("tried") else json.loads(line)

    def ask(self, *words: object) -> Any:
        self.tell(*words)
        return self.hear()

    def sockets(self) -> int:
        """How many sockets the program has."""
        count = 0
        for entry in Path(f"/proc/{self.process.pid}/fd").iterdir():
            try:
                count += str(entry.readlink()).startswith("socket:")
            except FileNotFoundError:
                continue
        return count

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"not after {SECONDS} s: {what}; {self.sockets()} sockets"
            time.sleep(0.005)

    def end(self) -> None:
        """End the program, which has nothing to complain of."""
        out, errors = self.process.communicate(timeout=SECONDS)
        assert (self.process.returncode, out, errors) == (0, "", "")


@pytest.fixture
def many(driver: str) -> Iterator[Program]:
    """The program, and enough descriptors for this process to be its peer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < CONNECTIONS // 2 + 200:
        pytest.skip(f"no more than {hard} descriptors are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    running = Program()
    try:
        yield running
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        running.process.kill()
        with running.process:
            pass


def cut(sock: socket.socket) -> None:
    """Close a connection by a reset, as a machine does that has forgotten it."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def listening() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
    listener.settimeout(SECONDS)
    return listener


def end_connections(socks: list[socket.socket]) -> None:
    """Cut half of the connections, with and without something on its way, and close the others."""
    for number, sock in enumerate(socks):
        sock.settimeout(SECONDS)
        match number % 10:
            case 0:
                sock.sendall(b"more")
            case 1 | 2:
                sock.sendall(b"read no more")
            case _:
                sock.sendall(b"hello")
                assert sock.recv(5, socket.MSG_WAITALL) == b"hello"
    for number, sock in enumerate(socks):
        match number % 10:
            case 0 | 1 | 3 | 5 | 7:
                cut(sock)
            case 9:
                sock.shutdown(socket.SHUT_WR)
                assert sock.recv(1) == b""
                sock.close()
            case _:
                sock.close()


@pytest.mark.parametrize("side", ["server", "client"])
def test_connections(many: Program, side: str) -> None:
    """10,000 connections, 5,000 at a time: half are cut by a reset, the others closed."""
    with listening() as listener:
        port = many.ask("serve") if side == "server" else listener.getsockname()[1]
        at_rest = many.sockets()
        measured = []
        for _ in range(2):
            socks = []
            try:
                if side == "server":
                    for _ in range(CONNECTIONS // 2):
                        socks.append(socket.create_connection(("127.0.0.1", port), timeout=SECONDS))
                else:
                    many.tell("connect", port, CONNECTIONS // 2)
                    for _ in range(CONNECTIONS // 2):
                        socks.append(listener.accept()[0])
                    assert many.hear() == "tried"
                many.wait_for(lambda: many.ask("open") == CONNECTIONS // 2, "all are open")
                end_connections(socks)
            finally:
                for sock in socks:
                    sock.close()
            many.wait_for(lambda: many.sockets() == at_rest, "no connection is left")
            assert many.ask("open") == 0
            measured.append(many.ask("measure"))
    check_growth(*measured, CONNECTIONS // 2)
    many.end()


def end_tls_connection(number: int, sock: socket.socket, context: ssl.SSLContext, server: bool) -> None:
    """Cut a connection before, during or after its handshake, in half of the cases, or close it in one of the ways."""
    sock.settimeout(SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    match number % 10:
        case 0:
            cut(sock)
            return
        case 1:
            # The first byte of a handshake record.
            sock.sendall(b"\x16")
            cut(sock)
            return
        case 2:
            # No TLS at all: the other end says so, and closes.
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            sock.close()
            return
    with context.wrap_socket(sock, server_side=server) as secure:
        secure.sendall(b"hello")
        assert secure.recv(5) == b"hello"
        match number % 10:
            case 3:
                secure.sendall(b"more")
                cut(secure)
            case 4 | 5:
                cut(secure)
            case 6 | 7:
                pass  # closed without saying so
            case _:
                secure.unwrap().close()


@pytest.mark.parametrize("side", ["server", "client"])
def test_tls_connections(many: Program, side: str) -> None:
    """1,000 connections with TLS, of which half are cut, some of them in the middle of their handshake."""
    client, server = leaking._contexts()
    with listening() as listener:
        port = many.ask("serve-tls") if side == "server" else listener.getsockname()[1]
        at_rest = many.sockets()
        measured = []
        for _ in range(2):
            if side == "server":
                for number in range(TLS_CONNECTIONS // 2):
                    sock = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
                    end_tls_connection(number, sock, client, False)
            else:
                many.tell("connect-tls", port, TLS_CONNECTIONS // 2)
                for number in range(TLS_CONNECTIONS // 2):
                    end_tls_connection(number, listener.accept()[0], server, True)
                assert many.hear() == "tried"
            many.wait_for(lambda: many.sockets() == at_rest, "no connection is left")
            assert many.ask("open") == 0
            measured.append(many.ask("measure"))
    check_growth(*measured, TLS_CONNECTIONS // 2)
    many.end()
