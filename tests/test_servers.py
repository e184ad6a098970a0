"""``create_server``, ``create_unix_server`` and ``asyncio.Server``."""

import asyncio
import contextlib
import contextvars
import errno
import socket
import ssl
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme
import whilst
from oracle import (
    SECONDS,
    descriptors,
    error_of_awaiting,
    handler_notes,
    no_descriptor_leaks,
    program,
    reset,
    run,
    same,
    stdlib_loop,
    turns,
    until,
)

pytestmark = pytest.mark.usefixtures("driver")


class Echo(asyncio.Protocol):
    """Sends back what it receives, and knows all of its kind that are open."""

    open: set["Echo"]

    def __init__(self) -> None:
        if not hasattr(type(self), "open"):
            type(self).open = set()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        type(self).open.add(self)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        type(self).open.discard(self)


async def echoed(address: Any, data: bytes = b"hello") -> bytes:
    """Send something to an echo server and return what comes back."""
    reader, writer = await asyncio.open_connection(*address[:2])
    writer.write(data)
    answer = await asyncio.wait_for(reader.readexactly(len(data)), SECONDS)
    writer.close()
    await writer.wait_closed()
    return answer


async def closed(server: asyncio.Server) -> None:
    server.close()
    await asyncio.wait_for(server.wait_closed(), SECONDS)
    await until(lambda: not getattr(Echo, "open", None))


def test_port_zero_and_what_a_server_says_of_itself() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        notes.append((type(server).__name__, isinstance(server, asyncio.AbstractServer)))
        notes.append((server.is_serving(), server.get_loop() is loop, type(server.sockets).__name__))
        notes.append([type(sock).__name__ for sock in server.sockets])
        address = server.sockets[0].getsockname()
        notes.append((address[0], address[1] > 0))
        notes.append(await echoed(address))
        await closed(server)
        notes.append((server.is_serving(), server.sockets))
        notes.append((await error_of_awaiting(echoed(address)))[0])
        server.close()

    same(scenario)


def test_several_hosts_and_families() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, ["127.0.0.1", "127.0.0.2", "::1"], 0)
        addresses = [sock.getsockname() for sock in server.sockets]
        notes.append([address[0] for address in addresses])
        for address in addresses:
            notes.append(await echoed(address))
        await closed(server)
        for host in (None, "", "localhost", "0.0.0.0"):
            server = await loop.create_server(Echo, host, 0)
            notes.append((host, sorted(sock.family for sock in server.sockets)))
            await closed(server)
        server = await loop.create_server(Echo, None, 0, family=socket.AF_INET)
        notes.append([sock.getsockname()[0] for sock in server.sockets])
        await closed(server)

    same(scenario)


def test_wrong_arguments_in_cpythons_words() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop: Any = asyncio.get_running_loop()
        with socket.socket() as sock, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            for keywords in (
                {},
                {"host": "127.0.0.1", "port": 0, "sock": sock},
                {"sock": datagrams},
                {"host": "127.0.0.1", "port": 0, "ssl": False},
                {"host": "127.0.0.1", "port": 0, "ssl": True},
                {"host": "127.0.0.1", "port": 0, "ssl_handshake_timeout": 1},
                {"host": "no.such.host.invalid", "port": 0},
                {"host": "192.0.2.1", "port": 0},
                {"host": "127.0.0.1", "port": 99999},
                {"host": "127.0.0.1", "port": "nonsense"},
            ):
                kind, words = await error_of_awaiting(loop.create_server(Echo, **keywords))
                notes.append((sorted(keywords), kind, words.partition("<")[0]))

    same(scenario)


def test_a_port_in_use_in_cpythons_words() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            await loop.create_server(Echo, "127.0.0.1", port)
        except OSError as error:
            notes.append((error.errno == errno.EADDRINUSE, str(error).replace(str(port), "PORT")))
        await closed(server)

    assert "error while attempting to bind on address" in same(scenario)[0][1]


def test_the_same_port_again_at_once() -> None:
    """Also after it served connections, and after a server that was closed before its connections."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        for round_ in range(30):
            assert await echoed(address) == b"hello"
            if round_ % 2:
                server.close()
            else:
                await closed(server)
            server = await loop.create_server(Echo, *address)
        await closed(server)

    with no_descriptor_leaks():
        run(main())


def test_without_reuse_address_the_port_is_free_when_close_returns() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0, reuse_address=False)
        address = server.sockets[0].getsockname()
        for _ in range(10):
            await asyncio.sleep(0)
            server.close()
            server = await loop.create_server(Echo, *address, reuse_address=False)
        await closed(server)

    run(main())


def test_a_port_that_is_shared() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        first = await loop.create_server(Echo, "127.0.0.1", 0, reuse_port=True)
        address = first.sockets[0].getsockname()
        second = await loop.create_server(Echo, *address, reuse_port=True)
        for _ in range(20):
            assert await echoed(address) == b"hello"
        first.close()
        for _ in range(20):
            assert await echoed(address) == b"hello"
        await closed(second)

    run(main())


def test_a_socket_of_ones_own() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            server = await loop.create_server(Echo, sock=sock, backlog=5)
            notes.append(sock.gettimeout())
            notes.append(await echoed(sock.getsockname()))
            await closed(server)
            notes.append(sock.fileno())

    same(scenario)


def test_start_serving_later() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0, start_serving=False)
        notes.append(server.is_serving())
        address = server.sockets[0].getsockname()
        notes.append((await error_of_awaiting(echoed(address)))[0])
        await server.start_serving()
        await server.start_serving()
        notes.append(server.is_serving())
        notes.append(await echoed(address))
        await closed(server)
        notes.append(await error_of_awaiting(server.start_serving()))
        unstarted = await loop.create_server(Echo, "127.0.0.1", 0, start_serving=False)
        await closed(unstarted)

    same(scenario)


def test_serve_forever() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0, start_serving=False)
        address = server.sockets[0].getsockname()
        task = loop.create_task(server.serve_forever())
        await turns(2)
        notes.append(server.is_serving())
        kind, words = await error_of_awaiting(server.serve_forever())
        notes.append((kind, words.rpartition(">")[2]))
        notes.append(await echoed(address))
        await until(lambda: not Echo.open)
        task.cancel()
        try:
            await asyncio.wait_for(task, SECONDS)
        except asyncio.CancelledError:
            notes.append("cancelled")
        notes.append((server.is_serving(), server.sockets))
        kind, words = await error_of_awaiting(server.serve_forever())
        notes.append((kind, words.rpartition(">")[2]))

    same(scenario)


def test_async_with() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with await loop.create_server(Echo, "127.0.0.1", 0) as server:
            assert await echoed(server.sockets[0].getsockname()) == b"hello"
            await until(lambda: not Echo.open)
        assert not server.is_serving()

    run(main())


def test_wait_closed_with_a_connection_open() -> None:
    """What it waits for changed from version to version; here it is this version's."""

    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        waiting = loop.create_task(server.wait_closed())
        _reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await until(lambda: Echo.open)
        await turns()
        notes.append(waiting.done())
        server.close()
        await turns()
        notes.append(waiting.done())
        writer.close()
        await writer.wait_closed()
        await until(lambda: not Echo.open)
        await turns()
        notes.append(waiting.done())
        await asyncio.wait_for(waiting, SECONDS)
        await server.wait_closed()

    same(scenario)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="from 3.13 on")
@pytest.mark.parametrize("method", ["close_clients", "abort_clients"])
def test_close_and_abort_clients(method: str) -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        server: Any = await loop.create_server(Echo, "127.0.0.1", 0)
        streams = [await asyncio.open_connection(*server.sockets[0].getsockname()) for _ in range(5)]
        await until(lambda: len(Echo.open) == 5)
        getattr(server, method)()
        for reader, writer in streams:
            try:
                notes.append(await asyncio.wait_for(reader.read(), SECONDS))
            except ConnectionResetError:
                notes.append("reset")
            writer.close()
        await until(lambda: not Echo.open)
        await closed(server)

    same(scenario)


@pytest.mark.parametrize("debug", [False, True])
def test_protocol_factories_that_fail(debug: bool) -> None:
    """The connection is closed; in debug mode it is said. (CPython's loop leaves the socket to the collector.)"""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        notes: list[Any] = []
        handler_notes(loop, notes)

        def factory() -> Any:
            raise ValueError("no protocol")

        server = await loop.create_server(factory, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await asyncio.wait_for(reader.read(), SECONDS) == b""
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        message = "Error on transport creation for incoming connection"
        assert notes == ([("handler", message, "ValueError", "no protocol")] if debug else [])

    with no_descriptor_leaks():
        run(main(), debug=debug)


def test_connections_run_in_the_context_in_which_the_server_was_started() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nothing")

    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()

        class Notes(Echo):
            def __init__(self) -> None:
                super().__init__()
                notes.append(("factory", variable.get()))

            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                notes.append(("made", variable.get()))
                variable.set("of a connection")

            def data_received(self, data: bytes) -> None:
                super().data_received(data)

        variable.set("of the server")
        server = await loop.create_server(Notes, "127.0.0.1", 0)
        variable.set("later")
        address = server.sockets[0].getsockname()
        await echoed(address)
        await echoed(address)
        notes.append(variable.get())
        server.close()
        await server.wait_closed()
        await until(lambda: not Notes.open)

    same(scenario)


def test_connections_that_wait_when_serving_begins_and_when_it_ends() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        with contextlib.ExitStack() as stack:
            for _ in range(50):
                stack.enter_context(socket.create_connection(address, timeout=SECONDS))
            server.close()
            # None of them may be left open by whom nobody can ask any more.
            await turns(10)
            for protocol in list(Echo.open):
                protocol.transport.abort()
            await until(lambda: not Echo.open)
        await server.wait_closed()

    with no_descriptor_leaks():
        run(main())


def test_closed_inside_of_a_protocol_factory() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        def factory() -> Echo:
            server.close()
            return Echo()

        server = await loop.create_server(factory, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        with contextlib.ExitStack() as stack:
            socks = [
                stack.enter_context(socket.create_connection(address, timeout=SECONDS)) for _ in range(10)
            ]
            await until(lambda: not server.is_serving())
            await turns(10)
            for sock in socks:
                sock.close()
            await until(lambda: not Echo.open)
        await server.wait_closed()

    with no_descriptor_leaks():
        run(main())


def test_thousands_of_connections_half_of_them_cut_abruptly() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=200)
        address = server.sockets[0].getsockname()

        async def one(number: int) -> None:
            sock = socket.socket()
            sock.setblocking(False)
            try:
                await loop.sock_connect(sock, address)
                if number % 4 < 2:
                    await loop.sock_sendall(sock, b"x" * (number % 5000 + 1))
            finally:
                if number % 2:
                    reset(sock)
                else:
                    sock.close()

        for begin in range(0, 2000, 100):
            await asyncio.gather(*(one(number) for number in range(begin, begin + 100)))
        await until(lambda: not Echo.open)
        await closed(server)

    with no_descriptor_leaks():
        run(main())


def test_out_of_descriptors_while_accepting() -> None:
    """It says so once, and goes on after a second."""
    result = program(
        """
        import asyncio, resource, socket, time, os, whilst

        async def main():
            loop = asyncio.get_running_loop()
            told = []
            loop.set_exception_handler(lambda loop, context: told.append(context))

            class Echo(asyncio.Protocol):
                def connection_made(self, transport):
                    self.transport = transport

                def data_received(self, data):
                    self.transport.write(data)

            clients = [socket.socket() for _ in range(20)]
            for client in clients:
                client.setblocking(False)
            probe = os.dup(0)
            os.close(probe)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            # Room for a server, the loop's own and a few connections. (A ring goes by the limit at the time when it is told
            # to accept.)
            resource.setrlimit(resource.RLIMIT_NOFILE, (probe + 10, hard))
            server = await loop.create_server(Echo, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"x")
            await reader.readexactly(1)
            for client in clients:
                await loop.sock_connect(client, address)
            await asyncio.sleep(0.3)
            assert len(told) == 1, told
            assert told[0]["message"] == "socket.accept() out of system resource", told
            assert isinstance(told[0]["exception"], OSError) and told[0]["socket"].fileno() > 0
            # The connections there are go on, and nothing spins.
            begin = time.process_time()
            writer.write(b"y")
            assert await asyncio.wait_for(reader.readexactly(1), 5) == b"y"
            await asyncio.sleep(0.3)
            assert time.process_time() - begin < 0.1
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for client in clients:
                await loop.sock_sendall(client, b"z")
                assert await asyncio.wait_for(loop.sock_recv(client, 1), 5) == b"z"
            assert len(told) == 1, told
            for client in clients:
                client.close()
            writer.close()
            server.close()
            await asyncio.sleep(0.01)
            print("fine")

        whilst.run(main())
        """
    )
    assert (result.stdout, result.returncode) == ("fine\n", 0), result.stderr


def test_paths(tmp_path: Path) -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        path = folder / "socket"
        server = await loop.create_unix_server(Echo, path)
        notes.append(stat.S_ISSOCK(path.stat().st_mode))
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"x")
        notes.append(await reader.readexactly(1))
        writer.close()
        await until(lambda: not Echo.open)
        server.close()
        await server.wait_closed()
        notes.append(path.exists())
        if path.exists():
            # A socket that nobody listens to is replaced.
            server = await loop.create_unix_server(Echo, str(path))
            server.close()
            await server.wait_closed()
        path.unlink(missing_ok=True)
        path.write_text("a file")
        kind, words = await error_of_awaiting(loop.create_unix_server(Echo, str(path)))
        notes.append((kind, words.replace(str(path), "PATH")))
        notes.append(await error_of_awaiting(loop.create_unix_server(Echo)))
        kind, words = await error_of_awaiting(loop.create_unix_server(Echo, str(folder / "none" / "x")))
        notes.append((kind, words.replace(str(folder), "PATH")))
        server = await loop.create_unix_server(Echo, "\0whilst test of servers")
        reader, writer = await asyncio.open_unix_connection("\0whilst test of servers")
        writer.write(b"x")
        notes.append(await reader.readexactly(1))
        writer.close()
        await until(lambda: not Echo.open)
        server.close()
        await server.wait_closed()
        await until(lambda: not Echo.open)

    same(scenario)


def test_connect_accepted_socket() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as listener, socket.socket() as client:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            client.connect(listener.getsockname())
            connection, _ = listener.accept()
            transport, protocol = await loop.connect_accepted_socket(Echo, connection)
            notes.append((type(protocol).__name__, transport.get_protocol() is protocol))
            client.setblocking(False)
            await loop.sock_sendall(client, b"x")
            notes.append(await asyncio.wait_for(loop.sock_recv(client, 10), SECONDS))
            transport.close()
            await until(lambda: not Echo.open)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            kind, words = await error_of_awaiting(loop.connect_accepted_socket(Echo, datagrams))
            notes.append((kind, words.partition("<")[0]))

    same(scenario)


def test_a_server_is_closed_with_its_loop() -> None:
    """Not closed by anybody before: the port is free once the sockets are."""
    for factory in (stdlib_loop, whilst.new_event_loop):
        before = len(descriptors())
        loop: Any = factory()
        server = loop.run_until_complete(loop.create_server(Echo, "127.0.0.1", 0))
        address = server.sockets[0].getsockname()
        loop.close()
        socks = [sock._sock for sock in server.sockets]
        for sock in socks:
            sock.close()
        with socket.socket() as again:
            again.bind(address)
        del server, loop
        assert len(descriptors()) <= before + 1


@pytest.mark.parametrize("tls", [False, True])
def test_a_socket_with_an_accept_of_its_own(tls: bool) -> None:
    """A listening socket object is asked by its own `accept()`, for as long as the server serves."""
    contexts = [None, None]
    if tls:
        authority = trustme.CA()
        contexts = [ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()]
        authority.issue_cert("localhost").configure_cert(contexts[0])
        authority.configure_trust(contexts[1])

    class Counting(socket.socket):
        accepted = 0

        def accept(self) -> Any:
            connection, address = super().accept()
            self.accepted += 1
            return connection, address

    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        listener = Counting()
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = listener.getsockname()
        server = await loop.create_server(Echo, sock=listener, ssl=contexts[0])
        for _ in range(3):
            name = {"server_hostname": "localhost"} if tls else {}
            reader, writer = await asyncio.open_connection(*address, ssl=contexts[1], **name)
            writer.write(b"hello")
            notes.append(await asyncio.wait_for(reader.readexactly(5), SECONDS))
            writer.close()
            await writer.wait_closed()
        notes.append(listener.accepted)
        server.close()
        notes.append(listener.fileno())
        await server.wait_closed()
        notes.append((await error_of_awaiting(asyncio.open_connection(*address)))[0])

    with no_descriptor_leaks():
        same(scenario)
