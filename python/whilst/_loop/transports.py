"""Transports that are not one Rust object.

TLS is CPython's own state machine (:mod:`asyncio.sslproto`) over this loop's stream transport.
"""

from __future__ import annotations

from asyncio import sslproto
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket
    import ssl


class Transports:
    """What makes transports of sockets."""

    if TYPE_CHECKING:
        _make_socket_transport: Any

    def _make_ssl_transport(
        self,
        rawsock: socket.socket,
        protocol: Any,
        sslcontext: ssl.SSLContext | None,
        waiter: Any = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        **keywords: Any,
    ) -> Any:
        """Make a TLS transport over a connected socket; `waiter` is resolved after the handshake."""
        tls: Any = sslproto.SSLProtocol(  # type: ignore[call-arg]
            self,  # type: ignore[arg-type]
            protocol,
            sslcontext,  # type: ignore[arg-type]
            waiter,
            server_side,
            server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
            **keywords,
        )
        self._make_socket_transport(rawsock, tls, extra=extra, server=server)
        return tls._app_transport
