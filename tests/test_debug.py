"""Debug mode: what is watched, refused and logged, compared with asyncio's own loop (see `oracle`)."""

import asyncio
import contextlib
import gc
import logging
import os
import re
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import whilst
from oracle import SECONDS, error_of, program, run, same, socket_pair, stdlib_loop, turns, until
from tls import client_context, server_context

pytestmark = pytest.mark.usefixtures("driver")

#: What counts as slow in these tests, and how long something slow takes, in seconds.
SLOW, LONG = 0.08, 0.1


class Records(logging.Handler):
    """What was logged, put into words at once: what is logged changes."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append((record.levelno, f"{record.levelname} {plain(record.getMessage())}"))


@pytest.fixture
def logged() -> Iterator[Callable[..., list[str]]]:
    """What the logger 'asyncio' was given since it was last asked, in words that do not depend on the run."""
    records = Records()
    logger = logging.getLogger("asyncio")
    before = logger.level

    def take(level: int = logging.DEBUG) -> list[str]:
        texts = [text for number, text in records.texts if number >= level]
        records.texts.clear()
        return texts

    logger.addHandler(records)
    logger.setLevel(logging.DEBUG)
    yield take
    logger.removeHandler(records)
    logger.setLevel(before)


def plain(text: str) -> str:
    """A text without numbers that differ from run to run, or names that differ from loop to loop."""
    text = re.sub(r"0x[0-9a-f]+", "0xN", text)
    text = re.sub(r"(_Selector|_Unix)(\w*)Transport", r"\2Transport", text).replace(
        "SocketTransport", "StreamTransport"
    )
    text = text.replace("_UnixSelectorEventLoop", "Loop").replace("_ThreadSafeHandle", "ThreadSafeHandle")
    text = re.sub(r" fd=\d+", "", text)
    text = re.sub(r"'127.0.0.1', \d+", "'127.0.0.1', N", text)
    text = re.sub(r"(127.0.0.1:|took |when=|poll )\d+(\.\d+)?", r"\1N", text)
    return re.sub(r"Task-\d+", "Task-N", text)


def is_ours(loop: asyncio.AbstractEventLoop) -> bool:
    return isinstance(loop, whilst.Loop)


# Slow callbacks.


def test_slow_callbacks_are_named_with_their_source(logged: Any) -> None:
    def slow(*_arguments: object) -> None:
        time.sleep(LONG)

    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = SLOW
        logged()
        loop.call_soon(slow, 1)
        loop.call_later(0.001, slow, "argument")
        loop.call_soon_threadsafe(slow)
        await asyncio.sleep(0.01)
        notes += logged(logging.WARNING)
        with socket_pair() as (first, second):
            loop.add_reader(first, lambda: (slow(), loop.remove_reader(first)))
            second.send(b"1")
            await until(lambda: notes.extend(logged(logging.WARNING)) or len(notes) == 4)
            # CPython's says where in asyncio the handle was made.
            notes[3] = re.sub(r" created at \S+", "", notes[3])

    notes = same(scenario, debug=True)
    here = Path(__file__).name
    assert all(
        re.search(rf"Executing <.*Handle .*slow.*{here}:\d+.* created at .*{here}:\d+> took N seconds", note)
        for note in notes[:3]
    )


def test_slow_steps_of_tasks(logged: Any) -> None:
    async def slow() -> None:
        time.sleep(LONG)
        await asyncio.sleep(0)

    async def scenario(notes: list[Any]) -> None:
        asyncio.get_running_loop().slow_callback_duration = SLOW
        logged()
        await asyncio.create_task(slow(), name="the slow one")
        notes += [re.sub(r" cb=\[.*?\] ", " ", note) for note in logged(logging.WARNING)]

    (note,) = same(scenario, debug=True)
    assert "the slow one" in note


def test_how_long_is_slow_and_debug_mode_while_the_loop_runs(logged: Any) -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()

        async def one() -> None:
            logged()
            loop.call_soon(time.sleep, LONG)
            await turns()
            notes.append(len(logged(logging.WARNING)))

        notes.append((loop.get_debug(), loop.slow_callback_duration))
        for debug, duration in ((False, SLOW), (True, SLOW), (True, 10.0), (True, 0.02), (False, 0.02)):
            loop.set_debug(debug)
            loop.slow_callback_duration = duration
            await one()

    assert same(scenario, debug=False)[1:] == [0, 1, 0, 1, 0]


class Slow(asyncio.Protocol):
    """A protocol of which one callback takes long."""

    def __init__(self, name: str = "", notes: list[str] | None = None) -> None:
        self.name = name
        self.transport: Any = None
        self.told: list[str] = []
        self.lost = asyncio.get_running_loop().create_future()

    def _tell(self, name: str) -> None:
        self.told.append(name)
        if name == self.name:
            time.sleep(LONG)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._tell("connection_made")

    def data_received(self, data: bytes) -> None:
        self._tell("data_received")

    def eof_received(self) -> None:
        self._tell("eof_received")

    def pause_writing(self) -> None:
        self._tell("pause_writing")

    def resume_writing(self) -> None:
        self._tell("resume_writing")

    def connection_lost(self, exc: BaseException | None) -> None:
        self._tell("connection_lost")
        self.lost.set_result(None)


class SlowBuffered(Slow, asyncio.BufferedProtocol):  # type: ignore[misc]
    """The same with a buffer of its own."""

    def get_buffer(self, sizehint: int) -> bytearray:
        return bytearray(10)

    def buffer_updated(self, nbytes: int) -> None:
        self._tell("buffer_updated")


async def exchange(loop: asyncio.AbstractEventLoop, protocol: Slow, peer: socket.socket) -> None:
    """Have a stream's protocol told everything that there is."""
    await until(lambda: protocol.transport is not None)
    peer.send(b"data")
    await until(lambda: len(protocol.told) == 2)
    protocol.transport.write(bytes(4 << 20))
    await until(lambda: "pause_writing" in protocol.told)
    while "resume_writing" not in protocol.told:
        with contextlib.suppress(BlockingIOError):
            peer.recv(1 << 20)
        await asyncio.sleep(0)
    peer.shutdown(socket.SHUT_WR)
    await protocol.lost


@pytest.mark.parametrize(
    "name", ["connection_made", "data_received", "eof_received", "resume_writing", "connection_lost"]
)
def test_slow_callbacks_of_a_streams_protocol(name: str, logged: Any) -> None:
    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = SLOW
        with socket_pair() as (first, second):
            logged()
            _, protocol = await loop.create_connection(lambda: Slow(name), sock=first)
            await exchange(loop, protocol, second)
            return list(logged(logging.WARNING))

    assert run(main(), stdlib_loop, debug=True)
    (note,) = [note for note in run(main(), debug=True) if "Slow" in note or "slow_factory" in note]
    where = rf"Slow\.{name}\(\) at \S*{Path(__file__).name}:\d+"
    assert re.search(rf"Executing <{where} transport=<StreamTransport .*>> took N seconds", note)


def test_a_slow_callback_of_a_buffered_protocol(logged: Any) -> None:
    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = SLOW
        with socket_pair() as (first, second):
            logged()
            _, protocol = await loop.create_connection(lambda: SlowBuffered("buffer_updated"), sock=first)
            await exchange(loop, protocol, second)
            return list(logged(logging.WARNING))

    assert run(main(), stdlib_loop, debug=True)
    (note,) = [note for note in run(main(), debug=True) if "Slow" in note or "slow_factory" in note]
    assert re.search(r"Executing <SlowBuffered\.buffer_updated\(\) at \S+ transport=<StreamTransport", note)


@pytest.mark.parametrize("name", ["factory", "connection_made", "data_received"])
def test_slow_servers(name: str, logged: Any) -> None:
    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = SLOW
        made: list[Slow] = []

        def slow_factory() -> Slow:
            if name == "factory":
                time.sleep(LONG)
            made.append(Slow(name))
            return made[0]

        server = await loop.create_server(slow_factory, "127.0.0.1", 0)
        async with server:
            logged()
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"data")
            await until(lambda: made and "data_received" in made[0].told)
            writer.close()
            await made[0].lost
            return list(logged(logging.WARNING))

    assert run(main(), stdlib_loop, debug=True)
    (note,) = [note for note in run(main(), debug=True) if "Slow" in note or "slow_factory" in note]
    callback = "slow_factory" if name == "factory" else f"Slow.{name}"
    assert re.search(rf"Executing <\S*{re.escape(callback)}\(\) at \S+:\d+ (transport|server)=<", note)


@pytest.mark.parametrize("name", ["connection_made", "data_received", "eof_received", "connection_lost"])
def test_slow_callbacks_of_a_reading_pipes_protocol(name: str, logged: Any) -> None:
    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = SLOW
        read, write = os.pipe()
        logged()
        with open(read, "rb", 0) as file:
            _, protocol = await loop.connect_read_pipe(lambda: Slow(name), file)
            os.write(write, b"data")
            await until(lambda: "data_received" in protocol.told)
            os.close(write)
            await protocol.lost
        return list(logged(logging.WARNING))

    assert run(main(), stdlib_loop, debug=True)
    (note,) = [note for note in run(main(), debug=True) if "Slow" in note or "slow_factory" in note]
    assert re.search(rf"Executing <Slow\.{name}\(\) at \S+:\d+ transport=<ReadPipeTransport ", note)


class SlowDatagrams(asyncio.DatagramProtocol):
    """Takes long in one callback. That of four datagrams is not."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.received: list[bytes] = []
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self.name == "connection_made":
            time.sleep(LONG)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received.append(data)
        time.sleep(LONG if self.name == "datagram_received" and data == b"3" else SLOW / 4)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.name == "connection_lost":
            time.sleep(LONG)
        self.lost.set_result(None)


@pytest.mark.parametrize("name", ["connection_made", "datagram_received", "connection_lost"])
def test_slow_callbacks_of_a_datagram_protocol(name: str, logged: Any) -> None:
    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = SLOW
        logged()
        transport, protocol = await loop.create_datagram_endpoint(
            lambda: SlowDatagrams(name), local_addr=("127.0.0.1", 0)
        )
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for number in range(6):
                sender.sendto(b"%d" % number, transport.get_extra_info("sockname"))
            await until(lambda: len(protocol.received) == 6)
        transport.close()
        await protocol.lost
        return list(logged(logging.WARNING))

    assert len(run(main(), stdlib_loop, debug=True)) == 1
    (note,) = run(main(), debug=True)
    assert re.search(rf"Executing <SlowDatagrams\.{name}\(\) at \S+:\d+ transport=<DatagramTransport ", note)


@pytest.mark.parametrize("name", ["connection_made", "resume_writing", "connection_lost"])
def test_slow_callbacks_of_a_writing_pipes_protocol(name: str, logged: Any) -> None:
    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = SLOW
        read, write = os.pipe()
        os.set_blocking(read, False)
        logged()
        with open(write, "wb", 0) as file:
            transport, protocol = await loop.connect_write_pipe(lambda: Slow(name), file)
            transport.write(bytes(1 << 20))
            while "resume_writing" not in protocol.told:
                with contextlib.suppress(BlockingIOError):
                    os.read(read, 1 << 20)
                await asyncio.sleep(0)
            os.close(read)
            await protocol.lost
        return list(logged(logging.WARNING))

    assert run(main(), stdlib_loop, debug=True)
    (note,) = [note for note in run(main(), debug=True) if "Slow" in note or "slow_factory" in note]
    assert re.search(rf"Executing <Slow\.{name}\(\) at \S+:\d+ transport=<WritePipeTransport ", note)


def test_a_slow_callback_behind_tls(logged: Any) -> None:
    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = SLOW
        made: list[Slow] = []

        def factory() -> Slow:
            made.append(Slow("data_received"))
            return made[0]

        server = await loop.create_server(factory, "127.0.0.1", 0, ssl=server_context())
        async with server:
            _, writer = await asyncio.open_connection(
                *server.sockets[0].getsockname(), ssl=client_context(), server_hostname="localhost"
            )
            logged()
            writer.write(b"data")
            await until(lambda: "data_received" in made[0].told)
            await turns()
            writer.close()
            await made[0].lost
            return list(logged(logging.WARNING))

    assert run(main(), stdlib_loop, debug=True)
    (note,) = [note for note in run(main(), debug=True) if "Slow" in note]
    assert re.search(r"Executing <Slow\.data_received\(\) at \S+:\d+ transport=<StreamTransport ", note)


def test_quick_protocols_are_not_reported(logged: Any) -> None:
    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        with socket_pair() as (first, second):
            logged()
            _, protocol = await loop.create_connection(Slow, sock=first)
            await exchange(loop, protocol, second)
            return list(logged(logging.WARNING))

    assert run(main(), debug=True) == []


# The log.


def test_the_life_of_a_server_and_its_connections(logged: Any) -> None:
    async def scenario(notes: list[Any]) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.read())
            writer.close()

        loop = asyncio.get_running_loop()
        logged()
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(*address)
        transport: Any = writer.transport
        transport.pause_reading()
        transport.resume_reading()
        writer.write(b"data")
        writer.write_eof()
        await reader.read()
        writer.close()
        await writer.wait_closed()
        transport.pause_reading()
        server.close()
        await turns()
        # The loops differ in when a write has left: bufsize, and what polls.
        lines = [re.sub(r"(read|write)=\S+ ?", "", re.sub(r"bufsize=\d+>?", "", line)) for line in logged()]
        # An address in figures is not looked up by a thread here.
        lines = [line for line in lines if "Get address info" not in line and "Getting address" not in line]
        # A connection is accepted in the same iteration by one, and in the next by the other.
        notes += sorted(
            re.sub(r"<socket.socket.*?>|<asyncio.TransportSocket.*?>", "<socket>", line) for line in lines
        )
        assert loop.get_debug()

    notes = same(scenario, debug=True)
    text = "\n".join(notes)
    for expected in (
        "is serving",
        "got a new connection from",
        "connected to 127.0.0.1:",
        "received EOF",
        "pauses reading",
    ):
        assert expected in text


def test_the_end_of_a_loop_is_logged(logged: Any) -> None:
    found = []
    for factory in (stdlib_loop, whilst.new_event_loop):
        loop = factory()
        loop.set_debug(True)
        logged()
        loop.close()
        loop.close()
        found.append(logged())
    assert found[0] == found[1] == ["DEBUG Close <Loop running=False closed=False debug=True>"]


@pytest.mark.parametrize("debug", [False, True])
def test_what_the_system_says_ends_a_connection(debug: bool, logged: Any) -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with socket_pair(socket.AF_INET) as (first, second):
            _, protocol = await loop.create_connection(Slow, sock=first)
            second.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            logged()
            second.close()
            await protocol.lost
            notes += [re.sub(r"<StreamTransport.*>", "<T>", line) for line in logged()] or ["nothing"]

    notes = same(scenario, debug=debug)
    assert ("Fatal read error" in notes[0]) is debug


def test_looking_up_a_name_takes_long(logged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = SLOW
        original = socket.getaddrinfo

        def slow(*arguments: Any) -> Any:
            time.sleep(LONG)
            return original(*arguments)

        for lookup in (original, slow):
            monkeypatch.setattr(socket, "getaddrinfo", lookup)
            logged()
            await loop.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
            notes += [line.split(" took")[0].split(" in ")[0] for line in logged() if "address" in line]
        monkeypatch.setattr(socket, "getaddrinfo", original)

    notes = same(scenario, debug=True)
    assert notes[-1].startswith("INFO")


# What is refused.


def test_what_is_checked_in_other_threads_and_what_is_not() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (first, _second):
            for call in (
                lambda: loop.call_soon(print),
                lambda: loop.call_later(1, print),
                lambda: loop.call_at(1, print),
                lambda: loop.call_soon_threadsafe(len, ()),
                lambda: loop.add_reader(first, print),
                lambda: loop.remove_reader(first),
                lambda: loop.create_future().cancel(),
            ):
                notes.append(await asyncio.to_thread(error_of, call))

    notes = same(scenario, debug=True)
    assert notes.count(("nothing", "was raised")) == 4


def test_what_cannot_be_called() -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()

        async def coroutine() -> None: ...

        made = coroutine()
        for callback in (1, coroutine, made):
            notes.append(plain(str(error_of(loop.call_soon, callback))))
            notes.append(plain(str(error_of(loop.call_later, 1, callback))))
            notes.append(plain(str(error_of(loop.call_soon_threadsafe, callback))))
        made.close()

    same(scenario, debug=True)


# What was never closed.


@pytest.mark.parametrize("debug", [False, True])
def test_what_was_never_closed(debug: bool) -> None:
    found = []
    gc.collect()  # What a test that failed has left is none of these.
    for factory in (stdlib_loop, whilst.new_event_loop):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loop: Any = factory()
            loop.set_debug(debug)
            with socket_pair() as (first, _second):

                async def connect(first: Any = first) -> Any:
                    return await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=first)

                made = loop.run_until_complete(connect())
                del made, loop
                gc.collect()
        messages = [(one.category.__name__, plain(str(one.message))) for one in caught]
        found.append(sorted((kind, re.sub(r"Transport.*", "Transport", words)) for kind, words in messages))
    assert found[0] == found[1]
    assert len(found[1]) == 2


# Where things come from.


def test_handles_and_reports_know_where_they_were_made() -> None:
    def frames(summary: Any) -> list[tuple[str, int | None]]:
        # The frames of asyncio's own functions are not there where these are Rust.
        ours = [frame for frame in summary if frame.filename == __file__]
        return [(Path(frame.filename).name, frame.lineno) for frame in ours][-1:]

    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()

        def fail() -> None:
            raise LookupError

        def handler(_loop: Any, context: dict[str, Any]) -> None:
            notes.append((sorted(context), frames(context["source_traceback"])))

        loop.set_exception_handler(handler)
        loop.call_soon(fail)
        loop.call_later(0, fail)
        loop.call_soon_threadsafe(fail)
        await asyncio.sleep(0.01)
        for handle in (loop.call_soon(len, ()), loop.call_later(0, len, ()), loop.call_at(0, len, ())):
            text = re.sub(r"when=\S+", "when=N", repr(handle))
            notes.append((frames(handle._source_traceback), plain(text)))  # type: ignore[attr-defined]
            handle.cancel()
            notes.append(plain(re.sub(r"when=\S+", "when=N", repr(handle))))
        future = loop.create_future()
        future.set_exception(LookupError())
        del future
        gc.collect()

    notes = same(scenario, debug=True)
    assert len(notes) == 10


def test_the_default_report_says_where(logged: Any) -> None:
    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()

        def fail() -> None:
            raise LookupError

        def report() -> None:
            # In a callback a report of something else says which callback it was.
            loop.call_exception_handler({"message": "words"})

        logged()
        loop.call_soon(fail)
        loop.call_soon(report)
        await turns()
        for text in logged(logging.ERROR):
            # Without the frames below the scenario, which are the loop's (and no more than ten are kept).
            frames = r'  File "[^\n]*, in (?!scenario|fail)[^\n]*\n(    [^\n]*\n)*'
            notes.append(re.sub(frames, "", text))

    first, second = same(scenario, debug=True)
    assert "source_traceback: Object created at (most recent call last):" in first
    assert "handle_traceback: Handle created at (most recent call last):" in second


def test_a_coroutine_that_was_never_awaited_says_where_it_was_made() -> None:
    source = """
        import asyncio, sys, whilst
        async def forgotten(): pass
        async def main():
            forgotten()
        factory = whilst.new_event_loop if sys.argv[1] == "whilst" else None
        with asyncio.Runner(loop_factory=factory, debug=True) as runner:
            runner.run(main())
    """
    ours, theirs = (program(source, name) for name in ("whilst", "asyncio"))
    # Without the frames of the loop's.
    ours, theirs = (
        [line for line in done.stderr.splitlines() if re.search(r"<string>|created|Warning", line)]
        for done in (ours, theirs)
    )
    assert ours == theirs
    assert "Coroutine created at (most recent call last)" in ours


@pytest.mark.parametrize(
    ("options", "environment"),
    [
        ((), {}),
        (("-X", "dev"), {}),
        ((), {"PYTHONASYNCIODEBUG": "1"}),
        (("-E",), {"PYTHONASYNCIODEBUG": "1"}),
    ],
)
@pytest.mark.parametrize("debug", ["None", "True", "False"])
def test_where_debug_mode_comes_from(options: Any, environment: dict[str, str], debug: str) -> None:
    source = f"""
        import asyncio, sys, whilst
        async def main():
            return asyncio.get_running_loop().get_debug()
        run = whilst.run if sys.argv[1] == "whilst" else asyncio.run
        print(run(main(), debug={debug}))
        if sys.argv[1] == "whilst":
            whilst.install()
        print(asyncio.run(main(), debug={debug}), asyncio.new_event_loop().get_debug())
    """
    environment = {**os.environ, **environment}
    ours, theirs = (
        program(source, name, options=options, env=environment, timeout=SECONDS)
        for name in ("whilst", "asyncio")
    )
    assert ours.stdout == theirs.stdout != ""


def test_a_program_under_dev_mode_has_nothing_to_complain_about() -> None:
    """Sockets, pipes and a server under `-X dev -W error`, with every warning an error."""
    source = """
        import asyncio, os, whilst

        async def serve(reader, writer):
            writer.write(await reader.read())
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        async def main():
            loop = asyncio.get_running_loop()
            async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
                reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                writer.write(b"data")
                writer.write_eof()
                assert await reader.read() == b"data"
                writer.close()
                await writer.wait_closed()
            read, write = os.pipe()
            reader = asyncio.StreamReader()
            transport, _ = await loop.connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), open(read, "rb", 0))
            writer, _ = await loop.connect_write_pipe(asyncio.Protocol, open(write, "wb", 0))
            writer.write(b"data")
            writer.close()
            assert await reader.read() == b"data"
            await asyncio.sleep(0.01)
            print("done")

        whilst.run(main())
    """
    done = program(source, options=("-X", "dev", "-W", "error"))
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)
