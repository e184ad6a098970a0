"""Files to sockets, natively: what CPython's ``sendfile`` and ``sock_sendfile`` call once they have checked their arguments.

The sending is Rust (``_begin_sendfile``): sendfile(2) until the socket is full, a wait for room, and on.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from whilst._loop.borrowed import Borrowed, _PrivateUnix

if TYPE_CHECKING:
    import asyncio
    import socket

#: Whether the file's position is set where nothing was sent, too, as in later releases of Python 3.14.
_MOVES_ALWAYS = "total_sent" not in _PrivateUnix._sock_sendfile_update_filepos.__code__.co_varnames


class Sendfile(Borrowed):
    """The native halves of ``sendfile`` and ``sock_sendfile``."""

    def _sock_sendfile_native_impl(
        self,
        fut: asyncio.Future[int],
        registered_fd: int | None,
        sock: socket.socket,
        fileno: int,
        offset: int,
        count: int | None,
        blocksize: int,
        total_sent: int,
    ) -> None:
        """Begin to send; CPython's `_sock_sendfile_native` calls this and waits for the future."""
        if count is not None:
            # No file has more. Releases of CPython differ in what they say to a number that the system call does not take.
            count = min(count, sys.maxsize)
        self._begin_sendfile(fut, sock, fileno, offset, count, _MOVES_ALWAYS)

    async def _sendfile_native(self, transport: Any, file: Any, offset: int, count: int | None) -> int:
        """Send past a transport, behind what was written to it. It neither reads nor writes meanwhile.

        Raises RuntimeError if a sendfile is under way already, ConnectionError if the transport is closed meanwhile.
        """
        sent_all = transport._make_empty_waiter()
        resume_reading = transport.is_reading()
        transport.pause_reading()
        try:
            await sent_all
            if transport.is_closing():
                raise ConnectionError("Connection is closed by peer")
            self._lend_descriptor(transport)
            try:
                return await self.sock_sendfile(transport._sock, file, offset, count, fallback=False)
            finally:
                self._reclaim_descriptor(transport)
        finally:
            transport._reset_empty_waiter()
            if resume_reading:
                transport.resume_reading()
