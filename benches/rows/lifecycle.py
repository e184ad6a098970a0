"""A loop's making and end, which test suites do thousands of times."""

import time

from .row import LoopFactory, Measurement, inside


async def _nothing() -> None:
    pass


@inside("a loop's life: make, run nothing, close", operations=1_000, target=None, goal=100.0)
def life(new_loop: LoopFactory, n: int) -> Measurement:
    """Loops one after the other."""
    start = time.perf_counter()
    for _ in range(n):
        loop = new_loop()
        loop.run_until_complete(_nothing())
        loop.close()
    return Measurement(n, time.perf_counter() - start)


@inside("import and first loop", operations=1, target=None, goal=15.0, unit="ms", imports=True)
def import_and_first_loop(new_loop: LoopFactory, n: int) -> Measurement:
    """From a process that has asyncio to the first coroutine done."""
    start = time.perf_counter()
    loop = new_loop()
    loop.run_until_complete(_nothing())
    loop.close()
    return Measurement(n, time.perf_counter() - start)


ROWS = (life, import_and_first_loop)
