"""Pipes and their like for tests, and protocols that note what they are told of them."""

import asyncio
import contextlib
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


class Reader(asyncio.Protocol):
    """Notes what it is told; `on` has what to do then, by name."""

    def __init__(self, notes: list[Any] | None = None, **on: Any) -> None:
        self.notes: list[Any] = [] if notes is None else notes
        self.on = on
        self.data = bytearray()
        self.transport: Any = None
        self.lost: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    def told(self, name: str, *arguments: Any) -> None:
        self.notes.append((name, *arguments))
        if name in self.on:
            self.on[name](self)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.told("connection_made")

    def data_received(self, data: bytes) -> None:
        assert type(data) is bytes
        self.data += data
        # How bytes are cut is the kernel's business.
        if "data_received" in self.on:
            self.on["data_received"](self)

    def eof_received(self) -> bool | None:
        self.told("eof_received", bytes(self.data) if len(self.data) < 100 else len(self.data))
        return True

    def pause_writing(self) -> None:
        self.told("pause_writing")

    def resume_writing(self) -> None:
        self.told("resume_writing")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.told("connection_lost", type(exc).__name__, str(exc))
        if not self.lost.done():
            self.lost.set_result(exc)


Writer = Reader


@contextlib.contextmanager
def pipe() -> Iterator[tuple[Any, Any]]:
    """The reading and the writing end of a pipe, unbuffered files."""
    read, write = os.pipe()
    with os.fdopen(read, "rb", 0) as reader, os.fdopen(write, "wb", 0) as writer:
        yield reader, writer


@contextlib.contextmanager
def sockets() -> Iterator[tuple[Any, Any]]:
    """Two ends of a socket pair, used as a pipe."""
    first, second = socket.socketpair()
    with first, second:
        yield first, second


@contextlib.contextmanager
def fifo() -> Iterator[tuple[Any, Any]]:
    """The two ends of a named pipe."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fifo"
        os.mkfifo(path)
        read = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(read, "rb", 0) as reader, os.fdopen(os.open(path, os.O_WRONLY), "wb", 0) as writer:
            yield reader, writer


KINDS = {"pipe": pipe, "sockets": sockets, "fifo": fifo}


kinds = pytest.mark.parametrize("ends", KINDS.values(), ids=KINDS.keys())


async def reading(end: Any, *arguments: Any, **on: Any) -> tuple[Any, Reader]:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_read_pipe(lambda: Reader(*arguments, **on), end)
    return transport, protocol


async def writing(end: Any, *arguments: Any, **on: Any) -> tuple[Any, Writer]:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(lambda: Writer(*arguments, **on), end)
    return transport, protocol


def put(end: Any, data: bytes) -> None:
    """Write at the other end, past the loop."""
    assert os.write(end.fileno(), data) == len(data)


def drain(end: Any) -> int:
    """Read until there is nothing. Return how much there was."""
    os.set_blocking(end.fileno(), False)
    count = 0
    with contextlib.suppress(BlockingIOError):
        while data := os.read(end.fileno(), 1 << 20):
            count += len(data)
    return count


def is_closed(end: Any) -> bool:
    """True if a file or a socket is closed."""
    return end.fileno() == -1 if isinstance(end, socket.socket) else bool(end.closed)


def named(transport: Any) -> str:
    """What repr() says, but for the class's name and the descriptor's number."""
    return re.sub(r"fd=\d+", "fd=N", repr(transport).replace("_Unix", ""))
