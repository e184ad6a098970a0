"""Child processes.

What runs once a process is here: the transport is CPython's own class of the Python at hand, whose order of callbacks
programs rely on, except for what it asks of a child watcher. `subprocess.Popen` starts the process (by vfork where it can). Its
end is a descriptor that the loop's driver watches, and it is reaped and signalled in Rust
(:class:`whilst._whilst.ChildProcess`): from any thread, without SIGCHLD, and without a child watcher.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import signal
import sys
from asyncio import events, unix_events
from asyncio.log import logger
from typing import TYPE_CHECKING, Any

from whilst._loop.borrowed import Borrowed
from whilst._whilst import ChildProcess

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

#: When to look again at a process that has ended and cannot be reaped yet, in seconds.
_TRACER_DELAY = 0.01

_UnixSubprocessTransport: Any = unix_events._UnixSubprocessTransport  # type: ignore[attr-defined]


class SubprocessTransport(_UnixSubprocessTransport):  # type: ignore[misc]
    """The transport of a child process: an asyncio.SubprocessTransport."""

    # Of the base class.
    _closed: bool
    _exit_waiters: Any

    def __init__(
        self,
        loop: Processes,
        protocol: asyncio.SubprocessProtocol,
        *arguments: Any,
        reaper: Any = None,
        **keywords: Any,
    ) -> None:
        self._child: ChildProcess | None = None
        #: The child watcher that reaps in the place of the loop, if there is one.
        self._reaper = reaper
        #: What connects the pipes.
        self._connecting: Coroutine[Any, Any, None] | None = None
        #: The exit code of a process that has ended before they were.
        self._early_returncode: int | None = None
        super().__init__(loop, protocol, *arguments, **keywords)

    def _start(self, *arguments: Any, **keywords: Any) -> None:
        """Start the process and watch for its end."""
        super()._start(*arguments, **keywords)
        proc = self._proc
        try:
            self._child = child = ChildProcess(proc.pid)
            # Popen's own checks whether the process has ended, and then signals its number, which may be another process's by
            # then. Its `kill()` and `terminate()` call this, too.
            proc.send_signal = child.send_signal
            if self._reaper is not None:
                self._reaper.add_child_handler(proc.pid, self._reaped)
            else:
                self._loop._add_reader(child.fileno(), self._ended)
            self._loop._children.add(child)
        except BaseException:
            # Nobody would know of its end.
            proc.kill()
            proc.wait()
            self._close_raw_pipes()
            raise

    def _ended(self) -> None:
        """Reap the process, which has ended."""
        assert self._child is not None
        self._loop._remove_reader(self._child.fileno())
        returncode = self._reap(self._child)
        if returncode is not None:
            self._exited(returncode)
        else:
            self._loop.call_later(_TRACER_DELAY, self._ended)

    def _reap(self, child: ChildProcess) -> int | None:
        """Reap the process. Return the exit code, or None if its tracer (ptrace(2)), who comes first, has not let go of it."""
        proc = self._proc
        # Who waits for it in another thread, by `Popen.wait()`, holds the lock until it has the code.
        if not proc._waitpid_lock.acquire(timeout=_TRACER_DELAY):
            return None
        try:
            returncode = child.reap()
            if proc.returncode is None and returncode is None:
                # In CPython's words, spaces included.
                logger.warning(
                    "child process pid %d exit status already read:  will report returncode 255", proc.pid
                )
                returncode = 255
            if proc.returncode is None:
                proc.returncode = returncode
            return int(proc.returncode)
        except BlockingIOError:
            return None
        finally:
            proc._waitpid_lock.release()

    def _reaped(self, _pid: int, returncode: int) -> None:
        """Take the exit code from a child watcher, which calls this in any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._exited, returncode)

    def _exited(self, returncode: int) -> None:
        """Let the protocol know of the exit code, in the iteration after the next one."""
        child = self._child
        assert child is not None
        child.reap()  # If it is reaped, this closes the descriptor.
        self._loop._children.discard(child)
        if self._connects():
            # The protocol hears of it after what is in the pipes.
            self._early_returncode = returncode
        else:
            self._loop.call_soon(self._process_exited, returncode)

    def _process_exited(self, returncode: int) -> None:
        super()._process_exited(returncode)
        if self._never_connects():
            self._wake_waiters()

    def _connect_pipes(self, waiter: asyncio.Future[None]) -> Coroutine[Any, Any, None]:
        self._connecting = self._connect(waiter)
        return self._connecting

    async def _connect(self, waiter: asyncio.Future[None]) -> None:
        """Make transports of the pipes, and tell the protocol."""
        try:
            await super()._connect_pipes(waiter)
        finally:
            if self._pending_calls is not None:
                # It failed or was cancelled. What has happened to the process meanwhile, nobody will be told.
                self._close_pipes()
                self._close_raw_pipes()
            elif self._closed:
                # close() knew only the pipes that were connected by then.
                self._close_pipes()
            if self._early_returncode is not None:
                self._loop.call_soon(self._process_exited, self._early_returncode)

    def _connects(self) -> bool:
        """Return True while the pipes are being connected."""
        return (
            self._connecting is not None
            and inspect.getcoroutinestate(self._connecting) != inspect.CORO_CLOSED
        )

    def _never_connects(self) -> bool:
        """Return True if connecting the pipes has failed, or was cancelled before it began."""
        return self._pending_calls is not None and not self._connects()

    def _wake_waiters(self) -> None:
        """Wake who waits for the exit code, although `connection_lost()`, after which CPython does it, will never be called."""
        waiters, self._exit_waiters = self._exit_waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(self._returncode)

    def _close_pipes(self) -> None:
        """Close the transports of the pipes. With a closed loop they could not tell their protocols of it."""
        if self._loop is not None and not self._loop.is_closed():
            for protocol in self._pipes.values():
                if protocol is not None:
                    protocol.pipe.close()

    def _close_raw_pipes(self) -> None:
        """Close the pipes that never got a transport."""
        proc = self._proc
        for number, pipe in enumerate((proc.stdin, proc.stdout, proc.stderr)):
            if pipe is not None and self._pipes.get(number) is None:
                pipe.close()

    def close(self) -> None:
        """Close the pipes, and kill the process if it still runs."""
        if self._closed:
            return
        self._closed = True
        self._close_pipes()
        # Asked without reaping it, unlike Popen.poll(): the exit code is the loop's to report.
        if self._returncode is None and self._child is not None and self._child.is_running():
            if self._loop.get_debug():
                logger.warning("Close running child process: kill %r", self)
            # It may run as another user (setuid).
            with contextlib.suppress(PermissionError):
                self._proc.kill()

    def send_signal(self, signal: int) -> None:
        """Send a signal to the process. Raises ProcessLookupError once the transport is through with it."""
        self._check_proc()
        assert self._child is not None
        self._child.send_signal(signal)

    def terminate(self) -> None:
        """Send SIGTERM. Raises as send_signal() does."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL. Raises as send_signal() does."""
        self.send_signal(signal.SIGKILL)


class Processes(Borrowed):
    """What `subprocess_exec` and `subprocess_shell` end in."""

    def __init__(self) -> None:
        super().__init__()
        #: The processes that have not been reaped.
        self._children: set[ChildProcess] = set()

    async def _make_subprocess_transport(
        self,
        protocol: asyncio.SubprocessProtocol,
        args: Any,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        bufsize: int,
        extra: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> SubprocessTransport:
        """Start a process and make its transport. Raises what `subprocess.Popen` does."""
        with _child_watcher() as reaper:
            waiter = self.create_future()
            transport = SubprocessTransport(
                self,
                protocol,
                args,
                shell,
                stdin,
                stdout,
                stderr,
                bufsize,
                waiter=waiter,
                extra=extra,
                reaper=reaper,
                **kwargs,
            )
            try:
                await waiter
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException:
                transport.close()
                try:
                    await transport._wait()
                finally:
                    if transport._never_connects():
                        transport._close_raw_pipes()
                raise
        return transport

    def _abandon_children(self) -> None:
        """Let the processes that still run be reaped without the loop, which closes."""
        while self._children:
            self._children.pop().abandon()

    if sys.version_info >= (3, 14):

        @property
        def _watcher(self) -> Any:
            """What CPython's own loop would wait for children with. This loop does not; its tests look at it."""
            watchers: Any = unix_events
            return (
                watchers._PidfdChildWatcher()
                if watchers.can_use_pidfd()
                else watchers._ThreadedChildWatcher()
            )


@contextlib.contextmanager
def _child_watcher() -> Iterator[Any]:
    """Enter the child watcher that the program has set, up to Python 3.13, while a process is started.

    It is asked whether it is active, as documented (RuntimeError if not), and for nothing more. Only a FastChildWatcher, which
    reaps every child there is, has to be told of this one: it is what the context manager returns.
    """
    watcher = getattr(getattr(events, "_event_loop_policy", None), "_watcher", None)
    if watcher is None:
        yield None
        return
    with watcher as entered:
        # `entered` is the watcher itself. CPython asked it by this name up to 3.11, and its tests' stand-ins know the difference.
        if not (entered if sys.version_info < (3, 12) else watcher).is_active():
            raise RuntimeError(
                "asyncio.get_child_watcher() is not activated, subprocess support is not installed."
            )
        fast: type = getattr(unix_events, "FastChildWatcher", type(None))
        yield watcher if isinstance(watcher, fast) else None
