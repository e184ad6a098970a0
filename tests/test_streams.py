"""asyncio's streams over this loop."""

import asyncio
import contextlib
import gc
import random
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest
from oracle import (
    SECONDS,
    error_of_awaiting,
    no_descriptor_leaks,
    reset,
    run,
    same,
    socket_pair,
    turns,
    until,
)

pytestmark = pytest.mark.usefixtures("driver")


def pattern(length: int) -> bytes:
    return random.Random(length).randbytes(length)


@contextlib.asynccontextmanager
async def served(handler: Any, **keywords: Any) -> Any:
    """A server whose handlers have all ended afterwards; gives its address."""
    tasks: set[asyncio.Task[Any]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handler(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, **keywords)
    try:
        yield server.sockets[0].getsockname()
    finally:
        server.close()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), SECONDS)
        await asyncio.wait_for(server.wait_closed(), SECONDS)
        await turns()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(100_000):
        writer.write(data)
        await writer.drain()


def test_echo_of_large_and_small_pieces() -> None:
    async def main() -> None:
        data = pattern(5_000_000)
        async with served(echo) as address:
            reader, writer = await asyncio.open_connection(*address)

            async def send() -> None:
                position, chance = 0, random.Random(3)
                while position < len(data):
                    size = chance.choice((1, 100, 10_000, 300_000))
                    writer.write(data[position : position + size])
                    position += size
                    if chance.random() < 0.5:
                        await writer.drain()
                writer.write_eof()

            sending = asyncio.create_task(send())
            assert await asyncio.wait_for(reader.read(), SECONDS) == data
            await sending
            writer.close()
            await writer.wait_closed()

    with no_descriptor_leaks():
        run(main())


def test_reading_by_lines_by_counts_and_by_marks() -> None:
    async def scenario(notes: list[Any]) -> None:
        with socket_pair() as (first, second):
            reader, writer = await asyncio.open_connection(sock=first, limit=100)
            second.send(b"line one\nline two\nabcdefSEPrest\n" + b"x" * 50)
            notes.append(await reader.readline())
            notes.append(await reader.readuntil(b"\n"))
            notes.append(await reader.readexactly(6))
            notes.append(await reader.readuntil(b"SEP"))
            notes.append(await reader.read(4))
            notes.append(await reader.readline())
            second.send(b"y" * 200 + b"\n")
            notes.append(await error_of_awaiting(reader.readline()))
            second.send(b"incomplete")
            await asyncio.sleep(0.005)
            second.close()
            notes.append(await error_of_awaiting(reader.readexactly(10_000)))
            notes.append((await reader.read(), reader.at_eof()))
            writer.close()
            await writer.wait_closed()

    same(scenario)


def test_a_reader_that_does_not_read_holds_the_writer() -> None:
    async def main() -> None:
        hold = asyncio.Event()
        received = 0

        async def slow(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
            nonlocal received
            await hold.wait()
            while data := await reader.read(50_000):
                received += len(data)

        async with served(slow, limit=1000) as address:
            _reader, writer = await asyncio.open_connection(*address)
            sent = 0
            with pytest.raises(asyncio.TimeoutError):
                while sent < 200_000_000:
                    writer.write(bytes(100_000))
                    sent += 100_000
                    await asyncio.wait_for(writer.drain(), 0.3)
            assert sent < 50_000_000
            hold.set()
            await asyncio.wait_for(writer.drain(), SECONDS)
            writer.close()
            await writer.wait_closed()
            await until(lambda: received == sent)

    run(main())


def test_many_at_once() -> None:
    async def main() -> None:
        async with served(echo) as address:

            async def client(number: int) -> None:
                reader, writer = await asyncio.open_connection(*address)
                for round_ in range(10):
                    text = b"%d in round %d\n" % (number, round_)
                    writer.write(text)
                    assert await asyncio.wait_for(reader.readline(), SECONDS) == text
                writer.close()
                await writer.wait_closed()

            await asyncio.gather(*(client(number) for number in range(200)))

    with no_descriptor_leaks():
        run(main())


def test_what_a_reader_and_a_writer_see_of_a_reset() -> None:
    async def scenario(notes: list[Any]) -> None:
        with socket_pair(socket.AF_INET) as (first, second):
            reader, writer = await asyncio.open_connection(sock=first)
            task = asyncio.create_task(reader.read(10))
            await turns()
            reset(second)
            notes.append(await error_of_awaiting(task))
            notes.append(writer.is_closing())
            writer.write(b"x")
            notes.append(await error_of_awaiting(writer.drain()))
            writer.close()
            notes.append((await error_of_awaiting(writer.wait_closed()))[0])
            notes.append(await error_of_awaiting(reader.read(10)))

    same(scenario)


def test_a_cancelled_read_loses_nothing() -> None:
    async def main() -> None:
        with socket_pair() as (first, second):
            reader, writer = await asyncio.open_connection(sock=first)
            got, sent = b"", b""
            for number in range(200):
                task = asyncio.create_task(reader.read(1000))
                for _ in range(number % 3):
                    await asyncio.sleep(0)
                second.send(b"%d," % number)
                sent += b"%d," % number
                for _ in range(number % 4):
                    await asyncio.sleep(0)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    got += await task
            second.close()
            assert got + await reader.read() == sent
            writer.close()
            await writer.wait_closed()

    run(main())


def test_a_path(tmp_path: Path) -> None:
    async def scenario(notes: list[Any]) -> None:
        path = tmp_path / f"socket{len(list(tmp_path.iterdir()))}"
        done = asyncio.Event()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            notes.append(await reader.readline())
            writer.write(b"answer\n")
            writer.close()
            done.set()

        server = await asyncio.start_unix_server(handle, path)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"question\n")
        notes.append(await reader.read())
        await done.wait()
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    same(scenario)


def test_sendfile_through_a_transport() -> None:
    async def main() -> None:
        data = pattern(1_000_000)
        with tempfile.TemporaryFile() as file, socket_pair(socket.AF_INET) as (first, second):
            file.write(data)
            reader, writer = await asyncio.open_connection(sock=first)
            other_reader, other_writer = await asyncio.open_connection(sock=second)
            task = asyncio.create_task(other_reader.readexactly(len(data) + 10))
            writer.write(b"begin")
            loop = asyncio.get_running_loop()
            assert await asyncio.wait_for(loop.sendfile(writer.transport, file), SECONDS) == len(data)
            writer.write(b"end..")
            assert await asyncio.wait_for(task, SECONDS) == b"begin" + data + b"end.."
            other_writer.write(b"answer")
            assert await asyncio.wait_for(reader.readexactly(6), SECONDS) == b"answer"
            for each in (writer, other_writer):
                each.close()
                await each.wait_closed()

    run(main())


def test_a_dropped_connection_is_closed_by_the_collector() -> None:
    """Nobody refers to the streams any more: nothing must crash, hang or leak, whoever closes them."""

    async def main() -> None:
        async with served(echo) as address:
            for _ in range(20):
                reader, writer = await asyncio.open_connection(*address)
                writer.write(b"x")
                assert await reader.readexactly(1) == b"x"
                transport = writer.transport
                del reader, writer
                gc.collect()
                transport.abort()
                del transport
            await asyncio.sleep(0.01)

    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        run(main())


CERTIFICATE_COMMAND = [
    "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
    "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
]  # fmt: skip


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A server's and a client's TLS context."""
    import shutil
    import ssl
    import subprocess

    if not shutil.which("openssl"):
        pytest.skip("no openssl here to make a certificate with")
    folder = tmp_path_factory.mktemp("certificate")
    key, certificate = str(folder / "key.pem"), str(folder / "certificate.pem")
    subprocess.run(
        [*CERTIFICATE_COMMAND, "-keyout", key, "-out", certificate], check=True, capture_output=True
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    return server, ssl.create_default_context(cafile=certificate)


def test_tls(contexts: tuple[Any, Any]) -> None:
    server_context, client_context = contexts

    async def main() -> None:
        data = pattern(2_000_000)
        async with served(echo, ssl=server_context) as address:
            reader, writer = await asyncio.open_connection(
                *address, ssl=client_context, server_hostname="localhost"
            )
            assert writer.get_extra_info("peercert")

            async def send() -> None:
                for begin in range(0, len(data), 70_000):
                    writer.write(data[begin : begin + 70_000])
                    await writer.drain()

            sending = asyncio.create_task(send())
            assert await asyncio.wait_for(reader.readexactly(len(data)), SECONDS) == data
            await sending
            writer.close()
            await writer.wait_closed()

    with no_descriptor_leaks():
        run(main())


def test_start_tls_in_the_middle_of_a_connection(contexts: tuple[Any, Any]) -> None:
    """The client's first flight may come together with the line that asks for it: no byte is lost or handed to the wrong one."""
    server_context, client_context = contexts

    async def main() -> None:
        loop = asyncio.get_running_loop()

        class Server(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                self.transport = transport
                self.secure = False

            def data_received(self, data: bytes) -> None:
                if self.secure:
                    self.transport.write(data.upper())
                else:
                    assert data == b"STARTTLS\n"
                    self.transport.pause_reading()
                    self.transport.write(b"GO\n")
                    self.task = loop.create_task(self.upgrade())

            async def upgrade(self) -> None:
                await asyncio.sleep(0.005)  # The client's first flight is there by now.
                self.secure = True
                self.transport = await loop.start_tls(self.transport, self, server_context, server_side=True)
                self.transport.write(b"WELCOME\n")

        server = await loop.create_server(Server, "127.0.0.1", 0)

        async def client() -> None:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"STARTTLS\n")
            assert await reader.readline() == b"GO\n"
            await writer.start_tls(client_context, server_hostname="localhost")
            assert await reader.readline() == b"WELCOME\n"
            for number in range(5):
                writer.write(b"text %d\n" % number)
                await writer.drain()
                assert await reader.readline() == b"TEXT %d\n" % number
            writer.close()
            await writer.wait_closed()

        await asyncio.wait_for(asyncio.gather(*(client() for _ in range(10))), SECONDS)
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0.01)

    with no_descriptor_leaks():
        run(main())
