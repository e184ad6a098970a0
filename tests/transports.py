"""Protocols that note what their transport tells them, for the tests of stream transports."""

import asyncio
import random
import socket
from typing import Any

from oracle import (
    SECONDS,
)


class Record(asyncio.Protocol):
    """Notes what it is told, joining what comes in pieces."""

    def __init__(self, notes: list[Any] | None = None) -> None:
        self.notes: list[Any] = [] if notes is None else notes
        self.data = bytearray()
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.eof = False
        self.keeps_open = False
        self.paused = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.notes.append("made")

    def data_received(self, data: bytes) -> None:
        assert type(data) is bytes and data
        self.data += data

    def eof_received(self) -> bool:
        self.eof = True
        self.notes.append(("eof", bytes(self.data)))
        return self.keeps_open

    def pause_writing(self) -> None:
        self.paused += 1
        self.notes.append("pause")

    def resume_writing(self) -> None:
        self.paused -= 1
        self.notes.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.notes.append(("lost", type(exc).__name__, str(exc)))
        self.lost.set_result(exc)


async def connect(sock: socket.socket, protocol: Any) -> Any:
    """Return a transport over a socket, which it takes over."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(lambda: protocol, sock=sock)
    return transport


async def drain(sock: socket.socket, count: int | None = None, chunk: int = 65536) -> bytes:
    """Receive so many bytes, or all to the end."""
    loop = asyncio.get_running_loop()
    received = bytearray()
    while count is None or len(received) < count:
        try:
            data = await asyncio.wait_for(loop.sock_recv(sock, chunk), SECONDS)
        except ConnectionResetError:
            break
        if not data:
            break
        received += data
    return bytes(received)


def pattern(length: int) -> bytes:
    """Bytes of which no piece can be missing or moved without a difference."""
    return random.Random(length).randbytes(length)


class Buffered(asyncio.BufferedProtocol):
    """Gives a buffer of a size and a kind, and keeps what comes."""

    def __init__(self, make: Any) -> None:
        self.make = make
        self.data = bytearray()
        self.hints: set[int] = set()
        self.lost = asyncio.get_running_loop().create_future()
        self.notes: list[Any] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def get_buffer(self, hint: int) -> Any:
        self.hints.add(hint)
        self.buffer = self.make()
        return self.buffer

    def buffer_updated(self, count: int) -> None:
        assert count > 0
        self.data += memoryview(self.buffer).cast("B")[:count]

    def eof_received(self) -> None:
        self.notes.append("eof")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)
