"""The ``sock_*`` coroutines.

Each tries at once and waits only when told to, for readiness rather than for bytes: one that is cancelled has taken nothing
out of the socket.
"""

from __future__ import annotations

import contextlib
import socket
from asyncio.base_events import _check_ssl_socket  # type: ignore[attr-defined]
from typing import TYPE_CHECKING, Any

from whilst._loop.borrowed import Borrowed

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from _typeshed import ReadableBuffer, WriteableBuffer

    from whilst._whilst import Handle

_AGAIN = (BlockingIOError, InterruptedError)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Sockets(Borrowed):
    """``sock_recv``, ``sock_recv_into``, ``sock_recvfrom``, ``sock_recvfrom_into``, ``sock_sendall``, ``sock_sendto``,
    ``sock_connect`` and ``sock_accept``."""

    def _check_socket(self, sock: socket.socket) -> None:
        _check_ssl_socket(sock)
        if self.get_debug() and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")

    async def _until_readable(self, sock: socket.socket) -> None:
        await self._until(sock, self._add_reader, self._remove_reader)

    async def _until_writable(self, sock: socket.socket) -> None:
        await self._until(sock, self._add_writer, self._remove_writer)

    async def _until(
        self, sock: socket.socket, add: Callable[..., Handle], remove: Callable[[int], object]
    ) -> None:
        descriptor = sock.fileno()
        self._ensure_fd_no_transport(descriptor)
        future = self.create_future()
        handle = add(descriptor, _wake, future)
        try:
            await future
        finally:
            # Somebody else's watch may have taken the place of this one, which is cancelled then.
            if not handle.cancelled():
                remove(descriptor)

    async def sock_recv(self, sock: socket.socket, nbytes: int) -> bytes:
        """Receive up to nbytes bytes; empty at the end of the stream."""
        self._check_socket(sock)
        while True:
            try:
                return sock.recv(nbytes)
            except _AGAIN:
                await self._until_readable(sock)

    async def sock_recv_into(self, sock: socket.socket, buf: WriteableBuffer) -> int:
        """Receive into a writable buffer. Return the number of bytes."""
        self._check_socket(sock)
        while True:
            try:
                return sock.recv_into(buf)
            except _AGAIN:
                await self._until_readable(sock)

    async def sock_recvfrom(self, sock: socket.socket, bufsize: int) -> tuple[bytes, Any]:
        """Receive a datagram of up to bufsize bytes. Return it and its sender's address."""
        self._check_socket(sock)
        while True:
            try:
                return sock.recvfrom(bufsize)
            except _AGAIN:
                await self._until_readable(sock)

    async def sock_recvfrom_into(
        self, sock: socket.socket, buf: WriteableBuffer, nbytes: int = 0
    ) -> tuple[int, Any]:
        """Receive a datagram into a writable buffer. Return its length and its sender's address."""
        self._check_socket(sock)
        if not nbytes:
            nbytes = len(buf)  # type: ignore[arg-type]  # as in CPython: not all buffers have one
        while True:
            try:
                return sock.recvfrom_into(buf, nbytes)
            except _AGAIN:
                await self._until_readable(sock)

    async def sock_sendall(self, sock: socket.socket, data: ReadableBuffer) -> None:
        """Send all of the data. After an exception there is no telling how much was sent."""
        self._check_socket(sock)
        try:
            sent = sock.send(data)
        except _AGAIN:
            sent = 0
        with memoryview(data) as view, view.cast("B") as rest:
            while sent < len(rest):
                await self._until_writable(sock)
                with contextlib.suppress(*_AGAIN):
                    sent += sock.send(rest[sent:])

    async def sock_sendto(self, sock: socket.socket, data: ReadableBuffer, address: Any) -> int:
        """Send a datagram to an address. Return the number of bytes sent."""
        self._check_socket(sock)
        while True:
            try:
                return sock.sendto(data, address)
            except _AGAIN:
                await self._until_writable(sock)

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connect to an address, whose host is resolved if it is a name."""
        self._check_socket(sock)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            resolved = await self._ensure_resolved(
                address, family=sock.family, type=sock.type, proto=sock.proto, loop=self
            )
            address = resolved[0][4]
        try:
            sock.connect(address)
        except _AGAIN:
            # connect(2) and EINPROGRESS: writable when it is over, with the outcome in SO_ERROR.
            await self._until_writable(sock)
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, f"Connect call failed {address}") from None

    async def sock_accept(self, sock: socket.socket) -> tuple[socket.socket, Any]:
        """Accept a connection. Return its socket, which does not block, and its peer's address."""
        self._check_socket(sock)
        while True:
            try:
                connection, address = sock.accept()
            except _AGAIN:
                await self._until_readable(sock)
            else:
                connection.setblocking(False)
                return connection, address
