"""Callbacks and timers, with no coroutine and no socket in it."""

import threading

from .row import LoopFactory, Measurement, batches, clock, inside


def _nothing(*_arguments: object) -> None:
    pass


@inside("`call_soon`, scheduled then drained", group="Callbacks and timers", operations=1_000_000, target=1.2)
def call_soon(new_loop: LoopFactory, n: int) -> Measurement:
    """Many callbacks in one iteration."""
    loop = new_loop()
    schedule = loop.call_soon
    start = clock()
    for count in batches(n, 200_000):
        for _ in range(count):
            schedule(_nothing)
        schedule(loop.stop)
        loop.run_forever()
    seconds = clock() - start
    loop.close()
    return Measurement(n, seconds)


@inside("the same with three arguments", group="Callbacks and timers", operations=1_000_000, target=1.2)
def call_soon_arguments(new_loop: LoopFactory, n: int) -> Measurement:
    """Many callbacks in one iteration, each with arguments to keep."""
    loop = new_loop()
    schedule = loop.call_soon
    start = clock()
    for count in batches(n, 200_000):
        for _ in range(count):
            schedule(_nothing, 1, 2, 3)
        schedule(loop.stop)
        loop.run_forever()
    seconds = clock() - start
    loop.close()
    return Measurement(n, seconds)


@inside("a callback that schedules the next", group="Callbacks and timers", operations=2_000_000, target=1.2)
def chain(new_loop: LoopFactory, n: int) -> Measurement:
    """One callback an iteration: what an iteration costs."""
    loop = new_loop()
    schedule = loop.call_soon
    left = n

    def link() -> None:
        nonlocal left
        left -= 1
        if left:
            schedule(link)
        else:
            loop.stop()

    start = clock()
    schedule(link)
    loop.run_forever()
    seconds = clock() - start
    loop.close()
    return Measurement(n, seconds)


@inside(
    "`call_soon_threadsafe` from another thread",
    group="Callbacks and timers",
    operations=300_000,
    target=1.2,
    cores=2,
)
def call_soon_threadsafe(new_loop: LoopFactory, n: int) -> Measurement:
    """A burst from a thread, while the loop runs what has arrived."""
    loop = new_loop()

    def burst() -> None:
        schedule = loop.call_soon_threadsafe
        for _ in range(n):
            schedule(_nothing)
        schedule(loop.stop)

    thread = threading.Thread(target=burst)
    start = clock()
    loop.call_soon(thread.start)
    loop.run_forever()
    seconds = clock() - start
    thread.join()
    loop.close()
    return Measurement(n, seconds)


@inside("`call_later` and `cancel`", group="Callbacks and timers", operations=1_000_000, target=1.2)
def timer_cancel(new_loop: LoopFactory, n: int) -> Measurement:
    """Timeouts that are not needed, as a request of a server has one; the loop goes round after every 100."""
    loop = new_loop()
    later = loop.call_later
    batches = n // 100

    def batch() -> None:
        nonlocal batches
        for _ in range(100):
            later(60, _nothing).cancel()
        batches -= 1
        if batches:
            loop.call_soon(batch)
        else:
            loop.stop()

    start = clock()
    loop.call_soon(batch)
    loop.run_forever()
    seconds = clock() - start
    loop.close()
    return Measurement(n // 100 * 100, seconds)


@inside("timers that fire", group="Callbacks and timers", operations=400_000, target=1.2)
def timer_fire(new_loop: LoopFactory, n: int) -> Measurement:
    """Timers due within the next millisecond, out of order, made and run."""
    loop = new_loop()
    left = 0

    def fire() -> None:
        nonlocal left
        left -= 1
        if not left:
            loop.stop()

    def make(count: int) -> None:
        nonlocal left
        left = count
        now = loop.time()
        at = loop.call_at
        for i in range(count):
            # 7919 is prime: the deadlines come in no order that a heap would find easy.
            at(now + (i * 7919 % 1000) * 1e-6, fire)

    start = clock()
    for count in batches(n, 50_000):
        loop.call_soon(make, count)
        loop.run_forever()
    seconds = clock() - start
    loop.close()
    return Measurement(n, seconds)


ROWS = (
    call_soon,
    call_soon_arguments,
    chain,
    call_soon_threadsafe,
    timer_cancel,
    timer_fire,
)
