"""What a file is read and written through: the interface, and its two makers beside the loop's own driver.

A method begins one operation and returns a future of the loop. ``done(value, error)`` is called when the operation ends, whether
or not the future was cancelled meanwhile, and before whoever awaits the future goes on. On a loop of whilst's
:class:`whilst._whilst.RawFile` is that, in Rust.
"""

from __future__ import annotations

import asyncio
import os
import stat
from select import PIPE_BUF
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)


class Done(Protocol):
    """Called at the end of an operation."""

    def __call__(self, value: Any, error: BaseException | None, /) -> object: ...


class Raw(Protocol):
    """An open file, an operation at a time."""

    @property
    def mode(self) -> int: ...
    @property
    def block_size(self) -> int: ...
    @property
    def pollable(self) -> bool: ...
    def read(
        self, size: int, offset: int | None = None, done: Done | None = None
    ) -> asyncio.Future[bytes]: ...
    def write(
        self, data: bytes, offset: int | None = None, done: Done | None = None
    ) -> asyncio.Future[int]: ...
    def sync(self, data_only: bool = False, done: Done | None = None) -> asyncio.Future[None]: ...
    def truncate(self, length: int, done: Done | None = None) -> asyncio.Future[None]: ...
    def close(self, done: Done | None = None) -> asyncio.Future[None]: ...
    def close_now(self) -> None: ...
    def fileno(self) -> int: ...


def _resolve(future: asyncio.Future[_T], value: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


class InExecutor:
    """A file on a loop that is not whilst's: each operation is a call in the loop's default executor."""

    def __init__(self, loop: asyncio.AbstractEventLoop, descriptor: int, owned: bool) -> None:
        status = os.fstat(descriptor)
        self.mode = status.st_mode
        self.block_size = status.st_blksize
        self.pollable = not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)) and _can_be_polled(
            descriptor
        )
        self._loop = loop
        self._descriptor = descriptor
        self._owned = owned

    def _run(self, done: Done | None, function: Callable[..., _T], *args: Any) -> asyncio.Future[_T]:
        future: asyncio.Future[_T] = self._loop.create_future()

        def ended(inner: asyncio.Future[_T]) -> None:
            error = asyncio.CancelledError() if inner.cancelled() else inner.exception()
            value = inner.result() if error is None else None
            if done is not None:
                done(value, error)
            if inner.cancelled():
                future.cancel()
            else:
                _resolve(future, value, error)

        self._loop.run_in_executor(None, function, *args).add_done_callback(ended)
        return future

    def read(self, size: int, offset: int | None = None, done: Done | None = None) -> asyncio.Future[bytes]:
        if offset is None:
            return self._run(done, os.read, self.fileno(), size)
        return self._run(done, os.pread, self.fileno(), size, offset)

    def write(self, data: bytes, offset: int | None = None, done: Done | None = None) -> asyncio.Future[int]:
        if offset is None:
            return self._run(done, os.write, self.fileno(), data)
        return self._run(done, os.pwrite, self.fileno(), data, offset)

    def sync(self, data_only: bool = False, done: Done | None = None) -> asyncio.Future[None]:
        return self._run(done, os.fdatasync if data_only else os.fsync, self.fileno())

    def truncate(self, length: int, done: Done | None = None) -> asyncio.Future[None]:
        return self._run(done, os.ftruncate, self.fileno(), length)

    def close(self, done: Done | None = None) -> asyncio.Future[None]:
        descriptor = self.fileno()
        self._descriptor = -1
        return self._run(done, os.close if self._owned else (lambda _descriptor: None), descriptor)

    def close_now(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0 and self._owned:
            os.close(descriptor)

    def fileno(self) -> int:
        if self._descriptor < 0:
            raise ValueError("I/O operation on closed file.")
        return self._descriptor


def _can_be_polled(descriptor: int) -> bool:
    from select import epoll

    with epoll(1) as poll:
        try:
            poll.register(descriptor, 0)
        except OSError:
            return False
    return True


class Polled:
    """A FIFO, a terminal or a socket: read and written when it is ready, so that nothing waits but the loop.

    Neither the ring nor a thread is any help with these: the read of a FIFO that nobody writes to would keep a thread for
    good. A call that is cancelled has done nothing.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, raw: Raw) -> None:
        self._loop = loop
        self._raw = raw
        self.mode = raw.mode
        self.block_size = raw.block_size
        self.pollable = True
        # Of a descriptor that was opened elsewhere and blocks, a pipe that is ready takes this much without blocking.
        self._most = PIPE_BUF if os.get_blocking(raw.fileno()) else None

    def read(self, size: int, offset: int | None = None, done: Done | None = None) -> asyncio.Future[bytes]:
        descriptor = self._raw.fileno()
        if offset is not None:
            return self._raw.read(size, offset, done)  # The kernel refuses it, at once.
        # It is waited for first, always: a FIFO that no writer has opened yet reads like one whose writers have gone.
        return self._when_ready(
            self._loop.add_reader, self._loop.remove_reader, done, os.read, descriptor, size
        )

    def write(self, data: bytes, offset: int | None = None, done: Done | None = None) -> asyncio.Future[int]:
        descriptor = self._raw.fileno()
        if offset is not None:
            return self._raw.write(data, offset, done)
        piece = data if self._most is None else data[: self._most]
        return self._when_ready(
            self._loop.add_writer, self._loop.remove_writer, done, os.write, descriptor, piece
        )

    def _when_ready(
        self,
        add: Callable[..., object],
        remove: Callable[[int], object],
        done: Done | None,
        function: Callable[..., _T],
        descriptor: int,
        *args: Any,
    ) -> asyncio.Future[_T]:
        future: asyncio.Future[_T] = self._loop.create_future()

        def ready() -> None:
            if future.done():
                return
            value: Any = None
            error: BaseException | None = None
            try:
                value = function(descriptor, *args)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as raised:
                error = raised
            remove(descriptor)
            if done is not None:
                done(value, error)
            _resolve(future, value, error)

        def ended(future: asyncio.Future[_T]) -> None:
            if future.cancelled():
                remove(descriptor)
                if done is not None:
                    done(None, asyncio.CancelledError())

        add(descriptor, ready)
        future.add_done_callback(ended)
        return future

    def sync(self, data_only: bool = False, done: Done | None = None) -> asyncio.Future[None]:
        return self._raw.sync(data_only, done)

    def truncate(self, length: int, done: Done | None = None) -> asyncio.Future[None]:
        return self._raw.truncate(length, done)

    def close(self, done: Done | None = None) -> asyncio.Future[None]:
        return self._raw.close(done)

    def close_now(self) -> None:
        self._raw.close_now()

    def fileno(self) -> int:
        return self._raw.fileno()
