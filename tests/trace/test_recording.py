"""What a trace records of a program's tasks."""

import asyncio
import gc
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest
import whilst
from tls import client_context, server_context
from traces import Trace

pytestmark = pytest.mark.usefixtures("driver")


def record(
    tmp_path: Path, main: Callable[[], Coroutine[Any, Any, Any]], *, debug: bool = False, **options: Any
) -> Trace:
    path = tmp_path / "trace.html"
    with whilst.trace(path, **options):
        whilst.run(main(), debug=debug)
    return Trace(path)


async def nap(seconds: float) -> None:
    await asyncio.sleep(seconds)  # zzz


@pytest.mark.parametrize("debug", [False, True])
def test_two_fetches_overlap(tmp_path: Path, debug: bool) -> None:
    took: dict[str, float] = {}

    async def fetch_long() -> None:
        begin = time.monotonic()
        await nap(0.2)
        took["fetch_long"] = time.monotonic() - begin

    async def fetch_short() -> None:
        begin = time.monotonic()
        await nap(0.05)
        took["fetch_short"] = time.monotonic() - begin

    async def main() -> None:
        await asyncio.gather(fetch_long(), fetch_short())

    trace = record(tmp_path, main, debug=debug)
    long, short, parent = trace.task("fetch_long"), trace.task("fetch_short"), trace.task("main")
    assert long["begin"] <= short["begin"] < short["end"] < long["end"]
    assert long["parent"] == short["parent"] == parent["index"]
    assert long["made_at"] == short["made_at"] == "await asyncio.gather(fetch_long(), fetch_short())"
    assert long["place"] == "async def fetch_long() -> None:"
    for coroutine, seconds in (("fetch_long", 0.2), ("fetch_short", 0.05)):
        (wait,) = trace.waits(coroutine)
        assert (wait["kind"], wait["place"]) == ("sleep", "await asyncio.sleep(seconds)  # zzz")
        # A busy machine makes it longer for the program, too.
        assert seconds * 0.9e6 < wait["end"] - wait["begin"] <= took[coroutine] * 1e6 + 1
        first, last = trace.runs(coroutine)
        assert (first["end"], last["begin"]) == (wait["begin"], wait["end"])
        stack = [trace.place(place) for place in trace.record["stacks"][wait["stack"]]]
        assert stack[:2] == [f"await nap({seconds})", "await asyncio.sleep(seconds)  # zzz"]
    (wait,) = trace.waits("main")
    assert wait["kind"] == "gather"
    assert trace.record["driver"] == trace.rows("loops")[0]["driver"]


def test_each_kind_of_wait(tmp_path: Path) -> None:
    (receiving, sending), (reading, writing) = socket.socketpair(), socket.socketpair()

    async def sleeps() -> None:
        await asyncio.sleep(0.01)

    async def gives_way() -> None:
        await asyncio.sleep(0)

    async def locks(lock: asyncio.Lock) -> None:
        async with lock:
            pass

    async def gets(queue: "asyncio.Queue[int]") -> None:
        await queue.get()

    async def executes() -> None:
        await asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.01)

    async def threads() -> None:
        await asyncio.to_thread(time.sleep, 0.01)

    async def awaits(task: "asyncio.Task[None]") -> None:
        await task

    async def shields(task: "asyncio.Task[None]") -> None:
        await asyncio.shield(task)

    async def gathers() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(nap(0.01))

    async def receives() -> None:
        await asyncio.get_running_loop().sock_recv(receiving, 10)

    async def reads() -> None:
        reader, writer = await asyncio.open_connection(sock=reading)
        # What happens in a later iteration does so when this task waits.
        asyncio.get_running_loop().call_soon(writing.send, b"y")
        assert await reader.read(10) == b"y"
        writer.close()
        await writer.wait_closed()

    async def starts() -> None:
        process = await asyncio.create_subprocess_exec("cat", stdin=subprocess.PIPE)
        assert process.stdin is not None
        # As above: it cannot have ended before it is waited for.
        asyncio.get_running_loop().call_soon(process.stdin.close)
        await process.wait()

    async def waits_for_future(future: "asyncio.Future[None]") -> None:
        await future

    async def yields() -> Any:
        await asyncio.sleep(0.01)
        yield

    async def iterates() -> None:
        async for _ in yields():
            pass

    async def main() -> None:
        loop = asyncio.get_running_loop()
        receiving.setblocking(False)
        lock, queue = asyncio.Lock(), asyncio.Queue[int]()
        future = loop.create_future()
        await lock.acquire()
        slow = asyncio.create_task(nap(0.02))
        tasks = [
            asyncio.create_task(coroutine)
            for coroutine in (
                *(sleeps(), gives_way(), locks(lock), gets(queue), executes(), threads(), awaits(slow)),
                *(
                    shields(slow),
                    gathers(),
                    receives(),
                    reads(),
                    starts(),
                    waits_for_future(future),
                    iterates(),
                ),
            )
        ]
        await asyncio.sleep(0.01)
        lock.release()
        queue.put_nowait(1)
        future.set_result(None)
        sending.send(b"x")
        await asyncio.gather(*tasks)

    with receiving, sending, reading, writing:
        trace = record(tmp_path, main)
    expected = {
        "sleeps": "sleep",
        "gives_way": "ready",
        "locks": "lock",
        "gets": "queue",
        "executes": "executor",
        "threads": "executor",
        "awaits": "task",
        "shields": "task",
        "gathers": "gather",
        "receives": "socket",
        "waits_for_future": "future",
        "iterates": "sleep",
    }
    for coroutine, kind in expected.items():
        assert trace.waits(coroutine)[0]["kind"] == kind, coroutine
    assert {wait["kind"] for wait in trace.waits("reads")} == {"socket"}
    assert trace.waits("starts")[-1]["kind"] == "process"
    slow_one = [task["coro"] for task in trace.tasks()].index("nap")
    assert trace.waits("awaits")[0]["on"] == slow_one
    assert trace.waits("iterates")[0]["place"] == "await asyncio.sleep(0.01)"


def test_outcomes(tmp_path: Path) -> None:
    async def returns() -> int:
        return 1

    async def raises() -> None:
        raise LookupError("nothing of this is in the record")

    async def is_cancelled() -> None:
        await asyncio.sleep(60)

    async def goes_on(stop: threading.Event) -> None:
        await asyncio.Event().wait()

    kept: list[Any] = []

    async def main() -> None:
        cancelled = asyncio.create_task(is_cancelled())
        others = [asyncio.create_task(returns()), asyncio.create_task(raises())]
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait([cancelled, *others])
        others[1].exception()
        cancelled.set_name("with a name")

    path = tmp_path / "trace.html"
    loop = whilst.new_event_loop()
    with whilst.trace(path):
        loop.run_until_complete(main())
        kept.append(loop.create_task(goes_on(threading.Event()), name="pending one"))
        loop.run_until_complete(asyncio.sleep(0))
    kept[0].cancel()
    loop.run_until_complete(asyncio.wait(kept))
    loop.close()
    trace = Trace(path)
    outcomes = {task["coro"].rpartition(".")[2]: (task["outcome"], task["error"]) for task in trace.tasks()}
    assert outcomes["returns"] == (1, None)
    assert outcomes["raises"] == (2, "LookupError")
    assert outcomes["is_cancelled"] == (3, None)
    assert outcomes["goes_on"] == (0, None)
    assert trace.task("goes_on")["end"] == -1
    assert trace.task("goes_on")["name"] == "pending one"
    assert trace.waits("goes_on")[0]["end"] == -1
    assert "nothing of this" not in path.read_text()


def test_bytes(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(2 * await reader.readexactly(1000))
        writer.close()
        await writer.wait_closed()

    async def main() -> int:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = int(server.sockets[0].getsockname()[1])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"secret" * 150 + b"!" * 100)
        assert len(await reader.read(-1)) == 2000
        writer.close()
        await writer.wait_closed()
        server.close()
        return port

    trace = record(tmp_path, main)
    transports = trace.rows("transports")
    assert sorted((row["kind"], row["in"], row["out"]) for row in transports) == [
        ("tcp", 1000, 2000),
        ("tcp", 2000, 1000),
    ]
    assert all(row["peer"].startswith("127.0.0.1:") and row["end"] > row["begin"] for row in transports)
    for index, transport in enumerate(transports):
        moved = [row for row in trace.rows("bytes") if row["transport"] == index]
        assert sum(row["in"] for row in moved) == transport["in"]
        assert sum(row["out"] for row in moved) == transport["out"]
    assert "secret" not in "".join(text for text in trace.strings if 'b"secret' not in text)


def test_datagrams_and_pipes(tmp_path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        arrived = loop.create_future()

        class Receiver(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, address: Any) -> None:
                arrived.set_result(data)

        receiver, _ = await loop.create_datagram_endpoint(Receiver, local_addr=("127.0.0.1", 0))
        address = receiver.get_extra_info("sockname")
        sender, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=address)
        sender.sendto(b"x" * 10)
        await arrived
        sender.close()
        receiver.close()
        ends = [
            await loop.create_datagram_endpoint(asyncio.DatagramProtocol, sock=end)
            for end in socket.socketpair(type=socket.SOCK_DGRAM)
        ]
        ends[0][0].sendto(b"z" * 20)
        for end, _ in ends:
            end.close()
        process = await asyncio.create_subprocess_exec(
            "/bin/cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        out, _ = await process.communicate(b"y" * 100)
        assert len(out) == 100

    trace = record(tmp_path, main)
    moved = sorted((row["kind"], row["in"], row["out"]) for row in trace.rows("transports"))
    assert ("udp", 0, 10) in moved
    assert ("udp", 10, 0) in moved
    assert ("unix", 0, 20) in moved
    assert ("pipe", 100, 0) in moved


def test_slow_callbacks(tmp_path: Path) -> None:
    def holds_the_loop() -> None:
        time.sleep(0.02)

    def does_not() -> None:
        pass

    async def main() -> None:
        asyncio.get_running_loop().call_soon(holds_the_loop)
        asyncio.get_running_loop().call_soon(does_not)
        await asyncio.sleep(0.01)

    trace = record(tmp_path, main, threshold=0.01)
    (callback,) = trace.rows("callbacks")
    assert callback["name"].endswith("holds_the_loop")
    assert callback["place"] == "def holds_the_loop() -> None:"
    assert callback["end"] - callback["begin"] >= 19_000
    assert trace.record["threshold"] == 10_000


def test_polls(tmp_path: Path) -> None:
    trace = record(tmp_path, lambda: nap(0.1))
    polls = trace.rows("polls_at")
    assert max(poll["end"] - poll["begin"] for poll in polls) > 90_000
    assert trace.record["polls"] >= 1
    assert 0 < trace.record["utilisation"] < 0.5


def test_the_oldest_events_are_dropped(tmp_path: Path) -> None:
    async def main() -> None:
        for _ in range(300):
            await asyncio.create_task(nap(0))

    trace = record(tmp_path, main, events=100)
    assert trace.record["dropped"] > 700
    assert len(trace.rows("runs")) <= 100
    # What runs longest was made first, and is there.
    assert trace.task("main")["outcome"] == 1
    assert trace.record["dropped_tasks"] > 0
    runs = trace.runs("main")
    assert runs[0]["begin"] > trace.task("main")["begin"] + 100
    assert runs[-1]["end"] == trace.task("main")["end"]


def test_within_a_coroutine(tmp_path: Path) -> None:
    path = tmp_path / "trace.html"

    async def child() -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        with whilst.trace(path):
            await asyncio.create_task(child())
            time.sleep(0.01)
        await asyncio.create_task(nap(0))

    whilst.run(main())
    trace = Trace(path)
    assert [task["coro"].rpartition(".")[2] for task in trace.tasks()] == ["main", "child"]
    assert trace.task("child")["parent"] == 0
    (wait,) = trace.waits("main")
    assert (wait["kind"], wait["on"]) == ("task", 1)
    first, last = trace.runs("main")
    assert first["end"] == wait["begin"]
    assert last["end"] - last["begin"] >= 10_000


def test_tasks_that_exist_and_tasks_made_past_the_loop(tmp_path: Path) -> None:
    path = tmp_path / "trace.html"

    async def was_there() -> None:
        await asyncio.sleep(0.01)

    async def by_hand() -> None:
        await asyncio.sleep(0.01)

    async def main() -> None:
        old = asyncio.create_task(was_there())
        await asyncio.sleep(0)
        with whilst.trace(path):
            await old
            await asyncio.Task(by_hand(), loop=asyncio.get_running_loop())

    whilst.run(main())
    trace = Trace(path)
    assert trace.task("was_there")["parent"] == trace.task("by_hand")["parent"] == -1
    assert trace.task("by_hand")["outcome"] == 1
    assert trace.waits("by_hand")[0]["kind"] == "sleep"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are from 3.12 on")
def test_eager_tasks(tmp_path: Path) -> None:
    async def ends_at_once() -> None:
        pass

    async def inner() -> None:
        await asyncio.sleep(0.01)

    async def outer() -> None:
        await asyncio.create_task(inner())

    async def main() -> None:
        factory = asyncio.eager_task_factory  # type: ignore[attr-defined, unused-ignore]
        asyncio.get_running_loop().set_task_factory(factory)
        await asyncio.create_task(ends_at_once())
        await asyncio.create_task(outer())

    trace = record(tmp_path, main)
    assert trace.task("ends_at_once")["outcome"] == 1
    assert len(trace.runs("ends_at_once")) == 1
    assert trace.task("inner")["parent"] == trace.task("outer")["index"]
    assert trace.task("outer")["parent"] == trace.task("main")["index"]
    assert trace.waits("outer")[0]["on"] == trace.task("inner")["index"]
    assert [wait["kind"] for wait in trace.waits("inner")] == ["sleep"]


@pytest.mark.skipif(sys.version_info < (3, 14), reason="eager_start is from 3.14 on")
def test_eager_tasks_one_by_one(tmp_path: Path) -> None:
    async def ends_at_once() -> None:
        pass

    async def fails_at_once() -> None:
        raise KeyError

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        assert loop.create_task(coro=ends_at_once(), eager_start=True).done()
        with pytest.raises(KeyError):
            await loop.create_task(fails_at_once(), eager_start=True, name="this")

    trace = record(tmp_path, main)
    assert trace.task("ends_at_once")["outcome"] == 1
    assert trace.task("ends_at_once")["place"] == "async def ends_at_once() -> None:"
    failed = trace.task("fails_at_once")
    assert (failed["outcome"], failed["error"], failed["name"]) == (2, "KeyError", "this")


def test_each_task_has_the_line_that_made_it(tmp_path: Path) -> None:
    async def one() -> None:
        pass

    async def other() -> None:
        pass

    async def made_below(coroutine: Any) -> None:
        await asyncio.create_task(coroutine)  # below

    def generated() -> Any:
        while True:
            yield asyncio.create_task(one())  # generated

    async def main() -> None:
        loop = asyncio.get_running_loop()
        tasks = generated()
        for _ in range(5):
            await loop.create_task(one())  # by the loop
            await asyncio.create_task(other())  # by asyncio
            await made_below(one())
            await asyncio.gather(other(), other())  # by gather
            await next(tasks)

    trace = record(tmp_path, main)
    made = [(task["coro"].rpartition(".")[2], task["made_at"].rpartition("# ")[2]) for task in trace.tasks()]
    turn = [("one", "by the loop"), ("other", "by asyncio"), ("one", "below")]
    turn += [("other", "by gather"), ("other", "by gather"), ("one", "generated")]
    assert [task for task in made if task[0] in ("one", "other")] == turn * 5


def test_a_future_that_is_done_already(tmp_path: Path) -> None:
    class Done:
        def __await__(self) -> Any:
            future: Any = asyncio.get_running_loop().create_future()
            future.set_result(None)
            future._asyncio_future_blocking = True
            yield future

    async def takes_turns() -> None:
        await Done()

    async def main() -> None:
        await asyncio.create_task(takes_turns())

    trace = record(tmp_path, main)
    assert [wait["kind"] for wait in trace.waits("takes_turns")] == ["ready"]


def test_tasks_written_in_python(tmp_path: Path) -> None:
    python_task: Any = asyncio.tasks._PyTask  # type: ignore[attr-defined]

    class Traps(python_task):  # type: ignore[misc]
        """Whoever looks at it by `getattr` is told so."""

        looked_at: ClassVar[list[str]] = []

        def __getattr__(self, name: str) -> Any:
            self.looked_at.append(name)
            raise AttributeError(name)

        def get_name(self) -> str:
            self.looked_at.append("get_name")
            return str(super().get_name())

    async def works() -> None:
        await asyncio.sleep(0.01)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, coroutine, **options: Traps(coroutine, loop=loop, **options))
        await asyncio.create_task(works(), name="python's")

    trace = record(tmp_path, main)
    assert trace.task("works")["name"] == "python's"
    assert trace.task("works")["outcome"] == 1
    assert trace.waits("works")[0]["kind"] == "sleep"
    assert Traps.looked_at == []


def test_several_loops(tmp_path: Path) -> None:
    async def first() -> None:
        await nap(0.01)

    async def second() -> None:
        await nap(0.01)

    async def in_thread() -> None:
        await nap(0.01)

    path = tmp_path / "trace.html"
    with whilst.trace(path):
        whilst.run(first())
        with ThreadPoolExecutor() as executor:
            other = executor.submit(lambda: whilst.run(in_thread()))
            whilst.run(second())
            other.result()
    whilst.run(nap(0))
    trace = Trace(path)
    assert len(trace.rows("loops")) == 3
    loops = {trace.task(name)["loop"] for name in ("first", "second", "in_thread")}
    assert loops == {0, 1, 2}
    assert all(len(trace.waits(name)) == 1 for name in ("first", "second", "in_thread"))


def test_a_program_does_not_notice(tmp_path: Path) -> None:
    class Canary:
        pass

    seen = []

    async def holds(canary: Canary) -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        task = asyncio.create_task(holds(canary := Canary()))
        reference, its_canary = weakref.ref(task), weakref.ref(canary)
        del canary
        assert not task._callbacks  # type: ignore[attr-defined]
        await task
        del task
        await asyncio.sleep(0)
        gc.collect()
        seen.extend([reference(), its_canary()])

    with whilst.trace(tmp_path / "trace.html"):
        loop = weakref.ref(run_in_new_loop(main))
        gc.collect()
        assert loop() is None
    assert seen == [None, None]


def run_in_new_loop(main: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.AbstractEventLoop:
    loop = whilst.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    return loop


def test_nothing_is_recorded_after_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "trace.html"

    async def main() -> None:
        trace = whilst.trace(path)
        trace.start()
        await nap(0)
        trace.stop()
        trace.stop()
        await asyncio.create_task(nap(0.01))

    whilst.run(main())
    assert len(Trace(path).tasks()) == 1
    with whilst.trace(path):
        whilst.run(nap(0))
    assert next(task["coro"] for task in Trace(path).tasks()) == "nap"


def test_an_exception_leaves_the_file(tmp_path: Path) -> None:
    async def main() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        record(tmp_path, main)
    assert Trace(tmp_path / "trace.html").task("main")["error"] == "ZeroDivisionError"


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.html or \.json"):
        whilst.trace(tmp_path / "trace.txt")
    with pytest.raises(ValueError, match="threshold must not be negative"):
        whilst.trace(tmp_path / "trace.html", threshold=-1)
    with pytest.raises(ValueError, match="events must be at least 1"):
        whilst.trace(tmp_path / "trace.html", events=0)
    with pytest.raises(FileNotFoundError) as refused, whilst.trace(tmp_path / "nowhere" / "trace.html"):
        pass
    assert refused.value.filename == str(tmp_path / "nowhere" / "trace.html")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(IsADirectoryError), whilst.trace(tmp_path / "folder.json"):
        pass
    with whilst.trace(tmp_path / "one.html"), pytest.raises(RuntimeError, match="recorded already"):
        whilst.trace(tmp_path / "two.html").start()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.json", "one.html"]


def test_tls(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(1000))
        await reader.read()
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server_context())
        port = int(server.sockets[0].getsockname()[1])
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=client_context(), server_hostname="localhost"
        )
        writer.write(bytes(1000))
        await reader.readexactly(1000)
        writer.close()
        await writer.wait_closed()
        server.close()

    trace = record(tmp_path, main)
    one, other = trace.rows("transports")
    assert (one["kind"], other["kind"]) == ("tls", "tls")
    # What was encrypted, once, with the handshake.
    assert one["in"] > 1000
    assert one["out"] > 1000
