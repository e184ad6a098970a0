"""``whilst.run``: ``asyncio.run`` on a loop of whilst."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from whilst._loop import new_event_loop

_T = TypeVar("_T")


def run(
    main: Coroutine[Any, Any, _T],
    *,
    debug: bool | None = None,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    busy_poll: float = 0.0,
) -> _T:
    """Run the coroutine *main* on a new loop of whilst and return its result.

    The same as ``asyncio.run(main, debug=debug, loop_factory=whilst.new_event_loop)``, which Python has from
    3.12 on; here 3.11 takes *loop_factory* too. At the end the tasks that are left are cancelled, asynchronous
    generators and the default executor shut down, and the loop is closed. Ctrl-C cancels *main* and then
    raises :exc:`KeyboardInterrupt`.

    *debug* switches the loop's debug mode on or off; ``None`` leaves it to ``PYTHONASYNCIODEBUG`` and
    ``-X dev``. *loop_factory*, where given, makes the loop instead of :func:`whilst.new_event_loop`.

    *busy_poll*, in seconds, has the loop look for something to do for so long before it sleeps
    (:attr:`whilst.Loop.busy_poll`); it is for the loop that is made here, so not together with *loop_factory*.

    Raises :exc:`ValueError` for a *busy_poll* that is negative or NaN or comes with a *loop_factory*,
    :exc:`TypeError` for one that is no number, :exc:`RuntimeError` where a loop is running in this thread
    already, and for a *main* that is no coroutine what ``asyncio.run`` of this Python raises
    (:exc:`ValueError` up to 3.13, :exc:`TypeError` from 3.14 on, which takes any awaitable).

    Source: https://docs.python.org/3/library/asyncio-runner.html#asyncio.run
    """
    if loop_factory is None:
        loop_factory = partial(new_event_loop, busy_poll=busy_poll)
    elif busy_poll:
        raise ValueError("busy_poll is for the loop that whilst makes, and loop_factory makes another")
    if sys.version_info >= (3, 12):
        return asyncio.run(main, debug=debug, loop_factory=loop_factory)
    # asyncio.run of 3.11 has no loop_factory, but the Runner that it is made of has. Its own check comes first
    # there as here, so that a Runner is not entered and closed for nothing inside a running loop.
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("asyncio.run() cannot be called from a running event loop")
    with asyncio.Runner(debug=debug, loop_factory=loop_factory) as runner:
        return runner.run(main)
