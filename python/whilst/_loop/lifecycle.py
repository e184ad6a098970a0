"""Running and closing a loop."""

from __future__ import annotations

import asyncio
import sys
import threading
import warnings
from asyncio import coroutines, events, futures, tasks
from asyncio.log import logger
from typing import TYPE_CHECKING, Any, TypeVar

from whilst import _explain
from whilst._loop import forking, running
from whilst._loop.processes import Processes
from whilst._loop.signals import Signals

if TYPE_CHECKING:
    from collections.abc import Awaitable, Generator

    from whilst._metrics import Metrics

_T = TypeVar("_T")


forking.register()


def _debug_by_default() -> bool:
    """True with ``python -X dev`` or ``PYTHONASYNCIODEBUG`` set, as for every loop of asyncio."""
    is_debug_mode: Any = coroutines._is_debug_mode  # type: ignore[attr-defined]
    return bool(is_debug_mode())


class Lifecycle(Signals, Processes):
    """``run_forever``, ``run_until_complete``, ``close`` and debug mode."""

    #: The identity of the thread that runs the loop (`threading.get_ident()`), or None.
    _thread_id: int | None = None

    #: The loop's number in this process.
    _number: int

    #: Mistakes are explained because this loop runs in debug mode.
    _explains = False

    #: The process has forked while the loop ran, and this is the child.
    _task_left_behind = False

    def __init__(self) -> None:
        super().__init__()
        self.set_debug(_debug_by_default())
        running.remember(self)

    def __repr__(self) -> str:
        """Name the loop's state, as CPython's loops do."""
        return (
            f"<{self.__class__.__name__} running={self.is_running()} "
            f"closed={self.is_closed()} debug={self.get_debug()}>"
        )

    def _check_running(self) -> None:
        if self.is_running():
            raise RuntimeError("This event loop is already running")
        if events._get_running_loop() is not None:
            raise RuntimeError("Cannot run the event loop while another loop is running")

    def run_forever(self) -> None:
        """Run until stop() is called.

        Raises RuntimeError if the loop is closed, if it runs already, or if another loop runs in this thread; and whatever
        KeyboardInterrupt or SystemExit a callback raises.
        """
        self._check_closed()
        self._check_running()
        if running.to_be_shown:
            running.show()
        self._enter()
        hooks = sys.get_asyncgen_hooks()
        try:
            debug = self.get_debug()
            if debug or not _explain.has_run:
                _explain.loop_begins(debug)
                self._explains = debug
            self._thread_id = threading.get_ident()
            self._set_coroutine_origin_tracking(debug)
            sys.set_asyncgen_hooks(
                firstiter=self._asyncgen_firstiter_hook, finalizer=self._asyncgen_finalizer_hook
            )
            events._set_running_loop(self)
            if self._task_left_behind:
                self._task_left_behind = False
                _forget_current_task(self)
            self._run_until_stopped()
        finally:
            self._detach(self._thread_id != threading.main_thread().ident)
            self._thread_id = None
            self._leave()
            events._set_running_loop(None)
            self._set_coroutine_origin_tracking(False)
            sys.set_asyncgen_hooks(*hooks)
            if self._explains:
                self._explains = False
                _explain.loop_ends()

    def run_until_complete(self, future: Generator[Any, None, _T] | Awaitable[_T]) -> _T:
        """Run until a future, or a task made of a coroutine, is done. Return its result or raise its exception.

        Raises RuntimeError as run_forever() does, and if the loop is stopped before the future is done.
        """
        self._check_closed()
        self._check_running()

        is_new = not futures.isfuture(future)
        task: asyncio.Future[_T] = tasks.ensure_future(future, loop=self)  # type: ignore[arg-type]
        if is_new:
            # If the future does not complete the exception below says so; the task need not say it again.
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        task.add_done_callback(_stop_loop_of)
        try:
            self.run_forever()
        except:
            if is_new and task.done() and not task.cancelled():
                # What the coroutine raised is on its way out; take it, or the task would report that nobody did.
                task.exception()
            raise
        finally:
            task.remove_done_callback(_stop_loop_of)
        if not task.done():
            raise RuntimeError("Event loop stopped before Future completed.")
        try:
            return task.result()
        except BaseException as error:
            _explain.look_at(error, self.get_debug())
            raise

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Hand a failure to the loop's exception handler."""
        super().call_exception_handler(_explain.look_at_context(context, self.get_debug()))

    def close(self) -> None:
        """Close the loop: drop what is scheduled and shut the executor down, without waiting for it.

        Raises RuntimeError if the loop runs. Closing it again does nothing.
        """
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self.is_closed():
            return
        if self.get_debug():
            logger.debug("Close %r", self)
        self._close_signals()
        self._abandon_children()
        self._close()
        self._executor_shutdown_called = True
        executor = self._default_executor
        if executor is not None:
            self._default_executor = None
            executor.shutdown(wait=False)

    def __del__(self, _warn: Any = warnings.warn) -> None:
        """Warn of a loop that was never closed, and close it."""
        if not self.is_closed():
            _warn(f"unclosed event loop {self!r}", ResourceWarning, source=self)
            if not self.is_running():
                self.close()

    def metrics(self) -> Metrics:
        """Return the loop's numbers at this moment: what it has run and received, how long its queues are, how late it is.

        From any thread, while the loop runs or waits, and after it is closed. The first call begins to measure times
        (`Metrics.timed`).
        """
        from whilst._metrics import Metrics

        return Metrics(loop=self._number, **self._metrics())

    def set_debug(self, enabled: bool) -> None:
        """Turn debug mode on or off."""
        self._set_debug(bool(enabled))
        if self.is_running():
            self.call_soon_threadsafe(self._set_coroutine_origin_tracking, enabled)
            self.call_soon_threadsafe(self._look_after_again)
            self.call_soon_threadsafe(self._explain_in_debug_mode)

    def _explain_in_debug_mode(self) -> None:
        """Debug mode was turned on or off while the loop runs."""
        debug = self.get_debug()
        if self.is_running() and debug is not self._explains:
            self._explains = debug
            if debug:
                _explain.loop_begins(debug)
            else:
                _explain.loop_ends()


def give_way() -> None:
    """Give other threads and signals their turn: the interpreter sees to them where a function of Python's begins."""


def _forget_current_task(loop: Lifecycle) -> None:
    """Have asyncio forget the task in which the parent forked.

    From Python 3.14 on a task's step that began in the parent does not end well in the child, where its loop does not run any
    more; the task would stay the current one, and no other could run.
    """
    if sys.version_info >= (3, 14):
        tasks._swap_current_task(loop, None)  # type: ignore[attr-defined]


def _stop_loop_of(future: asyncio.Future[Any]) -> None:
    """Stop the loop of a future that is done, unless what it raised stops the loop itself."""
    if not future.cancelled():
        exception = future.exception()
        if isinstance(exception, (SystemExit, KeyboardInterrupt)):
            return
    futures._get_loop(future).stop()  # type: ignore[attr-defined]
