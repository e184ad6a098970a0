"""What a task waits for, on real tasks."""

import asyncio
import concurrent.futures
import socket
import sys
import threading
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from typing import Any

import pytest
import whilst
from whilst._waits import KINDS, awaited_at, awaited_by, waits_for

Main = Callable[[], Coroutine[Any, Any, Any]]


@pytest.fixture
def run(driver: str) -> Callable[[Main], Any]:
    return lambda main: whilst.run(asyncio.wait_for(main(), 30))


async def suspended(awaitable: Awaitable[Any], name: str | None = None) -> "asyncio.Task[Any]":
    """A task that awaits *awaitable*, once it does."""

    async def program() -> None:
        await awaitable

    task = asyncio.create_task(program(), name=name)
    while waits_for(task)[0] == "ready":
        await asyncio.sleep(0)
    return task


async def cancel(*tasks: "asyncio.Task[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def shown(awaitable: Callable[[], Awaitable[Any]]) -> Main:
    """A program that returns what a task that awaits *awaitable()* waits for."""

    async def main() -> tuple[str, str]:
        task = await suspended(awaitable())
        told = waits_for(task)
        assert told[0] in KINDS
        await cancel(task)
        return told

    return main


async def locked() -> None:
    lock = asyncio.Lock()
    await lock.acquire()
    async with lock:
        pass


async def notified() -> None:
    condition = asyncio.Condition()
    async with condition:
        await condition.wait_for(lambda: False)


async def barrier() -> None:
    await asyncio.Barrier(2).wait()


async def full() -> None:
    queue = asyncio.Queue[int](1)
    await queue.put(1)
    await queue.put(2)


async def joined() -> None:
    queue = asyncio.Queue[int](1)
    await queue.put(1)
    await queue.join()


async def timed_out() -> None:
    await asyncio.wait_for(asyncio.sleep(30), 20)


async def timed_out_future() -> None:
    await asyncio.wait_for(asyncio.get_running_loop().create_future(), 20)


async def group() -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(asyncio.sleep(30))


async def generator() -> AsyncIterator[int]:
    await asyncio.sleep(30)
    yield 1


async def iterated() -> None:
    async for _ in generator():
        pass


class Awaitable_:
    def __await__(self) -> Generator[Any, Any, None]:
        yield from asyncio.sleep(30).__await__()


@pytest.mark.parametrize(
    ("awaitable", "kind", "text"),
    [
        (lambda: asyncio.sleep(30), "sleep", "sleep"),
        (Awaitable_, "sleep", "sleep"),
        (iterated, "sleep", "sleep"),
        (locked, "lock", "Lock.acquire"),
        (notified, "lock", "Condition.wait_for"),
        (lambda: asyncio.Event().wait(), "lock", "Event.wait"),
        (lambda: asyncio.Semaphore(0).acquire(), "lock", "Semaphore.acquire"),
        (barrier, "lock", "Barrier.wait"),
        (lambda: asyncio.Queue[int]().get(), "queue", "Queue.get"),
        (full, "queue", "Queue.put"),
        (joined, "queue", "Queue.join"),
        (lambda: asyncio.wait([asyncio.create_task(asyncio.sleep(30))]), "gather", "wait"),
        (lambda: asyncio.gather(asyncio.sleep(30), asyncio.sleep(0)), "gather", None),
        (group, "gather", "TaskGroup.__aexit__"),
        (lambda: asyncio.get_running_loop().create_future(), "future", "Future"),
    ],
)
def test_kinds(run: Callable[[Main], Any], awaitable: Any, kind: str, text: str | None) -> None:
    told = run(shown(awaitable))
    assert told[0] == kind
    if text is not None:
        assert told[1] == text


def test_gather_tells_how_many_are_left(run: Callable[[Main], Any]) -> None:
    async def main() -> tuple[str, str]:
        done = asyncio.get_running_loop().create_future()
        task = await suspended(asyncio.gather(done, asyncio.sleep(30), asyncio.sleep(30)))
        done.set_result(None)
        await asyncio.sleep(0)
        told = waits_for(task)
        await cancel(task)
        return told

    assert run(main) == ("gather", "gather: 2 of 3 pending")


@pytest.mark.parametrize("wrapped", [timed_out, timed_out_future])
def test_wait_for_is_what_it_waits_for(run: Callable[[Main], Any], wrapped: Any) -> None:
    kind, _ = run(shown(wrapped))
    if wrapped is timed_out:
        # Up to 3.11 it makes a task of the coroutine, and waits for a future of its own.
        assert kind == ("sleep" if sys.version_info >= (3, 12) else "future")
    else:
        assert kind == "future"


def test_sockets(run: Callable[[Main], Any]) -> None:
    async def main() -> list[tuple[str, str]]:
        near, far = socket.socketpair()
        with near, far:
            near.setblocking(False)
            loop = asyncio.get_running_loop()
            receiving = await suspended(loop.sock_recv(near, 1))
            told = [waits_for(receiving)]
            await cancel(receiving)
            reader, writer = await asyncio.open_connection(sock=near)
            reading = await suspended(reader.readexactly(1))
            told.append(waits_for(reading))
            await cancel(reading)
            writer.close()
            await writer.wait_closed()
            return told

    received, read = run(main)
    assert received[0] == "socket"
    assert read == ("socket", "StreamReader.readexactly")


def test_bare_socket_wait_names_the_descriptor(driver: str) -> None:
    async def main() -> None:
        near, far = socket.socketpair()
        with near, far:
            near.setblocking(False)
            task = asyncio.create_task(asyncio.get_running_loop().sock_recv(near, 1))
            await asyncio.sleep(0)
            kind, text = waits_for(task)
            assert kind == "socket"
            assert text
            await cancel(task)

    whilst.run(main())


def test_executor(run: Callable[[Main], Any]) -> None:
    async def main() -> None:
        go = threading.Event()
        try:
            assert waits_for(await suspended(asyncio.to_thread(go.wait, 30))) == ("executor", "to_thread")
            future = asyncio.get_running_loop().run_in_executor(None, go.wait, 30)
            assert waits_for(await suspended(future)) == ("executor", "run_in_executor")
            pool_future: concurrent.futures.Future[None] = concurrent.futures.Future()
            assert waits_for(await suspended(asyncio.wrap_future(pool_future)))[0] == "executor"
            pool_future.cancel()
        finally:
            go.set()

    run(main)


def test_process(run: Callable[[Main], Any]) -> None:
    async def main() -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE
        )
        waiting = await suspended(process.wait())
        assert waits_for(waiting) == ("process", "Process.wait")
        # It takes two iterations and more until communicate() has written and waits.
        await process.communicate(b"\n")
        await waiting
        assert waits_for(waiting) == ("ready", "done")

    run(main)


def test_task_and_shield(run: Callable[[Main], Any]) -> None:
    async def main() -> None:
        inner = asyncio.create_task(asyncio.sleep(30), name="inner")
        outer, shielding = await suspended(inner), await suspended(asyncio.shield(inner))
        assert waits_for(outer) == ("task", "inner")
        assert waits_for(shielding) == ("task", "inner")
        await cancel(shielding, outer, inner)

    run(main)


def test_ready_and_running(run: Callable[[Main], Any]) -> None:
    async def main() -> None:
        task = asyncio.create_task(asyncio.sleep(0))
        assert waits_for(task) == ("ready", "")
        await asyncio.sleep(0)
        assert waits_for(task) == ("ready", "")
        current = asyncio.current_task()
        assert current is not None
        assert waits_for(current) == ("running", "")
        assert [function for _, _, function in awaited_at(current)]
        await task
        assert awaited_at(task) == []

    run(main)


@types.coroutine
def old_style() -> Generator[Any, Any, None]:
    yield from asyncio.sleep(30).__await__()


async def through_everything() -> None:
    async for _ in between():
        pass


async def between() -> AsyncIterator[int]:
    await old_style()  # The line that the test looks for.
    yield 1


def test_chain_of_lines(run: Callable[[Main], Any]) -> None:
    async def main() -> None:
        task = await suspended(through_everything())
        chain = awaited_at(task)
        names = [function.rpartition(".")[2] for _, _, function in chain]
        assert names == ["program", "through_everything", "between", "old_style", "sleep"]
        filename, line, _ = chain[2]
        assert filename == __file__
        with open(__file__) as source:
            assert (
                source.readlines()[line - 1].strip()
                == "await old_style()  # The line that the test looks for."
            )
        await cancel(task)

    run(main)


async def by_await(task: "asyncio.Task[Any]") -> None:
    await task


async def by_gather(task: "asyncio.Task[Any]") -> None:
    await asyncio.gather(asyncio.sleep(30), task)


async def by_wait(task: "asyncio.Task[Any]") -> None:
    await asyncio.wait([task])


async def by_wait_for(task: "asyncio.Task[Any]") -> None:
    await asyncio.wait_for(task, 20)


async def by_shield(task: "asyncio.Task[Any]") -> None:
    await asyncio.shield(task)


async def by_shield_in_gather(task: "asyncio.Task[Any]") -> None:
    await asyncio.gather(asyncio.shield(task), asyncio.sleep(30))


async def by_as_completed(task: "asyncio.Task[Any]") -> None:
    for next_one in asyncio.as_completed([task]):
        await next_one


@pytest.mark.parametrize(
    "way",
    [by_await, by_gather, by_wait, by_wait_for, by_shield, by_shield_in_gather, by_as_completed],
)
def test_awaited_by(run: Callable[[Main], Any], way: Any) -> None:
    async def main() -> None:
        task = asyncio.create_task(asyncio.sleep(30), name="awaited")
        waiting = await suspended(way(task), "waiting")
        bystander = await suspended(asyncio.sleep(30), "bystander")
        await asyncio.sleep(0)
        assert awaited_by(task) == [waiting]
        assert awaited_by(waiting) == []
        assert awaited_by(bystander) == []
        await cancel(waiting, bystander, task)

    run(main)


def test_awaited_by_several(run: Callable[[Main], Any]) -> None:
    async def main() -> None:
        task = asyncio.create_task(asyncio.sleep(30))
        first, second = await suspended(by_shield(task)), await suspended(task)
        assert {*awaited_by(task)} == {first, second}
        await cancel(first, second, task)

    run(main)


def test_awaited_by_the_parent_of_a_group(run: Callable[[Main], Any]) -> None:
    async def main() -> None:
        children: list[asyncio.Task[Any]] = []

        async def parent() -> None:
            async with asyncio.TaskGroup() as tasks:
                children.append(tasks.create_task(asyncio.sleep(30)))

        task = await suspended(parent())
        assert awaited_by(children[0]) == [task]
        await cancel(task)

    run(main)


def test_a_future_that_nobody_waits_for(run: Callable[[Main], Any]) -> None:
    async def main() -> None:
        task = asyncio.create_task(asyncio.sleep(30))
        other = asyncio.current_task()
        task.add_done_callback(lambda _: print(other))
        assert awaited_by(task) == []
        await cancel(task)

    run(main)
