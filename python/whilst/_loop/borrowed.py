"""What the loop takes from CPython's own, function by function.

These functions neither schedule nor wait nor touch a socket that is not a :mod:`socket` object's own business: they check
arguments, call the loop's other methods in the documented order, and word errors. Calling them, rather than writing them
again, means that they are the documented ones on every version of Python, its bug fixes and new arguments included. The
loop is not a ``BaseEventLoop``, though: programs that ask for one want to look into it.

Whatever they call that does schedule, wait or transport is this loop's. ``tests/conformance`` holds the arrangement
against CPython's own tests on each Python.
"""

from __future__ import annotations

import asyncio
import weakref
from asyncio import base_events, unix_events
from typing import TYPE_CHECKING, Any

from whilst._whilst import LoopCore

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from concurrent.futures import Executor
    from typing import TypeVar, TypeVarTuple

    _T = TypeVar("_T")
    _Ts = TypeVarTuple("_Ts")
    _ProtocolT = TypeVar("_ProtocolT", bound=asyncio.BaseProtocol)
    _ExceptionHandler = Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object]

# For type checkers the public methods are those of the interface: the ones of CPython's classes want a loop of CPython's.
if TYPE_CHECKING:
    _Base = _Unix = asyncio.AbstractEventLoop
else:
    _Base = base_events.BaseEventLoop
    _Unix = unix_events._UnixSelectorEventLoop

# The private ones have no types.
_PrivateBase: Any = _Base
_PrivateUnix: Any = _Unix


class Borrowed(LoopCore, asyncio.AbstractEventLoop):
    """Methods of CPython's loop, by name, and the attributes that they keep."""

    def __init__(self) -> None:
        self._exception_handler: _ExceptionHandler | None = None
        self._default_executor: Executor | None = None
        self._executor_shutdown_called = False
        self._asyncgens: weakref.WeakSet[Any] = weakref.WeakSet()
        self._asyncgens_shutdown_called = False
        self._unix_server_sockets: dict[socket.socket, int] = {}

    # Errors.
    get_exception_handler = _Base.get_exception_handler
    set_exception_handler = _Base.set_exception_handler
    default_exception_handler = _Base.default_exception_handler
    call_exception_handler = _Base.call_exception_handler

    # Asynchronous generators.
    _asyncgen_firstiter_hook: Any = _PrivateBase._asyncgen_firstiter_hook
    _asyncgen_finalizer_hook: Any = _PrivateBase._asyncgen_finalizer_hook
    shutdown_asyncgens = _Base.shutdown_asyncgens

    # Executors.
    if TYPE_CHECKING:
        # Declared once more because stubtest compares no variables of this type.
        def run_in_executor(
            self, executor: Executor | None, func: Callable[[*_Ts], _T], *args: *_Ts
        ) -> asyncio.Future[_T]: ...

    else:
        run_in_executor = _Base.run_in_executor
    set_default_executor = _Base.set_default_executor
    shutdown_default_executor = _Base.shutdown_default_executor
    _check_default_executor: Any = _PrivateBase._check_default_executor
    _do_shutdown: Any = _PrivateBase._do_shutdown
    _check_callback: Any = _PrivateBase._check_callback

    # Names.
    getnameinfo = _Base.getnameinfo
    _getaddrinfo_debug: Any = _PrivateBase._getaddrinfo_debug

    # Connections and servers: these check, resolve, make sockets and end in `_make_socket_transport`,
    # `_make_ssl_transport` and `_start_serving`, which are this loop's.
    # (`create_connection` and `create_unix_connection` are called by `whilst._loop.connecting`.)
    connect_accepted_socket = _Base.connect_accepted_socket
    create_server = _Base.create_server
    create_unix_server = _Unix.create_unix_server
    # For a socket object that accepts in a way of its own.
    _accept_connection: Any = _PrivateUnix._accept_connection
    _accept_connection2: Any = _PrivateUnix._accept_connection2
    _connect_sock: Any = _PrivateBase._connect_sock
    _create_connection_transport: Any = _PrivateBase._create_connection_transport
    _create_server_getaddrinfo: Any = _PrivateBase._create_server_getaddrinfo
    _ensure_resolved: Any = _PrivateBase._ensure_resolved

    # Pipes: these end in `_make_read_pipe_transport` and `_make_write_pipe_transport`, which are this loop's.
    connect_read_pipe = _Base.connect_read_pipe
    connect_write_pipe = _Base.connect_write_pipe

    # Datagrams: it checks, resolves, makes the socket and ends in `_make_datagram_transport`, which is this loop's.
    if TYPE_CHECKING:
        # Of the interface it has `reuse_address` still, which was taken out in Python 3.11.
        async def create_datagram_endpoint(  # type: ignore[override]
            self,
            protocol_factory: Callable[[], _ProtocolT],
            local_addr: tuple[str, int] | str | None = None,
            remote_addr: tuple[str, int] | str | None = None,
            *,
            family: int = 0,
            proto: int = 0,
            flags: int = 0,
            reuse_port: bool | None = None,
            allow_broadcast: bool | None = None,
            sock: socket.socket | None = None,
        ) -> tuple[asyncio.DatagramTransport, _ProtocolT]: ...

    else:
        create_datagram_endpoint = _Base.create_datagram_endpoint

    # Processes: these check arguments and end in `_make_subprocess_transport`, which is this loop's.
    subprocess_exec = _Base.subprocess_exec
    subprocess_shell = _Base.subprocess_shell
    _log_subprocess: Any = _PrivateBase._log_subprocess

    # Files to sockets: these check and choose, and read and write where there is no system call for it. The native way is
    # `whilst._loop.sendfile`'s.
    sendfile = _Base.sendfile
    sock_sendfile = _Base.sock_sendfile
    _check_sendfile_params: Any = _PrivateBase._check_sendfile_params
    _sendfile_fallback: Any = _PrivateBase._sendfile_fallback
    _sock_sendfile_fallback: Any = _PrivateBase._sock_sendfile_fallback
    _sock_sendfile_native: Any = _PrivateUnix._sock_sendfile_native

    # Coroutines' origins, in debug mode.
    _coroutine_origin_tracking_enabled = False
    _coroutine_origin_tracking_saved_depth: int | None = None
    _set_coroutine_origin_tracking: Any = _PrivateBase._set_coroutine_origin_tracking
