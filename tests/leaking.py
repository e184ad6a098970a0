"""Programs that use a loop over and over and measure what stays behind; the tests are in `test_leaks.py`.

Each runs in a process of its own, as what pytest itself keeps would hide what the loop keeps: `python leaking.py cycles 500 tidy`
prints a measurement a line, as JSON.
"""

import asyncio
import collections
import contextlib
import ctypes
import gc
import json
import os
import resource
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import certificates
import whilst

SECONDS = 10.0
"""The limit of every wait."""

Stack = contextlib.AsyncExitStack


# -- What is measured ---------------------------------------------------------------------------------------------------------


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    ]


_libc = ctypes.CDLL(None)
_mallinfo2: Any = getattr(_libc, "mallinfo2", None)  # from glibc 2.33 on
if _mallinfo2 is not None:
    _mallinfo2.restype = _Mallinfo2


def _heap() -> int:
    """Bytes that are allocated by malloc, in all arenas: exact, where the resident memory is what the allocator keeps too.
    0 where the C library cannot say."""
    if _mallinfo2 is None:
        return 0
    info = _mallinfo2()
    return int(info.uordblks + info.hblkhd)


def descriptors() -> list[str]:
    """What the open descriptors of this process are."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the one that lists the folder, which is closed by now
            kind, _, rest = str(entry.readlink()).partition(":[")
            # "eventpoll", "io_uring", "eventfd"; what else has brackets has a number in them.
            found.append(rest.strip("]") if kind == "anon_inode" else kind)
    return sorted(found)


def measure() -> dict[str, Any]:
    """What this process has now: of objects those that the collector knows, by type."""
    for _ in range(3):
        gc.collect()
    if hasattr(_libc, "malloc_trim"):
        # What is free goes back to the system, so that the resident memory is what is in use.
        _libc.malloc_trim(0)
    objects = collections.Counter(
        f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.get_objects()
    )
    return {
        "descriptors": descriptors(),
        "threads": len(list(Path("/proc/self/task").iterdir())),
        "children": children(),
        "objects": objects,
        "blocks": sys.getallocatedblocks(),
        "heap": _heap(),
        "resident": int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize(),
    }


def children() -> int:
    """How many children this process has, zombies among them."""
    return len(Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split())


def reap() -> None:
    """Have the children that were abandoned reaped: `subprocess` does so whenever it starts another one."""
    deadline = time.monotonic() + SECONDS
    while children() and time.monotonic() < deadline:
        gc.collect()
        subprocess._cleanup()  # type: ignore[attr-defined]
        time.sleep(0.01)


def report(turn: int) -> None:
    reap()
    print(json.dumps({"turn": turn, **measure()}), flush=True)


# -- A loop that uses everything ----------------------------------------------------------------------------------------------


class Echo(asyncio.Protocol):
    """The server's end."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[attr-defined]


class Peer(asyncio.Protocol):
    """The client's end: `closed` is done when it is over."""

    def __init__(self) -> None:
        self.received = 0
        self.more = asyncio.Event()
        self.closed = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        self.more.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.more.set()
        if not self.closed.done():
            self.closed.set_result(None)

    async def wait_for(self, count: int) -> None:
        while self.received < count:
            self.more.clear()
            await self.more.wait()


class Buffered(Echo, asyncio.BufferedProtocol):
    """The server's end, with a buffer of its own to be received into."""

    def __init__(self) -> None:
        self.buffer = bytearray(1000)

    def get_buffer(self, hint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, count: int) -> None:
        self.data_received(bytes(self.buffer[:count]))


class Datagrams(asyncio.DatagramProtocol):
    """Either end of datagrams: `echoes` sends them back."""

    def __init__(self, echoes: bool) -> None:
        self.echoes = echoes
        self.came: asyncio.Queue[bytes] = asyncio.Queue()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        if self.echoes:
            self.transport.sendto(data, address)  # type: ignore[attr-defined]
        else:
            self.came.put_nowait(data)


async def _talk(transport: Any, peer: Peer, stack: Stack) -> None:
    async def end() -> None:
        transport.close()
        await peer.closed

    stack.push_async_callback(end)
    transport.write(b"x" * 100)
    transport.writelines([bytearray(b"y" * 100), memoryview(b"z" * 100_000)])
    await peer.wait_for(100_200)


async def _serve(server: asyncio.Server, stack: Stack) -> None:
    async def end() -> None:
        server.close()
        await server.wait_closed()

    stack.push_async_callback(end)


async def tcp(loop: asyncio.AbstractEventLoop, stack: Stack) -> None:
    for protocol in (Echo, Buffered):
        server = await loop.create_server(protocol, "127.0.0.1", 0)
        await _serve(server, stack)
        await _talk(*await loop.create_connection(Peer, *server.sockets[0].getsockname()), stack)


async def unix(loop: asyncio.AbstractEventLoop, stack: Stack) -> None:
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    server = await loop.create_unix_server(Echo, f"{folder}/socket")
    await _serve(server, stack)
    await _talk(*await loop.create_unix_connection(Peer, f"{folder}/socket"), stack)


async def tls(loop: asyncio.AbstractEventLoop, stack: Stack) -> None:
    client, server_side = _contexts()
    server = await loop.create_server(Echo, "127.0.0.1", 0, ssl=server_side)
    await _serve(server, stack)
    address = server.sockets[0].getsockname()
    await _talk(*await loop.create_connection(Peer, *address, ssl=client), stack)


async def start_tls(loop: asyncio.AbstractEventLoop, stack: Stack) -> None:
    client, server_side = _contexts()
    ours, theirs = socket.socketpair()
    plain_client, peer = await loop.create_connection(Peer, sock=ours)
    plain_server, echo = await loop.create_connection(Echo, sock=theirs)
    secure_server, secure_client = await asyncio.gather(
        loop.start_tls(plain_server, echo, server_side, server_side=True),
        loop.start_tls(plain_client, peer, client),
    )
    assert secure_server is not None
    echo.transport = secure_server
    await _talk(secure_client, peer, stack)


async def streams(loop: asyncio.AbstractEventLoop, stack: Stack) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(await reader.readline())
            await writer.drain()
            await reader.read()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    await _serve(server, stack)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())

    async def end() -> None:
        writer.close()
        await writer.wait_closed()

    stack.push_async_callback(end)
    writer.write(b"line\n")
    assert await reader.readline() == b"line\n"


async def datagrams(loop: asyncio.AbstractEventLoop, stack: Stack) -> None:
    server, _ = await loop.create_datagram_endpoint(lambda: Datagrams(True), ("127.0.0.1", 0))
    stack.callback(server.close)
    address = server.get_extra_info("sockname")
    client, protocol = await loop.create_datagram_endpoint(lambda: Datagrams(False), remote_addr=address)
    stack.callback(client.close)
    for data in (b"one", b"x" * 8000):
        client.sendto(data)
        assert await protocol.came.get() == data


async def pipes(loop: asyncio.AbstractEventLoop, stack: Stack) -> None:
    reading, writing = (os.fdopen(end, mode, 0) for end, mode in zip(os.pipe(), ("rb", "wb"), strict=True))
    read_transport, peer = await loop.connect_read_pipe(Peer, reading)
    stack.callback(read_transport.close)
    write_transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, writing)
    stack.callback(write_transport.close)
    write_transport.write(b"x" * 100_000)
    await peer.wait_for(100_000)


async def subprocesses(loop: asyncio.AbstractEventLoop, stack: Stack) -> None:
    process = await asyncio.create_subprocess_exec(
        "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(b"x" * 1000)
    assert await process.stdout.readexactly(1000) == b"x" * 1000

    async def end() -> None:
        assert await process.communicate(b"") == (b"", None)

    stack.push_async_callback(end)
    shell = await asyncio.create_subprocess_shell("exit 3", stderr=asyncio.subprocess.DEVNULL)
    assert await shell.wait() == 3


async def sendfile(loop: asyncio.AbstractEventLoop, stack: Stack) -> None:
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    await _serve(server, stack)
    with tempfile.TemporaryFile() as file:
        file.write(b"x" * 100_000)
        file.flush()  # What is in Python's own buffer, 128 KiB from 3.14 on, no sendfile sees.
        transport, peer = await loop.create_connection(Peer, *server.sockets[0].getsockname())

        async def end() -> None:
            transport.close()
            await peer.closed

        stack.push_async_callback(end)
        assert await loop.sendfile(transport, file) == 100_000
        await peer.wait_for(100_000)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            theirs.setblocking(False)
            sent, _ = await asyncio.gather(
                loop.sock_sendfile(ours, file, 90_000), _receive(loop, theirs, 10_000)
            )
            assert sent == 10_000


async def sendfile_by_tls(loop: asyncio.AbstractEventLoop, stack: Stack) -> None:
    """Over a Unix socket; with TLS it is the fallback that reads the file."""
    client, server_side = _contexts()
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    server = await loop.create_unix_server(Echo, f"{folder}/socket", ssl=server_side)
    await _serve(server, stack)
    transport, peer = await loop.create_unix_connection(
        Peer, f"{folder}/socket", ssl=client, server_hostname="localhost"
    )
    with tempfile.TemporaryFile() as file:
        file.write(b"x" * 100_000)
        file.seek(0)
        assert await loop.sendfile(transport, file) == 100_000
    await _talk(transport, peer, stack)


async def ptys(loop: asyncio.AbstractEventLoop, stack: Stack) -> None:
    ours, theirs = (os.fdopen(end, "r+b", 0) for end in os.openpty())
    read_transport, peer = await loop.connect_read_pipe(Peer, ours)
    stack.callback(read_transport.close)
    write_transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, theirs)
    stack.callback(write_transport.close)
    write_transport.write(b"line\n")
    await peer.wait_for(6)  # "\n" comes as "\r\n"


async def files(loop: asyncio.AbstractEventLoop, stack: Stack) -> None:
    """Files of whilst's own; nothing with another loop."""
    if not isinstance(loop, whilst.Loop):
        return
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    async with whilst.open(f"{folder}/file", "w") as file:
        await file.write("line\n" * 1000)
    file = await stack.enter_async_context(whilst.open(f"{folder}/file"))
    assert [line async for line in file] == ["line\n"] * 1000


async def _receive(loop: asyncio.AbstractEventLoop, sock: socket.socket, count: int) -> None:
    while count > 0:
        count -= len(await loop.sock_recv(sock, 5000))


async def sockets(loop: asyncio.AbstractEventLoop, stack: Stack) -> None:
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    client = stack.enter_context(socket.socket())
    for sock in (listener, client):
        sock.setblocking(False)
    (served, _), _ = await asyncio.gather(
        loop.sock_accept(listener), loop.sock_connect(client, listener.getsockname())
    )
    stack.enter_context(served)
    buffer = bytearray(10)
    await asyncio.gather(loop.sock_sendall(client, b"0123456789"), loop.sock_recv_into(served, buffer))
    assert buffer == b"0123456789"
    one = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
    other = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
    for sock in (one, other):
        sock.setblocking(False)
        sock.bind(("127.0.0.1", 0))
    (data, address), _ = await asyncio.gather(
        loop.sock_recvfrom(one, 100), loop.sock_sendto(other, b"data", one.getsockname())
    )
    assert (data, address) == (b"data", other.getsockname())
    # One that is given up.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0):
            await loop.sock_recv(served, 100)


async def signals(loop: asyncio.AbstractEventLoop, stack: Stack) -> None:
    came = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, came.set)
    stack.callback(loop.remove_signal_handler, signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGUSR1)
    await came.wait()


async def executor(loop: asyncio.AbstractEventLoop, stack: Stack) -> None:
    assert await loop.run_in_executor(None, sum, [1, 2]) == 3
    assert await asyncio.to_thread(loop.call_soon_threadsafe, int)
    await loop.getaddrinfo("localhost", 80)


async def readers(loop: asyncio.AbstractEventLoop, stack: Stack) -> None:
    ours, theirs = map(stack.enter_context, socket.socketpair())
    readable, writable = asyncio.Event(), asyncio.Event()
    loop.add_reader(ours, readable.set)
    stack.callback(loop.remove_reader, ours)
    loop.add_writer(ours, writable.set)
    stack.callback(loop.remove_writer, ours)
    theirs.send(b"x")
    await readable.wait()
    await writable.wait()


async def callbacks(loop: asyncio.AbstractEventLoop, stack: Stack) -> None:
    timer = loop.call_later(3600, callbacks, loop, stack)
    stack.callback(timer.cancel)
    loop.call_later(3600, print).cancel()
    sleeping = asyncio.create_task(asyncio.sleep(3600))

    async def end() -> None:
        sleeping.cancel()
        await asyncio.wait([sleeping])

    stack.push_async_callback(end)
    await asyncio.wait_for(asyncio.sleep(0.0001), SECONDS)

    async def endless() -> Any:
        while True:
            yield 1

    async for _ in endless():
        break
    with contextlib.suppress(ZeroDivisionError):
        await asyncio.create_task(_fail())


async def _fail() -> None:
    raise ZeroDivisionError


KINDS: dict[str, Callable[[asyncio.AbstractEventLoop, Stack], Awaitable[None]]] = {
    kind.__name__: kind
    for kind in (
        tcp,
        unix,
        tls,
        start_tls,
        streams,
        datagrams,
        pipes,
        subprocesses,
        ptys,
        files,
        sendfile,
        sendfile_by_tls,
        sockets,
        signals,
        executor,
        readers,
        callbacks,
    )
}

SELDOM = {"subprocesses": (2, 0), "tls": (3, 0), "start_tls": (3, 1), "sendfile_by_tls": (3, 2)}
"""A kind that is slow, of how many cycles one uses it, and which."""


def _contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A client's and a server's context, made anew: they belong to a cycle, too."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    server = certificates.server_context(certificates.ELLIPTIC)
    return client, server


def cycle(
    number: int, tidy: bool, kinds: list[str], factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Make a loop, use it, close it. Untidy: with everything still open."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        stack = Stack()
        async with asyncio.timeout(SECONDS):
            for name in kinds:
                every, offset = SELDOM.get(name, (1, 0))
                if number % every == offset:
                    await KINDS[name](loop, stack)
            if tidy:
                await stack.aclose()
            else:
                abandoned.append(stack.pop_all())

    abandoned: list[Stack] = []
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
    for stack in abandoned:
        # What is not the loop's own is the program's to close, and its sockets must not be the reason that things are left.
        for _, callback in stack._exit_callbacks:  # type: ignore[attr-defined]
            owner = getattr(callback, "__self__", None)
            if isinstance(owner, (socket.socket, tempfile.TemporaryDirectory)):
                callback(None, None, None)


def fill_caches() -> None:
    """Have more callbacks at once than a loop keeps the memory of for the next ones: how full that is would look like growth."""
    loop = FACTORY()
    for _ in range(1000):
        loop.call_soon(int)
        loop.call_later(0, int)
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    loop.close()


def cycles(count: str, how: str, *kinds: str) -> None:
    """Measure after a third of the cycles, two thirds and all."""
    total = int(count)
    fill_caches()
    for number in range(total):
        cycle(number, how == "tidy", list(kinds) or list(KINDS), FACTORY)
        if (number + 1) % (total // 3) == 0:
            report(number + 1)


# -- A loop with very many connections ---------------------------------------------------------------------------------------


class Counted(asyncio.Protocol):
    """Answers what comes, and sends more when told to: more than the peer reads."""

    open = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        Counted.open += 1
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[attr-defined]
        if data == b"more":
            self.transport.write(bytes(10_000_000))  # type: ignore[attr-defined]
        elif data == b"read no more":
            self.transport.pause_reading()  # type: ignore[attr-defined]
            # It does not hear of the connection's end before it reads again.
            asyncio.get_running_loop().call_later(0.5, self.transport.resume_reading)  # type: ignore[attr-defined]

    def connection_lost(self, error: Exception | None) -> None:
        Counted.open -= 1


def connections() -> None:
    """Do what the lines of stdin say, until its end.

    `serve` and `serve-tls` print a port of 127.0.0.1; `connect PORT COUNT` and `connect-tls PORT COUNT` connect to one, and
    print `tried` when each connection is made or has failed; `open` prints how many there are; `measure` prints a measurement.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    client, server_side = _contexts()

    async def serve(tls: bool) -> None:
        server = await loop.create_server(
            Counted,
            "127.0.0.1",
            0,
            backlog=1000,
            ssl=server_side if tls else None,
            ssl_handshake_timeout=SECONDS if tls else None,
        )
        servers.append(server)
        print(server.sockets[0].getsockname()[1], flush=True)

    async def connect(tls: bool, port: int, count: int) -> None:
        async def some() -> None:
            while rest:
                rest.pop()
                with contextlib.suppress(ConnectionError, ssl.SSLError):
                    await loop.create_connection(Counted, "127.0.0.1", port, ssl=client if tls else None)

        rest = [None] * count
        await asyncio.gather(*(some() for _ in range(50)))
        print("tried", flush=True)

    async def do(line: str) -> None:
        match line.split():
            case ["serve" | "serve-tls" as how]:
                await serve("tls" in how)
            case ["connect" | "connect-tls" as how, port, count]:
                await connect("tls" in how, int(port), int(count))
            case ["open"]:
                print(Counted.open, flush=True)
            case ["measure"]:
                report(0)

    async def settle() -> None:
        """Have the loop make what it makes once, and not before it is needed: an epoll instance, and a pipe for signals."""
        here, there = socket.socketpair()
        with here, there:
            loop.add_reader(here, print)
            await asyncio.sleep(0.1)
            loop.remove_reader(here)

    def listen() -> None:
        for line in sys.stdin:
            asyncio.run_coroutine_threadsafe(do(line), loop).result()
        loop.call_soon_threadsafe(loop.stop)

    servers: list[asyncio.Server] = []
    loop = FACTORY()
    loop.run_until_complete(settle())
    thread = threading.Thread(target=listen)
    thread.start()
    loop.run_forever()
    thread.join()
    for server in servers:
        server.close()
    loop.close()


FACTORY: Callable[[], asyncio.AbstractEventLoop] = whilst.new_event_loop
if os.environ.get("LEAKING_LOOP") == "asyncio":
    # By hand: what CPython's own loop leaves, to compare with.
    FACTORY = asyncio.SelectorEventLoop


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
