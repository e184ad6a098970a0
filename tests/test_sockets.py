"""The ``sock_*`` coroutines."""

import array
import asyncio
import contextlib
import socket
import ssl
import tempfile
from pathlib import Path
from typing import Any

import pytest
from oracle import SECONDS, error_of_awaiting, no_descriptor_leaks, run, same, socket_pair, turns

pytestmark = pytest.mark.usefixtures("driver")


def test_receive_and_send() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with socket_pair(socket.AF_INET) as (first, second):
            notes.append(await loop.sock_sendall(first, b"hello"))
            notes.append(await loop.sock_recv(second, 3))
            buffer = bytearray(10)
            notes.append((await loop.sock_recv_into(second, buffer), bytes(buffer)))
            task = loop.create_task(loop.sock_recv(second, 100))
            await asyncio.sleep(0.001)
            await loop.sock_sendall(first, bytearray(b"later"))
            notes.append(await task)
            into = array.array("I", [0, 0])
            task2 = loop.create_task(loop.sock_recv_into(second, into))
            await asyncio.sleep(0.001)
            await loop.sock_sendall(first, memoryview(b"\1\0\0\0\2\0\0\0"))
            notes.append((await task2, into.tolist()))
            notes.append(await loop.sock_sendall(first, b""))
            first.close()
            notes.append(await loop.sock_recv(second, 100))
            notes.append(await loop.sock_recv_into(second, bytearray(5)))

    same(scenario)


def test_send_items_larger_than_a_byte() -> None:
    """CPython's loop hangs here, for it compares the bytes sent with the number of items."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (first, second):
            await loop.sock_sendall(first, array.array("I", [7, 8]))
            assert await loop.sock_recv(second, 100) == b"\7\0\0\0\10\0\0\0"

    run(main())


def test_datagrams() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as first,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as second,
        ):
            for sock in (first, second):
                sock.bind(("127.0.0.1", 0))
                sock.setblocking(False)
            task = loop.create_task(loop.sock_recvfrom(second, 100))
            await asyncio.sleep(0.001)
            notes.append(await loop.sock_sendto(first, b"one", second.getsockname()))
            data, address = await task
            notes.append((data, address == first.getsockname()))
            await loop.sock_sendto(first, b"", second.getsockname())
            notes.append((await loop.sock_recvfrom(second, 100))[0])
            buffer = bytearray(10)
            task2 = loop.create_task(loop.sock_recvfrom_into(second, buffer, 2))
            await asyncio.sleep(0.001)
            await loop.sock_sendto(first, b"long", second.getsockname())
            count, address = await task2
            notes.append((count, bytes(buffer), address == first.getsockname()))
            await loop.sock_sendto(first, b"whole", second.getsockname())
            notes.append((await loop.sock_recvfrom_into(second, buffer))[0])

    same(scenario)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
def test_datagrams_of_every_family(family: int, tmp_path: Path) -> None:
    addresses: dict[int, Any] = {socket.AF_INET: ("127.0.0.1", 0), socket.AF_INET6: ("::1", 0)}

    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with (
            socket.socket(family, socket.SOCK_DGRAM) as first,
            socket.socket(family, socket.SOCK_DGRAM) as second,
        ):
            for number, sock in enumerate((first, second)):
                path = tmp_path / str(number)
                path.unlink(missing_ok=True)
                sock.bind(addresses.get(family, str(path)))
                sock.setblocking(False)
            task = loop.create_task(loop.sock_recvfrom(second, 70_000))
            await asyncio.sleep(0.001)
            notes.append(await loop.sock_sendto(first, b"x" * 65_000, second.getsockname()))
            data, address = await task
            notes.append((len(data), address == first.getsockname()))
            for data in (b"", b"cut off"):
                await loop.sock_sendto(first, data, second.getsockname())
                notes.append((await loop.sock_recvfrom(second, 3))[0])

    same(scenario)


def test_a_datagram_to_nobody() -> None:
    """The refusal meets whoever reads, or the next that is sent."""

    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
            unused.bind(("127.0.0.1", 0))
            address = unused.getsockname()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect(address)
            for receive in (
                lambda: loop.sock_recvfrom(sock, 10),
                lambda: loop.sock_recvfrom_into(sock, bytearray(10)),
                lambda: loop.sock_recv(sock, 10),
            ):
                task = loop.create_task(receive())
                await asyncio.sleep(0.001)
                await loop.sock_sendall(sock, b"x")
                notes.append(await error_of_awaiting(task))
            await loop.sock_sendall(sock, b"x")
            notes.append(await error_of_awaiting(loop.sock_sendall(sock, b"y")))

    assert same(scenario)[0] == ("ConnectionRefusedError", "[Errno 111] Connection refused")


def test_a_cancelled_receive_leaves_the_datagram() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as first,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as second,
        ):
            for sock in (first, second):
                sock.bind(("127.0.0.1", 0))
                sock.setblocking(False)
            for number in range(20):
                task = loop.create_task(loop.sock_recvfrom(second, 100))
                await turns(2)
                first.sendto(b"%d" % number, second.getsockname())
                if number % 2:
                    await asyncio.sleep(0)
                task.cancel()
                try:
                    data, _ = await task
                except asyncio.CancelledError:
                    data, _ = await loop.sock_recvfrom(second, 100)
                assert data == b"%d" % number

    run(main())


def test_a_datagram_that_waits_for_room() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with first, second:
            second_name = f"\0whilst-{id(scenario)}"
            second.bind(second_name)
            first.setblocking(False)
            second.setblocking(False)
            count = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    first.send(b"x")
                    count += 1
            task = loop.create_task(loop.sock_sendto(first, b"last", second_name))
            await asyncio.sleep(0.001)
            notes.append(task.done())
            received = [await loop.sock_recvfrom(second, 100) for _ in range(count)]
            notes.append(await task)
            notes.append((await loop.sock_recvfrom(second, 100))[0])
            notes.append(len(received) == count)

    same(scenario)


def test_accept_and_connect() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as listener, socket.socket() as client:
            listener.setblocking(False)
            client.setblocking(False)
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            task = loop.create_task(loop.sock_accept(listener))
            await asyncio.sleep(0.001)
            notes.append(await loop.sock_connect(client, listener.getsockname()))
            connection, address = await task
            with connection:
                notes.append(address == client.getsockname())
                notes.append((connection.gettimeout(), connection.getpeername() == address))
                await loop.sock_sendall(client, b"x")
                notes.append(await loop.sock_recv(connection, 10))

    same(scenario)


def test_connect_resolves_names() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as listener, socket.socket() as client:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            client.setblocking(False)
            await loop.sock_connect(client, ("localhost", listener.getsockname()[1]))
            notes.append(client.getpeername() == listener.getsockname())

    same(scenario)


def test_connect_by_a_path(tmp_path: Path) -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        path = str(tmp_path / "socket")
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            notes.append(await error_of_awaiting(loop.sock_connect(client, path)))
            listener.bind(path)
            listener.listen()
            notes.append(await loop.sock_connect(client, path))
        Path(path).unlink()

    same(scenario)


def test_refused_in_cpythons_words() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as unused, socket.socket() as client:
            unused.bind(("127.0.0.1", 0))
            address = unused.getsockname()
            client.setblocking(False)
            kind, words = await error_of_awaiting(loop.sock_connect(client, address))
            notes.append((kind, words.replace(str(address[1]), "PORT")))

    assert same(scenario)[0][0] == "ConnectionRefusedError"


def test_wrong_arguments_in_cpythons_words() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop: Any = asyncio.get_running_loop()
        with socket_pair() as (first, second), socket.socket() as unconnected:
            unconnected.setblocking(False)
            second.send(b"xyz")
            for awaitable in (
                loop.sock_recv(first, "1"),
                loop.sock_recv(first, -1),
                loop.sock_recv_into(first, b"read-only"),
                loop.sock_recv_into(first, None),
                loop.sock_recvfrom_into(first, bytearray(1), 10),
                loop.sock_sendall(first, None),
                loop.sock_sendto(first, "text", "/"),
                loop.sock_recv(unconnected, 1),
                loop.sock_sendall(unconnected, b"x"),
                loop.sock_accept(unconnected),
                loop.sock_connect(unconnected, "nonsense"),
                loop.sock_connect(unconnected, ("127.0.0.1",)),
                loop.sock_connect(unconnected, ("no.such.host.invalid", 1)),
            ):
                notes.append(await error_of_awaiting(awaitable))
            notes.append((await error_of_awaiting(loop.sock_sendall(first, "text")))[0])
        for awaitable in (loop.sock_recv(first, 1), loop.sock_sendall(first, b"x"), loop.sock_accept(first)):
            notes.append(await error_of_awaiting(awaitable))

    same(scenario)


def test_blocking_sockets_are_refused_in_debug_mode() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (first, second):
            first.setblocking(True)
            for awaitable in (
                loop.sock_recv(first, 1),
                loop.sock_recv_into(first, bytearray(1)),
                loop.sock_recvfrom(first, 1),
                loop.sock_recvfrom_into(first, bytearray(1)),
                loop.sock_sendall(first, b"x"),
                loop.sock_sendto(first, b"x", "/"),
                loop.sock_connect(first, "/"),
                loop.sock_accept(first),
            ):
                notes.append(await error_of_awaiting(awaitable))
            first.settimeout(1)
            notes.append(await error_of_awaiting(loop.sock_recv(first, 1)))
            notes.append(second.gettimeout())

    notes = same(scenario, debug=True)
    assert notes[0] == ("ValueError", "the socket must be non-blocking")


def test_tls_sockets_are_refused() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        context = ssl.create_default_context()
        context.check_hostname = False
        with socket_pair(socket.AF_INET) as (first, _second):
            wrapped = context.wrap_socket(first, do_handshake_on_connect=False)
            for awaitable in (
                loop.sock_recv(wrapped, 1),
                loop.sock_recv_into(wrapped, bytearray(1)),
                loop.sock_sendall(wrapped, b"x"),
                loop.sock_connect(wrapped, ("127.0.0.1", 1)),
                loop.sock_accept(wrapped),
            ):
                notes.append(await error_of_awaiting(awaitable))
            wrapped.close()

    assert same(scenario)[0][0] == "TypeError"


def test_the_descriptor_of_a_transport_is_refused() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (_first, second):
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=second.dup())
            sock = transport.get_extra_info("socket")._sock
            kind, words = await error_of_awaiting(loop.sock_recv(sock, 10))
            notes.append((kind, words.partition(" is used by transport")[1]))
            transport.close()
            await turns()

    assert same(scenario) == [("RuntimeError", " is used by transport")]


# -- Cancellation -------------------------------------------------------------------------------------------------------------


def test_a_cancelled_receive_has_taken_nothing() -> None:
    """At whatever moment it is cancelled: the bytes are either its result or still in the socket."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (first, second):
            got = b""
            sent = b""
            for number in range(400):
                task = loop.create_task(loop.sock_recv(second, 100))
                for _ in range(number % 4):
                    await asyncio.sleep(0)
                piece = b"%d," % number
                if number % 3 != 2:
                    first.send(piece)
                    sent += piece
                for _ in range(number % 5):
                    await asyncio.sleep(0)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    got += await task
            first.close()
            while data := await loop.sock_recv(second, 1000):
                got += data
            assert got == sent

    run(main())


def test_a_receive_that_timed_out_has_taken_nothing() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (first, second):
            for _ in range(20):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(loop.sock_recv(second, 10), 0.0005)
            first.send(b"still here")
            assert await asyncio.wait_for(loop.sock_recv(second, 100), SECONDS) == b"still here"

    run(main())


def test_a_cancelled_accept_has_taken_nothing() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as listener:
            listener.setblocking(False)
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            for _ in range(30):
                task = loop.create_task(loop.sock_accept(listener))
                await asyncio.sleep(0)
                with socket.socket() as client:
                    client.setblocking(False)
                    connecting = loop.create_task(loop.sock_connect(client, listener.getsockname()))
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                    await connecting
                    connection, address = await asyncio.wait_for(loop.sock_accept(listener), SECONDS)
                    with connection:
                        assert address == client.getsockname()

    with no_descriptor_leaks():
        run(main())


def test_a_cancelled_send_leaves_the_socket_usable() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (first, second):
            task = loop.create_task(loop.sock_sendall(first, bytes(10_000_000)))
            await asyncio.sleep(0.002)
            assert not task.done()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            received = 0
            with contextlib.suppress(BlockingIOError):
                while data := second.recv(1 << 20):
                    received += len(data)
            assert 0 < received < 10_000_000
            await loop.sock_sendall(first, b"next")
            assert await loop.sock_recv(second, 10) == b"next"

    run(main())


def test_a_cancelled_connect() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as listener:
            # Its queue is full, so that the next connection hangs.
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            with contextlib.ExitStack() as stack:
                for _ in range(3):
                    client = stack.enter_context(socket.socket())
                    client.setblocking(False)
                    task = loop.create_task(loop.sock_connect(client, listener.getsockname()))
                    await asyncio.sleep(0.002)
                assert not task.done()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert not loop.remove_writer(client)

    with no_descriptor_leaks():
        run(main())


def test_cancelled_in_the_iteration_in_which_it_is_ready() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (first, second):
            for _ in range(50):
                task = loop.create_task(loop.sock_recv(second, 100))
                await asyncio.sleep(0)
                first.send(b"x")
                await asyncio.sleep(0)
                task.cancel()
                try:
                    data = await task
                except asyncio.CancelledError:
                    data = await asyncio.wait_for(loop.sock_recv(second, 100), SECONDS)
                assert data == b"x"

    run(main())


# -- At the same time ---------------------------------------------------------------------------------------------------------


def test_both_directions_of_one_socket_at_once() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        data = bytes(range(256)) * 20_000

        async def receive(sock: socket.socket) -> bytes:
            received = bytearray()
            while len(received) < len(data):
                received += await loop.sock_recv(sock, 100_000)
            return bytes(received)

        with socket_pair(socket.AF_INET) as (first, second):
            results = await asyncio.gather(
                loop.sock_sendall(first, data),
                loop.sock_sendall(second, data),
                receive(first),
                receive(second),
            )
            assert results[2] == results[3] == data

    run(main())


def test_many_sockets_at_once() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as stack:
            pairs = [stack.enter_context(socket_pair()) for _ in range(200)]

            async def echo(sock: socket.socket) -> None:
                while data := await loop.sock_recv(sock, 1000):
                    await loop.sock_sendall(sock, data)

            async def use(sock: socket.socket, number: int) -> None:
                for round_ in range(10):
                    text = b"%d in round %d" % (number, round_)
                    await loop.sock_sendall(sock, text)
                    assert await loop.sock_recv(sock, 1000) == text
                sock.close()

            tasks = [loop.create_task(echo(second)) for _, second in pairs]
            await asyncio.gather(*(use(first, number) for number, (first, _) in enumerate(pairs)))
            await asyncio.gather(*tasks)

    with no_descriptor_leaks():
        run(main())


def test_large_sends_arrive_whole() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        data = bytes(range(251)) * 40_000
        with socket_pair(socket.AF_INET) as (first, second):
            task = loop.create_task(loop.sock_sendall(first, memoryview(data).cast("B")))
            received = bytearray()
            while len(received) < len(data):
                received += await loop.sock_recv(second, 65_536)
                if len(received) % 7 == 0:
                    await asyncio.sleep(0)
            await task
            assert received == data

    run(main())


def test_a_reset_connection() -> None:
    async def scenario(notes: list[Any]) -> None:
        from oracle import reset

        loop = asyncio.get_running_loop()
        with socket_pair(socket.AF_INET) as (first, second):
            task = loop.create_task(loop.sock_recv(first, 10))
            await asyncio.sleep(0.001)
            reset(second)
            notes.append(await error_of_awaiting(task))
            notes.append(await error_of_awaiting(loop.sock_sendall(first, b"x")))

    assert same(scenario)[0][0] == "ConnectionResetError"


def test_sendfile() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with tempfile.TemporaryFile() as file, socket_pair(socket.AF_INET) as (first, second):
            file.write(b"contents of a file" * 10_000)
            file.seek(0)

            async def receive() -> int:
                count = 0
                while data := await loop.sock_recv(second, 100_000):
                    count += len(data)
                return count

            task = loop.create_task(receive())
            notes.append(await loop.sock_sendfile(first, file))
            notes.append(await loop.sock_sendfile(first, file, 5, 100))
            notes.append(file.tell())
            first.close()
            notes.append(await task)

    same(scenario)
