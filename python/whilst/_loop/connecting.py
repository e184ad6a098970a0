"""``create_connection`` and ``create_unix_connection``.

The usual call, of an address in figures or a path and no option, is made in Rust; all others by CPython's own functions, and
also this one where a program has something else in the place of a part of it: a method of the loop, or a class or a method of
the module :mod:`socket`. Nobody who does so should find that it is passed by.
"""

from __future__ import annotations

import functools
import socket
from asyncio import base_events, unix_events
from typing import TYPE_CHECKING, Any

from whilst._loop.borrowed import Borrowed

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

_base_events: Any = base_events
_Base: Any = base_events.BaseEventLoop
_Unix: Any = unix_events._UnixSelectorEventLoop

#: The methods of the loop that CPython's functions call on the way to a connection.
STEPS = (
    "getaddrinfo",
    "sock_connect",
    "create_future",
    "_connect_sock",
    "_create_connection_transport",
    "_ensure_resolved",
    "_make_socket_transport",
)

_socket: Any = socket
#: As Python made it: `None` if a program had put another in its place before it imported whilst.
_Socket: Any = socket.socket if socket.socket.__module__ == "socket" else None
_connect = socket.SocketType.connect

_create_connection = _Base.create_connection
_create_unix_connection = _Unix.create_unix_connection
#: The options that change nothing.
_DEFAULTS = _create_connection.__kwdefaults__.items()
_UNIX_DEFAULTS = _create_unix_connection.__kwdefaults__.items()


def _sockets_are_pythons(module: Any) -> bool:
    """Return True if what makes and connects sockets for CPython's functions is what Python came with."""
    return module.socket is _socket and _socket.socket is _Socket and _Socket.connect is _connect


class Connecting(Borrowed):
    """Making connections."""

    # Both wait for the connection in lines of their own: one more coroutine, for both, took 8.6 % more instructions a connection.

    if TYPE_CHECKING:
        create_connection = asyncio.AbstractEventLoop.create_connection
        create_unix_connection = asyncio.AbstractEventLoop.create_unix_connection
    else:

        @functools.wraps(_create_connection)
        async def create_connection(self, protocol_factory, host=None, port=None, **options):
            if (not options or options.items() <= _DEFAULTS) and _sockets_are_pythons(_base_events):
                begun = self._connect_to_literal(protocol_factory, host, port)
                if begun is not None:
                    waiter, connected = begun
                    if waiter is None:
                        return await self._connect_the_rest(connected, (host, port), protocol_factory)
                    try:
                        await waiter
                    except BaseException:
                        connected[0].close()
                        raise
                    finally:
                        # The exception that it may hold refers to this frame.
                        del waiter, begun
                    return connected
            return await _create_connection(self, protocol_factory, host, port, **options)

        @functools.wraps(_create_unix_connection)
        async def create_unix_connection(self, protocol_factory, path=None, **options):
            if (not options or options.items() <= _UNIX_DEFAULTS) and _sockets_are_pythons(unix_events):
                begun = self._connect_to_path(protocol_factory, path)
                if begun is not None:
                    waiter, connected = begun
                    if waiter is None:
                        return await self._connect_the_rest(connected, path, protocol_factory)
                    try:
                        await waiter
                    except BaseException:
                        connected[0].close()
                        raise
                    finally:
                        del waiter, begun
                    return connected
            return await _create_unix_connection(self, protocol_factory, path, **options)

    async def _connect_the_rest(
        self, sock: socket.socket, address: Any, protocol_factory: Callable[[], asyncio.BaseProtocol]
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """Go on with a socket that was told to connect and has no answer yet."""
        try:
            # Asked again, the kernel says that it is at it.
            await self.sock_connect(sock, address)
        except BaseException:
            sock.close()
            raise
        pair: tuple[asyncio.Transport, asyncio.BaseProtocol]
        pair = await self._create_connection_transport(sock, protocol_factory, None, None)
        return pair
