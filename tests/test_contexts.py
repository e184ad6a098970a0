"""The contexts in which callbacks run."""

import asyncio
import contextvars
import gc
import sys
import weakref
from typing import Any

import pytest
import whilst
from oracle import SECONDS, error_of, handler_notes, same, turns

pytestmark = pytest.mark.usefixtures("driver")


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
