"""A loop's making and end, which test suites do thousands of times."""

from .row import LoopFactory, Measurement, clock, inside


async def _nothing() -> None:
    pass


@inside(
    "a loop's life: make, run nothing, close",
    group="A loop itself",
    operations=2_000,
    target=None,
    goal=100.0,
)
def life(new_loop: LoopFactory, n: int) -> Measurement:
    """Loops one after the other."""
    start = clock()
    for _ in range(n):
        loop = new_loop()
        loop.run_until_complete(_nothing())
        loop.close()
    return Measurement(n, clock() - start)


@inside(
    "import and first loop",
    group="A loop itself",
    operations=1,
    target=None,
    goal=15.0,
    unit="ms",
    imports=True,
)
def import_and_first_loop(new_loop: LoopFactory, n: int) -> Measurement:
    """From a process that has asyncio to the first coroutine done."""
    start = clock()
    loop = new_loop()
    loop.run_until_complete(_nothing())
    loop.close()
    return Measurement(n, clock() - start)


ROWS = (life, import_and_first_loop)
