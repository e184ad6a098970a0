"""What an :class:`asyncio.Server` asks of its loop.

The class itself is CPython's own: its behaviour changed from version to version (``wait_closed``, ``close_clients``), and a
program expects that of the Python at hand.
"""

from __future__ import annotations

import os
from asyncio.log import logger
from typing import TYPE_CHECKING, Any

from whilst._loop.transports import Transports

if TYPE_CHECKING:
    import asyncio
    import socket
    import ssl
    from collections.abc import Callable


class Serving(Transports):
    """Accepting connections for a server."""

    def _start_serving(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sock: socket.socket,
        sslcontext: ssl.SSLContext | None = None,
        server: asyncio.Server | None = None,
        backlog: int = 100,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        context: Any = None,
    ) -> None:
        """Accept connections on a listening socket, with or without TLS."""
        self._accept_connections(
            protocol_factory,
            sock,
            server,
            backlog,
            sslcontext,
            ssl_handshake_timeout,
            ssl_shutdown_timeout,
        )

    def _stop_serving(self, sock: socket.socket) -> None:
        """Accept no more, close the socket and, from Python 3.13 on, remove a Unix socket's file if it is still ours."""
        inode = self._unix_server_sockets.pop(sock, None)
        path = sock.getsockname() if inode is not None else None
        self._stop_accepting(sock)
        if path is None:
            return
        try:
            if os.stat(path).st_ino == inode:
                os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            logger.error("Unable to clean up listening UNIX socket %r: %r", path, error)
