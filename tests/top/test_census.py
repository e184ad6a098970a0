"""The tasks of a loop as its control socket tells of them: counted by what they do, and some of them described."""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import pytest
import whilst
from whilst._census import Census, Wanted, own_place

pytestmark = pytest.mark.usefixtures("driver")

HERE = __file__


def line_of(function: Callable[..., object], text: str) -> int:
    lines, first = inspect.getsourcelines(function)
    return next(number for number, line in enumerate(lines, first) if text in line)


async def inner(event: asyncio.Event) -> None:
    await event.wait()


async def outer(event: asyncio.Event) -> None:
    await inner(event)


async def two_places(event: asyncio.Event, first: bool) -> None:
    if first:
        await event.wait()
    else:
        await event.wait()


async def ticker() -> None:
    await asyncio.sleep(100)


def census(tasks: Iterable[asyncio.Task[Any]], asked: dict[str, Any]) -> dict[str, Any]:
    taken = Census(tasks)
    return {"groups": taken.groups(), "listed": taken.described(Wanted(asked))}


def taken(
    *makers: Callable[[asyncio.Event], Any], request: dict[str, Any] | None = None, names: str = "one {}"
) -> dict[str, Any]:
    """A census of tasks that have come to where they wait."""

    async def main() -> dict[str, Any]:
        event = asyncio.Event()
        tasks = [asyncio.create_task(make(event), name=names.format(n)) for n, make in enumerate(makers)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        asked = request or {}
        if asked.get("stacks") == "last":
            asked = asked | {"stacks": [id(tasks[-1])]}
        told = census(tasks, asked)
        event.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return told

    return whilst.run(main())


def groups(told: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [
        (one["count"], one["coroutine"], one["state"], one["kind"], one["place"] and one["place"][:2])
        for one in told["groups"]
    ]


def test_equal_tasks_are_counted_together_most_first() -> None:
    told = taken(*[lambda event: ticker()] * 3, *[outer] * 5)
    assert groups(told) == [
        (5, "outer", "waiting", "lock", (HERE, line_of(inner, "event.wait"))),
        (3, "ticker", "waiting", "sleep", (HERE, line_of(ticker, "sleep(100)"))),
    ]
    assert len(told["listed"]) == 8


def test_the_same_coroutine_at_two_lines_is_two_groups() -> None:
    told = taken(*[lambda event: two_places(event, True)] * 2, *[lambda event: two_places(event, False)])
    lines = sorted(one["place"][1] for one in told["groups"])
    first = line_of(two_places, "await event.wait")
    assert lines == [first, first + 2]
    assert sorted(one["count"] for one in told["groups"]) == [1, 2]


def test_the_same_asynchronous_generator_at_two_lines_is_two_groups() -> None:
    async def generator(event: asyncio.Event, first: bool) -> AsyncIterator[int]:
        await two_places(event, first)
        yield 1

    async def iterate(event: asyncio.Event, first: bool) -> None:
        async for _ in generator(event, first):
            pass

    told = taken(lambda event: iterate(event, True), lambda event: iterate(event, False))
    first = line_of(two_places, "await event.wait")
    assert sorted(one["place"][1] for one in told["groups"]) == [first, first + 2]


def test_states_and_kinds() -> None:
    async def done_soon(event: asyncio.Event) -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def of_an_executor(event: asyncio.Event) -> None:
        await asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.01)

    async def of_a_task(event: asyncio.Event) -> None:
        await asyncio.create_task(inner(event), name="another")

    async def of_a_generator(event: asyncio.Event) -> None:
        async def generator() -> Any:
            await asyncio.sleep(100)
            yield 1

        async for _ in generator():
            pass

    told = taken(done_soon, of_an_executor, of_a_task, of_a_generator)
    by_name = {one["coroutine"].rpartition(".")[2]: one for one in told["listed"]}
    assert {name: (one["state"], one["kind"]) for name, one in by_name.items()} == {
        "done_soon": ("ready", "ready"),
        "of_an_executor": ("waiting", "executor"),
        "of_a_task": ("waiting", "task"),
        "of_a_generator": ("waiting", "sleep"),
    }
    assert by_name["of_a_task"]["waits_for"] == "another"


def test_a_task_that_runs() -> None:
    async def main() -> dict[str, Any]:
        return census(asyncio.all_tasks(), {"stacks": True})

    (told,) = whilst.run(main())["listed"]
    assert (told["state"], told["kind"], told["place"][0]) == ("running", "running", HERE)


def test_one_of_each_group_is_described_before_a_second() -> None:
    told = taken(*[outer] * 50, lambda event: ticker(), request={"tasks": 4})
    assert [one["coroutine"] for one in told["listed"]] == ["outer", "ticker", "outer", "outer"]
    assert groups(told)[0][0] == 50
    assert taken(outer, request={"tasks": 0})["listed"] == []


def test_those_asked_for_come_first() -> None:
    request = {"tasks": 3, "of": ["ticker", HERE, line_of(ticker, "sleep(100)")]}
    told = taken(*[outer] * 50, *[lambda event: ticker()] * 2, request=request)
    assert [one["coroutine"] for one in told["listed"]] == ["ticker", "ticker", "outer"]


def test_a_stack_is_told_where_it_is_asked_for() -> None:
    assert all("stack" not in one for one in taken(outer, outer)["listed"])
    assert all(len(one["stack"]) == 3 for one in taken(outer, outer, request={"stacks": True})["listed"])
    told = taken(*[outer] * 20, request={"tasks": 2, "stacks": "last"})["listed"]
    assert (told[0]["name"], ["stack" in one for one in told]) == ("one 19", [True, False])
    assert [frame[2] for frame in told[0]["stack"]] == ["outer", "inner", "Event.wait"]


def test_a_search_finds_names_and_coroutines_and_leaves_the_counts() -> None:
    makers = [*[outer] * 30, lambda event: ticker()]
    for match, found in (("ONE 17", ["one 17"]), ("tick", ["one 30"]), ("nothing", [])):
        told = taken(*makers, request={"tasks": 5, "match": match})
        assert [one["name"] for one in told["listed"]] == found
        assert [one["count"] for one in told["groups"]] == [30, 1]


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ({"tasks": "many"}, "tasks must be"),
        ({"tasks": -5}, "tasks must be"),
        ({"of": 1}, "of must be"),
        ({"of": ["x"]}, "of must be"),
        ({"match": 5}, "match must be"),
        ({"stacks": "yes"}, "stacks must be"),
    ],
)
def test_a_question_that_is_wrong(question: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Wanted(question)


def test_long_names_are_cut() -> None:
    assert len(taken(outer, names="x" * 10_000)["listed"][0]["name"]) == 200


def test_a_task_that_overrides_its_name_does_not_run_its_code() -> None:
    class Strange(asyncio.Task[None]):
        def get_name(self) -> str:
            raise AssertionError

    async def main() -> dict[str, Any]:
        asyncio.get_running_loop().set_task_factory(
            lambda loop, coroutine, **more: Strange(coroutine, loop=loop, **more)
        )
        task = asyncio.create_task(asyncio.sleep(100), name="strange")
        await asyncio.sleep(0)
        told = census([task], {})
        task.cancel()
        return told

    assert whilst.run(main())["listed"][0]["name"] == "strange"


def test_who_waits_for_a_task() -> None:
    async def main() -> dict[str, Any]:
        waited = asyncio.create_task(asyncio.sleep(100), name="waited")

        async def wait() -> None:
            await waited

        waiter = asyncio.create_task(wait(), name="waiter")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        told = census([waited, waiter], {})
        waited.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
        return told

    told = {one["name"]: one for one in whilst.run(main())["listed"]}
    assert told["waited"]["awaited_by"] == [told["waiter"]["id"]]
    assert told["waiter"]["waits_for"] == "waited"


def test_the_own_line_is_the_innermost_of_the_program() -> None:
    standard = (asyncio.tasks.__file__, 600, "sleep")
    installed = ("/venv/lib/python3.13/site-packages/aiohttp/client.py", 5, "get")
    assert own_place([("/srv/a.py", 1, "main"), ("/srv/b.py", 2, "query"), installed, standard]) == (
        "/srv/b.py",
        2,
        "query",
    )
    assert own_place([standard, installed, standard]) == installed
    assert own_place([standard, ("", 0, "anext_awaitable")]) == standard
    assert own_place([]) is None


def test_a_task_that_has_ended_meanwhile_is_left_out() -> None:
    async def main() -> dict[str, Any]:
        ended = asyncio.create_task(asyncio.sleep(0))
        lives = asyncio.create_task(ticker())
        await ended
        told = census([ended, lives], {})
        lives.cancel()
        return told

    told = whilst.run(main())
    assert [one["coroutine"] for one in told["groups"]] == ["ticker"]
    assert [one["coroutine"] for one in told["listed"]] == ["ticker"]
