"""Terminals and other devices by `connect_read_pipe` and `connect_write_pipe`, what is refused, and the end of the transports.

What is right is what asyncio's own loop does on this machine (see `oracle`), but where a test says otherwise.
"""

import asyncio
import contextlib
import errno
import fcntl
import gc
import io
import logging
import os
import pty
import re
import socket
import threading
import time
import tty
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import whilst
from oracle import (
    error_of,
    handler_notes,
    no_descriptor_leaks,
    run,
    same,
    stdlib_loop,
    turns,
    until,
)
from pipe_ends import (
    Reader,
    Writer,
    drain,
    named,
    pipe,
    put,
    reading,
    sockets,
    writing,
)

pytestmark = pytest.mark.usefixtures("driver", "left_behind")


@contextlib.contextmanager
def terminal() -> Iterator[tuple[Any, Any]]:
    """The controlling end of a pseudo-terminal and its terminal, in raw mode."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    with open(master, "rb+", 0) as controller, open(slave, "rb+", 0) as line:
        yield controller, line


def opened(file: Any, mode: str) -> Any:
    """Open a file without a buffer."""
    return open(file, mode, 0)


# Terminals and devices.


@pytest.mark.parametrize("closed", ["controller", "line"])
def test_the_other_end_of_a_terminal_closes(closed: str) -> None:
    """Linux says EIO to the controlling end, and the end of the file to the other."""

    async def scenario(notes: list[Any]) -> None:
        handler_notes(asyncio.get_running_loop(), notes)
        with terminal() as (controller, line):
            here, there = (line, controller) if closed == "controller" else (controller, line)
            _, protocol = await reading(here, notes)
            put(there, b"typed")
            await until(lambda: len(protocol.data) == 5)
            there.close()
            lost = await protocol.lost
            notes.append(lost.errno == errno.EIO if isinstance(lost, OSError) else lost)

    same(scenario)


@pytest.mark.parametrize("debug", [False, True])
def test_eio_is_logged_in_debug_mode_only(debug: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(notes: list[Any]) -> None:
        with terminal() as (controller, line):
            _, protocol = await reading(controller)
            caplog.clear()
            line.close()
            await protocol.lost
            notes.append(
                [
                    (
                        record.levelname,
                        re.sub(r"<\w+ ", "<T ", re.sub(r"fd=\d+", "fd=N", record.message)),
                        record.exc_info is None,
                    )
                    for record in caplog.records
                ]
            )

    with caplog.at_level(logging.DEBUG, "asyncio"):
        same(scenario, debug=debug)


def test_both_directions_of_a_terminal_by_one_descriptor() -> None:
    async def scenario(notes: list[Any]) -> None:
        with terminal() as (controller, line):
            keys, keyboard = await reading(controller)
            screen, _ = await writing(os.fdopen(os.dup(controller.fileno()), "wb", 0))
            shell_in, shell = await reading(line)
            shell_out, _ = await writing(os.fdopen(os.dup(line.fileno()), "wb", 0))
            screen.write(b"command")
            await until(lambda: shell.data == b"command")
            shell_out.write(b"answer")
            await until(lambda: keyboard.data == b"answer")
            # A terminal may be read while it is written to: that is no hang-up.
            notes.append((screen.is_closing(), shell_out.is_closing(), named(screen), named(keys)))
            for transport in (keys, screen, shell_in, shell_out):
                transport.close()
            await turns()

    same(scenario)


def test_one_object_for_both_directions_of_a_terminal() -> None:
    async def scenario(notes: list[Any]) -> None:
        with terminal() as (controller, line):
            keys, keyboard = await reading(controller)
            screen, _ = await writing(controller)
            screen.write(bytes(1 << 20))
            put(line, b"keys")
            await until(lambda: keyboard.data == b"keys")
            notes.append((named(keys), screen.get_write_buffer_size() > 0, drain(line) > 0))
            keys.close()
            screen.abort()
            await turns()

    same(scenario)


def test_a_line_of_a_terminal_that_is_not_raw() -> None:
    async def scenario(notes: list[Any]) -> None:
        master, slave = pty.openpty()
        with opened(master, "rb+") as controller, opened(slave, "rb+") as line:
            transport, protocol = await reading(line, notes)
            put(controller, b"half a li")
            await asyncio.sleep(0.01)
            notes.append(bytes(protocol.data))
            put(controller, b"ne\n")
            await until(lambda: protocol.data)
            notes.append(bytes(protocol.data))
            put(controller, b"\4")  # Control-D: the end of the file
            await protocol.lost

    same(scenario)


@pytest.mark.parametrize("device", ["/dev/null", "/dev/zero"])
def test_devices_that_cannot_be_waited_for(device: str) -> None:
    """They can be written to; that they cannot be read goes to the exception handler."""

    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: notes.append(str(context["exception"])))
        with opened(device, "rb+") as file:
            transport, protocol = await writing(file, notes)
            transport.write(bytes(1 << 20))
            notes.append((transport.get_write_buffer_size(), named(transport)))
            transport.close()
            await protocol.lost
        with opened(device, "rb") as file:
            transport, protocol = await reading(file, notes)
            await asyncio.sleep(0.01)
            notes.append((bytes(protocol.data), named(transport)))
            transport.pause_reading()
            notes.append(error_of(transport.resume_reading))
            transport.close()
            await protocol.lost

    same(scenario)


def test_a_device_that_is_full() -> None:
    async def scenario(notes: list[Any]) -> None:
        handler_notes(asyncio.get_running_loop(), notes)
        transport, protocol = await writing(opened("/dev/full", "wb"), notes)
        transport.write(b"data")
        await protocol.lost

    same(scenario)


# Refusals.


def test_regular_files_and_folders_are_refused(tmp_path: Path) -> None:
    async def scenario(notes: list[Any]) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"data")
        loop = asyncio.get_running_loop()
        with opened(path, "rb+") as file:
            for connect in (loop.connect_read_pipe, loop.connect_write_pipe):
                try:
                    await connect(lambda: Reader(), file)
                except ValueError as error:
                    notes.append(str(error))
                notes.append((file.closed, os.get_blocking(file.fileno())))

    same(scenario)


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # CPython's half-made transports
def test_what_has_no_descriptor_is_refused() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        closed = opened(os.devnull, "rb")
        closed.close()
        gone = socket.socket()
        gone.close()
        for what in (closed, io.BytesIO(), gone, object()):
            for connect in (loop.connect_read_pipe, loop.connect_write_pipe):
                try:
                    await connect(lambda: Reader(), what)
                except Exception as error:
                    notes.append((type(error).__name__, str(error).split(" at ")[0]))

    same(scenario)


def test_a_loop_that_is_closed() -> None:
    for factory in (stdlib_loop, whilst.new_event_loop):
        loop: Any = factory()
        loop.close()
        with pipe() as (there, here), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for make in (loop._make_read_pipe_transport, loop._make_write_pipe_transport):
                kind, words = error_of(make, there if "read" in make.__name__ else here, asyncio.Protocol())
                assert (kind, words) == ("RuntimeError", "Event loop is closed")


# The end.


def test_the_waiter_is_cancelled() -> None:
    async def scenario(notes: list[Any]) -> None:
        with pipe() as (there, _here):
            connecting = asyncio.ensure_future(reading(there, notes))
            await asyncio.sleep(0)
            connecting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await connecting
            await turns()
            notes.append(there.closed)

    same(scenario)


@pytest.mark.parametrize("end", ["read", "write"])
def test_a_transport_that_nobody_closes_warns(end: str) -> None:
    async def scenario(notes: list[Any]) -> None:
        with pipe() as (there, here):
            transport, protocol = await (reading(there) if end == "read" else writing(here))
            # The loop refers to a transport that it waits for something with.
            if end == "read":
                transport.pause_reading()
            else:
                transport.set_protocol(asyncio.Protocol())
                await turns()
            file = transport.get_extra_info("pipe")
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                del transport, protocol.transport
                protocol.on.clear()
                del protocol
                gc.collect()
                await turns()
                gc.collect()
            notes.append(
                [
                    (one.category.__name__, re.sub(r"\d+", "N", str(one.message)).replace("_Unix", ""))
                    for one in caught
                ]
            )
            notes.append(file.closed)
            if end == "write":
                there.close()
                await asyncio.sleep(0.01)

    same(scenario)


def test_a_terminals_transport_that_nobody_closes_warns() -> None:
    async def scenario(notes: list[Any]) -> None:
        with terminal() as (controller, _line):
            transport, protocol = await writing(controller)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                del transport, protocol
                gc.collect()
            notes.append(
                [
                    (one.category.__name__, re.sub(r"\d+", "N", str(one.message)).replace("_Unix", ""))
                    for one in caught
                ]
            )
            notes.append(controller.closed)

    same(scenario)


@pytest.mark.parametrize("end", ["read", "write"])
def test_the_loop_is_closed_before_the_transport(end: str) -> None:
    for factory in (stdlib_loop, whilst.new_event_loop):
        with pipe() as (there, here):
            loop = factory()
            transport, protocol = loop.run_until_complete(reading(there) if end == "read" else writing(here))
            loop.close()
            assert "open" in repr(transport)
            if end == "write":
                transport.write(b"goes out all the same")
                assert os.read(there.fileno(), 100) == b"goes out all the same"
            assert error_of(transport.close) == ("RuntimeError", "Event loop is closed")
            assert transport.is_closing()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                del transport, protocol, loop
                gc.collect()
            assert [one.category for one in caught] == [ResourceWarning]
            assert (there if end == "read" else here).closed


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # CPython's transports are never done
@pytest.mark.parametrize("end", ["read", "write"])
def test_the_descriptor_is_closed_by_somebody_else(end: str) -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: notes.append(str(context["exception"])))
        with pipe() as (there, here):
            transport, protocol = await (reading(there, notes) if end == "read" else writing(here, notes))
            os.close((there if end == "read" else here).fileno())
            if end == "write":
                transport.write(b"data")
            else:
                transport.close()
            await protocol.lost
            await turns()
            notes.append(transport.is_closing())

    same(scenario)


def test_a_descriptor_that_somebody_closed_has_another_pipe_by_now() -> None:
    async def main() -> None:
        with pipe() as (there, here), pipe() as (new_there, new_here):
            old, old_protocol = await reading(there)
            number = there.fileno()
            os.dup2(new_there.fileno(), number)
            again = open(number, "rb", 0, closefd=False)
            transport, protocol = await reading(again)
            put(new_here, b"new")
            await until(lambda: protocol.data)
            assert protocol.data == b"new"
            assert not old_protocol.data
            # The old transport must not take the new one's watch away.
            old.pause_reading()
            put(new_here, b"er")
            await until(lambda: protocol.data == b"newer")
            transport.close()
            old.close()
            await protocol.lost
            await old_protocol.lost
            here.close()

    run(main())


def test_add_reader_takes_the_descriptor_over() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with pipe() as (there, here):
            transport, protocol = await reading(there)
            fd = there.fileno()
            loop.add_reader(fd, lambda: (notes.append(os.read(fd, 100)), loop.remove_reader(fd)))
            put(here, b"data")
            await until(lambda: notes)
            notes.append((bytes(protocol.data), loop.remove_reader(fd)))
            transport.close()
            await protocol.lost

    same(scenario)


def test_the_peer_sees_the_end_as_soon_as_connection_lost_was_called() -> None:
    async def main() -> None:
        with pipe() as (there, here):
            transport, protocol = await reading(there)
            transport.close()
            await protocol.lost
            with pytest.raises(BrokenPipeError):
                os.write(here.fileno(), b"1")
        with pipe() as (there, here):
            transport, protocol = await writing(here)
            transport.write(bytes(1 << 20))
            transport.close()
            os.set_blocking(there.fileno(), False)
            while not protocol.lost.done():
                drain(there)
                await asyncio.sleep(0)
            drain(there)
            assert os.read(there.fileno(), 100) == b"", "not the end"

    run(main())


def test_reentrancy_closing_from_the_pipes_own_close() -> None:
    async def main() -> None:
        class Odd:
            def __init__(self, fd: int) -> None:
                self.fd, self.closed = fd, 0

            def fileno(self) -> int:
                return self.fd

            def close(self) -> None:
                self.closed += 1
                for transport in transports:
                    transport.close()
                    repr(transport)

        transports: list[Any] = []
        read, write = os.pipe()
        ends = [Odd(read), Odd(write)]
        reader, protocol = await reading(ends[0])
        writer, other = await writing(ends[1])
        transports += [reader, writer]
        reader.close()
        await protocol.lost
        await other.lost
        await turns()
        assert [end.closed for end in ends] == [1, 1]
        os.close(read)
        os.close(write)

    run(main())


def test_five_hundred_cycles_leave_nothing() -> None:
    async def cycle() -> None:
        with pipe() as (there, here), sockets() as (first, second), terminal() as (controller, line):
            transports = []
            for end in (there, first, controller):
                transports.append((await reading(end))[0])
            for end in (here, second, line):
                transport, _ = await writing(end)
                transport.write(b"data")
                transports.append(transport)
            await turns(2)
            references.extend(weakref.ref(transport) for transport in transports)
            for transport in transports:
                transport.close()
            await turns(3)

    async def cycles(count: int) -> None:
        for _ in range(count):
            await cycle()

    references: list[Any] = []
    run(cycles(10))
    references.clear()
    with no_descriptor_leaks():
        for _ in range(10):
            run(cycles(50))
    assert len(references) == 3000
    assert [reference() for reference in references if reference() is not None] == []


def test_loops_that_go_with_their_transports_leave_nothing() -> None:
    def cycle() -> None:
        loop = whilst.new_event_loop()
        with pipe() as (there, here):
            transports = [
                loop.run_until_complete(reading(there))[0],
                loop.run_until_complete(writing(here))[0],
            ]
            transports[1].write(bytes(1 << 20))
            references.extend(weakref.ref(transport) for transport in transports)
            loop.close()

    references: list[Any] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        cycle()
        with no_descriptor_leaks():
            for _ in range(50):
                cycle()
        gc.collect()
    assert [reference() for reference in references if reference() is not None] == []


def test_streams_over_a_pipe() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with pipe() as (there, here):
            reader = asyncio.StreamReader()
            transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), there)
            write_transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, here)
            writer = asyncio.StreamWriter(write_transport, protocol, None, loop)

            async def send() -> None:
                for number in range(300):
                    writer.write(b"%d\n" % number * 1000)
                    await writer.drain()
                writer.write_eof()

            sending = asyncio.create_task(send())
            lines = 0
            async for _line in reader:
                lines += 1
            await sending
            notes.append(lines)
            transport.close()

    same(scenario)


def test_from_another_thread_while_the_loop_waits() -> None:
    """No documented use; but one that works with CPython's loop, and must not break this one."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pipe() as (there, here):
            transport, protocol = await reading(there)

            def work() -> None:
                time.sleep(0.02)
                transport.pause_reading()
                transport.resume_reading()
                time.sleep(0.02)
                loop.call_soon_threadsafe(transport.close)

            thread = threading.Thread(target=work)
            thread.start()
            await protocol.lost
            thread.join()
            here.close()

    run(main())


def test_debug_mode_logs(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(notes: list[Any]) -> None:
        caplog.clear()
        with pipe() as (there, here):
            transport, protocol = await reading(there)
            writer, other = await writing(here)
            transport.pause_reading()
            transport.resume_reading()
            writer.close()
            await protocol.lost
            await other.lost
        with pipe() as (there, here):
            writer, other = await writing(here)
            there.close()
            await other.lost
        for record in caplog.records:
            message = re.sub(r" object at 0x\w+", "", record.message).replace("_Unix", "")
            notes.append((record.levelname, re.sub(r"\d+", "N", message)))

    with caplog.at_level(logging.DEBUG, "asyncio"):
        same(scenario, debug=True)


def test_the_keywords_and_words_of_the_makers() -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        with pipe() as (there, here):
            waiter = loop.create_future()
            extra = {"more": 1}
            transport = loop._make_read_pipe_transport(there, Reader(), waiter=waiter, extra=extra)
            other = loop._make_write_pipe_transport(here, Writer(), waiter=None, extra=extra)
            await waiter
            for one, end in ((transport, there), (other, here)):
                assert one.get_extra_info("more") == 1
                assert one.get_extra_info("pipe") is end
                assert one._pipe is end
                assert one._fileno == end.fileno()
                one.close()
            assert extra == {"more": 1}
            await turns()

    run(main())


USUAL, AMPLE = 64 * 1024, 128 * 1024


async def _copy(size: int | None, amount: int) -> list[int]:
    """Send so much through one pipe, which was made to hold `size` if that is given; what its ends say that it holds then."""
    loop = asyncio.get_running_loop()
    ends = os.pipe()
    if size is not None:
        fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, size)
    receiver = Reader()
    reading, _ = await loop.connect_read_pipe(lambda: receiver, os.fdopen(ends[0], "rb", 0))
    writing, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(ends[1], "wb", 0))
    writing.write(b"." * amount)
    await until(lambda: len(receiver.data) == amount)
    held = [fcntl.fcntl(end, fcntl.F_GETPIPE_SZ) for end in ends]
    reading.close()
    writing.close()
    await turns(3)
    return held


@pytest.mark.parametrize(
    ("size", "amount", "held"),
    [(None, 1 << 20, AMPLE), (None, 1000, USUAL), (4096, 1 << 20, 4096), (1 << 18, 1 << 20, 1 << 18)],
    ids=["bulk", "little", "made small", "made large"],
)
def test_a_pipe_that_was_full_holds_more(size: int | None, amount: int, held: int) -> None:
    """A pipe of the usual size becomes larger when bulk goes through; one whose size somebody has chosen keeps it."""
    assert run(_copy(size, amount)) == [held, held]


@pytest.mark.parametrize("end", ["reading", "writing"])
def test_one_end_suffices_for_a_pipe_to_hold_more(end: str) -> None:
    """Who reads from a process that fills its pipe, or writes to one that is slow, has only its own end."""

    async def main() -> int:
        loop = asyncio.get_running_loop()
        ends = os.pipe()
        os.set_blocking(ends[1], False)
        if end == "reading":
            os.write(ends[1], b"." * USUAL)
            receiver = Reader()
            transport: Any
            transport, _ = await loop.connect_read_pipe(lambda: receiver, os.fdopen(ends[0], "rb", 0))
            await until(lambda: len(receiver.data) == USUAL)
        else:
            transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(ends[1], "wb", 0))
            transport.write(b"." * (2 * USUAL + 1))
            assert fcntl.fcntl(ends[0], fcntl.F_GETPIPE_SZ) == USUAL
            os.read(ends[0], USUAL)
            await until(lambda: fcntl.fcntl(ends[0], fcntl.F_GETPIPE_SZ) != USUAL)
        held = fcntl.fcntl(ends[0], fcntl.F_GETPIPE_SZ)
        os.close(ends[1] if end == "reading" else ends[0])
        transport.abort() if end == "writing" else transport.close()
        await turns(3)
        return held

    assert run(main()) == AMPLE
