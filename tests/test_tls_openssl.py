"""TLS with OpenSSL's own programs as the other end: `openssl s_client` and `openssl s_server`, which know nothing of asyncio.

Each scenario runs on CPython's loop too, and what a program could see must be the same (`oracle.same`).
"""

import asyncio
import contextlib
import fcntl
import functools
import os
import random
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import tempfile
import termios
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import certificates
import pytest
from oracle import handler_notes, no_descriptor_leaks, same, until

pytestmark = [
    pytest.mark.usefixtures("driver", "tls_engine"),
    pytest.mark.skipif(
        shutil.which("openssl") is None, reason="there is no openssl here (Debian: apt-get install openssl)"
    ),
]

MIB = 1 << 20
LARGE = random.Random(5).randbytes(8 * MIB)

VERSIONS = {"1.2": "TLSv1.2", "1.3": "TLSv1.3"}
"""The versions, and what OpenSSL calls them."""

every_version = pytest.mark.parametrize("version", VERSIONS)


class OpenSSL:
    """A running `openssl`, its output (both streams) in a file."""

    def __init__(self, *arguments: object, read: Path | None = None, write: Path | None = None) -> None:
        self._output = tempfile.TemporaryFile()
        with contextlib.ExitStack() as files:
            self.process = subprocess.Popen(
                # A line of its output is there when it is printed, although it goes to a file.
                ["stdbuf", "-oL", "openssl", *map(str, arguments)],
                stdin=subprocess.PIPE if read is None else files.enter_context(read.open("rb")),
                stdout=self._output if write is None else files.enter_context(write.open("wb")),
                stderr=self._output,
            )

    def output(self) -> str:
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), size, 0).decode(errors="replace")

    def enter(self, data: bytes) -> None:
        """Write to its standard input, as at a terminal. `s_client` takes `Q`, `R`, `k` and `K` at a line's start for commands,
        `s_server` those and more."""
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    async def says(self, *words: str) -> None:
        """Wait until all these words are in the output."""
        try:
            await until(lambda: all(word in self.output() for word in words))
        except AssertionError:
            raise AssertionError(f"no {words} in:\n{self.output()[-1500:]}") from None

    async def command(self, command: str, answer: str) -> None:
        """Type a command, alone, as one that comes together with more is not one, and wait for what it prints at its end."""
        before = self.output().count(answer)
        self.enter(f"{command}\n".encode())
        await until(lambda: self.output().count(answer) > before)

    async def ended(self) -> int | None:
        try:
            await until(lambda: self.process.poll() is not None)
        except AssertionError:
            raise AssertionError(f"it runs on:\n{self.output()[-1500:]}") from None
        return self.process.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        self.process.wait()
        if kind is not None:
            print(f"--- openssl's output:\n{self.output()[-1500:]}")
        self._output.close()


class Noting(asyncio.Protocol):
    """Notes its calls; with `echo` it sends back what comes."""

    def __init__(self, notes: list[Any], *, echo: bool = False) -> None:
        self.notes = notes
        self.echo = echo
        self.transport: Any = None
        self.received = bytearray()
        self.lost = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        secure: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        if secure is not None:
            cipher = transport.get_extra_info("cipher")
            assert cipher == secure.cipher() is not None
            self.notes.append(("made", secure.version(), cipher[0]))

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self.echo:
            self.transport.write(data)

    def eof_received(self) -> None:
        self.notes.append(("eof", len(self.received)))

    def connection_lost(self, error: Exception | None) -> None:
        self.notes.append(("lost", type(error).__name__))
        self.lost = True


def of_version(context: ssl.SSLContext, version: str) -> ssl.SSLContext:
    """Let a context speak one version of TLS only."""
    which = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[version]
    context.minimum_version = context.maximum_version = which
    return context


@contextlib.asynccontextmanager
async def serving(
    factory: Callable[[], asyncio.Protocol], context: ssl.SSLContext, **more: Any
) -> AsyncIterator[str]:
    """A server of the loop's; the value is its address for `-connect`."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(factory, "127.0.0.1", 0, ssl=context, **more)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


def s_client(address: str, *arguments: object, **more: Any) -> OpenSSL:
    """OpenSSL's client, which checks the server's certificate and ends where that is wrong."""
    checks = ("-CAfile", certificates.AUTHORITY, "-verify_return_error", "-verify_ip", "127.0.0.1")
    return OpenSSL("s_client", "-connect", address, *checks, *arguments, **more)


@contextlib.asynccontextmanager
async def s_server(*arguments: object, **more: Any) -> AsyncIterator[tuple[OpenSSL, int]]:
    """OpenSSL's server, and its port."""
    certificate = certificates.LOCALHOST
    with OpenSSL(
        *("s_server", "-accept", "127.0.0.1:0", "-cert", certificate, "-key", certificate), *arguments, **more
    ) as server:
        await server.says("ACCEPT 127.0.0.1:")
        port = server.output().partition("ACCEPT 127.0.0.1:")[2].split()[0]
        yield server, int(port)


async def connect(
    protocol: Noting, port: int, context: ssl.SSLContext | None = None, **more: Any
) -> asyncio.Transport:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(
        lambda: protocol,
        "127.0.0.1",
        port,
        ssl=context or certificates.client_context(),
        server_hostname="localhost",
        **more,
    )
    return transport


async def on_its_way(transport: asyncio.Transport) -> None:
    """Wait until the kernel has something of ours that the other end has not taken."""
    sock = transport.get_extra_info("socket")

    def queued() -> int:
        return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0])

    await until(queued)


@pytest.fixture(autouse=True)
def nothing_left() -> Any:
    with no_descriptor_leaks():
        yield


# -- The loop is the server ---------------------------------------------------------------------------------------------------


class TestServer:
    @every_version
    def test_a_line_comes_back_and_the_client_leaves(self, version: str) -> None:
        async def scenario(notes: list[Any]) -> None:
            protocol = Noting(notes, echo=True)
            async with serving(
                lambda: protocol, of_version(certificates.server_context(), version)
            ) as address:
                with s_client(address) as client:
                    await client.says(VERSIONS[version], "Verify return code: 0 (ok)")
                    client.enter(b"hello\n")
                    await client.says("hello\n")
                    assert bytes(protocol.received) == b"hello\n"
                    notes.append(protocol.transport.get_extra_info("peercert"))
                    client.enter(b"Q\n")
                    assert await client.ended() == 0
                    await until(lambda: protocol.lost)

        assert same(scenario)[0][1] == VERSIONS[version]

    @every_version
    @pytest.mark.parametrize("has", [True, False])
    def test_client_certificates(self, version: str, has: bool) -> None:
        async def scenario(notes: list[Any]) -> None:
            protocol = Noting(notes, echo=True)
            handler_notes(asyncio.get_running_loop(), notes)
            context = of_version(certificates.server_context(client_certificates=True), version)
            own = ("-cert", certificates.LOCALHOST, "-key", certificates.LOCALHOST) if has else ()
            async with serving(lambda: protocol, context) as address:
                with s_client(address, *own) as client:
                    if has:
                        client.enter(b"hello\n")
                        await client.says("hello\n")
                        notes.append(protocol.transport.get_extra_info("peercert")["subject"])
                        client.enter(b"Q\n")
                        await until(lambda: protocol.lost)
                    notes.append(("client", await client.ended() == 0))

        notes = same(scenario)
        assert notes[-1] == ("client", has)
        assert any("localhost" in str(note) for note in notes) is has

    def test_alpn(self) -> None:
        async def scenario(notes: list[Any]) -> None:
            context = certificates.server_context()
            context.set_alpn_protocols(["h2", "http/1.1"])
            for offered in ("http/1.1,h2", "http/1.1", "other", None):
                protocol = Noting(notes)
                async with serving(functools.partial(lambda one: one, protocol), context) as address:
                    with s_client(address, *(("-alpn", offered) if offered else ())) as client:
                        await client.says("Verify return code")
                        await until(functools.partial(getattr, protocol, "transport"))
                        secure = protocol.transport.get_extra_info("ssl_object")
                        chosen = secure.selected_alpn_protocol()
                        notes.append((offered, chosen))
                        await client.says(f"ALPN protocol: {chosen}" if chosen else "No ALPN negotiated")
                        client.enter(b"Q\n")
                        await until(functools.partial(getattr, protocol, "lost"))

        notes = same(scenario)
        assert ("http/1.1,h2", "h2") in notes and ("http/1.1", "http/1.1") in notes and (None, None) in notes

    def test_server_name(self) -> None:
        async def scenario(notes: list[Any]) -> None:
            context, other = (
                certificates.server_context(),
                certificates.server_context(certificates.FAKEHOSTNAME),
            )

            def choose(secure: Any, name: str | None, _: object) -> int | None:
                notes.append(("asked for", name))
                if name == "fakehostname":
                    secure.context = other
                    return None
                return None if name is None else ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME

            context.sni_callback = choose
            for name in ("fakehostname", "nobody", None):
                protocol = Noting(notes)
                async with serving(functools.partial(lambda one: one, protocol), context) as address:
                    arguments = (
                        ("-servername", name, "-verify_hostname", name) if name else ("-noservername",)
                    )
                    with OpenSSL(
                        "s_client", "-connect", address, "-CAfile", certificates.AUTHORITY, *arguments
                    ) as client:
                        if name != "nobody":
                            subject = name or "allsans"
                            await client.says(f"CN = {subject}", "Verify return code: 0")
                            client.enter(b"Q\n")
                            await until(functools.partial(getattr, protocol, "lost"))
                        notes.append((await client.ended()) == 0)

        assert [
            note[1] for note in same(scenario) if note and note is not True and note[0] == "asked for"
        ] == [
            "fakehostname",
            "nobody",
            None,
        ]

    def test_sessions_are_resumed(self, tmp_path: Path) -> None:
        """TLS 1.2 by `-reconnect`, which connects six times; TLS 1.3 by a ticket that the first connection has left."""

        async def scenario(notes: list[Any]) -> None:
            made: list[Noting] = []

            def factory() -> Noting:
                made.append(Noting([], echo=True))
                return made[-1]

            def resumed() -> list[bool | None]:
                return [one.transport.get_extra_info("ssl_object").session_reused for one in made]

            async with serving(factory, of_version(certificates.server_context(), "1.2")) as address:
                with s_client(address, "-reconnect") as client:
                    await until(lambda: client.output().count("Reused, TLSv1.2") == 5)
                    client.enter(b"Q\n")
                    assert await client.ended() == 0
                    await until(lambda: len(made) == 6 and all(one.lost for one in made))
            notes.append(resumed())
            made.clear()
            async with serving(factory, of_version(certificates.server_context(), "1.3")) as address:
                kept = tmp_path / "session"
                for which in ("-sess_out", "-sess_in"):
                    with s_client(address, which, kept) as client:
                        # The ticket comes before the answer.
                        await client.says("Verify return code")
                        client.enter(b"hello\n")
                        await client.says("hello\n")
                        client.enter(b"Q\n")
                        assert await client.ended() == 0
                await until(lambda: all(one.lost for one in made))
            notes.append(resumed())
            kept.unlink()

        assert same(scenario) == [[False] + [True] * 5, [False, True]]

    def test_renegotiation_is_refused(self) -> None:
        """OpenSSL 3 refuses a client's wish to renegotiate unless told otherwise, and its client then gives up."""

        async def scenario(notes: list[Any]) -> None:
            handler_notes(asyncio.get_running_loop(), notes)
            protocol = Noting(notes, echo=True)
            async with serving(lambda: protocol, of_version(certificates.server_context(), "1.2")) as address:
                with s_client(address) as client:
                    client.enter(b"hello\n")
                    await client.says("hello\n")
                    client.enter(b"R\n")
                    await client.says("RENEGOTIATING")
                    notes.append(("client", await client.ended() == 0))
                    await until(lambda: protocol.lost)
            notes.append(bytes(protocol.received))

        assert ("client", False) in same(scenario)

    @pytest.mark.parametrize("command", ["k", "K"], ids=["its own", "both"])
    def test_keys_are_updated(self, command: str) -> None:
        async def scenario(notes: list[Any]) -> None:
            protocol = Noting(notes, echo=True)
            async with serving(lambda: protocol, of_version(certificates.server_context(), "1.3")) as address:
                with s_client(address) as client:
                    for number in range(5):
                        client.enter(b"hello %d\n" % number)
                        await client.says(f"hello {number}\n")
                        await client.command(command, "KEYUPDATE")
                    client.enter(b"Q\n")
                    assert await client.ended() == 0
                    await until(lambda: protocol.lost)
            notes.append(bytes(protocol.received))

        assert same(scenario)[-1] == b"".join(b"hello %d\n" % number for number in range(5))

    @every_version
    def test_large_transfers_both_ways(self, version: str, tmp_path: Path) -> None:
        source, target = tmp_path / "source", tmp_path / "target"
        source.write_bytes(LARGE)

        async def scenario(notes: list[Any]) -> None:
            protocol = Noting(notes, echo=True)
            async with serving(
                lambda: protocol, of_version(certificates.server_context(), version)
            ) as address:
                with s_client(address, "-quiet", read=source, write=target):
                    await until(lambda: target.stat().st_size == len(LARGE))
                    protocol.transport.close()
                    await until(lambda: protocol.lost)
            notes.append((bytes(protocol.received) == LARGE, target.read_bytes() == LARGE))

        assert same(scenario)[-1] == (True, True)

    @every_version
    def test_the_server_closes(self, version: str) -> None:
        """What was written before is there, and then OpenSSL is told by a close_notify."""

        async def scenario(notes: list[Any]) -> None:
            protocol = Noting(notes)
            async with serving(
                lambda: protocol, of_version(certificates.server_context(), version)
            ) as address:
                with s_client(address, "-msg") as client:
                    await client.says("Verify return code")
                    await until(lambda: protocol.transport)
                    protocol.transport.write(b"the end\n")
                    protocol.transport.close()
                    protocol.transport.close()
                    notes.append(await client.ended())
                    await client.says("the end\n", "warning close_notify")
                    await until(lambda: protocol.lost)

        assert 0 in same(scenario)

    @every_version
    def test_the_client_says_that_it_ends_and_reads_on(self, version: str) -> None:
        """A close_notify ends both directions for asyncio, although the client would still listen."""

        async def scenario(notes: list[Any]) -> None:
            class Late(Noting):
                def eof_received(self) -> None:
                    super().eof_received()
                    self.transport.write(b"too late\n")

            handler_notes(asyncio.get_running_loop(), notes)
            protocol = Late(notes)
            async with serving(
                lambda: protocol, of_version(certificates.server_context(), version)
            ) as address:
                with s_client(address) as client:
                    client.enter(b"hello\n")
                    await until(lambda: protocol.received)
                    assert client.process.stdin is not None
                    client.process.stdin.close()  # OpenSSL shuts down: close_notify, then FIN
                    assert await client.ended() == 0
                    await until(lambda: protocol.lost)

        same(scenario)

    @every_version
    @pytest.mark.parametrize("when", ["idle", "reading", "writing", "handshake"])
    def test_the_client_is_killed(self, version: str, when: str, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.write_bytes(LARGE * 4)

        async def scenario(notes: list[Any]) -> None:
            handler_notes(asyncio.get_running_loop(), notes)
            said: list[Any] = []
            protocol = Noting(said)
            context = of_version(certificates.server_context(), version)
            async with serving(lambda: protocol, context) as address:
                arguments: tuple[object, ...] = ("-quiet",) if when == "reading" else ()
                with s_client(address, *arguments, read=source if when == "reading" else None) as client:
                    if when == "handshake":
                        # It may be anywhere in there.
                        client.process.kill()
                        client.process.wait()
                        return notes.append("killed")
                    if when != "reading":
                        client.enter(b"hello\n")
                    await until(lambda: protocol.received)
                    if when != "reading":
                        # It has read all that there is, and so its kernel will not reset the connection.
                        protocol.transport.write(b"hello\n")
                        await client.says("hello\n")
                    if when == "writing":
                        client.process.send_signal(signal.SIGSTOP)
                        protocol.transport.write(LARGE)
                        await on_its_way(protocol.transport)
                    client.process.kill()
                    await until(lambda: protocol.lost)
                    if when != "reading":
                        notes.append(said)  # with much on its way it is chance how the end is seen
                    notes.append(protocol.transport.is_closing())

        notes = same(scenario)
        assert not any(note[0] == "handler" for note in notes if isinstance(note, tuple))

    def test_upgrade(self) -> None:
        """OpenSSL speaks SMTP as far as STARTTLS, and is then answered by `start_tls`."""

        async def scenario(notes: list[Any]) -> None:
            over = asyncio.Event()

            async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.write(b"220 localhost\r\n")
                notes.append((await reader.readline()).split()[0])
                writer.write(b"250-localhost\r\n250 STARTTLS\r\n")
                notes.append(await reader.readline())
                writer.write(b"220 go on\r\n")
                await writer.start_tls(certificates.server_context())
                notes.append(writer.get_extra_info("ssl_object").version())
                while line := await reader.readline():
                    writer.write(line)
                writer.close()
                await writer.wait_closed()
                over.set()

            server = await asyncio.start_server(handle, "127.0.0.1", 0)
            async with server:
                address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
                with s_client(address, "-starttls", "smtp") as client:
                    await client.says("Verify return code: 0")
                    client.enter(b"hello\n")
                    await client.says("hello\n")
                    client.enter(b"Q\n")
                    assert await client.ended() == 0
                await over.wait()

        assert same(scenario) == [b"EHLO", b"STARTTLS\r\n", "TLSv1.3"]

    def test_nothing_in_common(self) -> None:
        async def scenario(notes: list[Any]) -> None:
            handler_notes(asyncio.get_running_loop(), notes)
            async with serving(
                lambda: Noting(notes), of_version(certificates.server_context(), "1.3")
            ) as address:
                with s_client(address, "-tls1_2") as client:
                    notes.append(await client.ended() == 0)

        same(scenario)


# -- The loop is the client ---------------------------------------------------------------------------------------------------


class TestClient:
    @every_version
    def test_lines_come_back_reversed(self, version: str) -> None:
        async def scenario(notes: list[Any]) -> None:
            async with s_server("-rev") as (_, port):
                for number in range(3):
                    protocol = Noting(notes)
                    transport = await connect(
                        protocol, port, of_version(certificates.client_context(), version)
                    )
                    transport.write(b"hello %d\n" % number)
                    await until(lambda: protocol.received.endswith(b"\n"))
                    notes.append(bytes(protocol.received))
                    notes.append(transport.get_extra_info("peercert")["subjectAltName"])
                    notes.append(transport.get_extra_info("compression"))
                    transport.close()
                    await until(lambda: protocol.lost)

        notes = same(scenario)
        assert notes[0][1] == VERSIONS[version]
        assert b"0 olleh\n" in notes and (("DNS", "localhost"),) in notes

    @every_version
    @pytest.mark.parametrize("has", [True, False])
    def test_client_certificates(self, version: str, has: bool) -> None:
        async def scenario(notes: list[Any]) -> None:
            handler_notes(asyncio.get_running_loop(), notes)
            asks = ("-Verify", "1", "-verify_return_error", "-CAfile", certificates.AUTHORITY)
            async with s_server(*asks) as (server, port):
                protocol = Noting(notes)
                context = certificates.client_context(certificates.FAKEHOSTNAME if has else None)
                try:
                    transport = await connect(protocol, port, of_version(context, version))
                except OSError as error:
                    notes.append(getattr(error, "reason", type(error).__name__))
                    return
                transport.write(b"hello\n")
                if has:
                    server.enter(b"welcome\n")
                    await until(lambda: protocol.received)
                    notes.append(bytes(protocol.received))
                    transport.close()
                # Without: with TLS 1.3 the client's handshake is over before the server has seen its certificate.
                await until(lambda: protocol.lost)

        assert (b"welcome\n" in same(scenario)) is has

    def test_a_server_that_is_not_trusted(self) -> None:
        async def scenario(notes: list[Any]) -> None:
            loop = asyncio.get_running_loop()
            handler_notes(loop, notes)
            async with s_server() as (_, port):
                for name, context in (
                    ("localhost", ssl.create_default_context()),
                    ("elsewhere", certificates.client_context()),
                ):
                    with pytest.raises(ssl.SSLCertVerificationError) as caught:
                        await loop.create_connection(
                            lambda: Noting(notes), "127.0.0.1", port, ssl=context, server_hostname=name
                        )
                    notes.append(caught.value.verify_message)

        assert "localhost" not in str(same(scenario)[0])

    def test_alpn(self) -> None:
        async def scenario(notes: list[Any]) -> None:
            async with s_server("-alpn", "h2,http/1.1") as (_, port):
                context = certificates.client_context()
                context.set_alpn_protocols(["http/1.1", "h2"])
                protocol = Noting(notes)
                transport = await connect(protocol, port, context)
                notes.append(transport.get_extra_info("ssl_object").selected_alpn_protocol())
                transport.close()
                await until(lambda: protocol.lost)

        assert "h2" in same(scenario)

    @pytest.mark.parametrize("command", ["r", "R"], ids=["plain", "with a certificate"])
    def test_the_server_renegotiates(self, command: str) -> None:
        """OpenSSL lets a server renegotiate: the client answers handshake messages while it does nothing but read."""

        async def scenario(notes: list[Any]) -> None:
            async with s_server("-CAfile", certificates.AUTHORITY, "-msg") as (server, port):
                protocol = Noting(notes)
                context = of_version(certificates.client_context(certificates.FAKEHOSTNAME), "1.2")
                transport = await connect(protocol, port, context)
                for number in range(3):
                    await server.command(command, "SSL_do_handshake -> 1")
                    # Each handshake ends by such a message from either side.
                    await until(lambda: server.output().count("Finished") == 2 * (number + 2))
                    server.enter(b"hello %d\n" % number)
                    await until(lambda: protocol.received.endswith(b"hello %d\n" % number))
                    transport.write(b"answer %d\n" % number)
                    await server.says(f"answer {number}")
                notes.append(("FAKE" in server.output().upper(), bytes(protocol.received)))
                transport.close()
                await until(lambda: protocol.lost)

        assert same(scenario)[1][1] == b"hello 0\nhello 1\nhello 2\n"

    @pytest.mark.parametrize("command", ["k", "K"], ids=["its own", "both"])
    def test_keys_are_updated(self, command: str) -> None:
        async def scenario(notes: list[Any]) -> None:
            async with s_server("-msg") as (server, port):
                protocol = Noting(notes)
                transport = await connect(protocol, port)
                for number in range(3):
                    await server.command(command, "SSL_do_handshake -> 1")
                    server.enter(b"hello %d\n" % number)
                    await until(lambda: protocol.received.endswith(b"hello %d\n" % number))
                    transport.write(b"answer %d\n" % number)
                    await server.says(f"answer {number}")
                # The client's answer to an update that asks for one.
                notes.append(server.output().count("<<< TLS 1.3, Handshake [length 0005], KeyUpdate"))
                transport.close()
                await until(lambda: protocol.lost)
                notes.append(bytes(protocol.received))

        notes = same(scenario)
        assert notes[1] == (3 if command == "K" else 0)

    @every_version
    def test_large_transfers_both_ways(self, version: str, tmp_path: Path) -> None:
        target = tmp_path / "target"

        async def scenario(notes: list[Any]) -> None:
            context = of_version(certificates.client_context(), version)
            certificate = certificates.LOCALHOST
            with contextlib.ExitStack() as stack:
                # With its standard output in a file the server does not say its port.
                with socket.create_server(("127.0.0.1", 0)) as listener:
                    port = listener.getsockname()[1]
                server = stack.enter_context(
                    OpenSSL(
                        *("s_server", "-accept", f"127.0.0.1:{port}", "-cert", certificate),
                        *("-key", certificate, "-quiet"),
                        write=target,
                    )
                )
                protocol = Noting(notes)
                while True:
                    assert server.process.poll() is None, server.output()
                    with contextlib.suppress(ConnectionRefusedError):
                        transport = await connect(protocol, port, context)
                        break
                    await asyncio.sleep(0.005)
                transport.write(LARGE)
                # By a pipe, as the server ends with its standard input.
                await asyncio.to_thread(server.enter, LARGE)
                await until(
                    lambda: target.stat().st_size == len(LARGE) and len(protocol.received) == len(LARGE)
                )
                transport.close()
                await until(lambda: protocol.lost)
            notes.append((bytes(protocol.received) == LARGE, target.read_bytes() == LARGE))

        assert same(scenario)[-1] == (True, True)

    @every_version
    def test_the_server_closes(self, version: str) -> None:
        async def scenario(notes: list[Any]) -> None:
            handler_notes(asyncio.get_running_loop(), notes)
            async with s_server() as (server, port):
                protocol = Noting(notes)
                transport = await connect(protocol, port, of_version(certificates.client_context(), version))
                server.enter(b"the end\n")
                await until(lambda: protocol.received)
                server.enter(b"q\n")
                await until(lambda: protocol.lost)
                notes.append((bytes(protocol.received), transport.is_closing()))

        assert same(scenario)[-1] == (b"the end\n", True)

    @every_version
    def test_the_server_talks_without_tls(self, version: str) -> None:
        """`P` is a line in plain text within the connection: the transport fails, and says so."""

        async def scenario(notes: list[Any]) -> None:
            handler_notes(asyncio.get_running_loop(), notes)
            async with s_server() as (server, port):
                protocol = Noting(notes)
                await connect(protocol, port, of_version(certificates.client_context(), version))
                server.enter(b"P\n")
                await until(lambda: protocol.lost)

        assert same(scenario)[-1] == ("lost", "SSLError")

    @every_version
    @pytest.mark.parametrize("when", ["idle", "writing"])
    def test_the_server_is_killed(self, version: str, when: str) -> None:
        async def scenario(notes: list[Any]) -> None:
            handler_notes(asyncio.get_running_loop(), notes)
            async with s_server() as (server, port):
                protocol = Noting(notes)
                transport = await connect(protocol, port, of_version(certificates.client_context(), version))
                server.enter(b"hello\n")
                await until(lambda: protocol.received)
                if when == "writing":
                    server.process.send_signal(signal.SIGSTOP)
                    transport.write(LARGE)
                    await on_its_way(transport)
                server.process.kill()
                await until(lambda: protocol.lost)

        notes = same(scenario)
        assert not any(note[0] == "handler" for note in notes if isinstance(note, tuple))

    @every_version
    def test_upgrade(self, version: str) -> None:
        async def scenario(notes: list[Any]) -> None:
            loop = asyncio.get_running_loop()
            async with s_server("-rev") as (_, port):
                protocol = Noting(notes)
                plain, _ = await loop.create_connection(lambda: protocol, "127.0.0.1", port)
                secure = await loop.start_tls(
                    plain,
                    protocol,
                    of_version(certificates.client_context(), version),
                    server_hostname="localhost",
                )
                assert secure is not None
                notes.append(secure.get_extra_info("ssl_object").version())
                secure.write(b"hello\n")
                await until(lambda: protocol.received.endswith(b"\n"))
                notes.append(bytes(protocol.received))
                secure.close()
                await until(lambda: protocol.lost)

        assert same(scenario)[:2] == [VERSIONS[version], b"olleh\n"]
