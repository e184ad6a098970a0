"""Signals as callbacks of the loop.

How a signal gets to the loop: CPython's C handler writes its number to the descriptor that `signal.set_wakeup_fd` was given,
here one end of a socket pair, whose other end the loop watches. (A socket rather than an eventfd, which takes eight bytes at
a time and so refuses the one byte that CPython writes.)

What checks, installs and words errors is CPython's own code; what is here gives it the pair of sockets, and handles of this loop.
"""

from __future__ import annotations

import contextlib
import socket
import warnings
from asyncio import unix_events
from typing import TYPE_CHECKING, Any

from whilst._loop.borrowed import Borrowed, _PrivateUnix, _Unix
from whilst._whilst import Handle, new_handle

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVarTuple

    _Ts = TypeVarTuple("_Ts")

_unix_events: Any = unix_events


class Signals(Borrowed):
    """``add_signal_handler`` and ``remove_signal_handler``."""

    #: What the loop reads, and what the C handler writes; from the first handler on.
    _ssock: socket.socket | None = None
    _csock: socket.socket | None = None

    def __init__(self) -> None:
        super().__init__()
        self._signal_handlers: dict[int, Handle] = {}

    def add_signal_handler(self, sig: int, callback: Callable[[*_Ts], object], *args: *_Ts) -> None:
        """Call callback(*args) in the loop when the signal arrives.

        Raises ValueError for what is no signal's number, RuntimeError for a signal that cannot be caught and outside of the main
        thread, TypeError for a coroutine (function).
        """
        if self._csock is not None:
            _PrivateUnix.add_signal_handler(self, sig, callback, *args)
        else:
            self._ssock, self._csock = socket.socketpair()
            self._ssock.setblocking(False)
            self._csock.setblocking(False)
            try:
                _PrivateUnix.add_signal_handler(self, sig, callback, *args)
            except BaseException:
                self._close_signal_sockets()
                raise
            try:
                self._add_reader(self._ssock.fileno(), self._read_from_self)
            except BaseException:
                self.remove_signal_handler(sig)
                self._close_signal_sockets()
                raise
        # In the place of CPython's own handle.
        self._signal_handlers[sig] = new_handle(self, callback, args)

    remove_signal_handler = _Unix.remove_signal_handler
    _check_signal: Any = _PrivateUnix._check_signal
    _read_from_self: Any = _PrivateUnix._read_from_self
    _process_self_data: Any = _PrivateUnix._process_self_data
    _handle_signal: Any = _PrivateUnix._handle_signal

    def _add_callback_signalsafe(self, handle: Handle) -> None:
        """Queue a handler; what CPython's `_handle_signal` ends in."""
        self._push_handle(handle)

    def _is_wakeup_fd(self, descriptor: int) -> bool:
        """Return True if it is the descriptor that CPython's C handler writes to for this loop."""
        return self._csock is not None and self._csock.fileno() == descriptor

    def _forget_signals(self) -> None:
        """Handle no signals any more, in a forked child, which shares the sockets with its parent."""
        self._signal_handlers.clear()
        if self._ssock is not None:
            self._remove_reader(self._ssock.fileno())
            self._close_signal_sockets()

    def _close_signals(self) -> None:
        """Remove all handlers and close the pair of sockets."""
        # Asked where CPython's loop asks it.
        if not _unix_events.sys.is_finalizing():
            for number in list(self._signal_handlers):
                self.remove_signal_handler(number)
        elif self._signal_handlers:
            warnings.warn(
                f"Closing the loop {self!r} on interpreter shutdown stage, skipping signal handlers removal",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )
            self._signal_handlers.clear()
        if self._ssock is not None:
            self._remove_reader(self._ssock.fileno())
            self._close_signal_sockets()

    def _close_signal_sockets(self) -> None:
        for end in (self._ssock, self._csock):
            if end is not None:
                with contextlib.suppress(OSError):
                    end.close()
        self._ssock = self._csock = None
