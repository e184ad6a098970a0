"""Datagrams that find no room: what waits, and the protocol that is paused meanwhile."""

import asyncio
import socket
import threading
from typing import Any

import pytest
import whilst
from endpoints import Recorder, datagram_socket, drain, endpoint, full_pair
from oracle import (
    error_of,
    handler_notes,
    notes_of,
    run,
    same,
    stdlib_loop,
    turns,
    until,
)

pytestmark = pytest.mark.usefixtures("driver")


async def until_room(client: Recorder, receiver: socket.socket) -> list[bytes]:
    """Take what arrives until nothing is left to be sent."""
    received = []

    def is_empty() -> bool:
        received.extend(drain(receiver))
        return not client.transport.get_write_buffer_size()  # type: ignore[attr-defined, no-any-return]

    await until(is_empty)
    return [*received, *drain(receiver)]


def test_what_has_no_room_is_sent_later() -> None:
    async def main() -> None:
        sender, receiver, _ = full_pair()
        with receiver:
            client: Any = await endpoint([], sock=sender)
            sent = [b"%d" % number * 100 for number in range(200)]
            mutable = bytearray(100)
            for data in sent:
                mutable[:] = data[:100].ljust(100)
                client.transport.sendto(mutable)
            mutable[:] = bytes(100)
            assert client.transport.get_write_buffer_size() > 100 * 100
            received = await until_room(client, receiver)
            assert received == [data[:100].ljust(100) for data in sent]
            assert client.transport.get_write_buffer_size() == 0
            # Nobody waits for room any more, which there is.
            assert "write=<idle, bufsize=0>" in repr(client.transport)
            # And it goes on.
            client.transport.sendto(b"next")
            assert drain(receiver) == [b"next"]
            await client.lose()

    run(main())


def test_what_a_datagram_counts_for() -> None:
    async def scenario(notes: list[Any]) -> None:
        sender, receiver, _ = full_pair()
        with receiver:
            client: Any = await endpoint(notes, sock=sender)
            sizes = []
            for length in (10, 0, 1, 1000) * 20:
                client.transport.sendto(b"x" * length)
                sizes.append(client.transport.get_write_buffer_size())
            notes.append(sizes)
            client.transport.abort()
            await until(lambda: client.is_lost)

    sizes = same(scenario)[1]
    assert sizes[-1] > 10_000


def test_a_protocol_is_paused_and_resumed() -> None:
    async def scenario(notes: list[Any]) -> None:
        sender, receiver, _ = full_pair()
        with receiver:
            client: Any = await endpoint(notes, sock=sender)
            notes.append(client.transport.get_write_buffer_limits())
            client.transport.set_write_buffer_limits(high=30_000, low=10_000)
            notes.append(client.transport.get_write_buffer_limits())
            count = 0
            while not client.paused:
                client.transport.sendto(b"x" * 1000)
                count += 1
            notes.append(count)
            client.transport.sendto(b"more")
            received = []

            def is_resumed() -> bool:
                received.extend(drain(receiver))
                return not client.paused

            await until(is_resumed)
            client.transport.abort()
            await until(lambda: client.is_lost)

    notes = same(scenario)
    assert [note[1] for note in notes if isinstance(note, tuple) and note[0] == "it"] == [
        "connection_made",
        "pause_writing",
        "resume_writing",
        "connection_lost",
    ]


def test_limits() -> None:
    async def scenario(notes: list[Any]) -> None:
        sender, receiver, _ = full_pair()
        with receiver:
            client: Any = await endpoint(notes, sock=sender)
            limits = client.transport.set_write_buffer_limits
            for arguments in ({}, {"high": 100}, {"low": 100}, {"high": 0}, {"high": 7, "low": 7}):
                limits(**arguments)
                notes.append(client.transport.get_write_buffer_limits())
            for arguments in ({"high": -1}, {"low": -1}, {"high": 1, "low": 2}):
                notes.append(error_of(limits, **arguments))
            # One that is past the limit as it is set.
            limits()
            for _ in range(40):
                client.transport.sendto(b"x" * 100)
            notes.append(client.paused)
            limits(high=1000)
            notes.append(client.paused)
            client.transport.abort()
            await until(lambda: client.is_lost)

    same(scenario)


def test_errors_in_flow_control() -> None:
    async def scenario(notes: list[Any]) -> None:
        def fail(protocol: Recorder) -> None:
            raise ZeroDivisionError

        handler_notes(asyncio.get_running_loop(), notes)
        sender, receiver, _ = full_pair()
        with receiver:
            client: Any = await endpoint(notes, sock=sender, pause_writing=fail, resume_writing=fail)
            client.transport.set_write_buffer_limits(high=2_000)
            while not client.paused:
                client.transport.sendto(b"x" * 500)
            notes.append(client.transport.is_closing())
            received = drain(receiver)
            await until(lambda: not client.paused)
            received += drain(receiver)
            notes.append(set(received))
            client.transport.abort()
            await until(lambda: client.is_lost)

    same(scenario)


def test_room_only_for_another() -> None:
    """What waits is sent in order, also to those who have room."""

    async def main() -> None:
        _, receiver, name = full_pair()
        _.close()
        client: Any = await endpoint([], family=socket.AF_UNIX)
        other_name = name + "-other"
        with receiver, datagram_socket(socket.AF_UNIX, other_name) as other:
            while not client.transport.get_write_buffer_size():
                client.transport.sendto(b"x", name)
            client.transport.sendto(b"for another", other_name)
            await turns()
            assert drain(other) == []
            await until_room(client, receiver)
            assert drain(other) == [b"for another"]
            await client.lose()

    run(main())


def test_an_error_in_what_waits() -> None:
    """The datagram that has failed is dropped, the protocol told, the rest sent."""

    async def scenario(notes: list[Any]) -> None:
        _, receiver, name = full_pair()
        _.close()
        client: Any = await endpoint(notes, family=socket.AF_UNIX)
        with receiver:
            while not client.transport.get_write_buffer_size():
                client.transport.sendto(b"x", name)
            client.transport.sendto(b"fails", name + "-nobody")
            client.transport.sendto(b"last", name)
            received = []

            def is_last() -> bool:
                received.extend(drain(receiver))
                return received[-1:] == [b"last"]

            await until(is_last)
            notes.append(len(client.errors))
            await client.lose()

    same(scenario)


def test_something_fatal_in_what_waits() -> None:
    async def scenario(notes: list[Any]) -> None:
        handler_notes(asyncio.get_running_loop(), notes)
        _, receiver, name = full_pair()
        _.close()
        client: Any = await endpoint(notes, family=socket.AF_UNIX)
        with receiver:
            while not client.transport.get_write_buffer_size():
                client.transport.sendto(b"x", name)
            client.transport.sendto(b"wrong", 7)
            notes.append(client.transport.is_closing())

            def is_lost() -> bool:
                drain(receiver)
                return client.is_lost

            await until(is_lost)

    ours = notes_of(scenario, whilst.new_event_loop)
    theirs = notes_of(scenario, stdlib_loop)
    # CPython's goes on to watch for room, without anything to send, and fails once more.
    assert ours == theirs[: len(ours)]
    assert ours[-1][:2] == ("it", "connection_lost")


def test_sending_from_resume_writing() -> None:
    async def main() -> None:
        def more(protocol: Any) -> None:
            protocol.transport.sendto(b"more")

        sender, receiver, _ = full_pair()
        with receiver:
            client: Any = await endpoint([], sock=sender, resume_writing=more)
            client.transport.set_write_buffer_limits(high=0)
            while not client.paused:
                client.transport.sendto(b"x")
            received = await until_room(client, receiver)
            assert received[-1] == b"more"
            await client.lose()

    run(main())


def test_sending_from_another_thread() -> None:
    """Which is not allowed, but works with CPython's loop."""

    async def main() -> None:
        sender, receiver, _ = full_pair()
        with receiver:
            client: Any = await endpoint([], sock=sender)

            def send() -> None:
                # While the loop waits.
                threading.Event().wait(0.01)
                for number in range(50):
                    client.transport.sendto(b"%d" % number)

            thread = threading.Thread(target=send)
            thread.start()
            await asyncio.sleep(0.05)
            thread.join()
            received = await until_room(client, receiver)
            assert received == [b"%d" % number for number in range(50)]
            await client.lose()

    run(main())
