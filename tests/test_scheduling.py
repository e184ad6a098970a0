"""Callbacks and timers, ``call_soon`` and its kin: their order, their arguments, what they raise."""

import asyncio
import gc
import sys
import threading
import time
import weakref
from fractions import Fraction
from typing import Any

import pytest
import whilst
from oracle import SECONDS, error_of, factories, handler_notes, run, same, turns

pytestmark = pytest.mark.usefixtures("driver")


# -- Order --------------------------------------------------------------------------------------------------------------------


def test_callbacks_run_in_the_order_in_which_they_were_scheduled() -> None:
    loop = whilst.Loop()
    ran: list[int] = []
    for number in range(1000):
        loop.call_soon(ran.append, number)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    assert ran == list(range(1000))


def test_what_a_callback_schedules_belongs_to_the_next_iteration() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()

        def first() -> None:
            notes.append("first")
            loop.call_soon(notes.append, "scheduled by the first")
            loop.call_later(0, notes.append, "timer of the first")

        loop.call_soon(first)
        loop.call_soon(notes.append, "second")
        loop.call_later(0, notes.append, "timer")
        await turns()

    same(scenario)


def test_order_of_one_thread_across_call_soon_and_call_soon_threadsafe() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        for number in range(100):
            schedule = loop.call_soon if number % 3 else loop.call_soon_threadsafe
            schedule(notes.append, number)
        await turns()

    assert same(scenario) == list(range(100))


def test_order_of_several_threads() -> None:
    """Each thread's callbacks run in its order, and what was scheduled later in time runs later."""
    loop = whilst.Loop()
    ran: list[tuple[int, int]] = []
    each = 2000

    def work(thread: int) -> None:
        for number in range(each):
            loop.call_soon_threadsafe(ran.append, (thread, number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]

    def joined() -> None:
        for thread in threads:
            thread.join(SECONDS)
        loop.call_soon_threadsafe(loop.stop)

    for thread in threads:
        thread.start()
    watcher = threading.Thread(target=joined)
    watcher.start()
    loop.run_forever()
    watcher.join(SECONDS)
    loop.close()
    assert len(ran) == 4 * each
    for thread_number in range(4):
        assert [number for thread, number in ran if thread == thread_number] == list(range(each))


def test_scheduled_before_the_run_by_another_thread_runs_first() -> None:
    for factory in factories():
        loop = factory()
        ran: list[str] = []
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(ran.append, "thread"))
        thread.start()
        thread.join(SECONDS)
        loop.call_soon(ran.append, "main")
        loop.call_soon_threadsafe(ran.append, "main, safely")
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()
        assert ran == ["thread", "main", "main, safely"]


def test_a_sleeping_loop_is_woken_by_another_thread() -> None:
    """Not at the next timer, which is far away, nor ever so rarely: a lost wake-up would hang this."""
    loop = whilst.Loop()
    loop.call_later(SECONDS * 10, print, "never")
    count = 300
    answers: list[int] = []
    step = threading.Event()

    def callback(number: int) -> None:
        answers.append(number)
        step.set()

    def work() -> None:
        for number in range(count):
            step.clear()
            if number % 7 == 0:
                time.sleep(0.0005)  # So that the loop is asleep, sometimes for certain.
            loop.call_soon_threadsafe(callback, number)
            assert step.wait(SECONDS)
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=work)
    thread.start()
    loop.run_forever()
    thread.join(SECONDS)
    loop.close()
    assert answers == list(range(count))


def test_timers_run_in_the_order_of_their_times_and_never_early() -> None:
    loop = whilst.Loop()
    ran: list[tuple[float, float]] = []
    begin = loop.time()
    for delay in [0.02, 0.005, 0.01, 0.0, 0.015, 0.01, -1.0]:
        when = begin + delay
        loop.call_at(when, lambda when=when: ran.append((when, loop.time())))
    loop.call_later(0.03, loop.stop)
    loop.run_forever()
    loop.close()
    assert [when for when, _ in ran] == sorted(when for when, _ in ran)
    assert len(ran) == 7
    assert all(now >= when - 1e-8 for when, now in ran)


def test_timers_of_the_same_time_run_first_in_first_out() -> None:
    loop = whilst.Loop()
    ran: list[int] = []
    when = loop.time() + 0.01
    for number in range(500):
        loop.call_at(when, ran.append, number)
    loop.call_at(when, loop.stop)
    loop.run_forever()
    loop.close()
    assert ran == list(range(500))


def test_thousands_of_timers_cancelled() -> None:
    loop = whilst.Loop()
    ran: list[int] = []
    timers = [loop.call_later(0.01 + number % 10 * 0.001, ran.append, number) for number in range(20_000)]
    for number, timer in enumerate(timers):
        if number % 100:
            timer.cancel()
    loop.call_later(0.03, loop.stop)
    loop.run_forever()
    assert sorted(ran) == list(range(0, 20_000, 100))
    # After their time they can still be cancelled, and nothing happens.
    for timer in timers:
        timer.cancel()
        assert timer.cancelled()
    loop.close()


def test_cancelled_timers_are_let_go_of() -> None:
    class Big:
        pass

    loop = whilst.Loop()
    big = Big()
    reference = weakref.ref(big)
    timer = loop.call_later(1000, print, big)
    del big
    timer.cancel()
    assert reference() is None
    del timer
    loop.close()


def test_times_that_are_no_plain_floats() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        for delay in (0, True, Fraction(1, 1000), -5, float("-inf")):
            loop.call_later(delay, notes.append, repr(delay))  # type: ignore[arg-type]
            await asyncio.sleep(0.003)
        forever = loop.call_later(float("inf"), notes.append, "never")
        await turns()
        notes.append(forever.when())
        forever.cancel()

    same(scenario)


def test_a_time_that_is_not_a_number_neither_hangs_nor_spins() -> None:
    """It is before no time: CPython's loop runs it at once (and loses the order of other timers, which this does not)."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ran: list[str] = []
        loop.call_later(float("nan"), ran.append, "later")
        loop.call_at(float("nan"), ran.append, "at")
        await asyncio.sleep(0.01)
        assert ran == ["later", "at"]

    run(main())


# -- Arguments ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 10, 300])
def test_arguments(count: int) -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        arguments = tuple(object() for _ in range(count))

        class Callable:
            def __call__(self, *args: object) -> None:
                notes.append(("object", args == arguments))

            def method(self, *args: object) -> None:
                notes.append(("method", args == arguments))

        def function(*args: object) -> None:
            notes.append(("function", args == arguments))

        callable_ = Callable()
        for callback in (function, callable_, callable_.method):
            for handle in (
                loop.call_soon(callback, *arguments),
                loop.call_soon_threadsafe(callback, *arguments),
                loop.call_later(0, callback, *arguments),
                loop.call_at(loop.time(), callback, *arguments),
            ):
                notes.append(handle._args == arguments and handle._callback == callback)  # type: ignore[attr-defined]
        await asyncio.sleep(0.002)

    same(scenario)


def test_wrong_arguments_are_refused_in_cpythons_words() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop: Any = asyncio.get_running_loop()
        calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
            (loop.call_soon, (), {}),
            (loop.call_soon, (print,), {"nonsense": 1}),
            (loop.call_soon_threadsafe, (), {}),
            (loop.call_soon_threadsafe, (print,), {"nonsense": None}),
            (loop.call_later, (), {}),
            (loop.call_later, (1,), {}),
            (loop.call_later, (None, print), {}),
            (loop.call_later, (1, print), {"delay": 1}),
            (loop.call_at, (), {}),
            (loop.call_at, (1,), {}),
            (loop.call_at, (None, print), {}),
            (loop.time, (1,), {}),
            (loop.create_future, (1,), {}),
            (loop.create_task, (), {}),
        ]
        for call, arguments, keywords in calls:
            kind, words = error_of(call, *arguments, **keywords)
            # Python's own functions say the class's name as well.
            notes.append((call.__name__, kind, words.rpartition(".")[2]))
        for nonsense in ("1", [], object):
            notes.append(error_of(loop.call_later, nonsense, print)[0])

    same(scenario)


def test_callback_and_delay_by_keyword() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop: Any = asyncio.get_running_loop()
        loop.call_soon(callback=lambda: notes.append("soon"))
        loop.call_soon_threadsafe(callback=lambda: notes.append("safe"))
        loop.call_later(delay=0, callback=lambda: notes.append("later"))
        loop.call_at(when=0, callback=lambda: notes.append("at"))
        await asyncio.sleep(0.002)
        notes.sort()

    same(scenario)


def test_callbacks_are_not_looked_at_but_in_debug_mode() -> None:
    """None is scheduled like anything else; calling it fails, and says so."""

    async def scenario(notes: list[Any]) -> None:
        loop: Any = asyncio.get_running_loop()
        handler_notes(loop, notes)
        loop.call_soon(None)
        loop.call_later(0, None, 1)
        await asyncio.sleep(0.002)

    same(scenario, debug=False)


def test_callbacks_are_checked_in_debug_mode() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop: Any = asyncio.get_running_loop()

        async def coroutine() -> None: ...

        for schedule in (
            loop.call_soon,
            loop.call_soon_threadsafe,
            lambda callback: loop.call_later(1, callback),
            lambda callback: loop.call_at(1, callback),
        ):
            notes.append(error_of(schedule, None))
            notes.append(error_of(schedule, coroutine))
            awaitable = coroutine()
            notes.append(error_of(schedule, awaitable))
            awaitable.close()

    same(scenario, debug=True)


# -- What callbacks raise -----------------------------------------------------------------------------------------------------


def test_exceptions_go_to_the_handler_in_cpythons_words() -> None:
    def fail(*args: object) -> None:
        raise ZeroDivisionError("no", *args)

    records = []
    for factory in factories():
        loop = factory()
        contexts: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _loop, context, contexts=contexts: contexts.append(context))
        handle = loop.call_soon(fail)
        timer = loop.call_later(0, fail, 1, 2, 3, 4)
        loop.call_soon(asyncio.Future.result, asyncio.Future(loop=loop))
        loop.call_later(0.003, loop.stop)
        loop.run_forever()
        loop.close()
        assert contexts[0]["handle"] is handle or contexts[1]["handle"] is handle
        assert timer in [context["handle"] for context in contexts]
        records.append(
            [
                (sorted(context), context["message"].partition(" created at")[0], repr(context["exception"]))
                for context in contexts
                if "Future" not in context["message"]
            ]
        )
        assert len(contexts) == 3
    assert records[0] == records[1]


def test_the_default_handler_logs_as_cpythons(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ZeroDivisionError("no")

    texts = []
    for factory in factories():
        loop = factory()
        loop.call_soon(fail)
        loop.call_soon(loop.stop)
        caplog.clear()
        loop.run_forever()
        loop.close()
        texts.append([(record.name, record.levelname, record.getMessage()) for record in caplog.records])
    assert texts[0] == texts[1]
    assert "Exception in callback" in texts[1][0][2]


def test_a_handler_that_fails_itself(caplog: pytest.LogCaptureFixture) -> None:
    texts = []
    for factory in factories():
        loop = factory()

        def handler(_loop: object, _context: object) -> None:
            raise RuntimeError("the handler fails, too")

        loop.set_exception_handler(handler)
        loop.call_soon(int, "x")
        ran: list[int] = []
        loop.call_soon(ran.append, 1)
        loop.call_soon(loop.stop)
        caplog.clear()
        loop.run_forever()
        loop.close()
        assert ran == [1]
        texts.append([record.getMessage().partition("\n")[0] for record in caplog.records])
    assert texts[0] == texts[1]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("way", ["soon", "timer", "threadsafe", "reader"])
def test_what_ends_the_run_leaves_and_the_rest_is_still_queued(kind: type[BaseException], way: str) -> None:
    import socket

    for factory in factories():
        loop = factory()
        first, second = socket.socketpair()
        ran: list[str] = []

        def leave(*_args: object, kind: type[BaseException] = kind) -> None:
            raise kind("now")

        if way == "soon":
            loop.call_soon(leave)
        elif way == "timer":
            loop.call_later(0, leave)
        elif way == "threadsafe":
            loop.call_soon_threadsafe(leave)
        else:
            first.send(b"x")
            loop.add_reader(second, leave)
        loop.call_later(0.001, ran.append, "timer")
        if way == "soon":
            loop.call_soon(ran.append, "rest")
        with pytest.raises(kind, match="now"):
            loop.run_forever()
        assert not loop.is_running()
        if way == "reader":
            loop.remove_reader(second)
        loop.call_later(0.01, loop.stop)
        loop.run_forever()
        loop.close()
        first.close()
        second.close()
        assert ran == (["rest", "timer"] if way == "soon" else ["timer"])


@pytest.mark.parametrize("kind", [GeneratorExit, asyncio.CancelledError, BaseException])
def test_other_base_exceptions_go_to_the_handler(kind: type[BaseException]) -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        handler_notes(loop, notes)

        def fail() -> None:
            raise kind("x")

        loop.call_soon(fail)
        loop.call_soon(notes.append, "next")
        await turns()

    same(scenario)


def test_a_callback_that_fails_deeply() -> None:
    """The stack runs out in a callback: that is an exception like any other."""

    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()

        def deep() -> None:
            deep()

        def handler(_loop: object, context: dict[str, Any]) -> None:
            notes.append(type(context["exception"]).__name__)

        loop.set_exception_handler(handler)
        loop.call_soon(deep)
        loop.call_soon(notes.append, "next")
        await turns()

    same(scenario)


# -- Under stress -------------------------------------------------------------------------------------------------------------


def test_garbage_collected_in_the_middle_of_scheduling() -> None:
    """Callbacks and their arguments are freed at any time, and freeing them schedules and cancels."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        finalized = 0
        pending: list[asyncio.Handle] = []

        class Noisy:
            def __init__(self) -> None:
                self.me = self

            def __call__(self, *_args: object) -> None: ...

            def __del__(self) -> None:
                nonlocal finalized
                finalized += 1
                pending.append(loop.call_soon(print_nothing))
                loop.call_soon_threadsafe(print_nothing)
                loop.call_later(0, print_nothing)
                if pending and finalized % 3 == 0:
                    pending.pop(0).cancel()

        def print_nothing() -> None: ...

        thresholds = gc.get_threshold()
        gc.set_threshold(7, 2, 2)
        try:
            for number in range(1500):
                noisy = Noisy()
                handles = [
                    loop.call_soon(noisy, noisy),
                    loop.call_later(0.001, noisy),
                    loop.call_soon(noisy, 1, 2, 3, 4),
                ]
                handles[number % 3].cancel()
                if number % 50 == 0:
                    await asyncio.sleep(0)
            await asyncio.sleep(0.01)
        finally:
            gc.set_threshold(*thresholds)
        del noisy, handles
        await asyncio.sleep(0.005)
        gc.collect()
        await asyncio.sleep(0.005)
        assert finalized == 1500

    run(main())


def test_no_memory_is_kept_by_callbacks_that_ran() -> None:
    loop = whilst.Loop()

    def burst() -> None:
        for _ in range(20_000):
            loop.call_soon(int, "1")
            loop.call_later(0, int, "1")
            loop.call_later(1000, int, "1").cancel()
        loop.call_later(0.0001, loop.stop)
        loop.run_forever()

    burst()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(5):
        burst()
    gc.collect()
    grown = sys.getallocatedblocks() - before
    loop.close()
    assert grown < 1000
