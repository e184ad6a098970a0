"""What the tests of TLS share: certificates that are made for the run, and a protocol that notes what it is told."""

import _ssl
import asyncio
import contextlib
import functools
import socket
import ssl
import subprocess
import sysconfig
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import trustme
from oracle import SECONDS, turns

#: A name under which nobody is certified.
WRONG_NAME = "elsewhere.example"


@functools.cache
def libssl_is_callable() -> bool:
    """Whether whilst must call the libssl of this Python itself: OpenSSL 3 in a file of its own, guarded by a GIL."""
    if sysconfig.get_config_var("Py_GIL_DISABLED") or _ssl.OPENSSL_VERSION_NUMBER < 0x3000_0000:
        return False
    path = getattr(_ssl, "__file__", None)
    if path is None:
        return False
    linked = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
    return "libssl.so.3" in linked


@functools.cache
def authority() -> trustme.CA:
    """Return who certifies the servers and the clients of these tests."""
    return trustme.CA()


@functools.cache
def certificate(name: str) -> trustme.LeafCert:
    """Return a certificate, with its key, for a name."""
    return authority().issue_cert(name)


def server_context(
    name: str = "localhost",
    *,
    version: ssl.TLSVersion | None = None,
    kind: type[ssl.SSLContext] = ssl.SSLContext,
) -> ssl.SSLContext:
    """Return a context for a server of that name, of one version of TLS or of all."""
    context = kind(ssl.PROTOCOL_TLS_SERVER)
    certificate(name).configure_cert(context)
    return limited(context, version)


def client_context(
    *,
    trusts: bool = True,
    version: ssl.TLSVersion | None = None,
    name: str | None = None,
    kind: type[ssl.SSLContext] = ssl.SSLContext,
) -> ssl.SSLContext:
    """Return a context for a client that trusts these tests' authority, or nobody, and has a certificate for `name`."""
    context = kind(ssl.PROTOCOL_TLS_CLIENT)
    if trusts:
        authority().configure_trust(context)
    if name is not None:
        certificate(name).configure_cert(context)
    return limited(context, version)


def limited(context: ssl.SSLContext, version: ssl.TLSVersion | None) -> ssl.SSLContext:
    """Limit a context to a version of TLS."""
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


class Record(asyncio.Protocol):
    """Notes what it is told, joining what comes in pieces."""

    def __init__(self, notes: list[Any] | None = None, name: str = "") -> None:
        self.notes: list[Any] = [] if notes is None else notes
        self.name = name
        self.data = bytearray()
        self.transport: Any = None
        self.pieces = 0
        loop = asyncio.get_running_loop()
        self.made: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[Exception | None] = loop.create_future()

    def note(self, *what: Any) -> None:
        self.notes.append((self.name, *what) if self.name else what)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.note("made")
        self.made.set_result(None)

    def data_received(self, data: bytes) -> None:
        assert type(data) is bytes and data
        self.pieces += 1
        self.data += data

    def eof_received(self) -> bool | None:
        self.note("eof", len(self.data))
        return None

    def connection_lost(self, error: Exception | None) -> None:
        self.note("lost", type(error).__name__, str(error), len(self.data))
        self.lost.set_result(error)

    def pause_writing(self) -> None:
        self.note("pause")

    def resume_writing(self) -> None:
        self.note("resume")


class BufferedRecord(Record, asyncio.BufferedProtocol):  # type: ignore[misc]
    """The same, with a buffer of its own of a given size."""

    def __init__(self, notes: list[Any] | None = None, name: str = "", size: int = 10_000) -> None:
        super().__init__(notes, name)
        self.buffer = bytearray(size)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, count: int) -> None:
        assert 0 < count <= len(self.buffer)
        self.pieces += 1
        self.data += memoryview(self.buffer)[:count]


class Echo(asyncio.Protocol):
    """Sends back what it receives, and ends when the peer does."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


@contextlib.asynccontextmanager
async def listening(
    factory: Callable[[], asyncio.BaseProtocol], context: ssl.SSLContext | None = None, **keywords: Any
) -> AsyncIterator[tuple[str, int]]:
    """Run a server of TLS for the length of a block. Its address is what the block is given.

    What it has accepted is aborted in the end, and the protocols do not hear of that.
    """
    loop = asyncio.get_running_loop()
    accepted: list[Any] = []

    def noting() -> asyncio.BaseProtocol:
        accepted.append(factory())
        return accepted[-1]

    server = await loop.create_server(
        noting, "127.0.0.1", 0, ssl=context if context is not None else server_context(), **keywords
    )
    try:
        yield server.sockets[0].getsockname()[:2]
    finally:
        server.close()
        # Those that are in the middle of something notice that their peers are gone.
        await turns(10)
        for protocol in accepted:
            if (transport := getattr(protocol, "transport", None)) is not None:
                # CPython's transports forget all when they are closed twice.
                with contextlib.suppress(AttributeError):
                    transport.set_protocol(asyncio.Protocol())
                transport.abort()
        await turns(10)


async def connect(
    protocol: asyncio.BaseProtocol,
    address: tuple[str, int],
    context: ssl.SSLContext | None = None,
    **keywords: Any,
) -> Any:
    """Connect a protocol by TLS. Return its transport."""
    keywords.setdefault("server_hostname", "localhost")
    transport, _ = await asyncio.get_running_loop().create_connection(
        lambda: protocol, *address, ssl=context if context is not None else client_context(), **keywords
    )
    return transport


@contextlib.asynccontextmanager
async def pair(
    server: Callable[[], Record], client: Callable[[], Record], version: ssl.TLSVersion | None = None
) -> AsyncIterator[tuple[Record, Record]]:
    """Two protocols, connected by TLS: the server's and the client's. Both transports are aborted in the end."""
    accepted: list[Record] = []

    def factory() -> Record:
        accepted.append(server())
        return accepted[0]

    async with listening(factory, server_context(version=version)) as address:
        connecting = client()
        await connect(connecting, address, client_context(version=version))
        await accepted[0].made
        try:
            yield accepted[0], connecting
        finally:
            for side in (accepted[0], connecting):
                side.transport.abort()


@contextlib.contextmanager
def plain_server(talk: Callable[[socket.socket], object]) -> Iterator[tuple[str, int]]:
    """A server in a thread, of blocking sockets: `talk` is called with one connection, which is closed afterwards."""
    failures: list[BaseException] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SECONDS)

        def serve() -> None:
            try:
                connection, _ = listener.accept()
                connection.settimeout(SECONDS)
                with connection:
                    talk(connection)
            except BaseException as failure:
                failures.append(failure)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[:2]
        finally:
            thread.join(SECONDS)
        assert not thread.is_alive(), "the plain server hangs"
        if failures:
            raise failures[0]


@contextlib.contextmanager
def plain_client(address: tuple[str, int], talk: Callable[[socket.socket], object]) -> Iterator[None]:
    """A client in a thread, of blocking sockets: `talk` is called with its connection, which is closed afterwards."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            with socket.create_connection(address, timeout=SECONDS) as connection:
                talk(connection)
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join(SECONDS)
    assert not thread.is_alive(), "the plain client hangs"
    if failures:
        raise failures[0]


class Bare:
    """One end of a TLS connection over a blocking socket, which does only what it is told to."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, server_side: bool) -> None:
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self.incoming,
            self.outgoing,
            server_side=server_side,
            server_hostname=None if server_side else "localhost",
        )
        self.until_done(self.tls.do_handshake)

    def flush(self) -> None:
        """Send what is to be sent."""
        self.sock.sendall(self.outgoing.read())

    def until_done(self, step: Callable[[], Any]) -> Any:
        """Do a step, receiving what it wants from the peer. Return what it returns."""
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                self.flush()
                received = self.sock.recv(65536)
                if not received:
                    raise EOFError("the peer has ended") from None
                self.incoming.write(received)
            else:
                self.flush()
                return result

    def write(self, data: bytes) -> None:
        """Send data."""
        view = memoryview(data)
        while view:
            view = view[self.tls.write(view) :]
        self.flush()

    def read(self, size: int) -> bytes:
        """Receive so many bytes; fewer if the peer has closed."""
        data = b""
        while len(data) < size:
            piece = self.until_done(functools.partial(self.tls.read, size - len(data)))
            if not piece:
                break
            data += piece
        return data
