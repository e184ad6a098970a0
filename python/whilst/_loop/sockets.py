"""The ``sock_*`` coroutines.

Each tries at once and waits only when told to, for readiness rather than for bytes: one that is cancelled has taken nothing
out of the socket. The tries and the waits are those of ``crates/python/src/event_loop/sockets.rs``.
"""

from __future__ import annotations

import socket
from asyncio.base_events import _check_ssl_socket  # type: ignore[attr-defined]
from typing import TYPE_CHECKING, Any

from whilst._loop.borrowed import Borrowed

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from whilst._whilst import LoopCore

_AGAIN = (BlockingIOError, InterruptedError)


def _check_socket(loop: LoopCore, sock: socket.socket) -> None:
    _check_ssl_socket(sock)
    if loop.get_debug() and sock.gettimeout() != 0:
        raise ValueError("the socket must be non-blocking")


# What the tries of LoopCore call in debug mode, and for what is no plain socket or not the argument that it should be.


def receive(loop: LoopCore, sock: socket.socket, nbytes: int) -> bytes | None:
    """Call ``sock.recv()``; None if it would block."""
    _check_socket(loop, sock)
    try:
        data = sock.recv(nbytes)
    except _AGAIN:
        return None
    loop._count_received(len(data))
    return data


def receive_into(loop: LoopCore, sock: socket.socket, buf: WriteableBuffer) -> int | None:
    """Call ``sock.recv_into()``; None if it would block."""
    _check_socket(loop, sock)
    try:
        count = sock.recv_into(buf)
    except _AGAIN:
        return None
    loop._count_received(count)
    return count


def send(loop: LoopCore, sock: socket.socket, data: ReadableBuffer) -> int | None:
    """Call ``sock.send()``. Return how many bytes were sent, or None if it was all of them."""
    _check_socket(loop, sock)
    try:
        sent = sock.send(data)
    except _AGAIN:
        sent = 0
    loop._count_sent(sent)
    with memoryview(data) as view:
        return None if sent == view.nbytes else sent


class Sockets(Borrowed):
    """``sock_recv``, ``sock_recv_into``, ``sock_recvfrom``, ``sock_recvfrom_into``, ``sock_sendall``, ``sock_sendto``,
    ``sock_connect`` and ``sock_accept``."""

    async def sock_recv(self, sock: socket.socket, nbytes: int) -> bytes:
        """Receive up to nbytes bytes; empty at the end of the stream."""
        while (data := self._sock_recv(sock, nbytes)) is None:
            await self._sock_readable(sock)
        return data

    async def sock_recv_into(self, sock: socket.socket, buf: WriteableBuffer) -> int:
        """Receive into a writable buffer. Return the number of bytes."""
        while (count := self._sock_recv_into(sock, buf)) is None:
            await self._sock_readable(sock)
        return count

    async def sock_recvfrom(self, sock: socket.socket, bufsize: int) -> tuple[bytes, Any]:
        """Receive a datagram of up to bufsize bytes. Return it and its sender's address."""
        _check_socket(self, sock)
        while True:
            try:
                data, address = sock.recvfrom(bufsize)
            except _AGAIN:
                await self._sock_readable(sock)
            else:
                self._count_received(len(data))
                return data, address

    async def sock_recvfrom_into(
        self, sock: socket.socket, buf: WriteableBuffer, nbytes: int = 0
    ) -> tuple[int, Any]:
        """Receive a datagram into a writable buffer. Return its length and its sender's address."""
        _check_socket(self, sock)
        if not nbytes:
            nbytes = len(buf)  # type: ignore[arg-type]  # as in CPython: not all buffers have one
        while True:
            try:
                count, address = sock.recvfrom_into(buf, nbytes)
            except _AGAIN:
                await self._sock_readable(sock)
            else:
                self._count_received(count)
                return count, address

    async def sock_sendall(self, sock: socket.socket, data: ReadableBuffer) -> None:
        """Send all of the data. After an exception there is no telling how much was sent."""
        sent = self._sock_send(sock, data)
        if sent is None:
            return
        with memoryview(data) as view, view.cast("B") as rest:
            while True:
                await self._sock_writable(sock)
                more = self._sock_send(sock, rest[sent:])
                if more is None:
                    return
                sent += more

    async def sock_sendto(self, sock: socket.socket, data: ReadableBuffer, address: Any) -> int:
        """Send a datagram to an address. Return the number of bytes sent."""
        _check_socket(self, sock)
        while True:
            try:
                count = sock.sendto(data, address)
            except _AGAIN:
                await self._sock_writable(sock)
            else:
                self._count_sent(count)
                return count

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connect to an address, whose host is resolved if it is a name."""
        _check_socket(self, sock)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            resolved = await self._ensure_resolved(
                address, family=sock.family, type=sock.type, proto=sock.proto, loop=self
            )
            address = resolved[0][4]
        try:
            sock.connect(address)
        except _AGAIN:
            # connect(2) and EINPROGRESS: writable when it is over, with the outcome in SO_ERROR.
            await self._sock_writable(sock)
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, f"Connect call failed {address}") from None

    async def sock_accept(self, sock: socket.socket) -> tuple[socket.socket, Any]:
        """Accept a connection. Return its socket, which does not block, and its peer's address."""
        _check_socket(self, sock)
        while True:
            try:
                connection, address = sock.accept()
            except _AGAIN:
                await self._sock_readable(sock)
            else:
                connection.setblocking(False)
                return connection, address
