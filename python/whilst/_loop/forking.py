"""What happens to this process's loops when it forks (`event_loop/forking.rs` says what, and why)."""

from __future__ import annotations

import contextlib
import os
import signal

from whilst._loop import running


def _before() -> None:
    for loop in running.loops():
        loop._before_fork()


def _after_in_parent() -> None:
    for loop in running.loops():
        loop._after_fork_in_parent()


def _after_in_child() -> None:
    loops = running.loops()
    # From Python 3.12 on asyncio has done this already.
    with contextlib.suppress(ValueError):
        descriptor = signal.set_wakeup_fd(-1)
        if descriptor != -1 and not any(loop._is_wakeup_fd(descriptor) for loop in loops):
            signal.set_wakeup_fd(descriptor)
    for loop in loops:
        loop._task_left_behind = loop._after_fork_in_child()
        loop._forget_signals()
        # A socket's file is its server's, who is the parent.
        loop._unix_server_sockets.clear()


def register() -> None:
    """Have the loops of this process told from now on when it forks."""
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
