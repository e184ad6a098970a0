"""Records of traces (format 1, docs/tracing.md) made by hand and by formula, for the tests of the page."""

import random
from typing import Any

OUTCOMES = {"pending": 0, "returned": 1, "raised": 2, "cancelled": 3}


class Record:
    """Builds a record: strings and places are kept once, times are microseconds."""

    def __init__(self, program: str = "program.py", **more: Any) -> None:
        self.strings: dict[str, int] = {}
        self.places: dict[tuple[int, int, int, int], int] = {}
        self.stacks: list[list[int]] = []
        self.head = {
            "format": 1,
            "program": program,
            "started": 1_790_000_000.5,
            "python": "3.13.0",
            "whilst": "0.1.0",
            "driver": "io_uring",
            "threshold": 1000,
            "dropped": 0,
            "utilisation": 0.01,
            **more,
        }
        self.tasks = columns(
            "id", "name", "coro", "place", "made_at", "parent", "begin", "end", "outcome", "error"
        )
        self.runs = columns("task", "begin", "end")
        self.waits = columns("task", "begin", "end", "kind", "on", "place", "stack")
        self.callbacks = columns("name", "place", "begin", "end", "loop")
        self.polls_at = columns("begin", "end", "loop")
        self.loops = columns("driver", "begin", "end", "polls", "busy")
        self.transports = columns("kind", "peer", "begin", "end", "in", "out")
        self.bytes = columns("transport", "at", "in", "out")

    def string(self, text: str) -> int:
        return self.strings.setdefault(text, len(self.strings))

    def place(self, file: str, line: int, function: str, source: str = "") -> int:
        key = (self.string(file), line, self.string(function), self.string(source) if source else -1)
        return self.places.setdefault(key, len(self.places))

    def task(
        self,
        coro: str,
        begin: float,
        end: float,
        *,
        name: str | None = None,
        parent: int = -1,
        place: int = -1,
        made_at: int = -1,
        outcome: str = "returned",
        error: str | None = None,
    ) -> int:
        number = len(self.tasks["id"])
        append(
            self.tasks,
            id=1000 + number,
            name=self.string(name or f"Task-{number + 1}"),
            coro=self.string(coro),
            place=place,
            made_at=made_at,
            parent=parent,
            begin=begin,
            end=end,
            outcome=OUTCOMES[outcome],
            error=-1 if error is None else self.string(error),
        )
        return number

    def run(self, task: int, begin: float, end: float) -> None:
        append(self.runs, task=task, begin=begin, end=end)

    def wait(
        self,
        task: int,
        kind: str,
        begin: float,
        end: float,
        place: int = -1,
        *,
        on: int = -1,
        stack: list[int] | None = None,
    ) -> None:
        number = -1
        if stack is not None:
            number = len(self.stacks)
            self.stacks.append(stack)
        append(
            self.waits,
            task=task,
            kind=self.string(kind),
            begin=begin,
            end=end,
            place=place,
            on=on,
            stack=number,
        )

    def loop(self, begin: float, end: float, busy: float = 1) -> None:
        append(self.loops, driver=self.string("io_uring"), begin=begin, end=end, polls=1, busy=busy)

    def poll(self, begin: float, end: float, loop: int = 0) -> None:
        append(self.polls_at, begin=begin, end=end, loop=loop)

    def callback(self, name: str, begin: float, end: float, place: int = -1) -> None:
        append(self.callbacks, name=self.string(name), place=place, begin=begin, end=end, loop=0)

    def transport(self, kind: str, peer: str, begin: float, end: float) -> int:
        append(
            self.transports,
            kind=self.string(kind),
            peer=self.string(peer),
            begin=begin,
            end=end,
            **{"in": 0, "out": 0},
        )
        return len(self.transports["kind"]) - 1

    def traffic(self, transport: int, at: float, received: int, sent: int) -> None:
        append(self.bytes, transport=transport, at=at, **{"in": received, "out": sent})
        self.transports["in"][transport] += received
        self.transports["out"][transport] += sent

    def finish(self, duration: float) -> dict[str, Any]:
        if not self.loops["begin"]:
            self.loop(0, duration, duration * self.head["utilisation"])
        return {
            **self.head,
            "duration": duration,
            "polls": len(self.polls_at["begin"]),
            "strings": list(self.strings),
            "places": [list(place) for place in self.places],
            "tasks": self.tasks,
            "runs": by_begin(self.runs),
            "waits": self.waits,
            "stacks": self.stacks,
            "callbacks": self.callbacks,
            "polls_at": self.polls_at,
            "transports": self.transports,
            "bytes": self.bytes,
            "loops": self.loops,
        }


def columns(*names: str) -> dict[str, list[Any]]:
    return {name: [] for name in names}


def append(table: dict[str, list[Any]], **row: Any) -> None:
    assert table.keys() == row.keys()
    for name, value in row.items():
        table[name].append(value)


def by_begin(table: dict[str, list[Any]]) -> dict[str, list[Any]]:
    order = sorted(range(len(table["begin"])), key=table["begin"].__getitem__)
    return {name: [column[index] for index in order] for name, column in table.items()}


def introduction(**more: Any) -> dict[str, Any]:
    """What examples/introduction.py does: two fetches at once, of two seconds and of one."""
    more.setdefault("utilisation", 0.0003)
    record = Record("/home/somebody/examples/introduction.py", **more)
    file = "/home/somebody/examples/introduction.py"
    coroutine = record.place(file, 21, "simulated_fetch", "async def simulated_fetch(url, delay):")
    made_at = record.place(file, 32, "main", "asyncio.gather(")
    slept = record.place(file, 23, "simulated_fetch", "await asyncio.sleep(delay)")
    longer = record.task("simulated_fetch", 120, 2_001_310, place=coroutine, made_at=made_at)
    shorter = record.task("simulated_fetch", 160, 1_000_900, place=coroutine, made_at=made_at)
    record.run(longer, 210, 260)
    record.wait(longer, "sleep", 260, 2_001_200, slept)
    record.run(shorter, 270, 300)
    record.wait(shorter, "sleep", 300, 1_000_800, slept)
    record.run(shorter, 1_000_810, 1_000_900)
    record.run(longer, 2_001_210, 2_001_310)
    record.poll(320, 1_000_780)
    record.poll(1_000_950, 2_001_190)
    return record.finish(2_001_400)


def shop(**more: Any) -> dict[str, Any]:
    """A bit of everything: nested tasks, each kind of wait and of end, slow callbacks, transports."""
    record = Record("/srv/shop/app.py", utilisation=0.31, **more)
    file = "/srv/shop/app.py"

    def at(line: int, function: str, source: str) -> int:
        return record.place(file, line, function, source)

    main = record.task("main", 0, 1_000_000, place=at(70, "main", "async def main():"))
    gathered = at(81, "main", "await asyncio.gather(*orders, stock_watch())")
    record.run(main, 100, 4_000)
    record.wait(
        main, "gather", 4_000, 940_000, gathered, stack=[at(90, "<module>", "asyncio.run(main())"), gathered]
    )
    record.run(main, 940_500, 948_000)
    record.wait(main, "process", 948_000, 999_000, at(83, "main", "await process.wait()"))
    record.run(main, 999_100, 1_000_000)
    lock = at(31, "pay", "async with self.lock:")
    kinds = [
        ("socket", at(22, "fetch", "data = await reader.readline()")),
        ("lock", lock),
        ("queue", at(40, "order", "item = await queue.get()")),
        ("executor", at(44, "order", "page = await loop.run_in_executor(None, render)")),
        ("future", at(48, "order", "await answer")),
    ]
    for number in range(6):
        begin = 1_000 + 500 * number
        end = 400_000 + 90_000 * number
        order = record.task(
            "Order.handle",
            begin,
            end,
            name=f"order {number + 1}",
            parent=main,
            place=at(36, "Order.handle", "async def handle(self):"),
            made_at=at(78, "main", "orders.append(asyncio.create_task(order.handle()))"),
            outcome="raised" if number == 3 else "returned",
            error="PaymentRefused" if number == 3 else None,
        )
        moment: float = begin + 400
        record.run(order, begin + 100, moment)
        child = record.task("pay", moment, moment + 150_000, parent=order, made_at=lock, place=lock)
        record.wait(order, "task", moment, moment + 150_100, at(39, "order", "await payment"), on=child)
        record.wait(child, "lock", moment + 2_000, moment + 140_000, lock)
        record.run(child, moment + 140_000, moment + 150_000)
        moment += 150_100
        record.run(order, moment, moment + 3_000)
        moment += 3_000
        left = (end - moment - 9_000) / len(kinds)
        for kind, place in kinds:
            record.wait(order, kind, moment, moment + left - 5_000, place)
            record.wait(order, "ready", moment + left - 5_000, moment + left - 4_000, place)
            record.run(order, moment + left - 4_000, moment + left)
            moment += left
        record.run(order, moment, end)
    watch = record.task("stock_watch", 5_000, 940_000, parent=main, name="stock", outcome="cancelled")
    for step in range(60):
        begin = 5_000 + step * 15_000
        record.run(watch, begin, begin + 700)
        record.wait(
            watch, "sleep", begin + 700, begin + 15_000, at(60, "stock_watch", "await asyncio.sleep(0.015)")
        )
    record.task("metrics", 6_000, -1, parent=main, outcome="pending")
    record.callback(
        "Feed.data_received",
        300_000,
        352_000,
        at(101, "Feed.data_received", "def data_received(self, data):"),
    )
    record.callback("rebuild_index", 700_000, 731_000, at(120, "rebuild_index", "def rebuild_index():"))
    for number, peer in enumerate(("10.0.0.7:41522", "10.0.0.9:55110", "/run/db.sock")):
        transport = record.transport(
            "unix" if peer.startswith("/") else "tcp", peer, 2_000 + 100 * number, -1
        )
        for step in range(40):
            record.traffic(
                transport, 10_000 + step * 24_000, 300 + 4_000 * ((step + number) % 5), 20_000 * (step % 3)
            )
    for step in range(100):
        record.poll(step * 10_000 + 3_000 + 30 * step, step * 10_000 + 10_000)
    return record.finish(1_000_000)


def many(tasks: int = 100_000) -> dict[str, Any]:
    """So many short tasks of a server's main task, two runs and two waits each, up to some 200 at once."""
    dice = random.Random(5)
    record = Record("/srv/server.py", utilisation=0.6)
    duration = tasks * 100.0
    serve = record.task("serve", 0, duration)
    record.run(serve, 0, 50)
    record.wait(
        serve, "future", 50, duration - 10, record.place("/srv/server.py", 9, "serve", "await stopped")
    )
    record.run(serve, duration - 10, duration)
    place = record.place("/srv/server.py", 22, "handle", "line = await reader.readline()")
    queue = record.place("/srv/server.py", 30, "handle", "row = await pool.get()")
    made_at = record.place("/srv/server.py", 12, "serve", "asyncio.create_task(handle(reader, writer))")
    for number in range(tasks - 1):
        begin = number * 100
        first = begin + dice.randrange(1_000, 20_000)
        second = first + dice.randrange(10, 90)
        end = min(second + dice.randrange(50, 9_000), duration)
        first, second = min(first, duration), min(second, duration)
        task = record.task("handle", begin, end, parent=serve, made_at=made_at)
        record.run(task, begin + 5, begin + 35)
        record.wait(task, "socket", begin + 35, first, place)
        record.run(task, first, second)
        record.wait(task, "queue", second, max(second, end - 20), queue)
        record.run(task, max(second, end - 20), end)
    for number in range(tasks // 4):
        record.poll(number * 400 + 90, number * 400 + 300)
    return record.finish(duration)
