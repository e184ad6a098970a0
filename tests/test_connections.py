"""``create_connection`` and ``create_unix_connection``."""

import asyncio
import contextlib
import contextvars
import inspect
import socket
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
import whilst
from oracle import (
    SECONDS,
    error_of_awaiting,
    no_descriptor_leaks,
    program,
    run,
    same,
    socket_pair,
    turns,
)

pytestmark = pytest.mark.usefixtures("driver")


@contextlib.contextmanager
def listener(host: str = "127.0.0.1", port: int = 0, backlog: int = 10) -> Any:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(backlog)
        yield sock


async def outcome_of(awaitable: Any) -> object:
    """Return what an awaitable gives, or the class and the words of what it raises."""
    try:
        return await awaitable
    except Exception as error:
        return type(error).__name__, str(error)


def unused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def resolve_to(loop: Any, addresses: list[tuple[int, Any]]) -> None:
    """Have the loop's resolver answer with these."""

    async def getaddrinfo(*_args: object, **_keywords: object) -> list[Any]:
        return [(family, socket.SOCK_STREAM, 6, "", address) for family, address in addresses]

    loop.getaddrinfo = getaddrinfo


def test_connect() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        for host in ("127.0.0.1", "::1", "localhost"):
            with listener("::1" if host == "::1" else "127.0.0.1") as sock:
                transport, protocol = await loop.create_connection(
                    asyncio.Protocol, host, sock.getsockname()[1]
                )
                notes.append(transport.get_extra_info("peername") == sock.getsockname())
                notes.append(transport.get_protocol() is protocol)
                transport.close()
                await turns()

    same(scenario)


def test_wrong_arguments_in_cpythons_words() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop: Any = asyncio.get_running_loop()
        with socket.socket() as sock, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            for keywords in (
                {},
                {"host": "127.0.0.1", "port": 1, "sock": sock},
                {"sock": datagrams},
                {"host": "127.0.0.1", "port": 1, "server_hostname": "x"},
                {"host": None, "port": 1, "ssl": True},
                {"host": "127.0.0.1", "port": 1, "ssl_handshake_timeout": 1},
                {"host": "no.such.host.invalid", "port": 1},
                {"host": "127.0.0.1", "port": "no such service"},
                {"host": "127.0.0.1", "port": 1, "family": socket.AF_INET6},
            ):
                kind, words = await error_of_awaiting(loop.create_connection(asyncio.Protocol, **keywords))
                notes.append((sorted(keywords), kind, words.partition("<")[0]))
            kind, words = await error_of_awaiting(loop.create_connection(asyncio.Protocol, sock=sock))
            notes.append((kind, words))

    same(scenario)


def test_refused_in_cpythons_words() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        port = unused_port()
        for host in ("127.0.0.1", "::1"):
            kind, words = await error_of_awaiting(loop.create_connection(asyncio.Protocol, host, port))
            notes.append((kind, words.replace(str(port), "PORT")))
        resolve_to(loop, [(socket.AF_INET, ("127.0.0.1", port)), (socket.AF_INET, ("127.0.0.2", port))])
        kind, words = await error_of_awaiting(loop.create_connection(asyncio.Protocol, "many.example", port))
        notes.append((kind, words.replace(str(port), "PORT")))
        resolve_to(loop, [])
        notes.append(await error_of_awaiting(loop.create_connection(asyncio.Protocol, "none.example", port)))

    with no_descriptor_leaks():
        notes = same(scenario)
    assert notes[0][0] == "ConnectionRefusedError"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="from 3.12 on")
def test_all_errors() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop: Any = asyncio.get_running_loop()
        port = unused_port()
        resolve_to(loop, [(socket.AF_INET, ("127.0.0.1", port)), (socket.AF_INET, ("127.0.0.2", port))])
        try:
            await loop.create_connection(asyncio.Protocol, "many.example", port, all_errors=True)
        except ExceptionGroup as group:
            notes.append(
                [(type(each).__name__, str(each).replace(str(port), "PORT")) for each in group.exceptions]
            )

    assert len(same(scenario)[0]) == 2


def test_the_second_address_is_tried() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with listener() as sock:
            address = sock.getsockname()
            resolve_to(loop, [(socket.AF_INET, ("127.0.0.2", address[1])), (socket.AF_INET, address)])
            transport, _ = await loop.create_connection(asyncio.Protocol, "two.example", 1)
            assert transport.get_extra_info("peername") == address
            transport.close()
            await turns()

    with no_descriptor_leaks():
        run(main())


def test_happy_eyeballs() -> None:
    """The first address hangs; the second is tried after the delay, and the first given up."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with listener() as good, listener(backlog=0) as hangs, contextlib.ExitStack() as stack:
            # Its queue is full.
            for _ in range(2):
                sock = stack.enter_context(socket.socket())
                sock.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    sock.connect(hangs.getsockname())
            await asyncio.sleep(0.01)
            resolve_to(loop, [(socket.AF_INET, hangs.getsockname()), (socket.AF_INET, good.getsockname())])
            begin = time.monotonic()
            transport, _ = await asyncio.wait_for(
                loop.create_connection(asyncio.Protocol, "slow.example", 1, happy_eyeballs_delay=0.05),
                SECONDS,
            )
            assert 0.04 < time.monotonic() - begin < 0.9
            assert transport.get_extra_info("peername") == good.getsockname()
            transport.close()
            await turns()

    with no_descriptor_leaks():
        run(main())


def test_interleaved_families() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop: Any = asyncio.get_running_loop()
        tried: list[Any] = []
        port = unused_port()
        addresses = [(socket.AF_INET6, ("::1", port, 0, 0))] * 2 + [(socket.AF_INET, ("127.0.0.1", port))] * 2
        resolve_to(loop, addresses)
        original = loop.sock_connect

        async def sock_connect(sock: Any, address: Any) -> None:
            tried.append(sock.family.name)
            await original(sock, address)

        loop.sock_connect = sock_connect
        for keywords in ({}, {"interleave": 1}, {"interleave": 2}, {"happy_eyeballs_delay": 0.01}):
            tried.clear()
            await error_of_awaiting(loop.create_connection(asyncio.Protocol, "x.example", port, **keywords))
            notes.append(list(tried))

    with no_descriptor_leaks():
        same(scenario)


def test_local_addresses() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with listener() as sock:
            address = sock.getsockname()
            transport, _ = await loop.create_connection(
                asyncio.Protocol, *address, local_addr=("127.0.0.3", 0)
            )
            notes.append(transport.get_extra_info("sockname")[0])
            taken = transport.get_extra_info("sockname")
            transport.close()
            await turns()
            for local in (
                ("127.0.0.1", address[1]),
                ("192.0.2.1", 0),
                ("no.such.host.invalid", 0),
                ("::1", 0),
            ):
                kind, words = await error_of_awaiting(
                    loop.create_connection(asyncio.Protocol, *address, local_addr=local)
                )
                notes.append((kind, words.replace(str(address[1]), "PORT")))
            notes.append(taken[0])

    with no_descriptor_leaks():
        same(scenario)


def test_a_socket_of_ones_own() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (first, second):
            first.setblocking(True)
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=first)
            notes.append(first.gettimeout())
            transport.write(b"x")
            await turns()
            notes.append(second.recv(10))
            transport.close()
            await turns()
            notes.append(first.fileno())
            notes.append((await error_of_awaiting(loop.create_connection(asyncio.Protocol, sock=first)))[0])

    expected_and_actual = same(scenario)
    assert expected_and_actual[:3] == [0.0, b"x", -1]


def test_protocol_factories_that_fail() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()

        def factory() -> Any:
            raise ValueError("no protocol")

        with listener() as sock:
            notes.append(await error_of_awaiting(loop.create_connection(factory, *sock.getsockname())))

    import gc
    import warnings

    with warnings.catch_warnings():
        # CPython leaves the socket to the collector.
        warnings.simplefilter("ignore", ResourceWarning)
        same(scenario)
        gc.collect()


def test_cancelled_while_connecting() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with listener(backlog=0) as hangs, contextlib.ExitStack() as stack:
            for _ in range(2):
                sock = stack.enter_context(socket.socket())
                sock.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    sock.connect(hangs.getsockname())
            await asyncio.sleep(0.01)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(loop.create_connection(asyncio.Protocol, *hangs.getsockname()), 0.05)

    with no_descriptor_leaks():
        run(main())


def test_cancelled_at_every_step() -> None:
    """Whenever it is cancelled, no descriptor is left open."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with listener(backlog=100) as sock:
            for steps in range(12):
                task = loop.create_task(loop.create_connection(asyncio.Protocol, *sock.getsockname()))
                await turns(steps)
                task.cancel()
                try:
                    transport, _ = await task
                except asyncio.CancelledError:
                    pass
                else:
                    transport.close()
                await turns()

    with no_descriptor_leaks():
        run(main())


def test_paths(tmp_path: Path) -> None:
    async def scenario(notes: list[Any]) -> None:
        loop: Any = asyncio.get_running_loop()
        path = tmp_path / f"socket{len(list(tmp_path.iterdir()))}"
        kind, words = await error_of_awaiting(loop.create_unix_connection(asyncio.Protocol, path))
        notes.append((kind, words.replace(str(path), "PATH")))
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
            notes.append(
                (await error_of_awaiting(loop.create_unix_connection(asyncio.Protocol, str(path))))[0]
            )
            sock.listen()
            for form in (path, str(path), str(path).encode()):
                transport, _ = await loop.create_unix_connection(asyncio.Protocol, form)
                notes.append(transport.get_extra_info("peername") == str(path))
                transport.close()
                await turns()
        with socket.socket(socket.AF_INET) as wrong:
            for keywords in (
                {},
                {"path": path, "sock": wrong},
                {"sock": wrong},
                {"path": path, "server_hostname": "x"},
                {"path": path, "ssl": True},
            ):
                kind, words = await error_of_awaiting(
                    loop.create_unix_connection(asyncio.Protocol, **keywords)
                )
                notes.append((kind, words.partition("<")[0].replace(str(path), "PATH")))

    same(scenario)


def test_names_and_numbers() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        for arguments, keywords in (
            (("127.0.0.1", 80), {}),
            (("127.0.0.1", 80), {"type": socket.SOCK_STREAM}),
            (("::1", 80), {"type": socket.SOCK_STREAM}),
            (("127.0.0.1", "80"), {"type": socket.SOCK_STREAM}),
            (("127.0.0.1", None), {"type": socket.SOCK_DGRAM}),
            ((None, 80), {"type": socket.SOCK_STREAM}),
            (("localhost", 80), {"type": socket.SOCK_STREAM, "family": socket.AF_INET}),
            ((b"127.0.0.1", 80), {"type": socket.SOCK_STREAM, "flags": socket.AI_CANONNAME}),
            (("127.1", 80), {"type": socket.SOCK_STREAM}),
        ):
            notes.append(await loop.getaddrinfo(*arguments, **keywords))  # type: ignore[arg-type]
        for wrong in (
            ("", 80),
            ("no.such.host.invalid", 1),
            ("127.0.0.1", "nonsense"),
            (5, 1),
            ("127.0.0.1", 1.5),
            ("\ud800", 1),
        ):
            notes.append(await error_of_awaiting(loop.getaddrinfo(*wrong)))  # type: ignore[arg-type]
        notes.append(await loop.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV))

    same(scenario)


def test_literals_are_answered_as_the_c_library_answers() -> None:
    """Also by the enumerations' members in the answer, and in the errors."""

    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        hosts = (
            "127.0.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "127.0.0.01",
            "1.2.3",
            "::1",
            "::",
            "::ffff:1.2.3.4",
            "fe80::1%lo",
        )
        ports: tuple[Any, ...] = (0, 80, 65535, 65536, -1, True)
        for host in hosts:
            for port in ports:
                notes.append(repr(await outcome_of(loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))))
            for keywords in (
                {"type": socket.SOCK_DGRAM},
                {"type": socket.SOCK_RAW},
                {"type": socket.SOCK_STREAM, "proto": socket.IPPROTO_TCP},
                {"type": socket.SOCK_STREAM, "proto": socket.IPPROTO_UDP},
                {"type": socket.SOCK_DGRAM, "proto": socket.IPPROTO_UDP},
                {"type": socket.SOCK_STREAM, "family": socket.AF_INET},
                {"type": socket.SOCK_STREAM, "family": socket.AF_INET6},
                {"type": socket.SOCK_STREAM, "flags": socket.AI_PASSIVE},
                {"type": socket.SOCK_STREAM, "flags": socket.AI_NUMERICHOST | socket.AI_NUMERICSERV},
                {"type": socket.SOCK_STREAM, "flags": socket.AI_CANONNAME},
                {"family": socket.AF_INET},
            ):
                notes.append(repr(await outcome_of(loop.getaddrinfo(host, 80, **keywords))))

    same(scenario)


def test_a_literal_is_audited() -> None:
    program = """
import asyncio, socket, sys, whilst
seen = []
sys.addaudithook(lambda event, arguments: seen.append(arguments) if event == "socket.getaddrinfo" else None)
async def main():
    return await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
whilst.run(main())
print(seen)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == repr([("127.0.0.1", 80, 0, int(socket.SOCK_STREAM), 0, 0)])


STEPS = (
    "sock_connect",
    "create_future",
    "_connect_sock",
    "_create_connection_transport",
    "_ensure_resolved",
    "_make_socket_transport",
)


@pytest.mark.parametrize("place", ["instance", "class", "subclass"])
@pytest.mark.parametrize("name", STEPS)
def test_a_step_of_ones_own_is_taken(name: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method of the loop that a program has replaced is called for a literal address, too."""
    calls: list[str] = []

    def counting(kind: Any) -> Any:
        original = getattr(kind, name)

        def step(self: Any, *arguments: Any, **keywords: Any) -> Any:
            calls.append(name)
            return original(self, *arguments, **keywords)

        return step

    kind: Any = whilst.Loop
    if place == "class":
        monkeypatch.setattr(kind, name, counting(kind))
    elif place == "subclass":
        kind = type("Subclass", (whilst.Loop,), {name: counting(whilst.Loop)})

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        with listener() as sock:
            # Once as it is, so that what was found out about the class then is no longer true.
            transport, _ = await whilst.Loop.create_connection(loop, asyncio.Protocol, *sock.getsockname())
            transport.close()
            if place == "instance":
                setattr(loop, name, counting(kind).__get__(loop))
            calls.clear()
            transport, _ = await loop.create_connection(asyncio.Protocol, *sock.getsockname())
            transport.close()
            await turns()
        assert name in calls

    run(main(), kind)


def test_a_step_that_is_replaced_later_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Subclass(whilst.Loop):
        pass

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        with listener() as sock:
            for expected in (0, 1, 0):
                calls.clear()
                transport, _ = await loop.create_connection(asyncio.Protocol, *sock.getsockname())
                transport.close()
                assert len(calls) == expected
                if not expected:
                    connect = Subclass.sock_connect

                    async def sock_connect(self: Any, *arguments: Any, original: Any = connect) -> None:
                        calls.append(arguments)
                        await original(self, *arguments)

                    monkeypatch.setattr(whilst.Loop, "sock_connect", sock_connect)
                else:
                    monkeypatch.undo()
            await turns()

    run(main(), Subclass)


@pytest.mark.parametrize("what", ["class", "method", "module"])
def test_sockets_of_ones_own_are_used(
    what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, driver: str
) -> None:
    """What guards or diverts a program's connections by way of the module `socket` (pytest-socket, PySocks) works."""
    asked = []

    class Guard(socket.socket):
        def connect(self, address: Any) -> None:
            asked.append(address)
            super().connect(address)

    def connect(self: Any, address: Any) -> None:
        asked.append(address)
        socket.SocketType.connect(self, address)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        path = str(tmp_path / "socket")
        with listener() as sock, socket.socket(socket.AF_UNIX) as unix:
            unix.bind(path)
            unix.listen()
            if what == "class":
                monkeypatch.setattr(socket, "socket", Guard)
            elif what == "method":
                monkeypatch.setattr(socket.socket, "connect", connect, raising=False)
            else:
                module = types.ModuleType("socket")
                vars(module).update(vars(socket), socket=Guard)
                monkeypatch.setattr("asyncio.base_events.socket", module)
                monkeypatch.setattr("asyncio.unix_events.socket", module)
            first, _ = await loop.create_connection(asyncio.Protocol, *sock.getsockname())
            second, _ = await loop.create_unix_connection(asyncio.Protocol, path)
            assert asked == [sock.getsockname(), path]
            first.close()
            second.close()
            await turns()

    run(main())


def test_connections_are_audited(tmp_path: Path) -> None:
    """A hook hears of connections, with the socket, and may forbid them."""
    done = program(
        """
import asyncio, socket, sys, whilst
seen = []
def hook(event, arguments):
    if event == "socket.connect":
        seen.append((type(arguments[0]).__name__, arguments[1]))
        if len(seen) > 2:
            raise PermissionError("no more")
    assert not event.startswith("whilst"), event
async def main():
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(sys.argv[1])
        unix.listen()
        host, port = server.getsockname()
        (await loop.create_connection(asyncio.Protocol, host, port))[0].close()
        sys.addaudithook(hook)
        (await loop.create_connection(asyncio.Protocol, host, port))[0].close()
        (await loop.create_unix_connection(asyncio.Protocol, sys.argv[1]))[0].close()
        try:
            await loop.create_connection(asyncio.Protocol, host, port)
        except PermissionError as error:
            print(error)
        assert seen == [("socket", (host, port)), ("socket", sys.argv[1]), ("socket", (host, port))], seen
whilst.run(main())
""",
        str(tmp_path / "socket"),
    )
    assert done.stdout == "no more\n", done


def test_options_that_change_nothing() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop: Any = asyncio.get_running_loop()
        with listener() as sock:
            host, port = sock.getsockname()
            for options in (
                {"local_addr": None, "ssl": None, "family": 0},
                {"happy_eyeballs_delay": None, "interleave": None},
                {"server_hostname": ""},
                {"ssl_handshake_timeout": 0},
                {"interleave": 0, "proto": socket.IPPROTO_UDP},
                {"family": socket.AF_INET},
                {"ssl": False},
            ):
                outcome = await outcome_of(loop.create_connection(asyncio.Protocol, host, port, **options))
                if isinstance(outcome[0], asyncio.Transport):
                    notes.append(outcome[0].get_extra_info("peername") == (host, port))
                    outcome[0].close()
                else:
                    notes.append((outcome[0], outcome[1].partition("create_connection")[2] or outcome[1]))
            await turns()

    same(scenario)


def test_an_option_that_there_is_not() -> None:
    """CPython's raises at the call, ours when it is awaited."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        with pytest.raises(TypeError, match="no_such_option"):
            await loop.create_connection(asyncio.Protocol, "127.0.0.1", 1, no_such_option=None)
        with pytest.raises(TypeError, match="no_such_option"):
            await loop.create_unix_connection(asyncio.Protocol, "/nowhere", no_such_option=None)

    run(main())


def test_it_is_a_coroutine_function_with_cpythons_signature() -> None:
    for name, original in (
        ("create_connection", asyncio.BaseEventLoop.create_connection),
        ("create_unix_connection", asyncio.SelectorEventLoop.create_unix_connection),
    ):
        method = getattr(whilst.Loop, name)
        assert inspect.iscoroutinefunction(method)
        assert inspect.signature(method) == inspect.signature(original)
        assert method.__doc__ == original.__doc__


def test_the_order_of_a_connections_beginning() -> None:
    variable = contextvars.ContextVar("variable", default="nothing")

    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()

        class Noting(asyncio.Protocol):
            def __init__(self) -> None:
                notes.append(("made", variable.get(), asyncio.current_task() is not None))
                variable.set("the factory's")
                loop.call_soon(notes.append, "scheduled by the factory")

            def connection_made(self, transport: Any) -> None:
                notes.append(("connected", variable.get(), asyncio.current_task() is not None))
                loop.call_soon(notes.append, "scheduled when connected")

        variable.set("the caller's")
        with listener() as sock:
            transport, protocol = await loop.create_connection(Noting, *sock.getsockname())
            notes.append(("returned", variable.get(), transport.get_protocol() is protocol))
            await turns()
            transport.close()
            await turns()

    same(scenario)


def test_a_peer_that_answers_late() -> None:
    """The queue of the listening socket is full at first, so that the kernel tries again a second later."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with listener(backlog=0) as sock, contextlib.ExitStack() as stack:
            address = sock.getsockname()
            stack.enter_context(socket.create_connection(address, SECONDS))
            second = stack.enter_context(socket.socket())
            second.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                second.connect(address)
            task = loop.create_task(loop.create_connection(asyncio.Protocol, *address))
            await asyncio.sleep(0.05)
            assert not task.done()
            second.close()
            sock.setblocking(True)
            sock.listen(10)
            for _ in range(2):
                accepted, _name = await loop.run_in_executor(None, sock.accept)
                stack.callback(accepted.close)
            transport, protocol = await task
            assert transport.get_extra_info("peername") == address
            assert transport.get_protocol() is protocol
            transport.close()
            await turns()

    with no_descriptor_leaks():
        run(main())


def test_a_unix_socket_with_a_full_queue(tmp_path: Path) -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        path = str(tmp_path / f"socket{len(list(tmp_path.iterdir()))}")
        with socket.socket(socket.AF_UNIX) as sock, contextlib.ExitStack() as stack:
            sock.bind(path)
            sock.listen(0)
            stack.enter_context(socket.socket(socket.AF_UNIX)).connect(path)
            outcome: Any = await outcome_of(loop.create_unix_connection(asyncio.Protocol, path))
            notes.append(isinstance(outcome[0], asyncio.Transport) or outcome)
            if isinstance(outcome[0], asyncio.Transport):
                outcome[0].close()
                await turns()

    with no_descriptor_leaks():
        same(scenario)
