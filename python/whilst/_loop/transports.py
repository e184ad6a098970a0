"""Transports that are not one Rust object.

TLS is CPython's own state machine (:mod:`asyncio.sslproto`) over this loop's stream transport. Datagrams are carried by
CPython's own transport.
"""

from __future__ import annotations

from asyncio import selector_events, sslproto
from typing import TYPE_CHECKING, Any

from whilst._loop.borrowed import Borrowed

if TYPE_CHECKING:
    import asyncio
    import contextvars
    import socket
    import ssl


_SelectorDatagramTransport: Any = selector_events._SelectorDatagramTransport  # type: ignore[attr-defined]


class DatagramTransport(_SelectorDatagramTransport):  # type: ignore[misc]
    """CPython's datagram transport, but for what it asks of a selector."""

    def __repr__(self) -> str:
        """Name the transport's state."""
        state = "closed " if self._sock is None else "closing " if self._closing else ""
        return f"<{self.__class__.__name__} {state}fd={self._sock_fd} bufsize={self.get_write_buffer_size()}>"


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
        context: contextvars.Context | None = None,
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
        self._make_socket_transport(rawsock, tls, extra=extra, server=server, context=context)
        transport: asyncio.Transport = tls._app_transport
        return transport

    def _make_datagram_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        address: Any = None,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> asyncio.DatagramTransport:
        """Make a datagram transport over a socket; `waiter` is resolved once the protocol is told."""
        return DatagramTransport(self, sock, protocol, address, waiter, extra)

    async def _sendfile_native(self, transport: Any, file: Any, offset: int, count: int | None) -> int:
        """Send a file by `os.sendfile` past the transport, which does not read or write meanwhile."""
        resume_reading = transport.is_reading()
        transport.pause_reading()
        await transport._make_empty_waiter()
        self._lend_descriptor(transport)
        try:
            sent: int = await self.sock_sendfile(transport._sock, file, offset, count, fallback=False)
            return sent
        finally:
            self._reclaim_descriptor(transport)
            transport._reset_empty_waiter()
            if resume_reading:
                transport.resume_reading()
