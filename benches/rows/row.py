"""What a row is: a workload, and how it is measured.

A workload knows no loop by name: it takes a function that makes one. It runs in a process of its own, where
nothing else has run before it.
"""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

marks = 0
"""How often `mark` was called."""


def mark() -> float:
    """Call `getpriority`, which nothing else calls and `instructions.py` has callgrind look for."""
    global marks
    marks += 1
    os.getpriority(os.PRIO_PROCESS, 0)
    return 0.0


CLOCKS: dict[str, Callable[[], float]] = {
    "wall": time.perf_counter,
    "cpu": time.process_time,
    "marks": mark,
}
"""What a row's time can be: all of it, what the process spent on a core, or no time but a mark."""

clock = CLOCKS[os.environ.get("WHILST_BENCH_CLOCK", "wall")]
"""The clock of the rows inside one loop, which `run.py` chooses by the environment."""

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


@dataclass(frozen=True)
class Measurement:
    """What one run of a workload inside one loop came to."""

    operations: int
    seconds: float


@dataclass(frozen=True)
class Row:
    """What every row has.

    `target` is the ratio to the best peer, above 1 where whilst is ahead, that the project asks of itself;
    `goal` is a value in the row's own unit that it asks for instead.
    """

    name: str
    title: str
    target: float | None
    goal: float | None


@dataclass(frozen=True)
class Inside(Row):
    """A row inside one loop: time per operation, lower is better.

    `cores` is how many the process may run on. One, unless the workload has a second thread or process.
    `imports` says that the workload times the import of the loop's package, which has not happened when it
    begins.
    """

    workload: Callable[[LoopFactory, int], Measurement]
    operations: int
    unit: str
    cores: int
    imports: bool


@dataclass(frozen=True)
class Throughput(Row):
    """A server on one core under a load on the other: requests per second and the server's CPU time per
    request.

    `serve` makes a loop, listens on the loopback address, calls its second argument with the port, and serves
    for good. `load` is what `whilst-load` calls it. `limit` says that `whilst-limit` is a server of the same
    kind.
    """

    serve: Callable[[LoopFactory, Callable[[int], None]], None]
    load: str
    connections: int
    size: int
    limit: bool = False


@dataclass(frozen=True)
class Kept(Throughput):
    """The share of its requests that a server keeps while another Python thread of its process computes."""


@dataclass(frozen=True)
class Idle(Throughput):
    """The memory by which the server grows for a connection that has exchanged one message and is idle."""


def inside(
    title: str,
    *,
    operations: int,
    target: float | None,
    goal: float | None = None,
    unit: str = "µs",
    cores: int = 1,
    imports: bool = False,
) -> Callable[[Callable[[LoopFactory, int], Measurement]], Inside]:
    """Make a row of a workload; the row has the workload's name."""

    def decorate(workload: Callable[[LoopFactory, int], Measurement]) -> Inside:
        return Inside(
            name=workload.__name__,
            title=title,
            target=target,
            goal=goal,
            workload=workload,
            operations=operations,
            unit=unit,
            cores=cores,
            imports=imports,
        )

    return decorate


def run(new_loop: LoopFactory, main: Coroutine[Any, Any, Measurement]) -> Measurement:
    """Run a workload that is a coroutine on a loop of its own."""
    loop = new_loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(main)
    finally:
        asyncio.set_event_loop(None)
        loop.close()
