"""Files to sockets: ``loop.sock_sendfile`` and ``loop.sendfile``."""

import asyncio
import contextlib
import gc
import hashlib
import io
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import weakref
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import whilst
from oracle import (
    SECONDS,
    error_of,
    error_of_awaiting,
    handler_notes,
    no_descriptor_leaks,
    program,
    reset,
    run,
    same,
    socket_pair,
    turns,
    until,
)

pytestmark = pytest.mark.usefixtures("driver")

#: More than the sockets below hold, and no multiple of a page.
CONTENTS = bytes(range(256)) * 4000 + b"the end"

EVERYWHERE = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX], ids=["tcp", "unix"])


@contextlib.contextmanager
def file_of(contents: bytes = CONTENTS) -> Iterator[IO[bytes]]:
    """Make a file, open for reading and at its beginning."""
    with tempfile.TemporaryFile() as file:
        file.write(contents)
        file.flush()
        file.seek(0)
        yield file


@contextlib.contextmanager
def narrow_pair(family: int = socket.AF_INET) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Make a pair of connected sockets that hold less than the contents. With much less TCP would wait for timers."""
    with socket_pair(family) as (first, second):
        first.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        second.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        yield first, second


async def receive(sock: socket.socket) -> bytes:
    """Receive up to the end of the stream."""
    received = bytearray()
    while data := await asyncio.get_running_loop().sock_recv(sock, 100_000):
        received += data
    return bytes(received)


async def outcome(awaitable: Awaitable[object]) -> object:
    """Return what an awaitable comes to: its result, or the class and the words of its exception."""
    try:
        return await awaitable
    except Exception as error:
        return type(error).__name__, str(error)


def file_in_proc(name: str, mode: str) -> IO[Any]:
    """Open a file of /proc, which takes no time."""
    return Path("/proc/self", name).open(mode, errors=None if "b" in mode else "replace")


def summary(data: bytes) -> tuple[int, str]:
    return len(data), hashlib.sha1(data).hexdigest()


# Sockets.


@EVERYWHERE
@pytest.mark.parametrize(
    ("offset", "count"),
    [
        (0, None),
        (0, 1),
        (0, len(CONTENTS)),
        (0, 10 * len(CONTENTS)),
        (1, None),
        (4097, 300_001),
        (len(CONTENTS) - 1, None),
        (len(CONTENTS), None),
        (len(CONTENTS) + 100, 5),
    ],
)
def test_offsets_and_counts(family: int, offset: int, count: int | None) -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with file_of() as file, narrow_pair(family) as (first, second):
            file.seek(77)
            task = loop.create_task(receive(second))
            notes.append(await loop.sock_sendfile(first, file, offset, count, fallback=False))
            notes.append(file.tell())
            first.close()
            notes.append(summary(await task))

    end = len(CONTENTS) if count is None else offset + count
    assert same(scenario)[-1] == summary(CONTENTS[offset:end])


def test_what_is_refused() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with file_of() as file, socket_pair(socket.AF_INET) as (first, second):
            with file_in_proc("status", "r") as text:
                notes.append(await outcome(loop.sock_sendfile(first, text)))
            for offset, count in ((-1, None), (0, 0), (0, -1), (1.5, None), (0, 1.5), (None, None), ("1", 1)):
                notes.append(await outcome(loop.sock_sendfile(first, file, offset, count)))  # type: ignore[arg-type]
            for offset, count in ((2**64, None), (2**63 - 1, 2), (2**62, None)):
                sending = loop.sock_sendfile(first, file, offset, count, fallback=False)
                kind, _ = await error_of_awaiting(sending)
                # From 3.14.10 on CPython says that it cannot set the file's position.
                notes.append((offset, count, "SendfileNotAvailableError" if kind == "OSError" else kind))
            with socket.socket(type=socket.SOCK_DGRAM) as datagrams:
                notes.append(await outcome(loop.sock_sendfile(datagrams, file)))
            context = ssl.create_default_context()
            context.check_hostname = False
            with context.wrap_socket(first, do_handshake_on_connect=False) as wrapped:
                notes.append(await outcome(loop.sock_sendfile(wrapped, file)))
            notes.append(file.tell())
            second.setblocking(True)
            loop.set_debug(True)
            notes.append(await outcome(loop.sock_sendfile(second, file)))

    same(scenario)


def test_more_than_there_can_be() -> None:
    """CPython refused such a count with OverflowError before 3.14.10."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with file_of() as file, socket_pair(socket.AF_INET) as (first, second):
            sending = loop.create_task(loop.sock_sendfile(first, file, 0, 2**64, fallback=False))
            sending.add_done_callback(lambda _: first.shutdown(socket.SHUT_WR))
            received = await receive(second)
            assert await sending == len(received) == os.fstat(file.fileno()).st_size

    run(main())


@pytest.mark.parametrize("fallback", [True, False])
def test_what_sendfile_does_not_take(fallback: bool) -> None:
    """What is no regular file is read and written instead, or not at all."""

    class Odd(io.BytesIO):
        def fileno(self) -> int:
            return -1

    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with socket_pair(socket.AF_INET) as (first, second):
            reader, writer = os.pipe()
            os.write(writer, b"from a pipe")
            os.close(writer)
            with os.fdopen(reader, "rb", 0) as pipe:
                task = loop.create_task(receive(second))
                for file in (io.BytesIO(b"from memory"), Odd(b"odd"), pipe):
                    for arguments in ((0, 100), (1, 2)):
                        kind = await outcome(loop.sock_sendfile(first, file, *arguments, fallback=fallback))
                        if file is pipe and not fallback:
                            # From 3.14.10 on CPython says that it cannot set the pipe's position.
                            assert "os.sendfile call failed" in kind or "[Errno 29] Illegal seek" in kind
                        else:
                            notes.append(kind)
            notes.append(await outcome(loop.sock_sendfile(first, object(), fallback=False)))  # type: ignore[arg-type]
            first.close()
            notes.append(await task)

    same(scenario)


@pytest.mark.parametrize("fallback", [True, False])
def test_a_socket_that_cannot_send(fallback: bool) -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with file_of() as file:
            with socket.socket() as unconnected:
                unconnected.setblocking(False)
                notes.append(await outcome(loop.sock_sendfile(unconnected, file, fallback=fallback)))
            notes.append(await outcome(loop.sock_sendfile(unconnected, file, fallback=False)))
            with socket_pair(socket.AF_INET) as (first, _second):
                first.shutdown(socket.SHUT_WR)
                notes.append(await outcome(loop.sock_sendfile(first, file, fallback=fallback)))
            file.close()
            with socket_pair(socket.AF_INET) as (first, _second):
                notes.append(await outcome(loop.sock_sendfile(first, file, fallback=fallback)))

    same(scenario)


def test_an_empty_file_and_one_that_looks_it() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with file_of(b"") as empty, socket_pair() as (first, _second), file_in_proc("stat", "rb") as size_0:
            for file in (empty, size_0):
                notes.append(await loop.sock_sendfile(first, file))
                notes.append(file.tell())

    assert same(scenario) == [0, 0, 0, 0]


@pytest.mark.parametrize("change", ["shrinks", "grows"])
def test_a_file_that_changes_meanwhile(change: str) -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with file_of() as file, narrow_pair() as (first, second):
            task = loop.create_task(loop.sock_sendfile(first, file))
            await turns()
            length = len(CONTENTS) + (100_000 if change == "grows" else -100_000)
            os.ftruncate(file.fileno(), length)
            receiving = loop.create_task(receive(second))
            notes.append(await task == length)
            first.close()
            notes.append(len(await receiving) == length)
            notes.append(file.tell() == length)

    assert same(scenario) == [True, True, True]


def test_beyond_two_and_four_gibibytes() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with tempfile.TemporaryFile() as file:
            for offset in (2**31 - 10, 2**32 - 10, 5 * 2**30):
                file.truncate(0)
                file.seek(offset)
                file.write(b"far behind the beginning")
                file.flush()
                for count in (None, 20, 2**33):
                    with socket_pair() as (first, second):
                        notes.append(await loop.sock_sendfile(first, file, offset, count, fallback=False))
                        notes.append(await loop.sock_recv(second, 1000))
                        notes.append(file.tell())

    same(scenario)


def test_the_peer_goes_meanwhile() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with file_of() as file, narrow_pair() as (first, second):
            task = loop.create_task(loop.sock_sendfile(first, file))
            await turns()
            await loop.sock_recv(second, 1)
            reset(second)
            notes.append((await error_of_awaiting(task))[0])
            notes.append(0 < file.tell() < len(CONTENTS))
            notes.append(loop.remove_writer(first))

    assert same(scenario) == ["ConnectionResetError", True, False]


def test_cancelled() -> None:
    """The file's position is what was sent, nothing is watched, and the socket can be used again."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with file_of() as file, narrow_pair() as (first, second):
            file.seek(5)
            task = loop.create_task(loop.sock_sendfile(first, file))
            await turns()
            position = file.tell()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert position == 5, "it is set at the end"
            sent = file.tell()
            assert 0 < sent < len(CONTENTS)
            assert not loop.remove_writer(first)
            receiving = loop.create_task(receive(second))
            await loop.sock_sendall(first, b"more")
            assert await loop.sock_sendfile(first, file, sent) == len(CONTENTS) - sent
            first.close()
            assert await receiving == CONTENTS[:sent] + b"more" + CONTENTS[sent:]

    run(main())


def test_cancelled_before_it_has_sent_anything() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with file_of() as file, narrow_pair() as (first, second):
            with contextlib.suppress(BlockingIOError):
                while True:
                    first.send(b"x" * 1000)
            file.seek(5)
            task = loop.create_task(loop.sock_sendfile(first, file))
            await turns()
            task.cancel()
            notes.append(repr(await asyncio.gather(task, return_exceptions=True)))
            notes.append((file.tell(), loop.remove_writer(first)))
            first.close()
            notes.append(set(await receive(second)))

    assert same(scenario) == ["[CancelledError('')]", (5, False), {ord("x")}]


def test_somebody_takes_the_writer_away() -> None:
    """CPython's future stays pending then."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with file_of() as file, narrow_pair() as (first, _second):
            for take_away in (
                lambda: loop.remove_writer(first),
                lambda: loop.add_writer(first, lambda: None),
            ):
                task = loop.create_task(loop.sock_sendfile(first, file, 100))
                await turns()
                take_away()
                with pytest.raises(RuntimeError, match="writer was removed or replaced"):
                    await task
                loop.remove_writer(first)
                assert not loop.remove_writer(first)

    run(main())


def test_the_loop_is_closed_meanwhile() -> None:
    loop = whilst.new_event_loop()
    with file_of() as file, narrow_pair() as (first, second):
        task = loop.create_task(loop.sock_sendfile(first, file))
        loop.run_until_complete(turns())
        loop.close()
        first.close()
        received = b""
        second.setblocking(True)
        while data := second.recv(100_000):
            received += data
        assert received
        assert received == CONTENTS[: file.tell()]
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    watched = weakref.ref(task)
    del task
    gc.collect()
    assert watched() is None


def test_others_have_their_turn() -> None:
    """However much the peer takes, a transfer gives way after each mebibyte."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        sent = {}
        for iterations in (1, 20):
            # Of the kernel's own measure, which is more than a mebibyte.
            with tempfile.TemporaryFile() as file, socket_pair(socket.AF_INET) as (first, _second):
                file.truncate(100 << 20)
                task = loop.create_task(loop.sock_sendfile(first, file))
                await turns(iterations)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                sent[iterations] = file.tell()
        if sent[20] <= 1 << 20:
            pytest.skip("the kernel's buffers are small")
        assert sent[1] <= 1 << 20

    run(main())


def test_other_threads_run_meanwhile() -> None:
    """The system call may wait for a disk. (Here it waits for a peer, on a socket that blocks.)"""
    result = program(
        """
        import asyncio, socket, tempfile, threading, whilst

        async def main():
            with tempfile.TemporaryFile() as file:
                file.truncate(8 << 20)
                first, second = socket.socketpair()
                received = []

                def drain():
                    while data := second.recv(1 << 16):
                        received.append(len(data))

                thread = threading.Thread(target=drain, daemon=True)
                thread.start()
                print(await asyncio.get_running_loop().sock_sendfile(first, file))
                first.close()
                thread.join()
                print(sum(received))

        whilst.run(main())
        """
    )
    assert result.stdout == "8388608\n8388608\n", result.stderr


# Transports.


class Peer(asyncio.Protocol):
    """A protocol that notes what it is told."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set_result(error)


@contextlib.asynccontextmanager
async def transport_over(sock: socket.socket) -> Any:
    """Make a transport over a connected socket."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_connection(Peer, sock=sock)
    try:
        yield transport, protocol
    finally:
        if not transport.is_closing():
            transport.abort()
        await protocol.lost


@EVERYWHERE
def test_through_a_transport(family: int) -> None:
    """Behind what was written before, and before what is written after."""

    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with file_of() as file, narrow_pair(family) as (first, second):
            task = loop.create_task(receive(second))
            async with transport_over(first) as (transport, _):
                transport.write(b"before" * 100_000)
                notes.append(await loop.sendfile(transport, file, 10, len(CONTENTS)))
                notes.append(file.tell())
                transport.write(b"after")
                notes.append(await loop.sendfile(transport, file, 0, 3, fallback=False))
                notes.append(await loop.sendfile(transport, io.BytesIO(b"from memory"), 5, 100))
                notes.append(await outcome(loop.sendfile(transport, io.BytesIO(b"x"), fallback=False)))
                transport.close()
                notes.append(await outcome(loop.sendfile(transport, file)))
            notes.append(summary(await task))

    expected = b"before" * 100_000 + CONTENTS[10:] + b"after" + CONTENTS[:3] + b"memory"
    assert same(scenario)[-1] == summary(expected)


def test_the_transport_meanwhile() -> None:
    """It writes nothing else, reads nothing, and does both again."""

    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with file_of() as file, narrow_pair() as (first, second):
            async with transport_over(first) as (transport, protocol):
                task = loop.create_task(loop.sendfile(transport, file))
                await turns()
                notes.append(error_of(transport.write, b"not now"))
                await loop.sock_sendall(second, b"later")
                await asyncio.sleep(0.01)
                notes.append((transport.is_reading(), bytes(protocol.received)))
                receiving = loop.create_task(receive(second))
                notes.append(await task)
                notes.append(transport.is_reading())
                await until(lambda: protocol.received)
                notes.append(bytes(protocol.received))
                transport.write(b"now")
                transport.pause_reading()
                notes.append(await loop.sendfile(transport, file, 0, 1))
                notes.append(transport.is_reading())
                transport.close()
            notes.append(summary(await receiving))

    assert same(scenario)[-1] == summary(CONTENTS + b"now" + CONTENTS[:1])


def test_two_at_a_time_are_refused() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with file_of() as file, narrow_pair() as (first, second):
            async with transport_over(first) as (transport, _):
                task = loop.create_task(loop.sendfile(transport, file))
                await turns()
                with pytest.raises(RuntimeError, match="Empty waiter is already set"):
                    await loop.sendfile(transport, file)
                receiving = loop.create_task(receive(second))
                # The first one is none the worse for it.
                assert await task == len(CONTENTS)
                assert transport.is_reading()
                transport.close()
            assert await receiving == CONTENTS

    run(main())


@pytest.mark.parametrize("way", ["close", "abort"])
@pytest.mark.parametrize("when", ["while it is sent", "while data is queued"])
def test_a_transport_that_is_closed_meanwhile(way: str, when: str) -> None:
    """CPython's future stays pending if the file is being sent."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        problems: list[Any] = []
        handler_notes(loop, problems)
        with file_of() as file, narrow_pair() as (first, second):
            async with transport_over(first) as (transport, _):
                if when == "while data is queued":
                    transport.write(CONTENTS)
                task = loop.create_task(loop.sendfile(transport, file))
                await turns()
                getattr(transport, way)()
                if way == "close":
                    # What was written before leaves; the file does not follow.
                    receiving = loop.create_task(receive(second))
                with pytest.raises(ConnectionError):
                    await task
                if way == "close":
                    received = await receiving
                    queued = CONTENTS if when == "while data is queued" else b""
                    assert received == queued + CONTENTS[: file.tell()]
                assert file.tell() < len(CONTENTS)
                assert (file.tell() > 0) == (when == "while it is sent")
        assert not problems

    with no_descriptor_leaks():
        run(main())


@pytest.mark.parametrize("when", ["while it is sent", "while data is queued"])
def test_a_transport_whose_sendfile_is_cancelled(when: str) -> None:
    """It goes on reading and writing. (With CPython's loop not, if it was cancelled while data was queued.)"""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with file_of() as file, narrow_pair() as (first, second):
            async with transport_over(first) as (transport, protocol):
                queued = CONTENTS if when == "while data is queued" else b""
                transport.write(queued)
                task = loop.create_task(loop.sendfile(transport, file))
                await turns()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert (file.tell() > 0) == (not queued)
                assert transport.is_reading()
                with pytest.raises(RuntimeError, match="is used by transport"):
                    loop.remove_writer(first)
                transport.write(b"more")
                await loop.sock_sendall(second, b"heard")
                receiving = loop.create_task(receive(second))
                await until(lambda: protocol.received)
                transport.close()
            assert await receiving == queued + CONTENTS[: file.tell()] + b"more"

    run(main())


def test_the_peer_of_a_transport_goes_meanwhile() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with file_of() as file, narrow_pair() as (first, second):
            async with transport_over(first) as (transport, protocol):
                task = loop.create_task(loop.sendfile(transport, file))
                await turns()
                second.recv(1)
                reset(second)
                # A reset is said once, and on io_uring the transport may have heard of it: then the pipe is broken.
                with pytest.raises((ConnectionResetError, BrokenPipeError)):
                    await task
                notes.append(0 < file.tell() < len(CONTENTS))
                await protocol.lost
                notes.append(transport.is_closing())

    assert same(scenario) == [True, True]


def test_a_transport_of_another_kind() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with file_of() as file:
            transport, _ = await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
            )
            error = await error_of_awaiting(loop.sendfile(transport, file))  # type: ignore[arg-type]
            notes.append((error[0], error[1].split("<")[0]))
            transport.close()

    same(scenario)


def test_a_socket_of_a_transport() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with file_of() as file, socket_pair() as (first, _second):
            async with transport_over(first) as (_transport, _):
                with pytest.raises(RuntimeError, match="is used by transport"):
                    await loop.sock_sendfile(first, file)
                assert file.tell() == 0

    run(main())


@pytest.fixture(scope="module")
def certificate() -> Iterator[Path]:
    """A certificate of localhost's and its key, in one file."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl here to make a certificate with")
    with tempfile.TemporaryDirectory() as folder:
        pem = Path(folder, "localhost.pem")
        command = [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost", "-keyout", str(pem), "-out", str(pem) + ".crt",
        ]  # fmt: skip
        subprocess.run(
            command,
            check=True,
            capture_output=True,
            timeout=SECONDS,
        )
        pem.write_bytes(pem.read_bytes() + Path(str(pem) + ".crt").read_bytes())
        yield pem


def test_over_tls(certificate: Path) -> None:
    """There is no system call that encrypts: it is read and written."""

    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server_context.load_cert_chain(certificate)
        client_context = ssl.create_default_context(cafile=str(certificate))
        peers = []

        def accepted() -> Peer:
            peers.append(Peer())
            return peers[-1]

        server = await loop.create_server(accepted, "127.0.0.1", 0, ssl=server_context)
        with file_of() as file:
            transport, protocol = await loop.create_connection(
                Peer, *server.sockets[0].getsockname(), ssl=client_context, server_hostname="localhost"
            )
            transport.write(b"before" * 1000)
            notes.append(await loop.sendfile(transport, file, 3, len(CONTENTS)))
            notes.append(file.tell())
            transport.write(b"after")
            notes.append(await outcome_without_fallback(loop, transport, file))
            transport.close()
            await protocol.lost
            await peers[0].lost
            notes.append(summary(bytes(peers[0].received)))
        server.close()
        await server.wait_closed()

    assert same(scenario)[-1] == summary(b"before" * 1000 + CONTENTS[3:] + b"after")


async def outcome_without_fallback(
    loop: asyncio.AbstractEventLoop, transport: asyncio.WriteTransport, file: IO[bytes]
) -> tuple[str, str]:
    name, words = await error_of_awaiting(loop.sendfile(transport, file, fallback=False))
    return name, words.split("<")[0]


def test_nothing_is_left_behind() -> None:
    """500 files: sent, cut off by the peer, cancelled."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with file_of() as file:
            for round_ in range(500):
                with narrow_pair() as (first, second):
                    task = loop.create_task(loop.sock_sendfile(first, file))
                    await asyncio.sleep(0)
                    if round_ % 3 == 0:
                        second.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
                        receiving = loop.create_task(receive(second))
                        assert await task == len(CONTENTS)
                        first.close()
                        assert len(await receiving) == len(CONTENTS)
                    elif round_ % 3 == 1:
                        await asyncio.sleep(0)
                        reset(second)
                        with pytest.raises((ConnectionError, BrokenPipeError)):
                            await task
                    else:
                        task.cancel()
                        with pytest.raises(asyncio.CancelledError):
                            await task

    with no_descriptor_leaks():
        run(main())
