"""Coroutines: asyncio's own tasks and futures, driven by the loop."""

import asyncio

from .row import LoopFactory, Measurement, batches, clock, inside, run


@inside("`await asyncio.sleep(0)`", group="Tasks", operations=800_000, target=1.2)
def sleep0(new_loop: LoopFactory, n: int) -> Measurement:
    """One task that lets others go first, with no others there."""

    async def main() -> Measurement:
        start = clock()
        for _ in range(n):
            await asyncio.sleep(0)
        return Measurement(n, clock() - start)

    return run(new_loop, main())


@inside("`gather` of 50,000 tasks", group="Tasks", operations=150_000, target=1.0)
def gather(new_loop: LoopFactory, n: int) -> Measurement:
    """Tasks that are made, run once and are collected."""

    async def nothing() -> None:
        pass

    async def main() -> Measurement:
        start = clock()
        for count in batches(n, 50_000):
            await asyncio.gather(*[nothing() for _ in range(count)])
        return Measurement(n, clock() - start)

    return run(new_loop, main())


@inside("`wait_for`", group="Tasks", operations=100_000, target=1.0)
def wait_for(new_loop: LoopFactory, n: int) -> Measurement:
    """A timeout around something short: a timer made and cancelled, and an iteration."""

    async def main() -> Measurement:
        start = clock()
        for _ in range(n):
            await asyncio.wait_for(asyncio.sleep(0), 60)
        return Measurement(n, clock() - start)

    return run(new_loop, main())


@inside("20,000 overlapping sleeps", group="Tasks", operations=60_000, target=1.0)
def sleeps(new_loop: LoopFactory, n: int) -> Measurement:
    """Tasks that each wait for a timer of their own, of up to ten milliseconds."""

    async def main() -> Measurement:
        start = clock()
        for count in batches(n, 20_000):
            await asyncio.gather(*[asyncio.sleep(i * 7919 % 1000 * 1e-5) for i in range(count)])
        return Measurement(n, clock() - start)

    return run(new_loop, main())


@inside("an item through an `asyncio.Queue`", group="Tasks", operations=150_000, target=1.0)
def queue(new_loop: LoopFactory, n: int) -> Measurement:
    """A producer and a consumer that wait for each other."""

    async def main() -> Measurement:
        items: asyncio.Queue[int] = asyncio.Queue(1)

        async def produce() -> None:
            for i in range(n):
                await items.put(i)

        start = clock()
        producer = asyncio.ensure_future(produce())
        for _ in range(n):
            await items.get()
        await producer
        return Measurement(n, clock() - start)

    return run(new_loop, main())


@inside("`run_in_executor`, there and back", group="Tasks", operations=20_000, target=1.0, cores=2)
def executor(new_loop: LoopFactory, n: int) -> Measurement:
    """A function that does nothing, on a thread of the default executor."""

    def nothing() -> None:
        pass

    async def main() -> Measurement:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, nothing)
        start = clock()
        for _ in range(n):
            await loop.run_in_executor(None, nothing)
        seconds = clock() - start
        await loop.shutdown_default_executor()
        return Measurement(n, seconds)

    return run(new_loop, main())


ROWS = (sleep0, gather, wait_for, sleeps, queue, executor)
