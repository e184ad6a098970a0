"""``whilst.trace``: what a program's event loops do, recorded and written as a page or for Perfetto.

What is recorded is Rust's (``crates/python/src/trace/``); here is when it begins and ends, and where it goes.
"""

import atexit
import os
import sys
import time
from types import TracebackType
from typing import Self

from whilst import _whilst
from whilst._owners import PACKAGES, RUNTIME, STDLIB
from whilst._trace.output import Output
from whilst._waits import LIBRARIES, WAITS

DEFAULT_THRESHOLD = 0.0001
"""From how many seconds on callbacks are recorded that are no task's step."""

DEFAULT_EVENTS = 500_000
"""How many events are kept."""


class Trace:
    """A recording, for use in ``with``, or by :meth:`start` and :meth:`stop`. See :func:`trace`."""

    def __init__(self, path: "str | os.PathLike[str]", *, threshold: float, events: int) -> None:
        if not threshold >= 0:
            raise ValueError(f"threshold must not be negative: {threshold}")
        if events < 1:
            raise ValueError(f"events must be at least 1: {events}")
        self._output = Output(path)
        self._threshold = threshold
        self._events = events
        # The process that records, 0 when none does.
        self._process = 0
        self._started = 0.0

    def start(self) -> None:
        """Begin to record.

        Raises :exc:`RuntimeError` if a trace is being recorded already, this one or another; :exc:`OSError` if the file could
        not be written.
        """
        self._output.check()
        _whilst.start_trace(
            self._threshold,
            self._events,
            (RUNTIME, PACKAGES, STDLIB),
            LIBRARIES,
            WAITS,
        )
        self._process = os.getpid()
        self._started = time.time()
        _forget_in_children()
        atexit.register(self.stop)
        self._record_running_loop()

    def stop(self) -> None:
        """End the record and write it. Does nothing if it is not being recorded, or in a forked child.

        Raises :exc:`OSError` if the file cannot be written.
        """
        process, self._process = self._process, 0
        if process != os.getpid():
            return
        atexit.unregister(self.stop)
        record = _whilst.stop_trace()
        if record is None:
            return
        self._output.write({**_about(record, self._started), **record})

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @staticmethod
    def _record_running_loop() -> None:
        # Not before it is needed: a program that is traced by the command may replace it.
        import asyncio

        loop = asyncio._get_running_loop()
        if isinstance(loop, _whilst.LoopCore):
            _whilst.trace_running_loop(loop, asyncio.current_task())


def trace(
    path: "str | os.PathLike[str]", *, threshold: float = DEFAULT_THRESHOLD, events: int = DEFAULT_EVENTS
) -> Trace:
    """What whilst's loops do in a ``with`` block, recorded and written to *path* when the block ends, however it does.

    *path* ends in ``.html``, for a page that shows it, or in ``.json``, for Perfetto (https://ui.perfetto.dev). All loops
    of whilst that are made or begin to run in the block are recorded, in any thread, and the one that runs, if it is
    used in a coroutine. Callbacks that are no task's step are recorded if they take *threshold* seconds or longer. Of
    more than *events* events the oldest are dropped, and their number is in the record. Names, lines and sizes are
    recorded, never arguments, results or what is sent and received.

    Entering raises :exc:`RuntimeError` if a trace is being recorded already, and :exc:`OSError` if the file could not be written.
    Raises :exc:`ValueError` for another ending, and for a number that is none of either kind.
    """
    return Trace(path, threshold=threshold, events=events)


def _about(record: dict[str, object], started: float) -> dict[str, object]:
    from whilst._trace.sources import add_sources

    add_sources(record)
    loops = record["loops"]
    assert isinstance(loops, dict)
    strings = record["strings"]
    assert isinstance(strings, list)
    return {
        "format": 1,
        "program": sys.argv[0] if getattr(sys, "argv", None) else "",
        "started": started,
        "python": ".".join(map(str, sys.version_info[:3])),
        "whilst": _whilst.__version__,
        "driver": strings[loops["driver"][0]] if loops["driver"] else "",
    }


_children_forget = False


def _forget_in_children() -> None:
    """A forked child has its parent's record, which is the parent's to write."""
    global _children_forget
    if not _children_forget:
        _children_forget = True
        os.register_at_fork(after_in_child=_whilst.forget_trace)
