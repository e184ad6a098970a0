"""One call at a time on a file, in the order of the calls."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from whilst._files.raw import Done


class Turns:
    """Who may touch a file now: ``async with turns``.

    An operation of the file's that is under way keeps the turn, although the call that began it may have been cancelled: the
    next call finds the file as the operation has left it.
    """

    __slots__ = ("_left", "_loop", "_operating", "_waiting", "taken")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        #: Whether somebody has the turn.
        self.taken = False
        self._operating = False
        #: Whether the call that has the turn is over, though its operation is not.
        self._left = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        if not self.taken:
            self.taken = True
            return
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("the file was opened in a different event loop")
        waiter = self._loop.create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():
                self._pass_on()  # It was this one's turn just now.
            raise

    async def __aexit__(self, *exception: object) -> None:
        if self._operating:
            self._left = True
        else:
            self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self.taken = False

    async def operate(
        self, begin: Callable[..., asyncio.Future[Any]], effect: Callable[[Any], object], *args: Any
    ) -> None:
        """Wait for an operation, which ``begin(*args, done)`` begins. ``effect(value)`` is called when it has succeeded.

        The effect happens even if the wait is cancelled, and within the same turn.
        """

        def done(value: Any, error: BaseException | None) -> None:
            self._operating = False
            try:
                if error is None:
                    effect(value)
            finally:
                if self._left:
                    self._left = False
                    self._pass_on()

        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("the file was opened in a different event loop")
        self._operating = True
        done_: Done = done
        try:
            future = begin(*args, done_)
        except BaseException:
            self._operating = False
            raise
        await future
