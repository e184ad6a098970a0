"""Processes that a program under the command starts through :mod:`multiprocessing`: theirs are loops of whilst, too.

hypercorn's workers are such processes, and uvicorn's with ``--workers``. A forked process has its parent's policy. One that
was started afresh (``spawn``, and ``forkserver``, the default from 3.14 on) runs ``python -c``, which knows nothing of
the command; but a process takes its parent's configuration with it, pickled, and what is unpickled there can act.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class _Heirloom:
    """An entry of a process's configuration that, unpickled in a child, makes asyncio's loops whilst's there."""

    def __reduce__(self) -> tuple[Callable[[], _Heirloom], tuple[()]]:
        return _take_over_child, ()


def _take_over_child() -> _Heirloom:
    from whilst._explain import explain_by_default
    from whilst._policy import CommandPolicy

    CommandPolicy.take_over()
    explain_by_default()
    return _Heirloom()


def include_children() -> None:
    """Let the processes that this one starts, and those that they start, make whilst's loops."""
    from multiprocessing.process import current_process

    configuration: dict[str, object] = current_process()._config  # type: ignore[attr-defined]
    configuration["whilst"] = _Heirloom()
