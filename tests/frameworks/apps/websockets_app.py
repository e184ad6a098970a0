"""The tests' server of the library websockets, without HTTP beside it."""

import asyncio
import contextlib
import signal

import inside
import whilst
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed


async def handle(socket: ServerConnection) -> None:
    assert socket.request is not None
    if socket.request.path == "/bye":
        await socket.close(4000, "bye")
        return
    with contextlib.suppress(ConnectionClosed):
        async for message in socket:
            if socket.request.path == "/count":
                for _ in range(int(message)):
                    await socket.recv()
                await socket.send(f"{message} came")
            else:
                await socket.send(message)


async def main(port: int) -> None:
    inside.check_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serve(handle, "127.0.0.1", port, max_size=None, ssl=inside.tls_context()):
        await stop.wait()
    print(inside.SHUTDOWN)


whilst.run(main(inside.port()))
