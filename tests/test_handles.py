"""Handles: what they are, compare by, show and keep alive."""

import asyncio
import gc
import weakref
from typing import Any

import pytest
import whilst
from oracle import error_of, factories, handler_notes, program, same, turns

pytestmark = pytest.mark.usefixtures("driver")


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
