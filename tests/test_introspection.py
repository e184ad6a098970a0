"""Looking into a program: its tasks, what they wait for, and from Python 3.14 on the command `python -m asyncio ps`."""

import asyncio
import io
import re
import subprocess
import sys
import textwrap
from typing import Any

import pytest
from oracle import SECONDS, run, same, turns

pytestmark = pytest.mark.usefixtures("driver")

since_3_14 = pytest.mark.skipif(sys.version_info < (3, 14), reason="from Python 3.14 on")


def test_all_tasks_and_the_current_one() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()

        def names() -> list[str]:
            return sorted(re.sub(r"Task-\d+", "Task", task.get_name()) for task in asyncio.all_tasks())

        async def waiter() -> None:
            current = asyncio.current_task()
            assert current is not None
            notes.append((current.get_name(), asyncio.current_task(loop) is current))
            await asyncio.sleep(10)

        tasks = [asyncio.create_task(waiter(), name=f"waiter {number}") for number in range(3)]
        notes.append(names())
        await turns()
        notes.append(names())
        # In a callback there is no current task; and another thread may ask about this loop.
        loop.call_soon(lambda: notes.append((asyncio.current_task(), len(asyncio.all_tasks()))))
        await turns()
        notes.append(await asyncio.to_thread(lambda: len(asyncio.all_tasks(loop))))
        notes.append(await asyncio.to_thread(lambda: asyncio.current_task(loop)) is None)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        notes.append(names())

    same(scenario)


def test_where_a_task_is() -> None:
    async def scenario(notes: list[Any]) -> None:
        async def inner() -> None:
            await asyncio.sleep(10)

        async def outer() -> None:
            await inner()

        task = asyncio.create_task(outer(), name="the task")
        await turns()
        notes.append([frame.f_code.co_name for frame in task.get_stack()])
        text = io.StringIO()
        task.print_stack(file=text)
        notes.append(re.sub(r"0x\w+", "0xN", text.getvalue()))
        task.cancel()

    same(scenario)


def test_all_tasks_of_a_loop_that_does_not_run() -> None:
    async def forever() -> None:
        await asyncio.sleep(100)

    async def main() -> tuple[asyncio.Task[None], asyncio.AbstractEventLoop]:
        task = asyncio.create_task(forever())
        await turns()
        loop = asyncio.get_running_loop()
        assert task in await asyncio.to_thread(asyncio.all_tasks, loop)
        return task, loop

    task, loop = run(main())
    assert task.cancelled()
    assert asyncio.all_tasks(loop) == set()


@since_3_14
def test_the_graph_of_calls() -> None:
    async def scenario(notes: list[Any]) -> None:
        async def inner() -> None:
            await asyncio.sleep(10)

        async def outer() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(inner(), name="first")
                group.create_task(inner(), name="second")

        def shape(graph: Any) -> Any:
            return (
                graph.future.get_name(),
                [entry.frame.f_code.co_name for entry in graph.call_stack],
                sorted(map(shape, graph.awaited_by)),
            )

        task = asyncio.create_task(outer(), name="outer")
        await turns()
        for found in sorted(asyncio.all_tasks(), key=lambda task: task.get_name()):
            if found.get_name() in ("outer", "first", "second"):
                notes.append(shape(asyncio.capture_call_graph(found)))  # type: ignore[attr-defined]
        text = asyncio.format_call_graph(task)  # type: ignore[attr-defined]
        notes.append(re.sub(r"0x\w+", "0xN", text))
        printed = io.StringIO()
        asyncio.print_call_graph(task, file=printed)  # type: ignore[attr-defined]
        notes.append(re.sub(r"0x\w+", "0xN", printed.getvalue()))
        # Of a callback's there is none; of the caller's there is.
        current = asyncio.capture_call_graph()  # type: ignore[attr-defined]
        notes.append(current is not None)
        task.cancel()

    notes = same(scenario)
    assert any("first" in str(note) for note in notes)


PROGRAM = """
import asyncio, os, sys, whilst

async def deep(number):
    print(number, flush=True)
    await asyncio.sleep(60)

async def middle(number):
    await deep(number)

async def main():
    async with asyncio.TaskGroup() as group:
        for number in range(2):
            group.create_task(middle(number), name=f"worker {number}")

(whilst.run if sys.argv[1] == "whilst" else asyncio.run)(main())
"""


@since_3_14
@pytest.mark.parametrize("command", ["ps", "pstree"])
def test_another_process_is_looked_into(command: str) -> None:
    """`python -m asyncio ps PID` and `pstree PID` find the same on either loop."""
    found = []
    for name in ("whilst", "asyncio"):
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PROGRAM), name], stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout is not None
                assert {process.stdout.readline() for _ in range(2)} == {"0\n", "1\n"}
                looked = subprocess.run(
                    [sys.executable, "-m", "asyncio", command, str(process.pid)],
                    capture_output=True,
                    text=True,
                    timeout=SECONDS,
                    check=False,
                )
            finally:
                process.kill()
        if "ermission" in looked.stderr:
            pytest.skip("this system does not let one process look into another")
        assert looked.returncode == 0, looked.stderr
        found.append(looked.stdout)
    ours, theirs = found
    for expected in ("worker 0", "worker 1", "Task-1", "middle", "deep"):
        assert expected in ours
        assert expected in theirs

    def plain(text: str) -> list[str]:
        """Lines without what differs from run to run: addresses, numbers of threads, and the lines of the two `run`."""
        text = re.sub(r"0x[0-9a-f]+", "0xN", text)
        text = re.sub(r"^\s*\d+\s+", "", text, flags=re.MULTILINE)
        return sorted(re.sub(r"\s+", " ", line).strip() for line in text.splitlines())

    assert plain(ours) == plain(theirs)
