"""Stream transports: what they are, under stress, and from other threads."""

import asyncio
import contextvars
import gc
import socket
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import whilst
from oracle import (
    SECONDS,
    error_of,
    no_descriptor_leaks,
    program,
    run,
    same,
    socket_pair,
    stdlib_loop,
    turns,
    until,
)
from transports import Record, connect

pytestmark = pytest.mark.usefixtures("driver")


# -- What a transport is ------------------------------------------------------------------------------------------------------


def test_transports_are_transports() -> None:
    async def main() -> None:
        with socket_pair() as (first, _second):
            transport = await connect(first, Record())
            assert isinstance(transport, asyncio.Transport)
            assert isinstance(transport, asyncio.ReadTransport)
            assert isinstance(transport, asyncio.WriteTransport)
            assert weakref.ref(transport)() is transport
            transport.own = "attribute"
            assert transport.own == "attribute" and vars(transport) == {"own": "attribute"}
            assert {transport: 1}[transport] == 1
            assert f"fd={first.fileno()}" in repr(transport)
            with pytest.raises(TypeError):
                type(transport)()
            transport.close()
            assert "closing" in repr(transport)
            await turns()
            assert "closed" in repr(transport)

    run(main())


@pytest.mark.parametrize("kind", ["IPv4", "IPv6", "path", "abstract", "pair"])
def test_extra_information(kind: str, tmp_path: Path) -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        accepted: asyncio.Future[Any] = loop.create_future()

        class Accepts(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                accepted.set_result(transport)

        path = str(tmp_path / f"socket {len(list(tmp_path.iterdir()))} {type(loop).__name__}")
        abstract = "\0whilst test of extra information"
        if kind == "pair":
            first, second = socket.socketpair()
            transport = await connect(first, asyncio.Protocol())
            other = await connect(second, asyncio.Protocol())
            server = None
        else:
            if kind in ("IPv4", "IPv6"):
                server = await loop.create_server(Accepts, "127.0.0.1" if kind == "IPv4" else "::1", 0)
                address = server.sockets[0].getsockname()
                transport, _ = await loop.create_connection(asyncio.Protocol, *address[:2])
            else:
                address = path if kind == "path" else abstract
                server = await loop.create_unix_server(Accepts, address)
                transport, _ = await loop.create_unix_connection(asyncio.Protocol, address)
            other = await asyncio.wait_for(accepted, SECONDS)
        for each in (transport, other):
            sock = each.get_extra_info("socket")
            for name in ("sockname", "peername"):
                value = each.get_extra_info(name)
                actual = sock.getsockname() if name == "sockname" else sock.getpeername()
                notes.append((name, value == actual, type(value).__name__))
            notes.append((type(sock).__name__, sock.family, sock.type, sock.gettimeout()))
            if kind in ("IPv4", "IPv6"):
                notes.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0)
            notes.append(each.get_extra_info("nonsense"))
            notes.append(each.get_extra_info("nonsense", "default"))
            notes.append(each.get_extra_info("sslcontext"))
            notes.append(error_of(each.get_extra_info)[0])
            notes.append(sock is each.get_extra_info("socket"))
        names = [transport.get_extra_info(name) for name in ("sockname", "peername")]
        transport.close()
        other.close()
        await turns()
        notes.append(names == [transport.get_extra_info(name) for name in ("sockname", "peername")])
        notes.append(transport.get_extra_info("socket").fileno())
        notes.append(other.get_extra_info("socket").fileno())
        if server is not None:
            server.close()
            await server.wait_closed()
        Path(path).unlink(missing_ok=True)

    same(scenario)


def test_the_socket_is_known_after_the_end_although_nobody_asked_before() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        accepted: asyncio.Future[Any] = loop.create_future()

        class Accepts(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                accepted.set_result(transport)

        server = await loop.create_server(Accepts, "127.0.0.1", 0)
        transport, _ = await loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname())
        other = await asyncio.wait_for(accepted, SECONDS)
        transport.close()
        other.close()
        await turns(10)
        for each in (transport, other):
            sock = each.get_extra_info("socket")
            notes.append(sock is not None and sock.fileno())
        server.close()
        await server.wait_closed()

    same(scenario)


def test_an_unclosed_transport_warns_and_its_descriptor_is_closed() -> None:
    with no_descriptor_leaks():
        loop: Any = whilst.Loop()
        first, second = socket.socketpair()
        transport, _ = loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=first))
        del first
        reference = weakref.ref(transport)
        loop.close()
        with pytest.warns(ResourceWarning, match="unclosed transport <StreamTransport"):
            del transport, _
            gc.collect()
        assert reference() is None
        second.settimeout(SECONDS)
        assert second.recv(1) == b""
        second.close()


def test_a_transport_used_after_its_loop_is_closed() -> None:
    records = []
    for factory in (stdlib_loop, whilst.new_event_loop):
        loop: Any = factory()
        first, second = socket.socketpair()
        first.setblocking(False)
        transport, _ = loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=first))
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        record = [
            transport.is_closing(),
            error_of(transport.write, b"after"),
            transport.get_write_buffer_size(),
            error_of(transport.get_extra_info, "peername"),
            error_of(transport.close),
            transport.is_closing(),
            error_of(transport.close),
            error_of(transport.abort)[0],
        ]
        second.settimeout(SECONDS)
        record.append(second.recv(100))
        second.close()
        with pytest.warns(ResourceWarning):
            del transport, _
            gc.collect()
        first.close()
        records.append(record)
    assert records[0] == records[1]


def test_a_lost_connection_is_let_go_of() -> None:
    """Neither the transport nor the protocol refers to the other any more, and the loop to neither."""

    async def main() -> None:
        with socket_pair() as (first, _second):
            protocol = Record()
            transport = await connect(first, protocol)
            await turns()
            references = [weakref.ref(transport), weakref.ref(protocol)]
            lost = protocol.lost
            transport.close()
            await lost
            del transport
            protocol.transport = None
            del protocol, lost
            await turns()
            assert [reference() for reference in references] == [None, None]

    gc.disable()
    try:
        run(main())
    finally:
        gc.enable()


def test_contexts_of_callbacks() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nothing")

    async def scenario(notes: list[Any]) -> None:
        class Notes(Record):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                notes.append(("made", variable.get()))

            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                notes.append(("data", variable.get()))

            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                notes.append(("lost", variable.get()))

        with socket_pair() as (first, second):
            variable.set("connecting")
            protocol = Notes()
            transport = await connect(first, protocol)
            variable.set("later")
            second.send(b"x")
            await until(lambda: protocol.data)
            del notes[2:]
            transport.close()
            await protocol.lost
            del notes[2:]

    same(scenario)


# -- Under stress -------------------------------------------------------------------------------------------------------------

STRESS = """
    import asyncio, gc, random, socket, sys, threading, time
    import whilst

    seed, seconds = int(sys.argv[1]), float(sys.argv[2])
    chance = random.Random(seed)

    class Wild(asyncio.Protocol):
        def __init__(self):
            self.me = self  # A cycle, for the collector.
            self.alive = False

        def act(self):
            transport = self.transport
            what = chance.randrange(16)
            if what < 4:
                transport.write(bytes(chance.choice((1, 100, 5000, 200_000))))
            elif what == 4:
                transport.writelines([b"a", b"b" * 1000, bytearray(10)])
            elif what == 5:
                transport.pause_reading()
            elif what in (6, 7):
                transport.resume_reading()
            elif what == 8:
                transport.close()
            elif what == 9:
                transport.abort()
            elif what == 10:
                transport.write_eof()
            elif what == 11:
                gc.collect(0)
            elif what == 12:
                other = chance.choice((Wild, WildBuffered))()
                other.transport, other.alive = transport, True
                self.alive = False
                transport.set_protocol(other)
            elif what == 13:
                transport.set_write_buffer_limits(chance.choice((0, 100, 100_000)))
            elif what == 14:
                raise ValueError("wild")
            else:
                transport.get_extra_info("socket"), repr(transport), transport.get_extra_info("peername")

        def guarded(self):
            try:
                self.act()
            except (RuntimeError, OSError):
                pass  # After write_eof(), and of a peer that has gone.

        def connection_made(self, transport):
            self.transport = transport
            self.alive = True
            if chance.random() < 0.2:
                self.guarded()

        def data_received(self, data):
            assert data
            if chance.random() < 0.3:
                self.guarded()

        def eof_received(self):
            if chance.random() < 0.3:
                self.guarded()
            return chance.random() < 0.5

        def pause_writing(self):
            if chance.random() < 0.2:
                self.guarded()

        def resume_writing(self):
            if chance.random() < 0.2:
                self.guarded()

        def connection_lost(self, exc):
            self.alive = False
            if chance.random() < 0.2:
                self.guarded()

    class WildBuffered(Wild, asyncio.BufferedProtocol):
        def get_buffer(self, hint):
            if chance.random() < 0.1:
                self.guarded()
            return bytearray(chance.choice((1, 10, 1000, 100_000)))

        def buffer_updated(self, count):
            if chance.random() < 0.3:
                self.guarded()

    async def main():
        loop = asyncio.get_running_loop()
        unexpected = []

        def handler(loop, context):
            if not isinstance(context.get("exception"), (ValueError, OSError, RuntimeError)):
                unexpected.append(context)

        loop.set_exception_handler(handler)
        server = await loop.create_server(lambda: chance.choice((Wild, WildBuffered))(), "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        ends = time.monotonic() + seconds
        stop = threading.Event()
        calls = [0]

        def call():
            calls[0] += 1

        def thread():
            while not stop.is_set():
                for _ in range(20):
                    loop.call_soon_threadsafe(call)
                stop.wait(0.001)

        threads = [threading.Thread(target=thread) for _ in range(2)]
        for each in threads:
            each.start()

        async def client():
            count = 0
            while time.monotonic() < ends:
                protocol = chance.choice((Wild, WildBuffered))()
                try:
                    transport, _ = await loop.create_connection(lambda: protocol, *address)
                except OSError:
                    continue
                for _ in range(chance.randrange(30)):
                    if not protocol.alive:
                        break
                    try:
                        protocol.guarded()
                    except ValueError:
                        pass
                    await asyncio.sleep(chance.choice((0, 0, 0, 0.0005)))
                if chance.random() < 0.9:
                    transport.abort()
                count += 1
            return count

        try:
            counts = await asyncio.gather(*(client() for _ in range(10)))
        finally:
            stop.set()
            for each in threads:
                each.join()
        server.close()
        await asyncio.sleep(0.01)
        assert sum(counts) > 20, counts
        assert calls[0] > 0
        assert not unexpected, unexpected
        print("connections", sum(counts), file=sys.stderr)

    import warnings
    warnings.simplefilter("ignore", ResourceWarning)
    whilst.run(main())
    gc.collect()
    print("fine")
"""


@pytest.mark.parametrize("seed", [1, 2])
def test_wild_protocols(seed: int) -> None:
    """Random deeds in random callbacks, other threads calling, the collector in between, memory checked."""
    import os

    environment = {**os.environ, "PYTHONMALLOC": "debug"}
    result = program(STRESS, str(seed), "1.5", options=("-X", "dev"), env=environment)
    assert (result.stdout, result.returncode) == ("fine\n", 0), result.stderr[-5000:]
    assert "Panic" not in result.stderr and "panicked" not in result.stderr, result.stderr[-5000:]


# -- Other threads ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deed", ["close", "abort", "write", "collected"])
def test_used_by_another_thread_while_the_loop_sleeps(deed: str) -> None:
    """Not thread-safe by the documentation; but the garbage collector, which runs in any thread, closes transports (so does
    `StreamWriter.__del__`), and what CPython's loop takes must not leave a peer waiting for ever here."""
    loop = whilst.Loop()
    first, second = socket.socketpair()
    first.setblocking(False)
    second.settimeout(SECONDS)
    transports: list[Any] = []

    async def begin() -> None:
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=first)
        transports.append(transport)

    class Closes:
        def __init__(self, transport: Any) -> None:
            self.me = self
            self.transport = transport

        def __del__(self) -> None:
            self.transport.close()

    loop.run_until_complete(begin())
    asleep = threading.Event()
    loop.call_soon(asleep.set)
    answers: list[bytes] = []

    def other() -> None:
        assert asleep.wait(SECONDS)
        time.sleep(0.02)
        transport = transports.pop()
        if deed == "write":
            transport.write(b"from another thread")
            answers.append(second.recv(100))
            transport.close()
        elif deed == "collected":
            Closes(transport)
            del transport
            gc.collect()
        else:
            getattr(transport, deed)()
        try:
            answers.append(second.recv(100))
        finally:
            loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=other)
    thread.start()
    loop.run_forever()
    thread.join(SECONDS)
    loop.close()
    second.close()
    assert answers == ([b"from another thread", b""] if deed == "write" else [b""])
