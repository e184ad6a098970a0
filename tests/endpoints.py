"""Datagram endpoints for tests: a protocol that notes what it is told."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from typing import Any, cast

from oracle import until

#: What a recorder does, beside noting it, when it is told something.
Reaction = Callable[..., object]


class Recorder(asyncio.DatagramProtocol):
    """Notes what its transport tells it, and does then what `reactions` has under the method's name."""

    transport: asyncio.DatagramTransport

    def __init__(self, notes: list[Any], name: str = "it", **reactions: Reaction) -> None:
        self.notes = notes
        self.name = name
        self.reactions = reactions
        self.received: list[bytes] = []
        self.senders: list[Any] = []
        self.errors: list[Exception] = []
        self.paused = False
        self.is_lost = False

    def _note(self, event: str, *arguments: Any) -> None:
        self.notes.append((self.name, event, *(_plain(argument) for argument in arguments)))
        if reaction := self.reactions.get(event):
            reaction(self, *arguments)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)
        self._note("connection_made")

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received.append(data)
        self.senders.append(addr)
        self._note("datagram_received", data, addr)

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)
        self._note("error_received", exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._note("connection_lost", exc)

    def pause_writing(self) -> None:
        self.paused = True
        self._note("pause_writing")

    def resume_writing(self) -> None:
        self.paused = False
        self._note("resume_writing")

    async def receive(self, count: int) -> list[bytes]:
        """Wait until so many datagrams have been received in all. Return them."""
        await until(lambda: len(self.received) >= count)
        return self.received

    async def lose(self) -> None:
        """Close the transport and wait for its end."""
        self.transport.close()
        await until(lambda: self.is_lost)


def echo(protocol: Recorder, data: bytes, addr: Any) -> None:
    """Send a datagram back."""
    protocol.transport.sendto(data, addr)


def _plain(value: Any) -> Any:
    """A value as it is in every run: an exception's class and words, an address without the port that the kernel has chosen."""
    if isinstance(value, BaseException):
        return type(value).__name__, str(value)
    if isinstance(value, bytes) and len(value) > 100:
        return len(value), value[:10], value[-10:]
    if isinstance(value, tuple) and len(value) in (2, 4) and isinstance(value[1], int) and value[1] > 1023:
        return (value[0], "PORT", *value[2:])
    return value


async def endpoint(notes: list[Any], name: str = "it", **arguments: Any) -> Recorder:
    """Make an endpoint by `create_datagram_endpoint`. Return its protocol, which has the transport.

    Arguments that are callable are the protocol's reactions.
    """
    reactions = {key: value for key, value in arguments.items() if callable(value)}
    arguments = {key: value for key, value in arguments.items() if not callable(value)}
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(
        lambda: Recorder(notes, name, **reactions), **arguments
    )
    assert protocol.transport is transport
    return protocol


def name_of(transport: asyncio.BaseTransport) -> Any:
    """The address that a transport's socket is bound to now."""
    return transport.get_extra_info("socket").getsockname()


async def pair(notes: list[Any], host: str = "127.0.0.1", **reactions: Reaction) -> tuple[Recorder, Recorder]:
    """Make an endpoint `server`, which has the reactions, and one `client` that is connected to it."""
    server = await endpoint(notes, "server", local_addr=(host, 0), **reactions)
    client = await endpoint(notes, "client", remote_addr=name_of(server.transport)[:2])
    return server, client


def datagram_socket(family: int = socket.AF_INET, address: Any = ("127.0.0.1", 0)) -> socket.socket:
    """A datagram socket that is bound to an address and does not block."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setblocking(False)
    if address is not None:
        sock.bind(address)
    return sock


def full_pair() -> tuple[socket.socket, socket.socket, str]:
    """Two Unix sockets of which the first is connected to the second, which has a name."""
    name = f"\0whilst-{os.getpid()}-{os.urandom(4).hex()}"
    receiver = datagram_socket(socket.AF_UNIX, name)
    sender = datagram_socket(socket.AF_UNIX, None)
    sender.connect(name)
    return sender, receiver, name


def drain(receiver: socket.socket) -> list[bytes]:
    """All datagrams that are there."""
    received = []
    with contextlib.suppress(BlockingIOError):
        while True:
            received.append(receiver.recv(100_000))
    return received
