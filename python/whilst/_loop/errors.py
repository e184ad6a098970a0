"""Reports, in CPython's words; what the Rust side calls when something failed."""

from __future__ import annotations

import errno
import socket
from asyncio import base_events, exceptions, format_helpers, protocols
from asyncio.log import logger
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

    from whilst._loop import Loop
    from whilst._whilst import Handle, SSLProtocol, TimerHandle

_base_events: Any = base_events
_format_handle: Any = base_events._format_handle  # type: ignore[attr-defined]
_format_callback_source: Any = format_helpers._format_callback_source


def report_callback(loop: Loop, handle: Handle | TimerHandle, exception: BaseException) -> None:
    """Tell the loop's exception handler of a callback that raised (`Handle._run`)."""
    callback = _format_callback(handle._callback, handle._args)
    context = {
        "message": f"Exception in callback {callback}",
        "exception": exception,
        "handle": handle,
    }
    if handle._source_traceback:
        context["source_traceback"] = handle._source_traceback
    loop.call_exception_handler(context)


def _format_callback(callback: Any, arguments: Any) -> str:
    try:
        return str(_format_callback_source(callback, arguments))
    except TypeError:  # pragma: no cover - CPython's helper, should it want more one day
        return repr(callback)


def report_protocol_callback(
    loop: Loop, protocol: asyncio.BaseProtocol, name: str, exception: BaseException
) -> None:
    """Tell the loop's exception handler of a protocol's callback that raised where CPython calls it through a handle."""
    callback = _format_callback(getattr(protocol, name), ())
    loop.call_exception_handler(
        {
            "message": f"Exception in callback {callback}",
            "exception": exception,
            "protocol": protocol,
        }
    )


def report_fatal_error(
    loop: Loop,
    transport: asyncio.BaseTransport,
    protocol: asyncio.BaseProtocol,
    exception: BaseException,
    message: str,
) -> None:
    """Report what ended a transport: what the system said in debug mode only, anything else to the exception handler."""
    _report_end(loop, transport, protocol, exception, message, isinstance(exception, OSError))


def report_pipe_read_error(
    loop: Loop, transport: asyncio.BaseTransport, protocol: asyncio.BaseProtocol, exception: OSError
) -> None:
    """Report what ended the reading of a pipe, but in debug mode only if it is how a terminal says that it was hung up."""
    message = "Fatal read error on pipe transport"
    _report_end(loop, transport, protocol, exception, message, exception.errno == errno.EIO)


def _report_end(
    loop: Loop,
    transport: asyncio.BaseTransport,
    protocol: asyncio.BaseProtocol,
    exception: BaseException,
    message: str,
    is_usual: bool,
) -> None:
    if is_usual:
        if loop.get_debug():
            logger.debug("%r: %s", transport, message, exc_info=exception)
    else:
        loop.call_exception_handler(
            {
                "message": message,
                "exception": exception,
                "transport": transport,
                "protocol": protocol,
            }
        )


def report_slow_callback(handle: Handle | TimerHandle, seconds: float) -> None:
    """Warn of a callback that held the loop for long, in debug mode. Where CPython's loop looks the logger up."""
    _base_events.logger.warning("Executing %s took %.3f seconds", _format_handle(handle), seconds)


def report_slow_protocol(
    transport: asyncio.BaseTransport, protocol: asyncio.BaseProtocol | None, name: str, seconds: float
) -> None:
    """Warn of a protocol's callback that held the loop for long, in debug mode.

    For CPython's loop it is its own handle that took long, and what it names is a line of its own. Here it is the program's.
    """
    # Between a connection and the program's protocol there may be TLS, which calls it with what it has deciphered.
    application = getattr(protocol, "_app_protocol", None)
    if application is not None:
        protocol = application
        if name == "buffer_updated" and not isinstance(protocol, protocols.BufferedProtocol):
            name = "data_received"
    callback = getattr(protocol, name, None)
    # Of a bound method CPython's helper does not know where it is written.
    source = name if callback is None else _format_callback(getattr(callback, "__func__", callback), ())
    logger.warning("Executing <%s transport=%r> took %.3f seconds", source, transport, seconds)


def report_slow_factory(factory: Any, server: asyncio.Server | None, seconds: float) -> None:
    """Warn of a protocol factory that held the loop for long, in debug mode."""
    logger.warning(
        "Executing <%s server=%r> took %.3f seconds", _format_callback(factory, ()), server, seconds
    )


def log_new_connection(server: asyncio.Server | None, descriptor: int) -> None:
    """Note a connection that a server has accepted, in debug mode."""
    connection = socket.socket(fileno=descriptor)
    try:
        address = connection.getpeername()
    except OSError:
        address = None  # Its peer has gone already.
    finally:
        description = repr(connection)
        connection.detach()
    logger.debug("%r got a new connection from %r: %s", server, address, description)


def log_end_of_stream(transport: asyncio.BaseTransport) -> None:
    """Note the end of what a peer sends, in debug mode."""
    logger.debug("%r received EOF", transport)


def log_closed_by_peer(transport: asyncio.BaseTransport) -> None:
    """Note that the other end of a pipe was closed, in debug mode."""
    logger.info("%r was closed by peer", transport)


def log_debug(message: str, transport: asyncio.BaseTransport) -> None:
    """Note something about a transport, in debug mode."""
    logger.debug(message, transport)


def warn_of_lost_write() -> None:
    """Warn of writes to a connection that is lost, as CPython words it."""
    logger.warning("socket.send() raised exception.")


def warn_of_lost_pipe_write() -> None:
    """Warn of writes to a pipe that is closed, as CPython words it."""
    logger.warning("pipe closed by peer or os.write(pipe, data) raised exception.")


def report_tls_error(
    loop: Loop,
    protocol: SSLProtocol,
    transport: asyncio.Transport | None,
    exception: BaseException,
    message: str,
) -> None:
    """Report what ended a TLS connection (`SSLProtocol._fatal_error`)."""
    if isinstance(exception, OSError):
        if loop.get_debug():
            logger.debug("%r: %s", protocol, message, exc_info=exception)
    elif not isinstance(exception, exceptions.CancelledError):
        loop.call_exception_handler(
            {
                "message": message,
                "exception": exception,
                "transport": transport,
                "protocol": protocol,
            }
        )


def report_failed_accept(
    loop: Loop,
    protocol: asyncio.BaseProtocol | None,
    transport: asyncio.Transport | None,
    exception: BaseException,
) -> None:
    """Tell of an accepted connection that never came to be, in debug mode."""
    context: dict[str, Any] = {
        "message": "Error on transport creation for incoming connection",
        "exception": exception,
    }
    if protocol is not None:
        context["protocol"] = protocol
    if transport is not None:
        context["transport"] = transport
    loop.call_exception_handler(context)


def log_handshake(protocol: SSLProtocol, seconds: float) -> None:
    """Note how long a handshake took, in debug mode."""
    logger.debug("%r: SSL handshake took %.1f ms", protocol, seconds * 1e3)


def warn_of_tls(message: str) -> None:
    """Warn of what a program does with a TLS transport in vain, as CPython words it."""
    logger.warning(message)
