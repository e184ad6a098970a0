"""WebSockets: the servers of five libraries, with the clients of two on whilst's loop in the process of the
tests."""

from __future__ import annotations

import asyncio
import random
import signal

import aiohttp
import pytest
from servers import WEBSOCKET_KINDS, RunningServer
from serving import MIB, kernel_listens, wait_for
from test_clients import no_socket_left, on_whilst  # noqa: F401
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedError

every_websocket_server = pytest.mark.parametrize("kind", WEBSOCKET_KINDS)


def url(server: RunningServer, path: str = "echo") -> str:
    return f"ws://127.0.0.1:{server.number}/{path}"


@every_websocket_server
def test_messages_come_back_in_order(server: RunningServer) -> None:
    async def main() -> None:
        async with connect(url(server), compression=None) as socket:
            # Not one by one: many are on their way at the same time.
            messages = [
                f"message {number}" if number % 2 else bytes([number % 256]) * number
                for number in range(1, 500)
            ]

            async def send() -> None:
                for message in messages:
                    await socket.send(message)

            async with asyncio.TaskGroup() as group:
                group.create_task(send())
                for message in messages:
                    assert await socket.recv() == message
            await (await socket.ping())

    on_whilst(main())


@pytest.mark.parametrize("kind", ["websockets"])
def test_many_small_messages_and_then_nothing(server: RunningServer) -> None:
    """All that is written in one iteration leaves, however many writes it was, and although nothing wakes the loop again:
    the server answers only when it has got the last of them."""

    async def main() -> None:
        async with connect(url(server, "count"), compression=None) as socket:
            for count in (10, 127, 300, 2000):
                await socket.send(str(count))
                for _ in range(count):
                    await socket.send("x")  # comes back at once, until the kernel's buffers are full
                async with asyncio.timeout(5):
                    assert await socket.recv() == f"{count} came"

    on_whilst(main())


@every_websocket_server
def test_a_large_message_and_one_in_fragments(server: RunningServer) -> None:
    async def main() -> None:
        large = random.Random(2).randbytes(8 * MIB)
        async with connect(url(server), max_size=None, compression=None) as socket:
            for _ in range(2):
                await socket.send(large)
                assert await socket.recv() == large
            await socket.send(large[start : start + 100_000] for start in range(0, len(large), 100_000))
            assert await socket.recv() == large

    on_whilst(main())


@every_websocket_server
def test_compression(server: RunningServer) -> None:
    async def main() -> None:
        async with connect(url(server)) as socket:
            for number in range(100):
                text = f"again and again {number} " * 200
                await socket.send(text)
                assert await socket.recv() == text

    on_whilst(main())


@every_websocket_server
def test_clients_that_go_away(server: RunningServer) -> None:
    async def main() -> None:
        for number in range(10):
            async with connect(url(server), compression=None) as socket:
                await socket.send("here")
                assert await socket.recv() == "here"
                if number % 2:
                    await socket.send(bytes(MIB))  # on its way back when the connection goes
                socket.transport.abort()
        async with connect(url(server)) as socket:
            await socket.send("still there")
            assert await socket.recv() == "still there"

    on_whilst(main())


@every_websocket_server
def test_the_server_closes(server: RunningServer) -> None:
    async def main() -> None:
        async with connect(url(server, "bye")) as socket:
            with pytest.raises(ConnectionClosed):
                await socket.recv()
            assert (socket.close_code, socket.close_reason) == (4000, "bye")

    on_whilst(main())


@every_websocket_server
def test_many_at_the_same_time(server: RunningServer) -> None:
    async def main() -> None:
        async def one(number: int) -> None:
            async with connect(url(server)) as socket:
                for turn in range(5):
                    await socket.send(f"{number} {turn}")
                    assert await socket.recv() == f"{number} {turn}"

        async with asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(one(number))

    on_whilst(main())


@every_websocket_server
def test_aiohttp_as_the_client(server: RunningServer) -> None:
    async def main() -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(url(server), max_msg_size=0) as socket,
        ):
            for number in range(200):
                await socket.send_str(str(number))
                assert await socket.receive_str() == str(number)
            large = random.Random(3).randbytes(4 * MIB)
            await socket.send_bytes(large)
            assert await socket.receive_bytes() == large

    on_whilst(main())


@pytest.mark.usefixtures("here")
def test_a_stop_closes_the_clients(driver: str) -> None:
    """The library websockets says goodbye (1001, going away) to every client when its server is stopped."""
    with RunningServer("websockets", driver) as server:

        async def main() -> None:
            async with connect(url(server)) as first, connect(url(server)) as second:
                for socket in (first, second):
                    await socket.send("here")
                    assert await socket.recv() == "here"
                server.signal(signal.SIGTERM)
                for socket in (first, second):
                    with pytest.raises((ConnectionClosed, ConnectionClosedError)):
                        await socket.recv()
                    assert socket.close_code == 1001

        on_whilst(main())
        wait_for(lambda: not kernel_listens(server.number), "the server listens no more")
        assert server.wait() == 0
        assert "the app's own shutdown ran" in server.output()
        assert server.complaints() == []
