"""What an :class:`asyncio.Server` asks of its loop.

The class itself is CPython's own: its behaviour changed from version to version (``wait_closed``, ``close_clients``), and a
program expects that of the Python at hand.
"""

from __future__ import annotations

import contextvars
import functools
import os
import socket
import weakref
from asyncio.log import logger
from typing import TYPE_CHECKING

from whilst._loop.transports import Transports

if TYPE_CHECKING:
    import asyncio
    import ssl
    from collections.abc import Callable


class Serving(Transports):
    """Accepting connections for a server."""

    def __init__(self) -> None:
        super().__init__()
        #: The listening sockets that are asked by their own `accept()`.
        self._accepting_by_python: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def _start_serving(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sock: socket.socket,
        sslcontext: ssl.SSLContext | None = None,
        server: asyncio.Server | None = None,
        backlog: int = 100,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        context: contextvars.Context | None = None,
    ) -> None:
        """Accept connections on a listening socket, with or without TLS.

        A socket object of a class with an `accept()` of its own is asked by it, as by CPython's loop, and by CPython's code.
        """
        if getattr(type(sock), "accept", None) is not socket.socket.accept:
            tls = (sslcontext, server, backlog, ssl_handshake_timeout, ssl_shutdown_timeout)
            keywords = {} if context is None else {"context": context}
            accept = functools.partial(self._accept_connection, protocol_factory, sock, *tls, **keywords)
            self._add_reader(sock.fileno(), accept)
            self._accepting_by_python.add(sock)
            return
        if context is None:
            # Up to Python 3.14 it is the one in which the server starts; from 3.15 on, in which it was made.
            context = contextvars.copy_context()
        context.run(
            self._accept_connections,
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
        if sock in self._accepting_by_python:
            self._accepting_by_python.discard(sock)
            self._remove_reader(sock.fileno())
            sock.close()
        else:
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
