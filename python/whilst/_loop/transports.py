"""Transports that are not one Rust object.

TLS is CPython's own state machine (:mod:`asyncio.sslproto`) over this loop's stream transport.
"""

from __future__ import annotations

from asyncio import sslproto
from typing import TYPE_CHECKING, Any

from whilst._loop.borrowed import Borrowed

if TYPE_CHECKING:
    import asyncio
    import socket
    import ssl


class Transports(Borrowed):
    """What makes transports of sockets."""

    def _make_ssl_transport(
        self,
        rawsock: socket.socket,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext | None,
        waiter: asyncio.Future[None] | None = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: dict[str, Any] | None = None,
        server: asyncio.Server | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        **keywords: Any,
    ) -> asyncio.Transport:
        """Make a TLS transport over a connected socket; `waiter` is resolved after the handshake."""
        make: Any = sslproto.SSLProtocol
        tls = make(
            self,
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
            **keywords,
        )
        self._make_socket_transport(rawsock, tls, extra=extra, server=server)
        transport: asyncio.Transport = tls._app_transport
        return transport
