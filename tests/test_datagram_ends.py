"""How datagram transports end, beside asyncio's own."""

import asyncio
import gc
import re
import socket
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import whilst
from endpoints import Recorder, datagram_socket, drain, endpoint, full_pair, name_of, pair
from oracle import (
    error_of,
    no_descriptor_leaks,
    notes_of,
    program,
    run,
    same,
    stdlib_loop,
    turns,
    until,
)

pytestmark = pytest.mark.usefixtures("driver")


def test_close() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        server, client = await pair(notes)
        notes.append(client.transport.is_closing())
        loop.call_soon(notes.append, "before")
        client.transport.sendto(b"last words")
        client.transport.close()
        client.transport.close()
        client.transport.abort()
        loop.call_soon(notes.append, "after")
        notes.append(client.transport.is_closing())
        await server.receive(1)
        await until(lambda: client.is_lost)
        await turns()
        notes.append(client.transport.get_extra_info("socket").fileno())
        client.transport.close()
        client.transport.abort()
        notes.append(client.transport.is_closing())
        notes.append(client.transport.get_protocol())
        await server.lose()

    same(scenario)


def test_close_sends_what_waits() -> None:
    async def scenario(notes: list[Any]) -> None:
        sender, receiver, _ = full_pair()
        with receiver:
            client: Any = await endpoint(notes, sock=sender)
            sent = [b"%d" % number for number in range(50)]
            for data in sent:
                client.transport.sendto(data)
            client.transport.close()
            await turns()
            notes.append((client.is_lost, client.transport.is_closing(), client.transport.is_reading()))
            # Behind what waits there is still a place.
            client.transport.sendto(b"late")
            received = []

            def is_lost() -> bool:
                received.extend(drain(receiver))
                return client.is_lost

            await until(is_lost)
            notes.append([*received, *drain(receiver)] == [*sent, b"late"])

    same(scenario)


def test_abort_drops_what_waits() -> None:
    async def scenario(notes: list[Any]) -> None:
        sender, receiver, _ = full_pair()
        with receiver:
            client: Any = await endpoint(notes, sock=sender)
            while not client.transport.get_write_buffer_size():
                client.transport.sendto(b"x")
            client.transport.abort()
            notes.append((client.is_lost, client.transport.is_closing()))
            client.transport.abort()
            await until(lambda: client.is_lost)
            notes.append(set(drain(receiver)))

    same(scenario)


def test_abort_while_closing() -> None:
    async def scenario(notes: list[Any]) -> None:
        sender, receiver, _ = full_pair()
        with receiver:
            client: Any = await endpoint(notes, sock=sender)
            while not client.transport.get_write_buffer_size():
                client.transport.sendto(b"x")
            client.transport.close()
            client.transport.abort()
            await until(lambda: client.is_lost)

    same(scenario)


@pytest.mark.parametrize("event", ["connection_made", "connection_lost"])
def test_closed_within(event: str) -> None:
    async def scenario(notes: list[Any]) -> None:
        server = await endpoint(
            notes, local_addr=("127.0.0.1", 0), **{event: lambda it, *_: it.transport.close()}
        )
        notes.append(server.transport.is_closing())
        if not server.transport.is_closing():
            server.transport.close()
        await until(lambda: server.is_lost)

    same(scenario)


def test_the_port_is_free_at_the_end() -> None:
    """As soon as `connection_lost()` has returned; and on io_uring the ring has let go of the socket."""

    async def scenario(notes: list[Any]) -> None:
        server = await endpoint(notes, local_addr=("127.0.0.1", 0))
        address = name_of(server.transport)
        for how in ("close", "abort") * 20:
            getattr(server.transport, how)()
            while not server.is_lost:
                await asyncio.sleep(0)
            server = await endpoint([], local_addr=address)
        await server.lose()

    same(scenario)


def test_the_name_is_free_after_what_waited() -> None:
    async def main() -> None:
        for _ in range(10):
            _, receiver, name = full_pair()
            _.close()
            with receiver:
                client: Any = await endpoint(
                    [], family=socket.AF_UNIX, local_addr=name + "-client", remote_addr=name
                )
                while not client.transport.get_write_buffer_size():
                    client.transport.sendto(b"x")
                client.transport.close()

                def is_lost(client: Any = client, receiver: socket.socket = receiver) -> bool:
                    drain(receiver)
                    return bool(client.is_lost)

                await until(is_lost)
                datagram_socket(socket.AF_UNIX, name + "-client").close()

    run(main())


def test_sending_after_the_end(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(notes: list[Any]) -> None:
        caplog.clear()
        server, client = await pair(notes)
        client.transport.close()
        for _ in range(5):
            client.transport.sendto(b"x")
        await until(lambda: client.is_lost)
        for _ in range(3):
            client.transport.sendto(b"x")
        notes.append([record.getMessage() for record in caplog.records if record.name == "asyncio"])
        notes.append(error_of(client.transport.sendto, "text")[0])
        notes.append(error_of(client.transport.sendto, b"x", ("127.0.0.2", 9))[0])
        await asyncio.sleep(0.01)
        notes.append(server.received)
        await server.lose()

    notes = same(scenario)
    assert ["socket.send() raised exception."] * 4 in notes


def test_sending_after_the_end_to_an_address(caplog: pytest.LogCaptureFixture) -> None:
    """CPython's transport raises AttributeError here; this one says what the other kind says."""

    async def main() -> None:
        server = await endpoint([], local_addr=("127.0.0.1", 0))
        client = await endpoint([], local_addr=("127.0.0.1", 0))
        address = name_of(server.transport)
        client.transport.close()
        client.transport.sendto(b"last words", address)
        assert await server.receive(1) == [b"last words"]
        await until(lambda: client.is_lost)
        for _ in range(6):
            client.transport.sendto(b"x", address)
        assert [record.getMessage() for record in caplog.records] == ["socket.send() raised exception."] * 2
        await server.lose()

    run(main())


def test_cancelled_while_it_is_made() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        protocol = Recorder(notes)
        task = loop.create_task(
            loop.create_datagram_endpoint(
                lambda: protocol, local_addr=("127.0.0.1", 0), family=socket.AF_INET
            )
        )
        while not notes:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        notes.append(task.cancelled())
        await asyncio.sleep(0.01)
        if not protocol.is_lost:
            await protocol.lose()

    same(scenario)


def test_never_closed() -> None:
    async def scenario(notes: list[Any]) -> None:
        notes.append("begin")
        await endpoint(notes, local_addr=("127.0.0.1", 0))

    def warnings_of(factory: Callable[[], asyncio.AbstractEventLoop]) -> list[str]:
        gc.collect()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ResourceWarning)
            notes_of(scenario, factory)
            gc.collect()
        return [re.sub(r"\d+", "N", str(warning.message)).replace("_Selector", "") for warning in caught]

    with no_descriptor_leaks():
        ours = warnings_of(whilst.new_event_loop)
        theirs = warnings_of(stdlib_loop)
    assert ours == theirs
    assert "unclosed transport <DatagramTransport fd=N>" in ours


def test_never_closed_nor_the_loop() -> None:
    """At the end of the process."""
    ran = program(
        """
        import asyncio, whilst
        loop = whilst.new_event_loop()
        made = loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
        transport, protocol = loop.run_until_complete(made)
        transport.sendto(b"x", transport.get_extra_info("sockname"))
        """,
        options=("-X", "dev"),
    )
    assert ran.returncode == 0
    assert "Traceback" not in ran.stderr
    assert "unclosed" in ran.stderr


def test_a_closed_loop() -> None:
    def outcome(factory: Callable[[], asyncio.AbstractEventLoop]) -> list[Any]:
        notes: list[Any] = []
        loop = factory()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with datagram_socket() as other:
                protocol = loop.run_until_complete(endpoint(notes, local_addr=("127.0.0.1", 0)))
                loop.close()
                transport = protocol.transport
                transport.sendto(b"x", other.getsockname())
                notes.append(other.recv(10))
                notes.append(error_of(transport.close))
                notes.append(transport.is_closing())
                notes.append(error_of(loop.run_until_complete, None)[0])
            del protocol, transport
            gc.collect()
        return notes

    with no_descriptor_leaks():
        ours = outcome(whilst.new_event_loop)
        assert ours == outcome(stdlib_loop)


def test_repr() -> None:
    async def scenario(notes: list[Any]) -> None:
        def plain(transport: object) -> str:
            return re.sub(r"fd=\d+", "fd=N", repr(transport)).replace("_Selector", "")

        sender, receiver, _ = full_pair()
        with receiver:
            client: Any = await endpoint(
                notes, sock=sender, connection_made=lambda it, _: notes.append(plain(it.transport))
            )
            notes.append(plain(client.transport))
            client.transport.pause_reading()
            notes.append(plain(client.transport))
            client.transport.resume_reading()
            for _ in range(50):
                client.transport.sendto(b"x" * 100)
            notes.append(plain(client.transport))
            client.transport.close()
            notes.append(plain(client.transport))
            drain(receiver)
            client.transport.abort()
            await until(lambda: client.is_lost)
            await turns()
            notes.append(plain(client.transport))

    notes = same(scenario)
    assert "<DatagramTransport fd=N read=polling write=<idle, bufsize=0>>" in notes
    assert "<DatagramTransport closed fd=N>" in notes
