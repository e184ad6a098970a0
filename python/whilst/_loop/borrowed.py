"""What the loop takes from CPython's own, function by function.

These functions neither schedule nor wait nor touch a socket that is not a :mod:`socket` object's own business: they check
arguments, call the loop's other methods in the documented order, and word errors. Calling them, rather than writing them
again, means that they are the documented ones on every version of Python, its bug fixes and new arguments included. The
loop is not a ``BaseEventLoop``, though: programs that ask for one want to look into it.

Whatever they call that does schedule, wait or transport is this loop's. ``tests/conformance`` holds the arrangement
against CPython's own tests on each Python.
"""

from __future__ import annotations

import asyncio.base_events as base_events
import asyncio.unix_events as unix_events
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

_Base = base_events.BaseEventLoop
_Unix: Any = unix_events._UnixSelectorEventLoop


def _new_child_watcher() -> Any:
    """Return what CPython's own loop waits for children with, where each loop has one (3.14)."""
    if not hasattr(unix_events, "_PidfdChildWatcher"):
        return None
    watchers: Any = unix_events
    return watchers._PidfdChildWatcher() if watchers.can_use_pidfd() else watchers._ThreadedChildWatcher()


class Borrowed:
    """Methods of CPython's loop, by name, and the attributes that they keep."""

    #: How long a callback may take, in seconds, before debug mode reports it.
    slow_callback_duration: float = 0.1

    def __init__(self) -> None:
        self._exception_handler: Any = None
        self._default_executor: ThreadPoolExecutor | None = None
        self._executor_shutdown_called = False
        self._asyncgens: weakref.WeakSet[Any] = weakref.WeakSet()
        self._asyncgens_shutdown_called = False
        self._unix_server_sockets: dict[Any, int] = {}
        #: What CPython's datagram transports note themselves in.
        self._transports: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        #: What waits for children, from Python 3.14 on; before, that is the policy's.
        self._watcher: Any = _new_child_watcher()

    # Errors.
    get_exception_handler = _Base.get_exception_handler
    set_exception_handler = _Base.set_exception_handler
    default_exception_handler = _Base.default_exception_handler
    call_exception_handler = _Base.call_exception_handler

    # Asynchronous generators.
    _asyncgen_firstiter_hook: Any = _Base._asyncgen_firstiter_hook  # type: ignore[attr-defined]
    _asyncgen_finalizer_hook: Any = _Base._asyncgen_finalizer_hook  # type: ignore[attr-defined]
    shutdown_asyncgens = _Base.shutdown_asyncgens

    # Executors.
    run_in_executor = _Base.run_in_executor
    set_default_executor: Any = _Base.set_default_executor
    shutdown_default_executor = _Base.shutdown_default_executor
    _check_default_executor: Any = _Base._check_default_executor  # type: ignore[attr-defined]
    _do_shutdown: Any = _Base._do_shutdown  # type: ignore[attr-defined]
    _check_callback: Any = _Base._check_callback  # type: ignore[attr-defined]

    # Names.
    getnameinfo = _Base.getnameinfo
    _getaddrinfo_debug: Any = _Base._getaddrinfo_debug  # type: ignore[attr-defined]

    # Connections and servers: these check, resolve, make sockets and end in `_make_socket_transport`,
    # `_make_ssl_transport` and `_start_serving`, which are this loop's.
    create_connection: Any = _Base.create_connection
    connect_accepted_socket: Any = _Base.connect_accepted_socket
    create_server: Any = _Base.create_server
    create_unix_connection: Any = _Unix.create_unix_connection
    create_unix_server: Any = _Unix.create_unix_server
    start_tls: Any = _Base.start_tls
    _connect_sock: Any = _Base._connect_sock  # type: ignore[attr-defined]
    _create_connection_transport: Any = _Base._create_connection_transport  # type: ignore[attr-defined]
    _create_server_getaddrinfo: Any = _Base._create_server_getaddrinfo  # type: ignore[attr-defined]
    _ensure_resolved: Any = _Base._ensure_resolved  # type: ignore[attr-defined]

    # Datagrams, pipes and processes: CPython's own transports, over this loop's `_add_reader`, `_add_writer` and
    # `call_soon`, until there are native ones.
    create_datagram_endpoint: Any = _Base.create_datagram_endpoint
    connect_read_pipe: Any = _Base.connect_read_pipe
    connect_write_pipe: Any = _Base.connect_write_pipe
    subprocess_exec: Any = _Base.subprocess_exec
    subprocess_shell: Any = _Base.subprocess_shell
    _log_subprocess: Any = _Base._log_subprocess  # type: ignore[attr-defined]
    _make_read_pipe_transport: Any = _Unix._make_read_pipe_transport
    _make_write_pipe_transport: Any = _Unix._make_write_pipe_transport
    _make_subprocess_transport: Any = _Unix._make_subprocess_transport
    _child_watcher_callback: Any = _Unix._child_watcher_callback

    # Files to sockets; the system call is `os.sendfile`.
    sendfile: Any = _Base.sendfile
    sock_sendfile: Any = _Base.sock_sendfile
    _check_sendfile_params: Any = _Base._check_sendfile_params  # type: ignore[attr-defined]
    _sendfile_fallback: Any = _Base._sendfile_fallback  # type: ignore[attr-defined]
    _sock_sendfile_fallback: Any = _Base._sock_sendfile_fallback  # type: ignore[attr-defined]
    _sock_sendfile_native: Any = _Unix._sock_sendfile_native
    _sock_sendfile_native_impl: Any = _Unix._sock_sendfile_native_impl
    _sock_sendfile_update_filepos: Any = _Unix._sock_sendfile_update_filepos
    _sock_add_cancellation_callback: Any = _Unix._sock_add_cancellation_callback

    # Coroutines' origins, in debug mode.
    _coroutine_origin_tracking_enabled = False
    _coroutine_origin_tracking_saved_depth: int | None = None
    _set_coroutine_origin_tracking: Any = _Base._set_coroutine_origin_tracking  # type: ignore[attr-defined]
