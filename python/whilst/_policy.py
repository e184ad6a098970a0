"""The event loop policy of whilst, for the Pythons that have policies.

A policy says which loop ``asyncio.new_event_loop()`` makes and which one is current in a thread. Python 3.14
deprecated them and 3.16 is to have none (https://docs.python.org/3/library/asyncio-policy.html); importing this
module fails there with :exc:`ImportError`. It warns nowhere: on 3.14 and 3.15 the public names warn when they are
looked up, so the classes are taken from where they are defined.
"""

import atexit
import os
import sys
import threading
from asyncio import AbstractEventLoop
from asyncio import events as _events
from typing import TYPE_CHECKING, Any

from whilst._loop import Loop
from whilst._whilst import watch_by_default

if sys.version_info >= (3, 14):
    from asyncio.unix_events import _DefaultEventLoopPolicy as _DefaultPolicy
else:
    from asyncio.unix_events import DefaultEventLoopPolicy as _DefaultPolicy

if TYPE_CHECKING:
    from asyncio.events import _AbstractEventLoopPolicy


class EventLoopPolicy(_DefaultPolicy):
    """The default policy of this Python with :class:`whilst.Loop` for the loops that it makes.

    All else is inherited: which loop is current in which thread, when ``asyncio.get_event_loop()`` makes one
    (up to 3.13, in the main thread), and child watchers (up to 3.13).
    """

    _loop_factory = Loop


class CommandPolicy(EventLoopPolicy):
    """The policy under the command ``whilst``: the main thread has a current loop, on every Python.

    ``asyncio.get_event_loop()`` at the top level of a program makes one silently up to 3.11, warns from 3.12 on
    and raises from 3.14 on. A program that was written for the first must run under the command unchanged, so here
    the first call makes a loop, without a word, as long as nothing has said ``set_event_loop()`` before.
    ``asyncio.run()`` says that (the loop first and ``None`` at its end), and after it there is no current loop,
    on every Python.
    """

    # Of the base class, where it is a `threading.local` with the current loop of each thread.
    _local: Any

    def __init__(self) -> None:
        super().__init__()
        self._made: AbstractEventLoop | None = None
        self._made_in: int | None = None

    @classmethod
    def take_over(cls) -> None:
        """Make a policy of this kind the one of this process, until its end, if it is not already."""
        if isinstance(current_policy(), cls):
            return
        policy = cls()
        set_policy(policy)
        watch_by_default()
        # The command does this before the program registers anything, and so it is called after all of that.
        atexit.register(policy.close)

    def get_event_loop(self) -> AbstractEventLoop:
        """Return the current loop of this thread, and make it first where the class says so.

        Raises :exc:`RuntimeError` where there is none.
        """
        local = self._local
        if (
            local._loop is None
            # From 3.14 on the stdlib keeps no such mark: set_event_loop() below does. Asyncio lays a new `_local`
            # in a forked child, and with it the mark goes, as the stdlib's does up to 3.13.
            and not getattr(local, "_set_called", False)
            and threading.current_thread() is threading.main_thread()
        ):
            self._made = self.new_event_loop()
            self._made_in = os.getpid()
            self.set_event_loop(self._made)
        return super().get_event_loop()

    def set_event_loop(self, loop: AbstractEventLoop | None) -> None:
        """Make *loop*, or none, the current one of this thread.

        Raises :exc:`TypeError` for what is neither a loop nor ``None``.
        """
        self._local._set_called = True
        super().set_event_loop(loop)

    def close(self) -> None:
        """Close the loop that :meth:`get_event_loop` made, unless the program has closed it itself.

        For the end of the process, where the program could not know that it was to close a loop which it did not
        make. A forked child leaves its parent's loop alone, and a loop that still runs in some thread is left
        to it.
        """
        loop = self._made
        if (
            loop is not None
            and self._made_in == os.getpid()
            and not loop.is_closed()
            and not loop.is_running()
        ):
            loop.close()


def current_policy() -> "_AbstractEventLoopPolicy | None":
    """The policy that is set, or ``None`` where the default one has not been needed yet."""
    policy: _AbstractEventLoopPolicy | None = _events._event_loop_policy  # type: ignore[attr-defined]
    return policy


def set_policy(policy: "_AbstractEventLoopPolicy | None") -> None:
    """Set *policy*, or with ``None`` the default one, without the warning that 3.14 and up give to the public name."""
    if sys.version_info >= (3, 14):
        _events._set_event_loop_policy(policy)
    else:
        _events.set_event_loop_policy(policy)
