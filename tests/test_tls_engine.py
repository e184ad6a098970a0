"""The engine of TLS that calls libssl itself: where it is used, and that nobody can tell it from Python's methods."""

import _ssl
import asyncio
import ctypes
import gc
import ssl
import weakref
from typing import Any

import pytest
from oracle import run, until
from test_tls_data import in_a_thread, openssl, talk_to
from tls import (
    Bare,
    BufferedRecord,
    Echo,
    Record,
    client_context,
    connect,
    libssl_is_callable,
    listening,
    pair,
    plain_server,
    server_context,
)

pytestmark = pytest.mark.usefixtures("driver")

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]

#: `SSL_OP_ENABLE_KTLS` and `SSL_OP_ALLOW_CLIENT_RENEGOTIATION` of OpenSSL 3, which Python has from 3.12 on, or not at all.
ENABLE_KTLS = 1 << 3
ALLOW_CLIENT_RENEGOTIATION = 1 << 8

needs_libssl = pytest.mark.skipif(
    not libssl_is_callable(), reason="the libssl of this Python is not called directly"
)


def engine_of(protocol: Any) -> str:
    """Return the name of the engine of a protocol's connection."""
    return str(protocol.transport._ssl_protocol._engine)


async def echoes(server: ssl.SSLContext, client: ssl.SSLContext, size: int = 100_000) -> tuple[str, bytes]:
    """Send bytes there and back. Return the client's engine and what came back."""
    async with listening(Echo, server) as address:
        protocol = Record()
        transport = await connect(protocol, address, client)
        engine = engine_of(protocol)
        transport.write(b"x" * size)
        await until(lambda: len(protocol.data) >= size)
        transport.close()
        await protocol.lost
    return engine, bytes(protocol.data)


def test_libssl_is_called_where_it_can_be() -> None:
    engine, data = run(echoes(server_context(), client_context()))
    assert engine == ("libssl" if libssl_is_callable() else "memory_bio")
    assert data == b"x" * 100_000


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHILST_TLS_ENGINE", "memory_bio")
    assert run(echoes(server_context(), client_context()))[0] == "memory_bio"
    monkeypatch.setenv("WHILST_TLS_ENGINE", "")
    assert run(echoes(server_context(), client_context()))[0] == (
        "libssl" if libssl_is_callable() else "memory_bio"
    )
    monkeypatch.setenv("WHILST_TLS_ENGINE", "openssl")

    async def main() -> None:
        with pytest.raises(ValueError, match="WHILST_TLS_ENGINE: there is no engine 'openssl'"):
            asyncio.get_running_loop()._make_tls_protocol(  # type: ignore[attr-defined]
                asyncio.Protocol(), client_context(), asyncio.Future(), False, "localhost", None, None
            )

    run(main())


def test_object_of_another_class() -> None:
    class Own(ssl.SSLObject):
        pass

    client = client_context()
    client.sslobject_class = Own
    assert run(echoes(server_context(), client)) == ("memory_bio", b"x" * 100_000)


def test_function_that_sees_messages() -> None:
    seen = []
    client = client_context()
    client._msg_callback = lambda *message: seen.append(message)  # type: ignore[attr-defined]
    assert run(echoes(server_context(), client)) == ("memory_bio", b"x" * 100_000)
    assert seen


def test_context_of_another_class() -> None:
    """A subclass that makes an ordinary object is no reason for anything."""

    class Own(ssl.SSLContext):
        made = 0

        def wrap_bio(self, *arguments: Any, **keywords: Any) -> ssl.SSLObject:
            Own.made += 1
            return super().wrap_bio(*arguments, **keywords)

    engine, data = run(echoes(server_context(), client_context(kind=Own)))
    assert engine == ("libssl" if libssl_is_callable() else "memory_bio")
    assert (data, Own.made) == (b"x" * 100_000, 1)


def test_object_between_other_bios() -> None:
    """An object that works on something else than it was given is left alone."""

    class Own(ssl.SSLContext):
        def wrap_bio(self, incoming: Any, outgoing: Any, **keywords: Any) -> ssl.SSLObject:
            return super().wrap_bio(ssl.MemoryBIO(), outgoing, **keywords)

    async def main() -> None:
        client = client_context(kind=Own)
        made = asyncio.get_running_loop()._make_tls_protocol(  # type: ignore[attr-defined]
            asyncio.Protocol(), client, asyncio.Future(), False, "localhost", None, None
        )
        assert made._engine == "memory_bio"
        made._app_transport.abort()

    run(main())


def test_object_that_was_made_before() -> None:
    """Only the object whose `SSL` was just made is taken, and not if there were several."""
    kept = []

    class Earlier(ssl.SSLContext):
        def wrap_bio(self, incoming: Any, outgoing: Any, **keywords: Any) -> ssl.SSLObject:
            return kept[0]  # type: ignore[no-any-return]

    class Another(ssl.SSLContext):
        def wrap_bio(self, incoming: Any, outgoing: Any, **keywords: Any) -> ssl.SSLObject:
            super().wrap_bio(incoming, outgoing, **keywords)
            return kept[0]  # type: ignore[no-any-return]

    class Two(ssl.SSLContext):
        def wrap_bio(self, incoming: Any, outgoing: Any, **keywords: Any) -> ssl.SSLObject:
            kept.append(super().wrap_bio(incoming, outgoing, **keywords))
            return super().wrap_bio(incoming, outgoing, **keywords)

    async def main() -> None:
        kept.append(client_context().wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="localhost"))
        for kind in (Earlier, Another, Two):
            made = asyncio.get_running_loop()._make_tls_protocol(  # type: ignore[attr-defined]
                asyncio.Protocol(),
                client_context(kind=kind),
                asyncio.Future(),
                False,
                "localhost",
                None,
                None,
            )
            assert made._engine == "memory_bio"
            made._app_transport.abort()

    run(main())


@pytest.mark.parametrize("kind", [Record, BufferedRecord])
@pytest.mark.parametrize("version", VERSIONS)
def test_errors_are_pythons_own(
    kind: type[Record], version: ssl.TLSVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Class, arguments, reason, library and even the line of `_ssl.c` are those of the same call of Python's."""

    async def main() -> list[Any]:
        def talk(sock: Any) -> None:
            end = Bare(sock, server_context(version=version), server_side=True)
            assert end.read(2) == b"go"
            end.tls.write(b"secret")
            damaged = bytearray(end.outgoing.read())
            damaged[-1] ^= 1
            sock.sendall(damaged)
            while sock.recv(1000):
                pass

        with plain_server(talk) as address:
            client = kind()
            (await connect(client, address, client_context(version=version))).write(b"go")
            error: Any = await client.lost
        return [type(error), error.args, error.reason, error.library, str(error)]

    outcomes = []
    for engine in ("", "memory_bio"):
        monkeypatch.setenv("WHILST_TLS_ENGINE", engine)
        outcomes.append(run(main()))
    assert outcomes[0][0] is ssl.SSLError
    assert "_ssl.c" in outcomes[0][4]
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("ciphers", ["AES128-SHA", "ECDHE+AES", "ECDHE+CHACHA20"])
def test_ciphers_of_all_lengths(ciphers: str, tls_engine: str) -> None:
    """What a record takes beside its bytes differs; the order of bytes never does."""

    async def main() -> None:
        server, client = (make(version=ssl.TLSVersion.TLSv1_2) for make in (server_context, client_context))
        for context in (server, client):
            context.set_ciphers(f"{ciphers}:@SECLEVEL=0:ECDHE-ECDSA-{ciphers}:ECDHE-RSA-{ciphers}")
        async with listening(Echo, server) as address:
            protocol = Record()
            transport = await connect(protocol, address, client)
            assert engine_of(protocol) == tls_engine
            sent = bytearray()
            for size in [1, 15, 16, 17, 31, 33, 5000, 16384, 16385, 3, 70_000, 2, 1_000_003, 1]:
                piece = bytes([size % 251]) * size
                transport.write(piece)
                sent += piece
                if size % 2:
                    await until(lambda: len(protocol.data) == len(sent))
            await until(lambda: len(protocol.data) == len(sent))
            assert protocol.data == sent

    run(main())


def test_kernel_tls_is_asked_for(tls_engine: str) -> None:
    """The context may ask for kernel TLS; where bytes are not a socket's there is none, and nothing else changes."""
    server, client = server_context(), client_context()
    server.options |= ENABLE_KTLS
    client.options |= ENABLE_KTLS
    assert run(echoes(server, client)) == (tls_engine, b"x" * 100_000)


def test_the_objects_own_methods(tls_engine: str) -> None:
    """What a program does to the `ssl.SSLObject` itself is done to the same connection."""

    async def main() -> None:
        async with pair(Record, Record) as (server, client):
            client.transport.write(b"first")
            await until(lambda: bytes(server.data) == b"first")
            tls = client.transport.get_extra_info("ssl_object")
            assert tls.version() == "TLSv1.3"
            assert tls.pending() == 0
            assert tls.get_channel_binding("tls-unique")
            with pytest.raises(ssl.SSLWantReadError):
                tls.read(1)
            # It waits in the engine, and leaves with what is written next, before it.
            assert tls.write(b"second") == 6
            assert client.transport.get_write_buffer_size() > 6
            client.transport.write(b"third")
            await until(lambda: bytes(server.data) == b"firstsecondthird")

    run(main())


def test_object_that_outlives_its_connection(tls_engine: str) -> None:
    """The object is whole after the transport, the engine and the loop are gone."""

    async def main() -> Any:
        async with pair(Record, Record) as (_server, client):
            return client.transport.get_extra_info("ssl_object"), weakref.ref(client.transport)

    tls, transport = run(main())
    gc.collect()
    assert transport() is None
    assert tls.version() == "TLSv1.3"
    with pytest.raises(ssl.SSLWantReadError):
        tls.read(1)
    assert tls.write(b"for nobody") == 10
    with pytest.raises(ssl.SSLWantReadError):
        tls.unwrap()


@needs_libssl
def test_error_that_somebody_has_left() -> None:
    """OpenSSL's errors are the thread's, and one of another library's is none of the connection's."""
    library = ctypes.CDLL(_ssl.__file__)
    library.BIO_new_file.restype = ctypes.c_void_p

    def leave() -> None:
        assert library.BIO_new_file(b"/nonexistent", b"r") is None
        assert library.ERR_peek_error() != 0

    class Leaves(Record):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            leave()
            self.transport.write(data)

    async def main() -> None:
        async with pair(Leaves, Record) as (_server, client):
            for count in range(1, 4):
                client.transport.write(b"x" * 20_000)
                await until(lambda count=count: len(client.data) == count * 20_000)
                leave()

    run(main())
    library.ERR_clear_error()


@needs_libssl
def test_function_called_out_of_openssl_comes_back() -> None:
    """A renegotiation calls `sni_callback` in the middle of a read. What it does to the transport waits."""

    async def main() -> None:
        protocols: list[Record] = []
        inside: list[Any] = []

        def server_name(tls: Any, name: str | None, context: ssl.SSLContext) -> None:
            if not protocols:
                return
            transport = protocols[0].transport
            if transport is None:
                return
            transport.write(b"from inside\n")
            transport.write(b"y" * 40_000)
            inside.append(transport.get_write_buffer_size())
            transport._ssl_protocol._do_read()
            transport.pause_reading()
            transport.resume_reading()

        class Answers(Record):
            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                self.transport.write(b"answer to " + data)

        def factory() -> Record:
            protocols.append(Answers())
            return protocols[0]

        server = server_context(version=ssl.TLSVersion.TLSv1_2)
        server.options |= ALLOW_CLIENT_RENEGOTIATION
        server.sni_callback = server_name
        async with listening(factory, server) as (host, port):
            process = openssl(
                "s_client", "-connect", f"{host}:{port}", "-tls1_2", "-servername", "localhost", "-no_ign_eof"
            )
            steps = [
                (b"Verify return code", b"before\n"),
                (b"answer to before", b"R\n"),
                (b"from inside", b"after\n"),
                (b"answer to after", b"Q\n"),
            ]
            output = await in_a_thread(talk_to, process, steps)
            assert b"from inside\n" + b"y" * 40_000 in output
            assert inside == [len(b"from inside\n") + 40_000]
            assert engine_of(protocols[0]) in ("libssl", "None")
            assert bytes(protocols[0].data) == b"before\nafter\n"

    run(main())


async def read_back(size: int, limit: int) -> bytes:
    """Send bytes there and back by streams whose reader pauses after twice `limit`."""
    async with listening(Echo) as address:
        reader, writer = await asyncio.open_connection(
            *address, ssl=client_context(), server_hostname="localhost", limit=limit
        )
        writer.write(b"x" * size)
        back = await reader.readexactly(size)
        writer.close()
        await writer.wait_closed()
    return back


@pytest.mark.parametrize("limit", [100, 1 << 16])
def test_streams(limit: int, tls_engine: str) -> None:
    assert run(read_back(1_000_000, limit)) == b"x" * 1_000_000


def test_somebody_has_replaced_a_part_of_streams(tls_engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What asyncio's readers are fed goes by the function that stands there."""
    fed = []
    own = asyncio.StreamReader.feed_data

    def feed_data(reader: asyncio.StreamReader, data: bytes) -> None:
        fed.append(len(data))
        own(reader, data)

    monkeypatch.setattr(asyncio.StreamReader, "feed_data", feed_data)
    assert run(read_back(1000, 1 << 16)) == b"x" * 1000
    assert sum(fed) == 1000
