"""Transports that are not one Rust object.

How TLS begins over a transport that there is; the rest of TLS is Rust.
"""

from __future__ import annotations

import ssl
from asyncio import streams
from typing import TYPE_CHECKING, Any

from whilst._loop.borrowed import Borrowed

if TYPE_CHECKING:
    import asyncio

    from whilst._whilst import SSLProtocol


class Transports(Borrowed):
    """What makes transports of sockets."""

    async def start_tls(
        self,
        transport: asyncio.WriteTransport,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> asyncio.Transport:
        """Upgrade a transport to TLS. Return the transport that the protocol is to use from now on.

        Raises TypeError for what is no SSLContext and for a transport that cannot be upgraded, ValueError for a limit of
        time that is not positive, and what ended the handshake; then the transport is closed.
        """
        if not isinstance(sslcontext, ssl.SSLContext):
            raise TypeError(f"sslcontext is expected to be an instance of ssl.SSLContext, got {sslcontext!r}")
        if not getattr(transport, "_start_tls_compatible", False):
            raise TypeError(f"transport {transport!r} is not supported by start_tls()")
        lower: Any = transport
        waiter = self.create_future()
        tls = self._make_tls_protocol(
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            ssl_handshake_timeout,
            ssl_shutdown_timeout,
        )
        app_transport = tls._app_transport
        assert app_transport is not None
        if server_side:
            _hand_over_read_ahead(protocol, tls)
        # What arrives from here on is for the TLS protocol, but not before it knows its transport.
        lower.pause_reading()
        lower.set_protocol(tls)
        made = self.call_soon(tls.connection_made, lower)
        resume = self.call_soon(lower.resume_reading)
        try:
            await waiter
        except BaseException:
            lower.close()
            made.cancel()
            resume.cancel()
            raise
        finally:
            # The exception that it may hold refers to this frame.
            del waiter
        return app_transport


def _hand_over_read_ahead(protocol: asyncio.BaseProtocol, tls: SSLProtocol) -> None:
    """Move what a stream's reader has received and nobody has read to TLS, whose bytes these are.

    As CPython does from 3.14 on (gh-142352). Left where they are they would be taken for what the peer says under TLS,
    and whoever sits in the middle could put words into its mouth.
    """
    if isinstance(protocol, streams.StreamReaderProtocol):
        reader: Any = getattr(protocol, "_stream_reader", None)
        buffer = None if reader is None else reader._buffer
        if buffer:
            tls._feed(buffer)
            buffer.clear()
