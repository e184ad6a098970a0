"""Callbacks and timers: ``call_soon`` and its kin, handles, what callbacks raise."""

import asyncio
import contextvars
import gc
import sys
import threading
import time
import weakref
from fractions import Fraction
from typing import Any

import pytest
import whilst
from oracle import SECONDS, error_of, handler_notes, program, run, same, stdlib_loop, turns

pytestmark = pytest.mark.usefixtures("driver")


def factories() -> tuple[Any, Any]:
    return stdlib_loop, whilst.new_event_loop


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


# -- Contexts -----------------------------------------------------------------------------------------------------------------


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="default")


def test_contexts() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        variable.set("scenario")
        own = contextvars.copy_context()
        own.run(variable.set, "own")

        def note(name: str) -> None:
            notes.append((name, variable.get()))
            variable.set(f"set by {name}")

        loop.call_soon(note, "copy")
        loop.call_soon(note, "copy again")
        loop.call_soon(note, "own", context=own)
        loop.call_soon(note, "own again", context=own)
        loop.call_soon(note, "none", context=None)
        loop.call_soon_threadsafe(note, "safe", context=own)
        loop.call_later(0, note, "later", context=own)
        loop.call_at(0, note, "at", context=own)
        await asyncio.sleep(0.005)
        notes.append(variable.get())
        notes.append(own[variable].startswith("set by"))

    notes = same(scenario)
    assert ("copy again", "scenario") in notes


@pytest.mark.parametrize("count", [10, 1000])
@pytest.mark.parametrize("way", ["call_soon", "call_later", "call_soon_threadsafe"])
def test_each_callback_has_a_context_of_its_own(count: int, way: str) -> None:
    """However many wait: what one sets no other sees, and each sees what was set when it was scheduled."""

    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def note(number: int) -> None:
            notes.append((number, variable.get()))
            variable.set(f"set by {number}")
            if len(notes) == count:
                done.set_result(None)

        schedule: Any = getattr(loop, way)
        handles = []
        for number in range(count):
            if number % 7 == 0:
                variable.set(f"before {number}")
            arguments = (0, note, number) if way == "call_later" else (note, number)
            handle = schedule(*arguments)
            if number % 3 == 0:
                handles.append(handle)
        await asyncio.wait_for(done, SECONDS)
        contexts = [handle._context for handle in handles]
        assert len(set(map(id, contexts))) == len(contexts)
        notes.append([context[variable] for context in contexts])
        assert [handle._context for handle in handles] == contexts

    same(scenario)


def test_the_context_of_a_handle_is_its_own_before_it_runs_too() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(500):
            loop.call_soon(int)
        handles: list[Any] = [loop.call_soon(lambda: notes.append(variable.get())) for _ in range(3)]
        handles[1]._context.run(variable.set, "set from outside")
        assert handles[1]._context is handles[1]._context is not handles[0]._context
        await turns()

    same(scenario)


def test_what_callbacks_do_to_their_contexts_stays_there() -> None:
    """Set and reset a variable, keep its token, run a handle inside of another, raise: in chains and side by side."""

    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        kept: list[contextvars.Token[str]] = []

        def note(*what: object) -> None:
            notes.append((*what, variable.get()))

        def step(number: int) -> None:
            note(number)
            way = number * 7 % 11
            if way == 1:
                variable.set(f"set by {number}")
            elif way == 2:
                variable.reset(variable.set("for a moment"))
            elif way == 3:
                kept.append(variable.set(variable.get()))
            elif way == 4 and kept:
                notes.append(error_of(variable.reset, kept.pop())[0])
            elif way == 5:
                inner: Any = loop.call_soon(note, "inside", number)
                variable.set(f"around {number}")
                inner._run()
                note("after", number)
            elif way == 6:
                contextvars.copy_context().run(loop.call_soon, note, "from a copy")
            elif way == 7:
                other = contextvars.copy_context()
                other.run(variable.set, f"in another, {number}")
                other.run(loop.call_soon, note, "from another")
                loop.call_soon(note, "from here")
            elif way == 8:
                loop.call_soon(fail, number)
            if number < 200:
                loop.call_soon(note, "beside", number)
                loop.call_soon(step, number + 1)
                loop.call_later(0, notes.append, "timer")
            else:
                done.set_result(None)

        def fail(number: int) -> None:
            variable.set(f"failed in {number}")
            raise ValueError(number)

        loop.set_exception_handler(
            lambda _loop, context: notes.append(context["handle"]._context[variable])  # type: ignore[attr-defined]
        )
        variable.set("outside")
        step(0)
        await asyncio.wait_for(done, SECONDS)
        await turns()
        notes[:] = [note for note in notes if note != "timer"]

    same(scenario)


@pytest.mark.skipif(not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="each has its own there")
def test_callbacks_that_wait_have_one_context() -> None:
    def contexts() -> int:
        return sum(type(it) is contextvars.Context for it in gc.get_objects())

    loop = whilst.Loop()
    before = contexts()
    for _ in range(500):
        loop.call_soon(int)
        loop.call_later(0, int)
    assert contexts() - before < 5
    loop.call_later(0, loop.stop)
    loop.run_forever()
    assert contexts() - before < 2
    loop.close()


def test_what_contexts_hold_is_let_go_of_with_the_callbacks() -> None:
    class Value:
        pass

    loop = whilst.Loop()
    holder: contextvars.ContextVar[Value] = contextvars.ContextVar("holder")
    values = []

    def schedule() -> None:
        value = Value()
        values.append(weakref.ref(value))
        holder.set(value)
        for _ in range(500):
            loop.call_soon(int)

    for _ in range(3):
        contextvars.copy_context().run(schedule)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert [value() for value in values] == [None] * 3
    contextvars.copy_context().run(schedule)
    loop.close()
    assert values[-1]() is None


def test_cycles_through_contexts_that_wait_are_collected() -> None:
    loop = whilst.Loop()
    holder: contextvars.ContextVar[Any] = contextvars.ContextVar("holder")

    def schedule() -> None:
        holder.set(loop)
        for _ in range(500):
            loop.call_soon(int)

    contextvars.copy_context().run(schedule)
    loop_gone = weakref.ref(loop)
    del loop
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        gc.collect()
    assert loop_gone() is None


def test_handles_by_the_thousand_and_their_memory() -> None:
    """Handles that come and go in every order, some of them cancelled, some held on to and weakly referred to."""
    loop = whilst.Loop()
    ran: list[int] = []
    held: dict[int, Any] = {}
    cancelled = set()
    for turn in range(5):
        for number in range(turn * 10_000, (turn + 1) * 10_000):
            handle = (
                loop.call_later(0, ran.append, number)
                if number % 5 == 0
                else loop.call_soon(ran.append, number)
            )
            if number % 11 == 0:
                held[number] = handle
            if number % 13 == 0:
                handle.cancel()
                cancelled.add(number)
        for number in list(held)[::2]:
            del held[number]
        loop.call_later(0, loop.stop)
        loop.run_forever()
    references = [weakref.ref(handle) for handle in held.values()]
    assert all(reference() is handle for reference, handle in zip(references, held.values(), strict=True))
    assert sorted(ran) == [number for number in range(50_000) if number not in cancelled]
    assert all(handle.cancelled() == (number in cancelled) for number, handle in held.items())
    held.clear()
    del handle
    gc.collect()
    assert [reference() for reference in references] == [None] * len(references)
    loop.close()


def test_a_context_that_is_already_entered(caplog: pytest.LogCaptureFixture) -> None:
    """That is an error of the callback's. (From 3.12 on its handler cannot enter the context either, and is said to fail.)"""

    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        handle = loop.call_soon(notes.append, "ran", context=context)
        caplog.clear()
        context.run(handle._run)  # type: ignore[attr-defined]
        handle.cancel()
        await turns()
        notes.extend(record.getMessage().partition("\n")[0] for record in caplog.records)

    assert "ran" not in same(scenario)


def test_a_callback_that_raises_leaves_its_context() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        handler_notes(loop, notes)
        context = contextvars.copy_context()

        def fail() -> None:
            raise ValueError("once")

        loop.call_soon(fail, context=context)
        loop.call_soon(notes.append, "again in the same context", context=context)
        await turns()
        context.run(notes.append, "and once more")

    same(scenario)


# -- Handles ------------------------------------------------------------------------------------------------------------------


def test_handles_are_handles() -> None:
    loop = whilst.Loop()
    handle = loop.call_soon(print)
    timer = loop.call_later(1, print)
    safe = loop.call_soon_threadsafe(print)
    assert isinstance(handle, asyncio.Handle) and not isinstance(handle, asyncio.TimerHandle)
    assert isinstance(safe, asyncio.Handle)
    assert isinstance(timer, asyncio.TimerHandle)
    for each in (handle, timer, safe):
        assert weakref.ref(each)() is each
        assert not each.cancelled()
        each.cancel()
        each.cancel()
        assert each.cancelled()
    assert hash(handle) == hash(handle)
    assert {handle, handle, safe} == {safe, handle}
    loop.close()


def test_handles_look_like_cpythons() -> None:
    def callback(*_args: object) -> None: ...

    for debug in (False, True):
        seen = []
        for factory in factories():
            loop = factory()
            loop.set_debug(debug)
            now = loop.time() + 100
            handle = loop.call_soon(callback, 1, "two")
            timer = loop.call_at(now, callback)
            texts = [repr(handle), repr(timer).replace(repr(now), "NOW")]
            handle.cancel()
            timer.cancel()
            texts += [repr(handle), repr(timer).replace(repr(now), "NOW")]
            loop.close()
            seen.append(texts)
        assert seen[0] == seen[1]


def test_timers_compare_by_time() -> None:
    records = []
    for factory in factories():
        loop = factory()
        early, late = loop.call_at(10.0, print), loop.call_at(20.0, print)
        twin = loop.call_at(10.0, print)
        other = loop.call_at(10.0, repr)
        handle = loop.call_soon(print)
        cancelled = loop.call_at(10.0, print)
        cancelled.cancel()
        records.append(
            [
                early < late,
                early <= late,
                early > late,
                early >= late,
                early == late,
                early != late,
                early == twin,
                early <= twin,
                early == other,
                early <= other,
                early == cancelled,
                early == handle,
                early == 10.0,
                hash(early) == hash(twin),
                hash(early) == hash(10.0),
                early.when(),
                sorted([late, early]) == [early, late],
                error_of(lambda: early < 10.0)[0],
            ]
        )
        loop.close()
    assert records[0] == records[1]


def test_a_callback_cancels_itself_and_its_neighbours() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        handles: dict[str, asyncio.Handle] = {}

        def cancel(*names: str) -> None:
            notes.append(names)
            for name in names:
                handles[name].cancel()

        handles["a"] = loop.call_soon(cancel, "a", "b", "timer")
        handles["b"] = loop.call_soon(cancel, "b")
        handles["c"] = loop.call_soon(cancel, "a", "c")
        handles["timer"] = loop.call_later(0, cancel, "timer")
        handles["last"] = loop.call_later(0.001, cancel, "last")
        await asyncio.sleep(0.01)
        notes.append({name: handle.cancelled() for name, handle in handles.items()})

    same(scenario)


def test_run_by_hand() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        handler_notes(loop, notes)
        handle: Any = loop.call_soon(notes.append, "ran")
        handle._run()
        handle._run()
        timer: Any = loop.call_later(1000, notes.append, "timer")
        timer._run()
        timer.cancel()
        failing: Any = loop.call_soon(int, "x")
        failing._run()
        failing.cancel()
        await turns()

    same(scenario)


def test_a_handle_lets_go_of_its_callback_once_cancelled() -> None:
    for debug in (False, True):
        loop = whilst.Loop()
        loop.set_debug(debug)

        class Callback:
            def __call__(self, *_args: object) -> None: ...

        callback, argument = Callback(), Callback()
        references = [weakref.ref(callback), weakref.ref(argument)]
        handles = [
            loop.call_soon(callback, argument),
            loop.call_later(100, callback, 1, 2, 3, argument),
            loop.call_soon_threadsafe(callback, argument),
        ]
        del callback, argument
        for handle in handles:
            handle.cancel()
        assert [reference() for reference in references] == [None, None]
        loop.close()


def test_cycles_through_handles_are_collected() -> None:
    class Node:
        handle: Any

        def __call__(self) -> None: ...

    loop = whilst.Loop()
    references = []
    for schedule in (
        loop.call_soon,
        loop.call_soon_threadsafe,
        lambda callback: loop.call_later(1000, callback),
    ):
        node = Node()
        node.handle = schedule(node)
        references.append(weakref.ref(node))
    del node
    gc.collect()
    assert all(reference() is not None for reference in references), "they are scheduled"
    loop.close()
    del loop, schedule
    gc.collect()
    assert [reference() for reference in references] == [None] * 3


def test_cycles_through_an_unclosed_loop_are_collected() -> None:
    class Node:
        def __call__(self, *args: object) -> None: ...

    loop: Any = whilst.Loop()
    node: Any = Node()
    node.loop = loop
    loop.node = node
    node.handles = [loop.call_soon(node, node), loop.call_later(1000, node, 1, 2, 3, 4, node)]
    loop.set_task_factory(node)
    loop.set_exception_handler(node)
    references = [weakref.ref(loop), weakref.ref(node)]
    del loop, node
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_a_handle_outlives_its_loop() -> None:
    loop = whilst.Loop()
    handle, timer = loop.call_soon(print), loop.call_later(10, print)
    loop.close()
    del loop
    gc.collect()
    repr(handle), repr(timer)
    handle.cancel()
    timer.cancel()
    assert handle.cancelled() and timer.cancelled()


def test_a_long_chain_of_handles_is_freed_without_running_out_of_stack() -> None:
    result = program(
        """
        import asyncio, whilst, sys
        loop = whilst.Loop()
        for schedule in (loop.call_soon, lambda *args: loop.call_later(1000, *args)):
            handle = None
            for _ in range(200_000):
                before, handle = handle, schedule(print, handle)
                # Only the chain holds the callback's handle.
            del before
            loop.close()
            del handle, schedule
            loop = whilst.Loop()
        loop.close()
        print("freed")
        """
    )
    assert (result.stdout, result.returncode) == ("freed\n", 0), result.stderr[-2000:]


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
