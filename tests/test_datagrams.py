"""Datagram transports, beside asyncio's own: order, errors, floods. (Addresses: test_datagram_addresses.py.)"""

import asyncio
import contextlib
import contextvars
import errno
import gc
import logging
import re
import socket
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import whilst
from endpoints import Recorder, datagram_socket, echo, endpoint, full_pair, name_of, pair
from oracle import (
    SECONDS,
    descriptors,
    error_of,
    error_of_awaiting,
    handler_notes,
    no_descriptor_leaks,
    notes_of,
    run,
    same,
    stdlib_loop,
    turns,
    until,
)

pytestmark = pytest.mark.usefixtures("driver")


#: asyncio sends empty datagrams, and counts headers, from here on.
SENDS_EMPTY = sys.version_info >= (3, 13)


# -- What is sent -------------------------------------------------------------------------------------------------------------


def test_what_is_no_bytes() -> None:
    async def scenario(notes: list[Any]) -> None:
        server, client = await pair(notes)
        for data in ("text", 7, None, [1], object(), bytearray):
            kind, words = error_of(client.transport.sendto, data)
            notes.append((kind, words))
        notes.append(error_of(client.transport.sendto)[0])
        notes.append(error_of(client.transport.sendto, b"x", None, 1)[0])
        notes.append(error_of(client.transport.sendto, b"x", address=None)[0])
        notes.append(client.transport.is_closing())
        await client.lose()
        await server.lose()

    same(scenario)


def test_what_is_sent_is_what_it_was_then() -> None:
    """A buffer that changes after `sendto()`."""

    async def scenario(notes: list[Any]) -> None:
        server, client = await pair(notes)
        data = bytearray(b"before")
        client.transport.sendto(data)
        data[:] = b"after!"
        notes.append(await server.receive(1))
        client.transport.sendto(memoryview(b"0123456789")[2:5])
        client.transport.sendto(memoryview(b"\1\0\2\0").cast("H"))
        notes.append(await server.receive(3))
        await client.lose()
        await server.lose()

    same(scenario)


def test_empty_datagrams_are_received() -> None:
    async def scenario(notes: list[Any]) -> None:
        server = await endpoint(notes, "server", local_addr=("127.0.0.1", 0))
        with datagram_socket() as sender:
            sender.sendto(b"", name_of(server.transport))
            sender.sendto(b"x", name_of(server.transport))
            notes.append(await server.receive(2))
        await server.lose()

    same(scenario)


@pytest.mark.parametrize("empty", [b"", bytearray(), memoryview(b"")])
def test_empty_datagrams_are_sent(empty: Any) -> None:
    """From Python 3.13 on; before, nothing is, and nothing is said of a wrong address."""

    async def scenario(notes: list[Any]) -> None:
        server, client = await pair(notes)
        client.transport.sendto(empty)
        client.transport.sendto(b"x")
        notes.append(await server.receive(2 if SENDS_EMPTY else 1))
        notes.append(error_of(client.transport.sendto, empty, ("127.0.0.1", 9))[0])
        await client.lose()
        await server.lose()

    same(scenario)


def test_large_datagrams() -> None:
    async def scenario(notes: list[Any]) -> None:
        server, client = await pair(notes, datagram_received=echo)
        for length in (1, 1472, 1473, 9000, 40_000, 65_507):
            client.transport.sendto(b"x" * length)
            await client.receive(len(client.received) + 1)
        client.transport.sendto(b"x" * 65_508)
        notes.append([error.errno == errno.EMSGSIZE for error in client.errors])  # type: ignore[attr-defined]
        client.transport.sendto(b"y" * 10_000_000)
        notes.append(client.transport.is_closing())
        notes.append([len(data) for data in client.received])
        await client.lose()
        await server.lose()

    same(scenario)


def test_more_than_one_receives_at_once(tmp_path: Path) -> None:
    """Of a datagram beyond 256 KiB, which only Unix sockets carry, the rest is dropped."""
    so_sndbufforce = 32

    async def scenario(notes: list[Any]) -> None:
        first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with first:
            first.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            with contextlib.suppress(PermissionError):
                first.setsockopt(socket.SOL_SOCKET, so_sndbufforce, 1 << 20)
            server = await endpoint(notes, "server", sock=second)
            for length in (200_000, 256 * 1024, 256 * 1024 + 1, 300_000):
                try:
                    first.send(bytes([length % 251]) * length)
                except OSError as error:
                    notes.append(error.errno)
                else:
                    await server.receive(len(server.received) + 1)
            first.send(b"next")
            await server.receive(len(server.received) + 1)
            notes.append([len(data) for data in server.received])
            await server.lose()

    same(scenario)


# -- Errors -------------------------------------------------------------------------------------------------------------------


def test_a_port_where_nobody_listens() -> None:
    """ICMP says so: the protocol of a connected socket hears of it, when it sends again or when it reads."""

    async def scenario(notes: list[Any]) -> None:
        with datagram_socket() as unused:
            address = unused.getsockname()
        client = await endpoint(notes, remote_addr=address)
        client.transport.sendto(b"x")
        await until(lambda: client.errors)
        client.transport.sendto(b"y")
        client.transport.sendto(b"z")
        # What has come of the second one the third call hears, which sends nothing.
        notes.append(len(client.errors))
        notes.append(client.transport.is_closing())
        # Somebody listens after all.
        server = await endpoint([], local_addr=address, datagram_received=echo)
        client.transport.sendto(b"again")
        notes.append(await client.receive(1))
        await client.lose()
        await server.lose()

    notes = same(scenario)
    assert ("it", "error_received", ("ConnectionRefusedError", "[Errno 111] Connection refused")) in notes


def test_a_peer_that_has_gone() -> None:
    """On a Unix socket."""

    async def scenario(notes: list[Any]) -> None:
        first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        client = await endpoint(notes, sock=first)
        client.transport._extra["peername"] = "somebody"  # type: ignore[attr-defined]
        second.close()
        await turns()
        await client.lose()

    same(scenario)


def reports(loop: asyncio.AbstractEventLoop, notes: list[Any]) -> None:
    """Note what the exception handler is told, but for the description of a callback, which is CPython's own."""

    def handler(_loop: object, context: dict[str, Any]) -> None:
        words = context["message"]
        words = "in a callback" if words.startswith("Exception in callback") else words
        notes.append(("handler", words, type(context["exception"]).__name__, str(context["exception"])))

    loop.set_exception_handler(handler)


def test_an_error_in_error_received() -> None:
    async def scenario(notes: list[Any]) -> None:
        def fail(protocol: Recorder, error: Exception) -> None:
            raise ZeroDivisionError(str(error))

        reports(asyncio.get_running_loop(), notes)
        with datagram_socket() as unused:
            address = unused.getsockname()
        client = await endpoint(notes, remote_addr=address, error_received=fail)
        client.transport.sendto(b"x")
        await until(lambda: client.errors)
        client.transport.sendto(b"x")
        notes.append(error_of(client.transport.sendto, b"y"))
        await asyncio.sleep(0.01)
        notes.append(client.transport.is_closing())
        await client.lose()

    same(scenario)


@pytest.mark.parametrize("event", ["connection_made", "datagram_received", "connection_lost"])
def test_an_error_in_the_protocol(event: str) -> None:
    """It is reported and ends nothing."""

    async def scenario(notes: list[Any]) -> None:
        def fail(protocol: Recorder, *arguments: object) -> None:
            raise ZeroDivisionError(event)

        loop = asyncio.get_running_loop()
        reports(loop, notes)
        server = await endpoint(notes, "server", local_addr=("127.0.0.1", 0), **{event: fail})
        with datagram_socket() as sender:
            for number in range(3):
                sender.sendto(b"%d" % number, name_of(server.transport))
            notes.append(await server.receive(3))
            notes.append(server.transport.is_closing())
        await server.lose()
        await turns()
        notes.append(server.transport.get_extra_info("socket").fileno())

    same(scenario)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("event", ["connection_made", "datagram_received", "connection_lost"])
def test_what_ends_the_run(event: str, kind: type[BaseException]) -> None:
    """It leaves the loop, which may run again, and then finds what was left."""

    def outcome(factory: Callable[[], asyncio.AbstractEventLoop]) -> list[Any]:
        notes: list[Any] = []
        raised = []

        def fail(protocol: Recorder, *arguments: object) -> None:
            if not raised:
                raised.append(event)
                raise kind

        loop = factory()
        with contextlib.closing(loop), datagram_socket() as sender, datagram_socket() as sock:
            for number in range(3):
                sender.sendto(b"%d" % number, sock.getsockname())

            async def main() -> Recorder:
                return await endpoint(notes, sock=sock, **{event: fail})

            def go_on_until(condition: Callable[[], object]) -> None:
                end = loop.time() + SECONDS / 2
                while not condition():
                    assert loop.time() < end, "the condition never held"
                    loop.call_later(0.005, loop.stop)
                    try:
                        loop.run_forever()
                    except kind:
                        notes.append("raised")

            task = loop.create_task(main())
            go_on_until(task.done)
            protocol = task.result()
            go_on_until(lambda: len(protocol.received) > 2)
            protocol.transport.close()
            go_on_until(lambda: protocol.is_lost)
            notes.append((protocol.received, protocol.is_lost))
        return notes

    ours = outcome(whilst.new_event_loop)
    assert ours == outcome(stdlib_loop)
    assert "raised" in ours


# -- How many at once ---------------------------------------------------------------------------------------------------------


def fill(address: Any, count: int, sender: socket.socket) -> None:
    """Put so many datagrams into a socket's queue."""
    for number in range(count):
        sender.sendto(b"%d" % number, address)


def test_a_future_an_answer() -> None:
    """A protocol that resolves a future with each datagram, for a task that makes another: asyncio's loop never hands over two
    datagrams without giving the task its turn."""

    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        waiting: list[asyncio.Future[bytes]] = []

        def resolve(protocol: Recorder, data: bytes, addr: Any) -> None:
            waiting.pop().set_result(data)

        handler_notes(loop, notes)
        waiting.append(loop.create_future())
        server = await endpoint(notes, "server", local_addr=("127.0.0.1", 0), datagram_received=resolve)
        with datagram_socket() as sender:
            fill(name_of(server.transport), 50, sender)
        for _ in range(50):
            notes.append(await waiting[0])
            waiting.append(loop.create_future())
        await server.lose()

    same(scenario)


@pytest.mark.parametrize(
    "schedule", ["call_soon", "call_soon_threadsafe", "thread", "call_later", "create_task"]
)
def test_what_a_datagram_schedules_runs_before_the_next(schedule: str) -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()

        async def note(data: bytes) -> None:
            notes.append(data)

        def react(protocol: Recorder, data: bytes, addr: Any) -> None:
            if schedule == "create_task":
                protocol.task = loop.create_task(note(data))  # type: ignore[attr-defined]
            elif schedule == "call_later":
                loop.call_later(0, notes.append, data)
            elif schedule == "thread":
                thread = threading.Thread(target=loop.call_soon_threadsafe, args=(notes.append, data))
                thread.start()
                thread.join()
            else:
                getattr(loop, schedule)(notes.append, data)

        server = await endpoint(notes, "server", local_addr=("127.0.0.1", 0), datagram_received=react)
        with datagram_socket() as sender:
            fill(name_of(server.transport), 20, sender)
        await until(lambda: b"19" in notes)
        await server.lose()

    same(scenario)


def test_stop_stops_after_the_datagram() -> None:
    def outcome(factory: Callable[[], asyncio.AbstractEventLoop]) -> list[Any]:
        loop = factory()
        with contextlib.closing(loop), datagram_socket() as sender:
            notes: list[Any] = []

            def stop(protocol: Recorder, data: bytes, addr: Any) -> None:
                loop.stop()

            server = loop.run_until_complete(
                endpoint(notes, local_addr=("127.0.0.1", 0), datagram_received=stop)
            )
            fill(name_of(server.transport), 5, sender)
            for _ in range(5):
                loop.run_forever()
                notes.append("stopped")
            loop.run_until_complete(server.lose())
        return notes

    ours = outcome(whilst.new_event_loop)
    assert ours == outcome(stdlib_loop)
    assert ours.count("stopped") == 5


@pytest.mark.parametrize("how", ["close", "abort"])
def test_nothing_is_received_after_the_end(how: str) -> None:
    async def scenario(notes: list[Any]) -> None:
        def end(protocol: Recorder, data: bytes, addr: Any) -> None:
            if data == b"2":
                getattr(protocol.transport, how)()

        server = await endpoint(notes, "server", local_addr=("127.0.0.1", 0), datagram_received=end)
        with datagram_socket() as sender:
            fill(name_of(server.transport), 10, sender)
            await until(lambda: server.is_lost)

    notes = same(scenario)
    assert [note[2] for note in notes if note[1] == "datagram_received"] == [b"0", b"1", b"2"]


def test_nothing_is_received_while_paused() -> None:
    async def scenario(notes: list[Any]) -> None:
        def pause(protocol: Any, data: bytes, addr: Any) -> None:
            if data == b"2":
                protocol.transport.pause_reading()
                protocol.transport.pause_reading()
                notes.append(protocol.transport.is_reading())

        server: Any = await endpoint(notes, "server", local_addr=("127.0.0.1", 0), datagram_received=pause)
        with datagram_socket() as sender:
            fill(name_of(server.transport), 10, sender)
            await server.receive(3)
            await asyncio.sleep(0.01)
            notes.append("pause")
            server.transport.resume_reading()
            server.transport.resume_reading()
            notes.append(server.transport.is_reading())
            notes.append(await server.receive(10))
            # Between two datagrams.
            server.transport.pause_reading()
            server.transport.resume_reading()
            sender.sendto(b"more", name_of(server.transport))
            notes.append(await server.receive(11))
            server.transport.pause_reading()
            server.transport.close()
            server.transport.resume_reading()
            notes.append(server.transport.is_reading())
            await until(lambda: server.is_lost)

    same(scenario)


def test_a_new_protocol_receives_the_rest() -> None:
    async def scenario(notes: list[Any]) -> None:
        other = Recorder(notes, "other")

        def replace(protocol: Recorder, data: bytes, addr: Any) -> None:
            if data == b"2":
                protocol.transport.set_protocol(other)

        server = await endpoint(notes, "server", local_addr=("127.0.0.1", 0), datagram_received=replace)
        notes.append(server.transport.get_protocol() is server)
        with datagram_socket() as sender:
            fill(name_of(server.transport), 10, sender)
            notes.append(await other.receive(7))
        notes.append(server.transport.get_protocol() is other)
        server.transport.close()
        await until(lambda: other.is_lost)

    same(scenario)


def test_a_flood_leaves_others_their_turn() -> None:
    """Two endpoints, one of which is never empty; a timer; a socket that is watched."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with datagram_socket() as sender, datagram_socket() as watched:

            def again(protocol: Recorder, data: bytes, addr: Any) -> None:
                for _ in range(2):
                    sender.sendto(data, name_of(protocol.transport))

            flooded = await endpoint([], local_addr=("127.0.0.1", 0), datagram_received=again)
            quiet = await endpoint([], local_addr=("127.0.0.1", 0))
            seen = loop.create_future()
            loop.add_reader(watched, lambda: seen.done() or seen.set_result(None))
            fill(name_of(flooded.transport), 100, sender)
            await flooded.receive(500)
            for turn in range(10):
                begin = len(flooded.received)
                sender.sendto(b"%d" % turn, name_of(quiet.transport))
                while len(quiet.received) <= turn:
                    await asyncio.sleep(0)
                assert len(flooded.received) - begin < 200
            begin = len(flooded.received)
            sender.sendto(b"x", watched.getsockname())
            await seen
            await asyncio.sleep(0.001)
            loop.remove_reader(watched)
            assert len(flooded.received) > begin
            await flooded.lose()
            await quiet.lose()

    run(main())


def test_a_timer_in_a_flood() -> None:
    """Datagrams that are all there hold up no timer, however long each takes."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        times: list[float] = []

        def work(protocol: Recorder, data: bytes, addr: Any) -> None:
            end = loop.time() + 0.002
            while loop.time() < end:
                pass
            if data == b"5":
                loop.call_later(0.001, lambda: times.append(len(protocol.received)))

        server = await endpoint([], local_addr=("127.0.0.1", 0), datagram_received=work)
        with datagram_socket() as sender:
            fill(name_of(server.transport), 30, sender)
            await until(lambda: times)
        assert times[0] <= 8
        await server.lose()

    run(main())


# -- Around it ----------------------------------------------------------------------------------------------------------------


def test_contexts() -> None:
    """Reading runs in the context in which the endpoint was made, `error_received()` out of `sendto()` in the caller's."""
    variable = contextvars.ContextVar("variable", default="none")

    async def scenario(notes: list[Any]) -> None:
        def note(protocol: Recorder, *_: object) -> None:
            notes.append(variable.get())

        reactions = dict.fromkeys(
            ("connection_made", "datagram_received", "error_received", "connection_lost"), note
        )
        variable.set("maker")
        server = await endpoint(notes, local_addr=("127.0.0.1", 0), **reactions)
        variable.set("later")
        with datagram_socket() as sender:
            sender.sendto(b"x", name_of(server.transport))
            await server.receive(1)
        server.transport.sendto(b"x" * 70_000, name_of(server.transport))
        await server.lose()

    notes = notes_of(scenario, whilst.new_event_loop)
    assert [note for note in notes if isinstance(note, str)] == ["maker", "maker", "later", "maker"]


def test_the_descriptor_is_the_transports() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop: Any = asyncio.get_running_loop()
        server = await endpoint(notes, local_addr=("127.0.0.1", 0))
        sock = server.transport.get_extra_info("socket")
        for method in (loop.add_reader, loop.add_writer):
            kind, words = error_of(method, sock.fileno(), print)
            notes.append((kind, words.split("transport")[0].replace(str(sock.fileno()), "N")))
        for method in (loop.remove_reader, loop.remove_writer):
            notes.append(error_of(method, sock.fileno())[0])
        notes.append((await error_of_awaiting(loop.sock_recvfrom(datagram_socket_of(sock), 10)))[0])
        await server.lose()

    same(scenario)


def datagram_socket_of(sock: Any) -> socket.socket:
    """The socket object behind what `get_extra_info("socket")` returns."""
    found: socket.socket = sock._sock
    return found


def test_debug_mode(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(notes: list[Any]) -> None:
        caplog.clear()
        server: Any = await endpoint(notes, "server", local_addr=("127.0.0.1", 0))
        client: Any = await endpoint(notes, "client", remote_addr=name_of(server.transport))
        server.transport.pause_reading()
        server.transport.resume_reading()
        client.transport.sendto(b"x" * 70_000)
        client.transport._force_close(None)
        await until(lambda: client.is_lost)
        await server.lose()
        # As they were written down at the time.
        for line in caplog.text.splitlines():
            words = re.sub(r"\d+|0x[0-9a-f]+", "N", line).replace("_Selector", "")
            if found := re.search(r"asyncio:\S+ (.*Transport.*)", words):
                notes.append(re.sub(r"<endpoints\S+ object at N\S+>", "it", found[1]))

    with caplog.at_level(logging.DEBUG, "asyncio"):
        notes = same(scenario, debug=True)
    assert "<DatagramTransport fd=N read=idle write=<idle, bufsize=N>> pauses reading" in notes


def test_attributes() -> None:
    """Programs keep their own things at a transport, and look into CPython's."""

    async def scenario(notes: list[Any]) -> None:
        server, client = await pair([])
        for transport in (server.transport, client.transport):
            it: Any = transport
            it.mine = 7
            notes.append((it.mine, weakref.ref(it)() is it))
            notes.append((it._loop is asyncio.get_running_loop(), it._sock is not None, it._sock_fd > 0))
            notes.append((it._address is None, it._closing, it._conn_lost, it._protocol_paused))
            notes.append((type(it._protocol).__name__, sorted(it._extra)))
        await client.lose()
        await server.lose()
        ended: Any = client.transport
        await turns()
        notes.append((ended._loop, ended._sock, ended._protocol, ended._closing, ended._conn_lost))

    same(scenario)


# -- Many ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "abort"])
def test_nothing_is_left_of_500_endpoints(how: str) -> None:
    """While the loop still runs, and not only at its end."""
    gone: list[weakref.ref[Any]] = []

    async def some() -> None:
        servers, clients = [], []
        for _ in range(50):
            server, client = await pair([], datagram_received=echo)
            servers.append(server)
            clients.append(client)
            client.transport.sendto(b"x")
        for client in clients:
            await client.receive(1)
        for protocol in [*servers, *clients]:
            gone.append(weakref.ref(protocol))
            gone.append(weakref.ref(protocol.transport))
            getattr(protocol.transport, how)()
        for protocol in [*servers, *clients]:
            await until(lambda protocol=protocol: protocol.is_lost)  # type: ignore[misc]
        await turns()

    async def main() -> None:
        await pair_and_close()
        before = descriptors()
        for _ in range(5):
            await some()
        gc.collect()
        assert len(gone) == 1000
        assert [reference() for reference in gone if reference() is not None] == []
        assert len(descriptors()) <= len(before)

    with no_descriptor_leaks():
        run(main())


async def pair_and_close() -> None:
    """Have the loop make the descriptors that it needs itself."""
    server, client = await pair([])
    await client.lose()
    await server.lose()


def test_nothing_is_left_of_what_waits() -> None:
    """Of datagrams that were never sent, with addresses that are a cycle with the transport."""

    class Address(str):
        __slots__ = ("__dict__",)
        transport: Any

    gone: list[weakref.ref[Any]] = []

    async def main() -> None:
        _, receiver, name = full_pair()
        _.close()
        with receiver:
            client: Any = await endpoint([], family=socket.AF_UNIX)
            address = Address(name)
            address.transport = client.transport
            while not client.transport.get_write_buffer_size():
                client.transport.sendto(b"x", address)
            gone.append(weakref.ref(client.transport))

    with warnings.catch_warnings(), no_descriptor_leaks():
        warnings.simplefilter("ignore", ResourceWarning)
        run(main())
        gc.collect()
        assert gone[0]() is None


def test_twenty_thousand_datagrams() -> None:
    """From several endpoints to one, no more under way than a socket's buffer has room for: each arrives, whole and in order."""

    async def main() -> None:
        count, window = 5_000, 20
        server = await endpoint([], local_addr=("127.0.0.1", 0))
        server.notes = Nowhere()
        server.reactions["datagram_received"] = echo

        async def ask(number: int) -> None:
            client = await endpoint([], remote_addr=name_of(server.transport))
            client.notes = Nowhere()
            for begin in range(0, count, window):
                for place in range(begin, begin + window):
                    client.transport.sendto(b"%d:%d" % (number, place))
                await client.receive(begin + window)
            assert client.received == [b"%d:%d" % (number, place) for place in range(count)]
            await client.lose()

        await asyncio.gather(*(ask(number) for number in range(4)))
        assert len(server.received) == 4 * count
        await server.lose()

    run_long(main())


class Nowhere(list[Any]):
    """A list that keeps nothing."""

    def append(self, _: object) -> None:
        pass


def run_long(main: Any) -> None:
    """Run what takes longer than other tests."""
    with asyncio.Runner(loop_factory=whilst.new_event_loop) as runner:
        runner.run(asyncio.wait_for(main, 60))


def test_a_flood_of_both_kinds() -> None:
    """All that fits into the buffer at once, then as fast as it is taken: what arrives is whole, in order and never twice."""

    async def main() -> None:
        server = await endpoint([], local_addr=("127.0.0.1", 0))
        server.notes = Nowhere()
        client = await endpoint([], remote_addr=name_of(server.transport))
        for number in range(20_000):
            client.transport.sendto(b"%d" % number)
            if number % 500 == 0:
                await asyncio.sleep(0)
        client.transport.sendto(b"-1")
        limit = asyncio.get_running_loop().time() + 10
        while len(server.received) <= 201 and asyncio.get_running_loop().time() < limit:
            await asyncio.sleep(0.01)
        numbers = [int(data) for data in server.received if data != b"-1"]
        assert len(numbers) > 200
        assert numbers == sorted(set(numbers))
        await client.lose()
        await server.lose()

    run_long(main())
