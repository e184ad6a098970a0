"""Names to addresses."""

from __future__ import annotations

import socket
from asyncio import base_events
from typing import Any

from whilst._loop.borrowed import Borrowed
from whilst._whilst import addresses_of_literal

#: Addresses and ports in figures need no resolver. The usual ones are answered in Rust, the others by the C library, at once.
_NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV

_base_events: Any = base_events


class Resolving(Borrowed):
    """``getaddrinfo``, in a thread only where a name must be looked up."""

    async def getaddrinfo(
        self,
        host: bytes | str | None,
        port: bytes | str | int | None,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """Like socket.getaddrinfo(), without blocking the loop. Raises socket.gaierror if there is no such name."""
        if self.get_debug():
            lookup = self._getaddrinfo_debug
        else:
            # Where CPython's loop looks it up, so that what a program puts in its place counts.
            lookup = _base_events.socket.getaddrinfo
            if lookup is socket.getaddrinfo:
                literal = addresses_of_literal(host, port, family, type, proto, flags)
                if literal is not None:
                    return literal
            if isinstance(host, (str, bytes)) and host and not isinstance(port, (str, bytes)):
                try:
                    numeric: list[Any] = lookup(host, port, family, type, proto, flags | _NUMERIC)
                    return numeric
                except (socket.gaierror, UnicodeError):
                    pass  # A name, or an error that the real look-up words better.
        found: list[Any] = await self.run_in_executor(None, lookup, host, port, family, type, proto, flags)
        return found
