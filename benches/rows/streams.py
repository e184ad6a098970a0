"""asyncio's streams, with both ends in the one loop."""

import asyncio

from .row import LoopFactory, Measurement, clock, inside, run

MESSAGE = b"." * 64


async def pong(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes in, until nothing more does."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


@inside("streams ping-pong, 64 B", group="Sockets", operations=30_000, target=1.2)
def streams_ping_pong(new_loop: LoopFactory, n: int) -> Measurement:
    """A round trip between two tasks that read and write streams."""

    async def main() -> Measurement:
        server = await asyncio.start_server(pong, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(host, port)
        start = clock()
        for _ in range(n):
            writer.write(MESSAGE)
            await writer.drain()
            await reader.readexactly(len(MESSAGE))
        seconds = clock() - start
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        return Measurement(n, seconds)

    return run(new_loop, main())


ROWS = (streams_ping_pong,)
