"""A TCP echo server on whilst's loop: what a client sends comes back.

    python echo_server.py --port 8888
    python echo_server.py --port 8888 --streams

Talk to it with ``nc 127.0.0.1 8888`` or any other TCP client; end it with Ctrl-C. What it has read before
the end is still sent back.

asyncio has two ways to write a server, and this program shows both: a protocol, whose methods the loop
calls as bytes arrive, and (with ``--streams``) a coroutine for each connection that awaits a reader and a
writer.
"""

import argparse
import asyncio
import contextlib
import signal

import whilst

READ_SIZE = 64 * 1024
"""The most that the streams' server reads at once, in bytes."""

GOODBYE_SECONDS = 5
"""How long the end waits for clients that do not read what they asked for."""


class Echo(asyncio.Protocol):
    """Sends back what it receives, and reads no faster than the client does."""

    def __init__(self, connections: dict[asyncio.Transport, asyncio.Future[None]]) -> None:
        self.connections = connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self.connections[transport] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    # The loop calls these two when much of what was written waits for the client, and when little does
    # again. Without them, a client that sends and never reads would make the server keep all that it ever
    # sent.
    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections.pop(self.transport).set_result(None)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The same with streams: `drain` is where a slow client makes the coroutine wait."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(READ_SIZE):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(ConnectionError):
        writer.close()
        await writer.wait_closed()


async def main(host: str, port: int, streams: bool) -> None:
    """Serve until SIGINT (Ctrl-C) or SIGTERM, then finish what is under way."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)

    connections: dict[asyncio.Transport, asyncio.Future[None]] = {}
    tasks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def serve_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks[task] = writer
        try:
            await echo(reader, writer)
        finally:
            del tasks[task]

    if streams:
        server = await asyncio.start_server(serve_client, host, port)
    else:
        server = await loop.create_server(lambda: Echo(connections), host, port)
    for listener in server.sockets:
        print("Listening on {}:{}, Ctrl-C ends it".format(*listener.getsockname()[:2]), flush=True)

    await stop.wait()
    server.close()
    ends = [*connections.values(), *tasks]
    # A transport that is closed sends what was written to it first, and reads no more.
    for transport in list(connections):
        transport.close()
    for writer in list(tasks.values()):
        writer.close()
    if ends:
        await asyncio.wait(ends, timeout=GOODBYE_SECONDS)
    print("Goodbye", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A TCP echo server on whilst's loop.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8888, help="0 takes any free port (default: %(default)s)")
    parser.add_argument("--streams", action="store_true", help="a coroutine for each client, not a protocol")
    arguments = parser.parse_args()
    whilst.run(main(arguments.host, arguments.port, arguments.streams))
