"""Bytes over TLS, in both directions, and flow control."""

import asyncio
import random
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import whilst
from oracle import SECONDS, error_of, handler_notes, run, same, turns, until
from tls import (
    Bare,
    BufferedRecord,
    Echo,
    Record,
    certificate,
    client_context,
    connect,
    listening,
    pair,
    plain_client,
    plain_server,
    server_context,
)

pytestmark = pytest.mark.usefixtures("driver", "tls_engine")

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.mark.parametrize("size", [1, 100, 16383, 16384, 16385, 65536, 1_000_003, 5 << 20])
@pytest.mark.parametrize("kind", [Record, BufferedRecord])
@pytest.mark.parametrize("version", VERSIONS)
def test_echo(size: int, kind: type[Record], version: ssl.TLSVersion) -> None:
    data = random.Random(size).randbytes(size)

    async def main() -> None:
        client = kind()
        async with listening(Echo, server_context(version=version)) as address:
            transport = await connect(client, address, client_context(version=version))
            transport.write(data)
            await until(lambda: len(client.data) >= size)
            transport.close()
            assert await client.lost is None
        assert client.data == data

    run(main())


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_small_buffers(size: int) -> None:
    """A buffered protocol whose buffer is smaller than a record gets all of it, with the loop free in between.

    Through a memoryview: what CPython's loop reads into a bytearray at an offset, it loses.
    """

    class Viewed(BufferedRecord):
        def get_buffer(self, sizehint: int) -> Any:
            return memoryview(self.buffer)

    data = random.Random(size).randbytes(20 * size + 3)

    async def scenario(notes: list[Any]) -> None:
        async with pair(Record, lambda: Viewed(size=size)) as (server, client):
            server.transport.write(data)
            await until(lambda: len(client.data) == len(data))
            notes.append((client.pieces, client.data == data))

    ((pieces, right),) = same(scenario)
    assert pieces > 20 and right


def test_empty_buffer() -> None:
    """CPython takes an empty buffer for the end of the stream; here it is said what is wrong."""

    async def main() -> None:
        notes: list[Any] = []
        handler_notes(asyncio.get_running_loop(), notes)
        async with listening(Echo) as address:
            client = BufferedRecord(size=0)
            transport = await connect(client, address)
            transport.write(b"data")
            assert isinstance(await client.lost, RuntimeError)
        assert notes == [
            (
                "handler",
                "Fatal error on SSL protocol",
                "RuntimeError",
                "get_buffer() returned an empty buffer",
            )
        ]

    run(main())


def test_buffer_of_larger_items() -> None:
    """A buffer need not be one of bytes."""

    class Wide(BufferedRecord):
        def __init__(self) -> None:
            super().__init__(size=64)

        def get_buffer(self, sizehint: int) -> Any:
            return memoryview(self.buffer).cast("Q")

    async def main() -> None:
        async with pair(Record, Wide) as (server, client):
            data = bytes(range(200))
            server.transport.write(data)
            await until(lambda: len(client.data) == len(data))
            assert client.data == data

    run(main())


def test_hint_of_the_buffer() -> None:
    async def main() -> None:
        hints: list[int] = []

        class Hinted(BufferedRecord):
            def get_buffer(self, sizehint: int) -> bytearray:
                hints.append(sizehint)
                return self.buffer

        async with pair(Record, Hinted) as (server, client):
            server.transport.write(b"x" * 1000)
            await until(lambda: len(client.data) == 1000)
        assert all(type(hint) is int and hint >= 0 for hint in hints) and max(hints) >= 1000

    run(main())


def test_one_call_a_delivery() -> None:
    """Many records that arrive together are one `data_received()`."""

    async def scenario(notes: list[Any]) -> None:
        sent = threading.Event()

        def talk(sock: socket.socket) -> None:
            end = Bare(sock, server_context(), server_side=True)
            assert end.read(2) == b"go"
            for _ in range(50):
                end.tls.write(b"x" * 100)
            end.flush()
            sent.set()
            assert end.read(4) == b"done"

        with plain_server(talk) as address:
            client = Record()
            transport = await connect(client, address)
            transport.write(b"go")
            # Nothing is received until all is there.
            await turns(5)
            assert sent.wait(SECONDS)
            await until(lambda: len(client.data) == 5000)
            notes.append(client.pieces)
            transport.write(b"done")
            await turns(5)
            transport.abort()

    assert same(scenario) == [1]


def test_what_may_be_written() -> None:
    async def scenario(notes: list[Any]) -> None:
        async with pair(Record, Record) as (server, client):
            transport = client.transport
            buffer = bytearray(b"mutable")
            transport.write(buffer)
            buffer[:] = b"changed"
            transport.write(memoryview(b"view"))
            transport.write(b"")
            transport.writelines([b"a", bytearray(b"b"), memoryview(b"c"), b""])
            transport.writelines(iter([b"d"]))
            transport.writelines([])
            notes.append(error_of(transport.write, "text"))
            notes.append(error_of(transport.write, 5))
            notes.append(error_of(transport.write_eof)[0])
            notes.append(transport.can_write_eof())
            await until(lambda: len(server.data) == len(b"mutableviewabcd"))
            notes.append(bytes(server.data))

    assert same(scenario)[-1] == b"mutableviewabcd"


def test_wrong_lines() -> None:
    """CPython ends the connection for a line that is no bytes; here nothing is written, and the caller hears of it."""

    async def main() -> None:
        async with pair(Record, Record) as (server, client):
            with pytest.raises(TypeError, match="expecting a bytes-like instance, got str"):
                client.transport.writelines([b"a", "text"])
            client.transport.write(b"fine")
            await until(lambda: bytes(server.data) == b"fine")

    run(main())


def test_pause_with_data_in_the_engine() -> None:
    """What was received when reading is paused is kept, wherever it is by then, and comes with `resume_reading()`."""

    class Pausing(Record):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.pause_reading()

    async def scenario(notes: list[Any]) -> None:
        async with pair(Record, Pausing) as (server, client):
            transport = client.transport
            server.transport.write(b"first")
            await until(lambda: client.data)
            server.transport.write(b"second")
            await asyncio.sleep(0.05)
            notes.append((bytes(client.data), transport.is_reading(), transport.get_read_buffer_size() > 0))
            transport.resume_reading()
            notes.append(bytes(client.data))
            await until(lambda: bytes(client.data) == b"firstsecond")
            notes.append((transport.is_reading(), transport.get_read_buffer_size()))
            # Twice is once.
            transport.resume_reading()
            transport.resume_reading()
            transport.pause_reading()
            notes.append(transport.is_reading())

    same(scenario)


def test_small_buffer_and_pause() -> None:
    """A buffered protocol that pauses with a part of a record decrypted."""

    class Pausing(BufferedRecord):
        def buffer_updated(self, count: int) -> None:
            super().buffer_updated(count)
            self.transport.pause_reading()

    async def scenario(notes: list[Any]) -> None:
        async with pair(Record, lambda: Pausing(size=10)) as (server, client):
            server.transport.write(bytes(range(35)))
            for count in [10, 20, 30, 35]:
                await until(lambda count=count: len(client.data) == count)
                await turns(5)
                notes.append(len(client.data))
                client.transport.resume_reading()

    assert same(scenario) == [10, 20, 30, 35]


def test_paused_reader_stops_its_peer() -> None:
    """Paused, no more is kept than the mark of reading allows, and the socket's buffers."""

    async def main() -> None:
        async with pair(Record, Record) as (server, client):
            client.transport.pause_reading()
            client.transport.set_read_buffer_limits(high=50_000)
            assert client.transport.get_read_buffer_limits() == (12_500, 50_000)
            total = 32 << 20
            server.transport.write(b"x" * total)
            await asyncio.sleep(0.2)
            size = client.transport.get_read_buffer_size()
            assert 50_000 <= size < 4 << 20
            await asyncio.sleep(0.05)
            assert client.transport.get_read_buffer_size() == size
            client.transport.resume_reading()
            await until(lambda: len(client.data) == total)

    run(main())


def test_writing_is_paused_and_resumed() -> None:
    async def scenario(notes: list[Any]) -> None:
        async with pair(Record, lambda: Record(notes)) as (server, client):
            server.transport.pause_reading()
            transport = client.transport
            notes.append((transport.get_write_buffer_limits(), transport.get_write_buffer_size()))
            written = 0
            while ("pause",) not in notes:
                transport.write(b"x" * 100_000)
                written += 100_000
                await turns(3)
                assert written < 64 << 20
            notes.append(transport.get_write_buffer_size() >= 512 * 1024)
            server.transport.resume_reading()
            await until(lambda: ("resume",) in notes)
            await until(lambda: len(server.data) == written)
            notes.append(transport.get_write_buffer_size())

    assert [note for note in same(scenario) if note in [("pause",), ("resume",)]] == [("pause",), ("resume",)]


def test_marks() -> None:
    async def scenario(notes: list[Any]) -> None:
        async with pair(Record, lambda: Record(notes)) as (_, client):
            transport = client.transport
            for which in ["write", "read"]:
                get = getattr(transport, f"get_{which}_buffer_limits")
                set_ = getattr(transport, f"set_{which}_buffer_limits")
                for limits in [
                    {},
                    {"high": 1000},
                    {"low": 1000},
                    {"high": 1000, "low": 10},
                    {"high": 2000, "low": 0},
                ]:
                    set_(**limits)
                    notes.append(get())
                for limits in [{"high": -1}, {"low": -1}, {"high": 1, "low": 2}]:
                    notes.append(error_of(set_, **limits))
                notes.append(get())
                set_()

    same(scenario)


@pytest.mark.parametrize("name", ["data_received", "buffer_updated", "get_buffer", "pause_writing"])
@pytest.mark.parametrize("error", [LookupError("oh"), asyncio.CancelledError("oh"), ConnectionError("oh")])
def test_protocol_raises(name: str, error: BaseException) -> None:
    def raises(*_: object) -> None:
        raise error

    async def scenario(notes: list[Any]) -> None:
        told: list[Any] = []
        handler_notes(asyncio.get_running_loop(), told)
        kind = BufferedRecord if "buffer" in name else Record
        async with pair(Record, kind) as (server, client):
            setattr(client, name, raises)
            if name == "pause_writing":
                client.transport.set_write_buffer_limits(0)
                notes.append(client.transport.is_closing())
            else:
                # As CPython looks the methods of a buffered protocol up when it is set.
                client.transport.set_protocol(client)
                server.transport.write(b"data")
                lost = await client.lost
                notes.append((type(lost).__name__, str(lost)))
        notes.append(told)

    same(scenario)


def test_writes_to_a_closed_connection() -> None:
    async def scenario(notes: list[Any]) -> None:
        import logging

        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                notes.append((record.levelname, record.getMessage()))

        handler = Handler()
        logging.getLogger("asyncio").addHandler(handler)
        try:
            async with pair(Record, Record) as (_, client):
                client.transport.abort()
                for _ in range(7):
                    client.transport.write(b"in vain")
                client.transport.writelines([b"in", b"vain"])
                await client.lost
                client.transport.write(b"in vain")
        finally:
            logging.getLogger("asyncio").removeHandler(handler)

    assert same(scenario)[0] == ("WARNING", "SSL connection is closed")


def test_another_protocol_takes_over() -> None:
    async def scenario(notes: list[Any]) -> None:
        async with pair(Record, Record) as (server, client):
            server.transport.write(b"one")
            await until(lambda: bytes(client.data) == b"one")
            for other in [BufferedRecord(notes), Record(notes)]:
                client.transport.set_protocol(other)
                notes.append(client.transport.get_protocol() is other)
                server.transport.write(b"two")
                await until(lambda other=other: bytes(other.data) == b"two")
            client.transport.abort()
            await other.lost
            notes.append(client.lost.done())

    same(scenario)


def test_protocol_is_handed_over_with_data_pending() -> None:
    """A protocol that hands the transport to another in its `data_received()`: what follows is the other's."""

    async def scenario(notes: list[Any]) -> None:
        second = Record(notes, "second")

        class First(Record):
            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                self.transport.set_protocol(second)

        async with pair(Record, First) as (server, client):
            server.transport.write(b"one")
            await until(lambda: bytes(client.data) == b"one")
            server.transport.write(b"two")
            await until(lambda: bytes(second.data) == b"two")
            notes.append(bytes(client.data))

    same(scenario)


def test_damaged_record() -> None:
    """Bytes that were changed on the way end the connection."""

    async def scenario(notes: list[Any]) -> None:
        def talk(sock: socket.socket) -> None:
            end = Bare(sock, server_context(), server_side=True)
            assert end.read(2) == b"go"
            end.tls.write(b"secret")
            damaged = bytearray(end.outgoing.read())
            damaged[-1] ^= 1
            sock.sendall(damaged)
            sock.recv(1)

        try:
            with plain_server(talk) as address:
                client = Record()
                transport = await connect(client, address)
                transport.write(b"go")
                error = await client.lost
                notes.append((type(error).__name__, getattr(error, "reason", None), bytes(client.data)))
        except ConnectionResetError:
            pass

    ((kind, reason, data),) = same(scenario)
    # OpenSSL 3.6 puts another reason on top.
    assert (kind, data) == ("SSLError", b"")
    assert reason in ("DECRYPTION_FAILED_OR_BAD_RECORD_MAC", "RECORD_LAYER_FAILURE")


def test_sendfile(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(random.Random(1).randbytes(1_000_000))

    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        async with pair(Record, Record) as (server, client):
            with path.open("rb") as file:
                notes.append(await loop.sendfile(client.transport, file, 10, 900_000))
                notes.append(file.tell())
            client.transport.write(b"behind")
            await until(lambda: len(server.data) == 900_006)
            notes.append(bytes(server.data) == path.read_bytes()[10:900_010] + b"behind")
            notes.append(client.transport.get_protocol() is client)
            with path.open("rb") as file:
                notes.append(await error_of_sendfile(loop, client.transport, file))

    async def error_of_sendfile(loop: Any, transport: Any, file: Any) -> tuple[str, str]:
        try:
            await loop.sendfile(transport, file, fallback=False)
        except Exception as error:
            return type(error).__name__, str(error).split("<")[0]
        return "nothing", "was raised"

    same(scenario)


@pytest.mark.parametrize("version", VERSIONS)
def test_blocking_peers(version: ssl.TLSVersion) -> None:
    """The standard library's blocking TLS sockets at the other end, as a client and as a server."""
    data = random.Random(2).randbytes(500_000)

    def exchange(sock: ssl.SSLSocket) -> None:
        sock.sendall(data)
        received = b""
        while len(received) < len(data):
            received += sock.recv(65536)
        assert received == data
        sock.unwrap()

    def server(sock: socket.socket) -> None:
        with server_context(version=version).wrap_socket(sock, server_side=True) as wrapped:
            exchange(wrapped)

    def client(sock: socket.socket) -> None:
        with client_context(version=version).wrap_socket(sock, server_hostname="localhost") as wrapped:
            exchange(wrapped)

    async def main() -> None:
        with plain_server(server) as address:
            protocol: Any = Echo()
            protocol.connection_lost = lambda error: lost.set_result(error)
            lost = asyncio.get_running_loop().create_future()
            await connect(protocol, address)
            assert await lost is None
        ended = asyncio.Event()

        class Ends(Echo):
            def connection_lost(self, error: Exception | None) -> None:
                assert error is None
                ended.set()

        async with listening(Ends, server_context(version=version)) as address:
            with plain_client(address, client):
                await ended.wait()

    run(main())


def openssl(*arguments: str, **keywords: Any) -> subprocess.Popen[bytes]:
    """Start OpenSSL's command."""
    command = shutil.which("openssl")
    if command is None:
        pytest.skip("the command openssl is not here")
    return subprocess.Popen(
        [command, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        **keywords,
    )


def talk_to(process: subprocess.Popen[bytes], steps: list[tuple[bytes, bytes]]) -> bytes:
    """Write each line once the output has what it waits for. Return the output."""
    assert process.stdin is not None and process.stdout is not None
    output = b""
    for awaited, line in steps:
        while awaited not in output:
            piece = process.stdout.read1(65536)  # type: ignore[attr-defined]
            assert piece, output
            output += piece
        process.stdin.write(line)
        process.stdin.flush()
    rest, _ = process.communicate(timeout=SECONDS)
    return output + rest


async def in_a_thread(call: Callable[..., Any], *arguments: Any) -> Any:
    """Run something that blocks beside the loop."""
    return await asyncio.get_running_loop().run_in_executor(None, call, *arguments)


def test_key_update() -> None:
    """`K` has OpenSSL's client of TLS 1.3 change its keys and ask for new ones of the server's; bytes go on in both ways."""

    async def main() -> None:
        async with listening(Echo, server_context(version=ssl.TLSVersion.TLSv1_3)) as (host, port):
            process = openssl("s_client", "-connect", f"{host}:{port}", "-tls1_3", "-msg", "-no_ign_eof")
            steps = [
                (b"read R BLOCK", b"before\n"),
                (b"before\n", b"K\n"),
                # The server's, in answer to the client's, leaves with what it next sends.
                (b">>> TLS 1.3, Handshake [length 0005], KeyUpdate", b"after\n"),
                (b"after\n", b"Q\n"),
            ]
            output = await in_a_thread(talk_to, process, steps)
            assert b"<<< TLS 1.3, Handshake [length 0005], KeyUpdate" in output
            assert process.returncode == 0

    run(main())


def test_renegotiation_is_refused() -> None:
    """`R` has OpenSSL's client of TLS 1.2 ask for a new handshake, which a server may forbid."""

    async def scenario(notes: list[Any]) -> None:
        server = server_context(version=ssl.TLSVersion.TLSv1_2)
        server.options |= ssl.OP_NO_RENEGOTIATION
        async with listening(Echo, server) as (host, port):
            process = openssl("s_client", "-connect", f"{host}:{port}", "-tls1_2")
            steps = [(b"Verify return code", b"before\n"), (b"before\n", b"R\n")]
            output = await in_a_thread(talk_to, process, steps)
            notes.append((b"RENEGOTIATING" in output, process.returncode))

    same(scenario)


def test_openssl_server(tmp_path: Path) -> None:
    """OpenSSL's own server, which sends lines back in reverse."""
    leaf = certificate("localhost")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
    key.write_bytes(leaf.private_key_pem.bytes())

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        process = openssl(
            "s_server",
            "-accept",
            f"127.0.0.1:{port}",
            "-cert",
            str(chain),
            "-key",
            str(key),
            "-rev",
            "-naccept",
            "1",
        )
        try:
            for _ in range(500):
                try:
                    reader, writer = await asyncio.open_connection(
                        "127.0.0.1", port, ssl=client_context(), server_hostname="localhost"
                    )
                    break
                except ConnectionRefusedError:
                    await asyncio.sleep(0.01)
            writer.write(b"forwards\n")
            assert await reader.readline() == b"sdrawrof\n"
            writer.write(b"CLOSE\n")
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
        finally:
            process.kill()
            process.communicate()

    run(main())


def test_exchange_of_many_connections() -> None:
    """Fifty at once, each with pieces of all sizes."""

    async def one(address: tuple[str, int], seed: int) -> None:
        generator = random.Random(seed)
        reader, writer = await asyncio.open_connection(
            *address, ssl=client_context(), server_hostname="localhost"
        )
        for _ in range(20):
            data = generator.randbytes(generator.choice([1, 10, 1000, 20_000, 100_000]))
            writer.write(data)
            await writer.drain()
            assert await reader.readexactly(len(data)) == data
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        async with listening(Echo) as address:
            await asyncio.gather(*(one(address, seed) for seed in range(50)))

    run(main())
    assert whilst.__name__ == "whilst"
