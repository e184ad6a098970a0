"""asyncio's event loop, in Rust: the parts that `whilst.Loop` is made of.

Names with an underscore are for this package. Some of them bear the name under which CPython's own loop has the same thing,
because its functions ask for it (`whilst._loop.borrowed`).
"""

import asyncio
import socket
import sys
from asyncio.transports import _FlowControlMixin
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, Literal, Self, TypeAlias, TypeVar, TypeVarTuple, final

from _typeshed import FileDescriptorLike
from typing_extensions import disjoint_base

__all__ = [
    "Handle",
    "LoopCore",
    "StreamTransport",
    "TimerHandle",
    "__version__",
    "available_drivers",
    "new_handle",
]

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

_DriverName: TypeAlias = Literal["io_uring", "epoll"]
# What a factory takes beside the loop and the coroutine differs between versions of Python (`BaseEventLoop.create_task`).
_TaskFactory: TypeAlias = Callable[..., asyncio.Future[Any]]

__version__: str

def available_drivers() -> list[_DriverName]:
    """Return the names of the drivers that this machine has, the one that is chosen by default first."""

def new_handle(event_loop: LoopCore, callback: Callable[..., object], args: tuple[Any, ...]) -> Handle:
    """Make a Handle of a callback without scheduling it."""

@disjoint_base
class LoopCore:
    """The core of `whilst.Loop`."""

    def __new__(cls, *_args: object, **_kwargs: object) -> Self: ...

    # Scheduling.
    def call_soon(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> Handle: ...
    def call_soon_threadsafe(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> _SentHandle: ...
    def call_later(
        self, delay: float, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> TimerHandle: ...
    def call_at(
        self, when: float, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> TimerHandle: ...
    def time(self) -> float: ...
    def _push_handle(self, handle: Handle) -> None: ...

    # Futures and tasks.
    def create_future(self) -> asyncio.Future[Any]: ...
    if sys.version_info >= (3, 13):
        def create_task(
            self,
            coro: Generator[Any, None, _T] | Coroutine[Any, Any, _T],
            *,
            name: str | None = None,
            context: Context | None = None,
            eager_start: bool | None = None,
            **kwargs: Any,
        ) -> asyncio.Task[_T]: ...
    else:
        def create_task(
            self,
            coro: Generator[Any, None, _T] | Coroutine[Any, Any, _T],
            *,
            name: str | None = None,
            context: Context | None = None,
        ) -> asyncio.Task[_T]: ...

    def set_task_factory(self, factory: _TaskFactory | None) -> None: ...
    def get_task_factory(self) -> _TaskFactory | None: ...

    # Running.
    @property
    def driver(self) -> _DriverName:
        """The name of the driver underneath: `"io_uring"` or `"epoll"`."""

    def stop(self) -> None: ...
    def is_running(self) -> bool: ...
    def is_closed(self) -> bool: ...
    def get_debug(self) -> bool: ...
    def _set_debug(self, enabled: bool) -> None: ...
    def _enter(self) -> None: ...
    def _leave(self) -> None: ...
    def _detach(self, ends: bool) -> None: ...
    def _run_until_stopped(self) -> None: ...
    def _close(self) -> bool: ...
    def _check_closed(self) -> None: ...
    def _check_thread(self) -> None: ...
    @property
    def _debug(self) -> bool: ...
    @property
    def _stopping(self) -> bool: ...
    @property
    def _current_handle(self) -> Handle | TimerHandle | None: ...

    # Descriptors.
    def add_reader(self, fd: FileDescriptorLike, callback: Callable[[*_Ts], object], *args: *_Ts) -> None: ...
    def remove_reader(self, fd: FileDescriptorLike) -> bool: ...
    def add_writer(self, fd: FileDescriptorLike, callback: Callable[[*_Ts], object], *args: *_Ts) -> None: ...
    def remove_writer(self, fd: FileDescriptorLike) -> bool: ...
    def _add_reader(
        self, fd: FileDescriptorLike, callback: Callable[[*_Ts], object], *args: *_Ts
    ) -> Handle: ...
    def _remove_reader(self, fd: FileDescriptorLike) -> bool: ...
    def _add_writer(
        self, fd: FileDescriptorLike, callback: Callable[[*_Ts], object], *args: *_Ts
    ) -> Handle: ...
    def _remove_writer(self, fd: FileDescriptorLike) -> bool: ...
    def _ensure_fd_no_transport(self, fd: FileDescriptorLike) -> None: ...

    # Connections.
    def _make_socket_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        *,
        extra: dict[str, Any] | None = None,
        server: asyncio.Server | None = None,
        context: Context | None = None,
    ) -> StreamTransport: ...
    def _lend_descriptor(self, transport: StreamTransport) -> None: ...
    def _reclaim_descriptor(self, transport: StreamTransport) -> None: ...
    def _accept_connections(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sock: socket.socket,
        server: asyncio.Server | None = None,
        backlog: int = 100,
        wrap: Callable[[socket.socket], object] | None = None,
    ) -> None: ...
    def _stop_accepting(self, sock: socket.socket) -> None: ...
    def _resume_accepting(self, fd: int) -> None: ...

@final
class Handle(asyncio.Handle):
    """A callback that was scheduled; what call_soon() and call_soon_threadsafe() return."""

    # CPython's functions look at these; they cannot be set.
    _callback: Callable[..., object] | None
    _args: tuple[Any, ...] | None  # type: ignore[assignment] # None once cancelled, as CPython's is
    _context: Context | None
    _loop: LoopCore | None
    _repr: str | None
    _source_traceback: Any
    def _run(self) -> None: ...
    def cancel(self) -> None: ...
    def cancelled(self) -> bool: ...

if sys.version_info >= (3, 14):
    @final
    class ThreadSafeHandle(asyncio.Handle):
        """A callback that was scheduled by call_soon_threadsafe(), on Python 3.14 and later."""

        _callback: Callable[..., object] | None
        _args: tuple[Any, ...] | None  # type: ignore[assignment]
        _context: Context | None
        _loop: LoopCore | None
        _repr: str | None
        _source_traceback: Any
        def _run(self) -> None: ...
        def cancel(self) -> None: ...
        def cancelled(self) -> bool: ...

    _SentHandle: TypeAlias = ThreadSafeHandle
else:
    _SentHandle: TypeAlias = Handle

@final
class TimerHandle(asyncio.TimerHandle):
    """A callback that was scheduled for a time; what call_later() and call_at() return."""

    _callback: Callable[..., object] | None
    _args: tuple[Any, ...] | None  # type: ignore[assignment]
    _context: Context | None
    _loop: LoopCore | None
    _repr: str | None
    _source_traceback: Any
    _when: float
    _scheduled: bool
    def _run(self) -> None: ...
    def cancel(self) -> None: ...
    def cancelled(self) -> bool: ...
    def when(self) -> float: ...

@final
class StreamTransport(_FlowControlMixin):
    """The transport of a stream socket: an asyncio.Transport, whose methods it has."""

    # What CPython's own code asks of the transports of its loop (`asyncio.sslproto`, `asyncio.streams`, `loop.sendfile()`).
    @property
    def _loop(self) -> LoopCore | None: ...
    @property
    def _protocol(self) -> asyncio.BaseProtocol | None: ...
    @property
    def _sock(self) -> socket.socket | None: ...
    @property
    def _sock_fd(self) -> int: ...
    @property
    def _extra(self) -> dict[str, Any]: ...
    @property
    def _closing(self) -> bool: ...
    @property
    def _paused(self) -> bool: ...
    @property
    def _conn_lost(self) -> int: ...
    @property
    def _protocol_paused(self) -> bool: ...
    @property
    def _start_tls_compatible(self) -> Literal[True]: ...
    @property
    def _sendfile_compatible(self) -> Any: ...
    def _force_close(self, exc: BaseException | None) -> None: ...
    def _make_empty_waiter(self) -> asyncio.Future[None]: ...
    def _reset_empty_waiter(self) -> None: ...
