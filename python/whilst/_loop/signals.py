"""Signals as callbacks of the loop.

How a signal gets to the loop: CPython's C handler writes its number to the descriptor that `signal.set_wakeup_fd` was given,
here one end of a socket pair, whose other end the loop watches. (A socket rather than an eventfd, which takes eight bytes at
a time and so refuses the one byte that CPython writes.)
"""

from __future__ import annotations

import contextlib
import errno
import inspect
import signal
import socket
from asyncio import coroutines
from asyncio.log import logger
from typing import TYPE_CHECKING

from whilst._loop.borrowed import Borrowed
from whilst._whilst import Handle, new_handle

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVarTuple

    _Ts = TypeVarTuple("_Ts")


class Signals(Borrowed):
    """``add_signal_handler`` and ``remove_signal_handler``."""

    #: The pair of sockets, once there is a handler: what the loop reads, what the C handler writes.
    _signal_sockets: tuple[socket.socket, socket.socket] | None = None

    def __init__(self) -> None:
        super().__init__()
        self._signal_handlers: dict[int, Handle] = {}

    def add_signal_handler(self, sig: int, callback: Callable[[*_Ts], object], *args: *_Ts) -> None:
        """Call callback(*args) in the loop when the signal arrives.

        Raises ValueError for what is no signal's number, RuntimeError for a signal that cannot be caught and outside of the main
        thread, TypeError for a coroutine (function).
        """
        if coroutines.iscoroutine(callback) or inspect.iscoroutinefunction(callback):
            raise TypeError("coroutines cannot be used with add_signal_handler()")
        _check_signal(sig)
        self._check_closed()
        pair = self._signal_sockets
        if pair is None:
            pair = socket.socketpair()
            for end in pair:
                end.setblocking(False)
        try:
            # Raises ValueError outside of the main thread, before anything has changed.
            signal.set_wakeup_fd(pair[1].fileno())
        except (ValueError, OSError) as error:
            if self._signal_sockets is None:
                _close_both(pair)
            raise RuntimeError(str(error)) from None
        if self._signal_sockets is None:
            self._signal_sockets = pair
            self._add_reader(pair[0].fileno(), self._read_signals)

        self._signal_handlers[sig] = new_handle(self, callback, args)
        try:
            # A handler that does nothing, so that CPython's C handler is installed and writes the number.
            signal.signal(sig, _do_nothing)
            # Let system calls go on after the signal rather than fail with EINTR.
            signal.siginterrupt(sig, False)
        except OSError as error:
            del self._signal_handlers[sig]
            if not self._signal_handlers:
                _forget_wakeup_fd()
            if error.errno == errno.EINVAL:
                raise RuntimeError(f"sig {sig} cannot be caught") from error
            raise

    def remove_signal_handler(self, sig: int) -> bool:
        """Remove a signal's handler. Return False if there was none. Raises as add_signal_handler() does."""
        _check_signal(sig)
        if self._signal_handlers.pop(sig, None) is None:
            return False
        default = signal.default_int_handler if sig == signal.SIGINT else signal.SIG_DFL
        try:
            signal.signal(sig, default)
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise RuntimeError(f"sig {sig} cannot be caught") from error
            raise
        if not self._signal_handlers:
            _forget_wakeup_fd()
        return True

    def _read_signals(self) -> None:
        """Queue the handlers of the signals that have arrived."""
        assert self._signal_sockets is not None
        while True:
            try:
                numbers = self._signal_sockets[0].recv(4096)
            except (BlockingIOError, InterruptedError):
                return
            if not numbers:
                return
            for number in numbers:
                handle = self._signal_handlers.get(number)
                if handle is None:
                    continue
                if handle.cancelled():
                    self.remove_signal_handler(number)
                else:
                    self._push_handle(handle)

    def _is_wakeup_fd(self, descriptor: int) -> bool:
        """Return True if it is the descriptor that CPython's C handler writes to for this loop."""
        return self._signal_sockets is not None and self._signal_sockets[1].fileno() == descriptor

    def _forget_signals(self) -> None:
        """Handle no signals any more, in a forked child, which shares the sockets with its parent."""
        self._signal_handlers.clear()
        if self._signal_sockets is not None:
            pair, self._signal_sockets = self._signal_sockets, None
            self._remove_reader(pair[0].fileno())
            _close_both(pair)

    def _close_signals(self) -> None:
        """Remove all handlers and close the pair of sockets."""
        for number in list(self._signal_handlers):
            self.remove_signal_handler(number)
        if self._signal_sockets is not None:
            pair, self._signal_sockets = self._signal_sockets, None
            self._remove_reader(pair[0].fileno())
            _close_both(pair)


def _do_nothing(_number: int, _frame: object) -> None:
    """Stand in for a handler: the loop runs the real one."""


def _check_signal(sig: object) -> None:
    if not isinstance(sig, int):
        raise TypeError(f"sig must be an int, not {sig!r}")
    if sig not in signal.valid_signals():
        raise ValueError(f"invalid signal number {sig}")


def _forget_wakeup_fd() -> None:
    try:
        signal.set_wakeup_fd(-1)
    except (ValueError, OSError) as error:
        logger.info("set_wakeup_fd(-1) failed: %s", error)


def _close_both(pair: tuple[socket.socket, socket.socket]) -> None:
    for end in pair:
        with contextlib.suppress(OSError):
            end.close()
