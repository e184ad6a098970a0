"""TLS from the first byte to `connection_made()`: what contexts can do, and what is said when a handshake fails."""

import asyncio
import contextlib
import gc
import logging
import socket
import ssl
import struct
import weakref
from asyncio.sslproto import SSLProtocol
from pathlib import Path
from typing import Any, ClassVar

import pytest
import whilst
from oracle import error_of_awaiting, handler_notes, reset, run, same, socket_pair, until
from tls import (
    WRONG_NAME,
    Bare,
    Echo,
    Record,
    authority,
    client_context,
    connect,
    limited,
    listening,
    pair,
    plain_client,
    plain_server,
    server_context,
)

pytestmark = pytest.mark.usefixtures("driver", "tls_engine")

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.mark.parametrize("version", VERSIONS)
def test_extra_info(version: ssl.TLSVersion) -> None:
    async def scenario(notes: list[Any]) -> None:
        async with pair(Record, Record, version) as sides:
            for side in sides:
                info = side.transport.get_extra_info
                tls = info("ssl_object")
                certificate = info("peercert")
                subject = None if certificate is None else certificate["subjectAltName"]
                notes.append((type(tls).__name__, tls.version(), tls.server_side, subject))
                notes.append((info("cipher"), info("compression"), type(info("sslcontext")).__name__))
                notes.append((info("socket").getsockname() == info("sockname"), info("peername")[0]))
                notes.append((info("nothing"), info("nothing", 5), tls.context is info("sslcontext")))

    same(scenario)


def test_extra_info_after_the_end() -> None:
    async def scenario(notes: list[Any]) -> None:
        async with pair(Record, Record) as (_, client):
            transport = client.transport
            tls = transport.get_extra_info("ssl_object")
            transport.abort()
            await client.lost
            notes.append((transport.get_extra_info("ssl_object") is tls, transport.get_extra_info("socket")))
            notes.append((transport.get_extra_info("peercert") is not None, transport.is_closing()))
            notes.append((transport.get_write_buffer_size(), transport.get_read_buffer_size()))

    same(scenario)


def test_classes() -> None:
    async def main() -> None:
        async with pair(Record, Record) as (_, client):
            transport = client.transport
            assert isinstance(transport, asyncio.Transport)
            assert type(transport).__name__ == "SSLTransport" and type(transport).__module__ == "whilst"
            below = transport._ssl_protocol._transport
            assert isinstance(transport._ssl_protocol, asyncio.BufferedProtocol)
            assert repr(transport) == f"<SSLTransport WRAPPED over {below!r}>"
            assert transport.get_protocol() is client and transport.is_reading()
            transport.abort()
            assert repr(transport).startswith("<SSLTransport closing UNWRAPPED over <StreamTransport")
            await client.lost
            assert repr(transport) == "<SSLTransport closed>"

    run(main())


@pytest.mark.parametrize(
    ("server", "client", "name"),
    [
        (server_context(), client_context(), WRONG_NAME),
        (server_context(), client_context(trusts=False), "localhost"),
        (
            server_context(version=ssl.TLSVersion.TLSv1_2),
            client_context(version=ssl.TLSVersion.TLSv1_3),
            "localhost",
        ),
        ("AES128", "AES256", "localhost"),
    ],
    ids=["wrong-name", "untrusted", "no-version", "no-cipher"],
)
@pytest.mark.parametrize("debug", [False, True])
def test_refused(server: Any, client: Any, name: str, debug: bool) -> None:
    if isinstance(server, str):
        ciphers = server, client
        server = server_context(version=ssl.TLSVersion.TLSv1_2)
        client = client_context(version=ssl.TLSVersion.TLSv1_2)
        server.set_ciphers(f"ECDHE-ECDSA-{ciphers[0]}-GCM-SHA256:ECDHE-RSA-{ciphers[0]}-GCM-SHA256")
        client.set_ciphers(f"ECDHE-ECDSA-{ciphers[1]}-GCM-SHA384:ECDHE-RSA-{ciphers[1]}-GCM-SHA384")

    async def scenario(notes: list[Any]) -> None:
        told: list[Any] = []
        handler_notes(asyncio.get_running_loop(), told)
        accepted: list[Record] = []

        def factory() -> Record:
            accepted.append(Record(notes, "server"))
            return accepted[0]

        async with listening(factory, server) as address:
            error = await error_of_awaiting(
                connect(Record(notes, "client"), address, client, server_hostname=name)
            )
            # A server that refuses resets the connection; whether the client sees that or its end is a matter of time.
            notes.append(
                error if error[0] not in ("ConnectionResetError", "ConnectionAbortedError") else "reset"
            )
            await until(lambda: not debug or told)
        notes.append([(message, kind) for _, message, kind, _ in told])

    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
        same(scenario, debug=debug)
    finally:
        logging.getLogger("asyncio").setLevel(logging.NOTSET)


def test_plain_client_of_a_tls_server() -> None:
    async def scenario(notes: list[Any]) -> None:
        async with listening(lambda: Record(notes, "server")) as address:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            try:
                notes.append(await reader.read())
            except ConnectionResetError:
                notes.append(b"")
            writer.close()
        notes.append("done")

    assert same(scenario) == [b"", "done"]


@pytest.mark.parametrize(
    "talk",
    [
        lambda sock: sock.sendall(b"220 what do you want?\r\n" * 10),
        lambda sock: (sock.recv(65536), sock.shutdown(socket.SHUT_WR)),
        lambda sock: (sock.recv(65536), reset(sock)),
    ],
    ids=["not-tls", "end", "reset"],
)
def test_peer_that_does_not_speak_tls(talk: Any) -> None:
    async def scenario(notes: list[Any]) -> None:
        with plain_server(lambda sock: (talk(sock), sock.fileno() < 0 or sock.recv(1))) as address:
            notes.append(await error_of_awaiting(connect(Record(notes), address)))

    # The bytes that the plain server does not read make its end a reset, which is what its last `recv()` may say.
    with contextlib.suppress(ConnectionResetError):
        same(scenario)


def test_client_waits_for_a_silent_server() -> None:
    async def scenario(notes: list[Any]) -> None:
        with plain_server(lambda sock: [None for _ in iter(lambda: sock.recv(65536), b"")]) as address:
            notes.append(await error_of_awaiting(connect(Record(notes), address, ssl_handshake_timeout=0.05)))

    (note,) = same(scenario)
    assert note == (
        "ConnectionAbortedError",
        "SSL handshake is taking longer than 0.05 seconds: aborting the connection",
    )


def test_server_waits_for_a_silent_client() -> None:
    async def scenario(notes: list[Any]) -> None:
        async with listening(lambda: Record(notes), ssl_handshake_timeout=0.05) as address:
            reader, writer = await asyncio.open_connection(*address)
            notes.append(await error_of_awaiting(reader.read()))
            writer.close()

    same(scenario)


# CPython's create_connection() leaves the socket to the garbage collector then, here as there.
@pytest.mark.filterwarnings("ignore:.*ResourceWarning|.*socket:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["ssl_handshake_timeout", "ssl_shutdown_timeout"])
@pytest.mark.parametrize("value", [0, -1.5])
def test_limits_of_time_are_positive(name: str, value: float) -> None:
    async def scenario(notes: list[Any]) -> None:
        async with listening(Echo) as address:
            notes.append(await error_of_awaiting(connect(Record(notes), address, **{name: value})))

    ((kind, words),) = same(scenario)
    assert (kind, words) == ("ValueError", f"{name} should be a positive number, got {value}")


def test_alpn() -> None:
    async def scenario(notes: list[Any]) -> None:
        server, client = server_context(), client_context()
        server.set_alpn_protocols(["h2", "http/1.1"])
        client.set_alpn_protocols(["spdy/1", "http/1.1"])
        async with listening(Echo, server) as address:
            transport = await connect(Record(), address, client)
            notes.append(transport.get_extra_info("ssl_object").selected_alpn_protocol())
            transport.abort()

    assert same(scenario) == ["http/1.1"]


def test_sni_callback_chooses_a_context() -> None:
    async def scenario(notes: list[Any]) -> None:
        outer, inner = server_context(), server_context("inner.example")

        def choose(tls: Any, name: str | None, context: ssl.SSLContext) -> None:
            notes.append((type(tls).__name__, name, context is outer))
            if name == "inner.example":
                tls.context = inner

        outer.sni_callback = choose
        async with listening(Echo, outer) as address:
            for name in ["inner.example", "localhost"]:
                transport = await connect(Record(), address, server_hostname=name)
                notes.append(transport.get_extra_info("peercert")["subjectAltName"])
                transport.abort()

    assert same(scenario)[1] == (("DNS", "inner.example"),)


def test_sni_callback_refuses() -> None:
    async def scenario(notes: list[Any]) -> None:
        server = server_context()
        server.sni_callback = lambda *_: ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        async with listening(lambda: Record(notes), server) as address:
            kind, _ = await error_of_awaiting(connect(Record(notes), address))
            notes.append(issubclass(getattr(__builtins__, kind, ConnectionError), OSError))

    same(scenario)


def test_sni_callback_aborts_its_connection() -> None:
    """What a callback of the context's does in the middle of the handshake leaves nothing in a wrong state."""

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        server = server_context()
        transports = []

        def abort(*_: object) -> None:
            found = [
                it for it in gc.get_objects() if type(it).__name__ == "SSLTransport" and not it.is_closing()
            ]
            found = [it for it in found if it.get_extra_info("sslcontext") is server]
            transports.extend(found)
            for transport in found:
                transport.abort()

        server.sni_callback = abort
        async with listening(Record, server) as address:
            kind, _ = await error_of_awaiting(connect(Record(), address))
            assert kind in ("ConnectionResetError", "ConnectionAbortedError", "SSLError", "SSLEOFError")
            assert len(transports) == 1

    run(main())


@pytest.mark.parametrize("version", VERSIONS)
def test_client_certificates(version: ssl.TLSVersion) -> None:
    async def scenario(notes: list[Any]) -> None:
        server = server_context(version=version)
        server.verify_mode = ssl.CERT_REQUIRED
        authority().configure_trust(server)
        accepted: list[Record] = []

        def factory() -> Record:
            accepted.append(Record())
            return accepted[-1]

        async with listening(factory, server) as address:
            await connect(Record(), address, client_context(version=version, name="client.example"))
            await until(lambda: accepted[-1].made.done())
            notes.append(accepted[-1].transport.get_extra_info("peercert")["subjectAltName"])
            accepted[-1].transport.abort()
            # Without one: up to TLS 1.2 it is the handshake that fails, from 1.3 on what follows.
            client = Record()
            try:
                await connect(client, address, client_context(version=version))
                await client.lost
            except OSError:
                assert version == ssl.TLSVersion.TLSv1_2 or not client.made.done()
            notes.append(accepted[-1].made.done())

    assert same(scenario)[-1] is False


def test_post_handshake_authentication() -> None:
    async def scenario(notes: list[Any]) -> None:
        server = server_context(version=ssl.TLSVersion.TLSv1_3)
        authority().configure_trust(server)
        server.verify_mode = ssl.CERT_REQUIRED
        server.post_handshake_auth = True
        client = client_context(version=ssl.TLSVersion.TLSv1_3, name="client.example")
        client.post_handshake_auth = True
        accepted: list[Record] = []

        def factory() -> Record:
            accepted.append(Record())
            return accepted[-1]

        async with listening(factory, server) as address:
            transport = await connect(Record(), address, client)
            transport.write(b"first")
            await until(lambda: accepted and bytes(accepted[0].data) == b"first")
            tls = accepted[0].transport.get_extra_info("ssl_object")
            notes.append(tls.getpeercert())
            tls.verify_client_post_handshake()
            # The request leaves with the next bytes.
            accepted[0].transport.write(b"who are you?")
            await until(lambda: bytes(transport.get_protocol().data) == b"who are you?")
            transport.write(b"second")
            await until(lambda: bytes(accepted[0].data) == b"firstsecond")
            notes.append(tls.getpeercert()["subjectAltName"])
            accepted[0].transport.abort()
            transport.abort()

    assert same(scenario) == [None, (("DNS", "client.example"),)]


@pytest.mark.parametrize("version", VERSIONS)
def test_sessions_are_resumed(version: ssl.TLSVersion) -> None:
    """By a context that gives each connection the session of the one before, as only a subclass can."""

    class Resuming(ssl.SSLContext):
        session: Any = None

        def wrap_bio(self, *arguments: Any, **keywords: Any) -> ssl.SSLObject:
            return super().wrap_bio(*arguments, **keywords, session=self.session)

    async def scenario(notes: list[Any]) -> None:
        client: Any = client_context(version=version, kind=Resuming)
        async with listening(Echo, server_context(version=version)) as address:
            for _ in range(3):
                protocol = Record()
                transport = await connect(protocol, address, client)
                tls = transport.get_extra_info("ssl_object")
                # With TLS 1.3 the session comes after the handshake.
                transport.write(b"x")
                await until(lambda protocol=protocol: protocol.data)
                notes.append(tls.session_reused)
                client.session = tls.session
                transport.close()
                await protocol.lost

    assert same(scenario) == [False, True, True]


def test_subclass_of_the_object() -> None:
    class Counting(ssl.SSLObject):
        calls: ClassVar[list[str]] = []

        def read(self, *arguments: Any) -> Any:
            self.calls.append("read")
            return super().read(*arguments)

        def write(self, data: Any) -> int:
            self.calls.append("write")
            return super().write(data)

        def unwrap(self) -> Any:
            self.calls.append("unwrap")
            return super().unwrap()

    async def scenario(notes: list[Any]) -> None:
        Counting.calls.clear()
        client = client_context()
        client.sslobject_class = Counting
        async with listening(Echo) as address:
            protocol = Record(notes)
            transport = await connect(protocol, address, client)
            transport.write(b"x" * 50_000)
            await until(lambda: len(protocol.data) == 50_000)
            transport.close()
            await protocol.lost
        notes.append(sorted(set(Counting.calls)))
        notes.append(Counting.calls.count("write"))

    same(scenario)


def test_key_log(tmp_path: Path) -> None:
    async def main() -> None:
        server = server_context()
        server.keylog_filename = str(tmp_path / "keys")
        async with listening(Echo, server) as address:
            (await connect(Record(), address)).abort()

    run(main())
    assert "CLIENT" in (tmp_path / "keys").read_text()


def test_unix_sockets(tmp_path: Path) -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        path = str(tmp_path / f"{type(loop).__name__}.sock")
        server = await loop.create_unix_server(Echo, path, ssl=server_context())
        client = Record(notes)
        transport, _ = await loop.create_unix_connection(
            lambda: client, path, ssl=client_context(), server_hostname="localhost"
        )
        transport.write(b"over a path")
        await until(lambda: bytes(client.data) == b"over a path")
        notes.append(transport.get_extra_info("peername") == path)
        transport.close()
        await client.lost
        server.close()

    same(scenario)


def test_accepted_sockets() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with socket_pair(socket.AF_INET) as (first, second):
            server, client = Record(notes, "server"), Record(notes, "client")
            accepting = loop.create_task(
                loop.connect_accepted_socket(lambda: server, first.dup(), ssl=server_context())
            )
            transport, _ = await loop.create_connection(
                lambda: client, sock=second.dup(), ssl=client_context(), server_hostname="localhost"
            )
            accepted, _ = await accepting
            transport.write(b"ping")
            await until(lambda: bytes(server.data) == b"ping")
            accepted.close()
            await client.lost
            await server.lost

    notes: list[Any] = same(scenario)
    assert ("client", "eof", 0) in notes


def test_connection_made_raises() -> None:
    class Raises(Record):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            raise LookupError("not today")

    async def scenario(notes: list[Any]) -> None:
        told: list[Any] = []
        handler_notes(asyncio.get_running_loop(), told)
        async with listening(Echo) as address:
            notes.append(await error_of_awaiting(connect(Raises(notes), address)))
        notes.append([note[2:] for note in told])

    same(scenario)


@pytest.mark.parametrize("way", ["close", "abort"])
def test_end_in_the_middle_of_the_handshake(way: str) -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        handler_notes(loop, notes)
        with socket_pair() as (first, second):
            client = Record(notes)
            waiter = loop.create_future()
            transport: Any = loop._make_ssl_transport(  # type: ignore[attr-defined]
                first.dup(), client, client_context(), waiter, server_hostname="localhost"
            )
            await loop.sock_recv(second, 65536)
            notes.append(transport.is_closing())
            getattr(transport, way)()
            notes.append(transport.is_closing())
            notes.append(await error_of_awaiting(waiter))

    same(scenario)


def test_cancelled_connection() -> None:
    async def scenario(notes: list[Any]) -> None:
        with plain_server(lambda sock: [None for _ in iter(lambda: sock.recv(65536), b"")]) as address:
            task = asyncio.ensure_future(connect(Record(notes), address))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            notes.append("cancelled")

    same(scenario)


def test_a_program_watches_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in the place of CPython's `SSLProtocol.connection_made` sees ours too. One that fails leaves no cycle."""
    transports: list[Any] = []
    original = SSLProtocol.connection_made

    def watching(protocol: Any, transport: Any) -> None:
        transports.append(weakref.ref(transport))
        original(protocol, transport)

    monkeypatch.setattr(SSLProtocol, "connection_made", watching)

    async def scenario() -> None:
        async with listening(Record) as address:
            error = await error_of_awaiting(connect(asyncio.Protocol(), address, server_hostname=WRONG_NAME))
            assert error[0] == "SSLCertVerificationError"
            await until(lambda: [transport() for transport in transports] == [None, None])

    gc.collect()
    gc.disable()
    try:
        run(scenario())
    finally:
        gc.enable()


def test_protocol_that_pauses_at_once() -> None:
    """What completes the handshake of TLS 1.3 leaves even if the program does not want to read.

    CPython's loop keeps it until something is written, so that the server waits; it is no oracle here.
    """

    class Pausing(Record):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.pause_reading()

    async def main() -> None:
        async with pair(Record, Pausing, ssl.TLSVersion.TLSv1_3) as (server, client):
            server.transport.write(b"hello")
            await asyncio.sleep(0.05)
            assert not client.data
            client.transport.resume_reading()
            await until(lambda: bytes(client.data) == b"hello")

    run(main())


def test_wrong_arguments() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        calls = [
            loop.create_connection(Record, "127.0.0.1", 1, ssl_handshake_timeout=1),
            loop.create_connection(Record, "127.0.0.1", 1, ssl_shutdown_timeout=1),
            loop.create_connection(Record, "127.0.0.1", 1, server_hostname="x"),
            loop.create_server(Record, "127.0.0.1", 0, ssl=True),
            loop.create_server(Record, "127.0.0.1", 0, ssl_handshake_timeout=1),
            loop.create_unix_connection(Record, "/nowhere", ssl=True),
        ]
        for call in calls:
            notes.append(await error_of_awaiting(call))

    same(scenario)


def test_default_context_of_a_client() -> None:
    """`ssl=True` verifies, by what the system trusts, which is not these tests' authority."""

    async def scenario(notes: list[Any]) -> None:
        async with listening(Echo) as address:
            loop = asyncio.get_running_loop()
            notes.append(
                await error_of_awaiting(
                    loop.create_connection(
                        lambda: Record(notes), *address, ssl=True, server_hostname="localhost"
                    )
                )
            )

    ((kind, _),) = same(scenario)
    assert kind == "SSLCertVerificationError"


def test_handshake_in_small_pieces() -> None:
    """A peer whose every byte comes alone."""

    async def main() -> None:
        done: list[bytes] = []

        def talk(sock: socket.socket) -> None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            class Slow:
                def sendall(self, data: bytes) -> None:
                    for byte in data:
                        sock.sendall(struct.pack("B", byte))

                def recv(self, size: int) -> bytes:
                    return sock.recv(size)

            slow: Any = Slow()
            end = Bare(slow, client_context(), server_side=False)
            end.write(b"ping")
            done.append(end.read(4))

        async with listening(Echo) as address:
            with plain_client(address, talk):
                await until(lambda: done)
        assert done == [b"ping"]

    run(main())


def test_version_that_is_too_old() -> None:
    async def main() -> None:
        async with listening(Echo, limited(server_context(), ssl.TLSVersion.TLSv1_3)) as address:
            kind, words = await error_of_awaiting(
                connect(Record(), address, client_context(version=ssl.TLSVersion.TLSv1_2))
            )
            assert kind in ("ConnectionResetError", "SSLError", "SSLEOFError", "ConnectionAbortedError"), (
                words
            )
        assert whilst is not None

    run(main())
