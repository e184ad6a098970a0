"""The event loop, whole: :class:`Loop`.

What runs once a callback or once a packet is Rust (:class:`whilst._whilst.LoopCore`). What runs once a connection or more
rarely, and is ``async def`` by nature, is here, a file a group of methods. What has no part in scheduling or I/O is taken
from CPython's own loop of the interpreter at hand (:mod:`whilst._loop.borrowed`).
"""

from __future__ import annotations

from whilst._loop.connecting import STEPS, Connecting
from whilst._loop.lifecycle import Lifecycle
from whilst._loop.resolving import Resolving
from whilst._loop.sendfile import Sendfile
from whilst._loop.serving import Serving
from whilst._loop.sockets import Sockets

__all__ = ["Loop", "new_event_loop"]


class Loop(Lifecycle, Connecting, Sockets, Sendfile, Serving, Resolving):
    """asyncio's event loop, in Rust.

    Made without arguments. The environment variable ``WHILST_DRIVER`` (``io_uring`` or ``epoll``) says what it waits on;
    without it, the best that the machine has. Raises ValueError for a driver that there is not.
    """


Loop.__module__ = "whilst"

#: The methods of the class on the way to a connection, for those who ask whether a loop has others.
STEPS_OF_CONNECTING = {name: getattr(Loop, name) for name in STEPS}


def new_event_loop() -> Loop:
    """Return a new event loop; for wherever a ``loop_factory`` is asked for."""
    return Loop()
