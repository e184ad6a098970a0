"""Names to addresses."""

from __future__ import annotations

import socket
from typing import Any

from whilst._loop.borrowed import Borrowed
from whilst._whilst import addresses_of_literal

#: Addresses and ports in figures need no resolver. The usual ones are answered in Rust, the others by the C library, at once.
_NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


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
            lookup = socket.getaddrinfo
            literal = addresses_of_literal(host, port, family, type, proto, flags)
            if literal is not None:
                return literal
            if isinstance(host, (str, bytes)) and host and not isinstance(port, (str, bytes)):
                try:
                    return lookup(host, port, family, type, proto, flags | _NUMERIC)
                except (socket.gaierror, UnicodeError):
                    pass  # A name, or an error that the real look-up words better.
        found: list[Any] = await self.run_in_executor(None, lookup, host, port, family, type, proto, flags)
        return found
