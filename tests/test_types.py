"""What a type checker makes of programs that use whilst, and whether it is true.

Every program here is given to `mypy --strict` as a user would, against the installed package. What it claims of its types it
claims by `assert_type`; what is wrong in it is marked on the line by `# error: ` and mypy's code for it, and what
`reveal_type` is to say by `# reveals: `. Programs without an error are run as well.
"""

import asyncio
import inspect
import os
import re
import subprocess
import sys
from asyncio import selector_events, unix_events
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
import whilst
from whilst import _whilst
from whilst._loop import processes

RIGHT = {
    "run": """
        import asyncio
        from typing import assert_type

        import whilst

        async def main() -> dict[str, int]:
            await asyncio.sleep(0)
            return {"one": 1}

        result = whilst.run(main())
        reveal_type(result)  # reveals: dict[str, int]
        assert_type(result, dict[str, int])
        assert_type(whilst.run(main(), debug=True, loop_factory=asyncio.new_event_loop), dict[str, int])
        assert result == {"one": 1}
    """,
    "loop_factory": """
        import asyncio
        import sys
        from collections.abc import Callable
        from typing import assert_type

        import whilst

        async def main() -> int:
            return 1

        factories: list[Callable[[], asyncio.AbstractEventLoop]] = [whilst.new_event_loop, whilst.Loop]
        for factory in factories:
            with asyncio.Runner(loop_factory=factory) as runner:
                assert_type(runner.run(main()), int)
        if sys.version_info >= (3, 12):
            assert_type(asyncio.run(main(), loop_factory=whilst.new_event_loop), int)
    """,
    "metrics": """
        from typing import Any, assert_type

        import prometheus_client
        import whilst
        import whilst.opentelemetry
        import whilst.prometheus

        loop = whilst.new_event_loop()
        metrics = loop.metrics()
        assert_type(metrics, whilst.Metrics)
        assert_type(metrics.iterations, int)
        assert_type(metrics.lag_seconds, float)
        assert_type(metrics.transports, dict[str, int])
        assert_type(metrics.lag_buckets, tuple[tuple[float, int], ...])
        assert_type(metrics.as_dict(), dict[str, Any])
        reveal_type(metrics.state)  # reveals: Literal['polling'] | Literal['running'] | Literal['stopped'] | Literal['closed']
        loop.close()
        registry = prometheus_client.CollectorRegistry()
        collector = whilst.prometheus.register(registry)
        assert_type(collector, whilst.prometheus.LoopCollector)
        registry.unregister(collector)
        whilst.opentelemetry.instrument()
    """,
    "a_loop_is_a_loop": """
        import asyncio

        import whilst

        def close(loop: asyncio.AbstractEventLoop) -> None:
            loop.close()

        loop = whilst.new_event_loop()
        reveal_type(loop)  # reveals: whilst._loop.Loop
        asyncio.set_event_loop(loop)
        assert isinstance(loop, asyncio.AbstractEventLoop)
        close(loop)
        asyncio.set_event_loop(None)
    """,
    "package": """
        import asyncio
        from typing import Literal, assert_type

        import whilst

        reveal_type(whilst.__version__)  # reveals: str
        reveal_type(whilst.explain())  # reveals: None
        whilst.explain(on=False)
        whilst.install()
        whilst.uninstall()
        loop = whilst.EventLoopPolicy().new_event_loop()
        assert_type(loop, asyncio.AbstractEventLoop)
        loop.close()
        loop = whilst.Loop()
        assert isinstance(loop, whilst.Loop)
        assert_type(loop.driver, Literal["io_uring", "epoll"])
        loop.close()
    """,
    "scheduling": """
        import asyncio
        import contextvars
        from typing import assert_type

        import whilst

        def note(number: int, text: str) -> None:
            print(number, text)

        async def main() -> None:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, whilst.Loop)
            handle: asyncio.Handle = loop.call_soon(note, 1, "soon")
            assert_type(handle.cancelled(), bool)
            handle = loop.call_soon_threadsafe(note, 2, "threadsafe", context=contextvars.copy_context())
            timer: asyncio.TimerHandle = loop.call_later(0.5, note, 3, "later")
            assert_type(timer.when(), float)
            assert_type(loop.time(), float)
            loop.call_at(loop.time() + 1, note, 4, "at").cancel()
            timer.cancel()
            assert_type(await loop.run_in_executor(None, len, "four"), int)

        whilst.run(main())
    """,
    "tasks": """
        import asyncio
        import sys
        from typing import Any, assert_type

        import whilst

        async def give() -> str:
            return "given"

        async def main() -> list[str]:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, whilst.Loop)
            task = loop.create_task(give(), name="giver")
            assert_type(task, asyncio.Task[str])
            assert_type(loop.create_future(), asyncio.Future[Any])
            if sys.version_info >= (3, 12):
                loop.set_task_factory(asyncio.eager_task_factory)
            else:
                loop.set_task_factory(lambda loop, coroutine: asyncio.Task(coroutine, loop=loop))
            assert loop.get_task_factory() is not None
            async with asyncio.TaskGroup() as group:
                other = group.create_task(give())
            return [await task, other.result()]

        assert whilst.run(main()) == ["given", "given"]
    """,
    "connections": """
        import asyncio
        import socket
        from typing import assert_type

        import whilst

        class Echo(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                assert isinstance(transport, asyncio.Transport)
                self.transport = transport

            def data_received(self, data: bytes) -> None:
                self.transport.write(data)

        class Client(asyncio.Protocol):
            def __init__(self, answer: asyncio.Future[bytes]) -> None:
                self.answer = answer

            def data_received(self, data: bytes) -> None:
                self.answer.set_result(data)

        async def main(loop: whilst.Loop) -> bytes:
            server = await loop.create_server(Echo, "127.0.0.1", 0)
            assert_type(server, asyncio.Server)
            host, port = server.sockets[0].getsockname()
            answer: asyncio.Future[bytes] = loop.create_future()
            transport, protocol = await loop.create_connection(lambda: Client(answer), host, port)
            assert_type(transport, asyncio.Transport)
            assert_type(protocol, Client)
            transport.writelines([b"he", memoryview(b"llo")])
            async with asyncio.timeout(10):
                received = await answer
            transport.close()
            server.close()
            async with asyncio.timeout(10):
                await server.wait_closed()
            return received

        async def sockets(loop: whilst.Loop) -> bytes:
            left, right = socket.socketpair()
            with left, right:
                left.setblocking(False)
                right.setblocking(False)
                await loop.sock_sendall(left, bytearray(b"hello"))
                assert_type(await loop.sock_recv_into(right, bytearray(1)), int)
                return await loop.sock_recv(right, 10)

        loop = whilst.new_event_loop()
        assert_type(loop.run_until_complete(main(loop)), bytes)
        assert loop.run_until_complete(sockets(loop)) == b"ello"
        loop.close()
    """,
    "files": """
        import asyncio
        import os
        import tempfile
        from typing import assert_type

        import whilst

        async def copy(source: whilst.BinaryFile, target: whilst.BinaryFile) -> int:
            count = 0
            while piece := await source.read(1000):
                count += await target.write(piece)
            return count

        async def main(path: str) -> None:
            async with whilst.open(path, "w", encoding="utf-8") as file:
                reveal_type(file)  # reveals: whilst._files.text.TextFile
                assert_type(await file.write("one\\ntwo\\n"), int)
                assert_type(file.buffer, whilst.BinaryFile)
            text = await whilst.open(path)
            assert_type(text, whilst.TextFile)
            assert_type([line async for line in text], list[str])
            assert_type(await text.read(), str)
            await text.close()
            async with whilst.open(path, "rb") as source, whilst.open(os.devnull, "wb", 0) as target:
                reveal_type(source)  # reveals: whilst._files.binary.BinaryFile
                assert await copy(source, target) == 8
                assert_type(await source.pread(3, 0), bytes)
                assert_type(await source.readinto(bytearray(5)), int)
                assert_type([line async for line in source], list[bytes])
            mode: str = "r"
            async with whilst.open(path, mode) as either:
                assert_type(either, whilst.TextFile | whilst.BinaryFile)
                assert_type(await either.read(), str | bytes)

        with tempfile.TemporaryDirectory() as folder:
            whilst.run(main(folder + "/some"))
    """,
    "descriptors_and_signals": """
        import os
        import signal

        import whilst

        def stop(loop: whilst.Loop, descriptor: int) -> None:
            os.read(descriptor, 1)
            loop.stop()

        loop = whilst.Loop()
        reader, writer = os.pipe()
        loop.add_reader(reader, stop, loop, reader)
        loop.add_signal_handler(signal.SIGUSR1, os.write, writer, b"!")
        os.kill(os.getpid(), signal.SIGUSR1)
        loop.run_forever()
        done: bool = loop.remove_reader(reader) and loop.remove_signal_handler(signal.SIGUSR1)
        assert done
        loop.close()
        os.close(reader)
        os.close(writer)
    """,
}

WRONG = {
    "what_is_run": """
        import whilst

        async def main() -> str:
            return "text"

        whilst.run(main)  # error: arg-type
        whilst.run(5)  # error: arg-type
        whilst.run(main(), True)  # error: call-arg
        number: int = whilst.run(main())  # error: assignment
    """,
    "factories": """
        import asyncio

        import whilst

        asyncio.Runner(loop_factory=whilst.Loop())  # error: arg-type
        asyncio.Runner(loop_factory=whilst.run)  # error: arg-type
        whilst.Loop("epoll")  # error: call-arg
    """,
    "files": """
        import whilst

        async def main() -> None:
            async with whilst.open("some") as file:
                await file.write(b"bytes")  # error: arg-type
                await file.pread(1, 0)  # error: attr-defined
            async with whilst.open("some", "wb") as writer:
                await writer.write("text")  # error: arg-type
            whilst.open("some").read()  # error: attr-defined
            whilst.open(1.5)  # error: call-overload
            with whilst.open("some") as wrong:  # error: attr-defined
                pass
    """,
    "scheduling": """
        import whilst

        def note(number: int) -> None:
            print(number)

        loop = whilst.Loop()
        loop.call_soon(note, "text")  # error: arg-type
        loop.call_soon_threadsafe(note)  # error: arg-type
        loop.call_later("soon", note, 1)  # error: arg-type
        loop.call_at(1.0, note, 1, 2)  # error: arg-type
        loop.add_reader("name", note, 1)  # error: arg-type
        loop.call_sooner(note, 1)  # error: attr-defined
        loop.create_task(note(1))  # error: arg-type,func-returns-value
        loop.driver = "epoll"  # error: misc
    """,
    "datagrams": """
        import asyncio

        import whilst

        async def main(loop: whilst.Loop) -> None:
            await loop.create_datagram_endpoint(asyncio.DatagramProtocol, reuse_address=True)  # error: call-arg
    """,
}


def source_of(program: str) -> str:
    """The program without the indentation that it has in this file."""
    return re.sub(r"^ {8}", "", program.strip("\n"), flags=re.MULTILINE).rstrip() + "\n"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All programs, a file each."""
    directory = tmp_path_factory.mktemp("programs")
    for kind, programs in (("right", RIGHT), ("wrong", WRONG)):
        for name, program in programs.items():
            (directory / f"{kind}_{name}.py").write_text(source_of(program))
    return directory


@pytest.fixture(scope="module")
def remarks(directory: Path) -> dict[str, dict[int, set[str]]]:
    """What mypy says of each file and line: the codes of errors, and what is revealed. One run, for that takes seconds."""
    files = sorted(path.name for path in directory.iterdir())
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        "--no-pretty",
        "--no-error-summary",
        *files,
    ]
    # The package that is installed, and not one that happens to be on a path.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MYPYPATH", "PYTHONPATH")
    }
    ran = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=110, check=False
    )
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr
    found: dict[str, dict[int, set[str]]] = {name: defaultdict(set) for name in files}
    for line in ran.stdout.splitlines():
        said = re.fullmatch(
            r"(\w+\.py):(\d+): (?:error: .*\[([\w-]+)\]|note: Revealed type is \"(.*)\"|note: .*)", line
        )
        assert said, f"mypy says something else: {line}"
        name, number, code, revealed = said.groups()
        if code or revealed:
            found[name][int(number)].add(code or revealed)
    return found


def marks(source: str) -> dict[int, set[str]]:
    """What mypy is to say of each line."""
    expected = {}
    for number, line in enumerate(source.splitlines(), 1):
        if said := re.search(r"# error: (.*)", line):
            expected[number] = set(said[1].split(","))
        elif said := re.search(r"# reveals: (.*)", line):
            expected[number] = {said[1]}
    return expected


@pytest.mark.parametrize("name", [f"right_{name}" for name in RIGHT] + [f"wrong_{name}" for name in WRONG])
def test_what_mypy_says(name: str, directory: Path, remarks: dict[str, dict[int, set[str]]]) -> None:
    assert dict(remarks[f"{name}.py"]) == marks((directory / f"{name}.py").read_text())


@pytest.mark.parametrize("name", RIGHT)
def test_that_it_is_true(name: str, directory: Path, driver: str) -> None:
    # Type checkers know `reveal_type`; Python must be told.
    program = "from typing import reveal_type\n" + (directory / f"right_{name}.py").read_text()
    ran = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr


def public_methods(kind: type) -> list[str]:
    return [name for name in dir(kind) if not name.startswith("_") and callable(getattr(kind, name))]


# What whilst has, beside what says in CPython how it is to be.
COUNTERPARTS: list[tuple[type, type]] = [
    (whilst.Loop, asyncio.AbstractEventLoop),
    (_whilst.Handle, asyncio.Handle),
    (_whilst.TimerHandle, asyncio.TimerHandle),
    (_whilst.StreamTransport, selector_events._SelectorSocketTransport),  # type: ignore[attr-defined]
    (_whilst.DatagramTransport, selector_events._SelectorDatagramTransport),  # type: ignore[attr-defined]
    (processes.SubprocessTransport, unix_events._UnixSubprocessTransport),  # type: ignore[attr-defined]
]


@pytest.mark.parametrize(("ours", "theirs"), COUNTERPARTS)
def test_no_method_is_missing(ours: type, theirs: type) -> None:
    assert set(public_methods(theirs)) <= set(public_methods(ours))


@pytest.mark.parametrize(
    ("ours", "theirs", "name"),
    [(ours, theirs, name) for ours, theirs in COUNTERPARTS for name in public_methods(theirs)],
)
def test_signature_and_documentation(ours: type, theirs: type, name: str) -> None:
    """`inspect.signature()` and `help()` say of a method in Rust what they say of one in Python."""
    method = getattr(ours, name)
    if inspect.isfunction(method) and method.__module__.startswith("asyncio."):
        return  # CPython's own.
    assert inspect.getdoc(method)
    if name == "create_task" and sys.version_info >= (3, 14):
        return  # There it is `**kwargs` for all, in which name and context are.
    assert parameters_of(method) == parameters_of(getattr(theirs, name))


def parameters_of(method: Callable[..., object]) -> dict[str, object]:
    """The names of the parameters and their defaults, but for `**kwargs`, which newer versions of Python have in more places."""
    parameters = inspect.signature(method).parameters.values()
    return {it.name: it.default for it in parameters if it.kind is not inspect.Parameter.VAR_KEYWORD}
