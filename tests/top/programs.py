"""Programs that are looked into: real ones, with real connections, that allowed it."""

import contextlib
import os
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from terminal import SECONDS

# An echo server, with as many other tasks as it is told to have. "hold" in a line holds its loop, in a line that has a name.
SERVER = """
    import asyncio, sys, time

    async def handle(reader, writer):
        while line := await reader.readline():
            if line == b"hold\\n":
                time.sleep(3)  # held
            if line == b"end\\n":
                stopping.set()
            writer.write(line)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def parked(event):
        await event.wait()  # parked

    async def ticker():
        while True:
            await asyncio.sleep(0.2)

    async def main():
        global stopping
        stopping = asyncio.Event()
        others = [asyncio.create_task(parked(stopping), name=f"parked {number}") for number in range(int(sys.argv[1]))]
        others.append(asyncio.create_task(ticker(), name="\\x1b]0;owned\\x07\\x1b[2J\\u202e日本語"))
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await stopping.wait()
        server.close()
        others[-1].cancel()

    asyncio.run(main())
"""


TWO_LOOPS = """
    import asyncio, threading

    async def wait(name):
        asyncio.current_task().set_name(name)
        if name.endswith("main thread"):
            threading.Thread(target=asyncio.run, args=(wait("in another thread"),), name="another", daemon=True).start()
        else:
            print(0, flush=True)
        while True:
            await asyncio.sleep(0.1)

    asyncio.run(wait("in the main thread"))
"""


def environment(folder: Path, **more: str) -> dict[str, str]:
    """With a folder of the test's own for the sockets of control, and a terminal that pyte is like."""
    dropped = ("NO_COLOR", "WHILST_CONTROL", "COLUMNS", "LINES", "LC_ALL", "LANG")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    # A terminal of ncurses' own data base, whatever the tests run in.
    return kept | {"XDG_RUNTIME_DIR": str(folder), "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"} | more


class Program:
    """A program under the command ``whilst`` that runs."""

    def __init__(self, process: "subprocess.Popen[str]", said: IO[str]) -> None:
        self.process = process
        self.pid = process.pid
        self._said = said
        self.port = 0

    def wait_until_it_runs(self) -> None:
        said = self._said.readline()
        assert said, f"the program has ended with {self.process.wait(SECONDS)}"
        self.port = int(said)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), SECONDS)

    def say(self, line: bytes) -> bytes:
        """What it answers on a connection of its own."""
        with self.connect() as connection:
            connection.sendall(line)
            return connection.recv(1000)

    @contextlib.contextmanager
    def loaded(self, connections: int = 20) -> Iterator[None]:
        """While clients in threads say something and wait for the echo, without a break."""
        ending = threading.Event()

        def client() -> None:
            with self.connect() as connection:
                while not ending.is_set():
                    connection.sendall(b"x" * 1000 + b"\n")
                    left = 1001
                    while left:
                        left -= len(connection.recv(left))
                    # Twenty clients that wait a little keep a server busy, and leave the machine some time.
                    ending.wait(0.002)

        threads = [threading.Thread(target=client) for _ in range(connections)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ending.set()
            for thread in threads:
                thread.join(SECONDS)


@contextlib.contextmanager
def running(
    folder: Path, tasks: int = 0, env: dict[str, str] | None = None, source: str = SERVER
) -> Iterator[Program]:
    """The server, under the command and in *folder*, with so many tasks that are parked, until the block ends."""
    file = folder / "server.py"
    file.write_text(textwrap.dedent(source))
    command = [sys.executable, "-m", "whilst", str(file), str(tasks)]
    if env is None:
        env = environment(folder, WHILST_CONTROL="1")
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=env, cwd=folder
    )
    with process:
        assert process.stdout is not None
        try:
            program = Program(process, process.stdout)
            program.wait_until_it_runs()
            yield program
        finally:
            process.kill()


def line_of(text: str) -> int:
    """The number of the server's line that has *text* in it."""
    return next(number for number, line in enumerate(SERVER.splitlines(), 1) if text in line)
