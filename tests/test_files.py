"""``whilst.open``: what the builtin ``open`` has not; nothing waits but the task that asked."""

import asyncio
import codecs
import contextlib
import errno
import io
import os
import pty
import random
import threading
import tty
from collections.abc import Coroutine
from encodings.aliases import aliases
from pathlib import Path
from typing import Any

import pytest
import whilst
from oracle import no_descriptor_leaks, program, run, stdlib_loop

# -- What the builtin has not -------------------------------------------------------------------------------------------------


def test_two_ways_to_open(driver: str, tmp_path: Path) -> None:
    path = tmp_path / "some"
    path.write_text("one\ntwo\n")

    async def main() -> None:
        async with whilst.open(path) as file:
            assert [line async for line in file] == ["one\n", "two\n"]
        assert file.closed
        file = await whilst.open(path)
        async with file as same:
            assert same is file
            assert await file.read() == "one\ntwo\n"
        assert file.closed
        async with whilst.open(path, "rb") as binary:
            assert [line async for line in binary] == [b"one\n", b"two\n"]
            assert await binary.seek(0) == 0
            assert await binary.peek() == b"one\ntwo\n"
            assert await binary.read1() == b"one\ntwo\n"
            assert await binary.readall() == b""
            assert await binary.read1() == b""
        with pytest.raises(AttributeError):
            whilst.open(path).read()  # type: ignore[attr-defined]

    run(main())


def test_anywhere(driver: str, tmp_path: Path) -> None:
    path = tmp_path / "some"
    path.write_bytes(b"0123456789")

    async def main() -> None:
        async with whilst.open(path, "r+b") as file:
            assert await file.read(2) == b"01"
            assert await file.pread(3, 5) == b"567"
            assert await file.pread(3, 9) == b"9"
            assert await file.pread(3, 50) == b""
            assert await file.tell() == 2
            assert await file.pwrite(b"ab", 2) == 2
            # What was read ahead is not believed any more, and the position has stayed.
            assert await file.read(3) == b"ab4"
            await file.seek(0)
            await file.write(b"XY")
            # In the order of the calls, though the first is still in the buffer.
            assert await file.pread(4, 0) == b"XYab"
            await file.write(b"Z")
            assert await file.pwrite(memoryview(b"!!"), 2) == 2
            assert await file.pread(10, 0) == b"XY!!456789"
            assert await file.tell() == 3
            for call in (file.pread(1, -1), file.pwrite(b"", -1)):
                with pytest.raises(OSError) as error:
                    await call
                assert error.value.errno == errno.EINVAL
            await file.sync()
            await file.sync(data_only=True)
        async with whilst.open(path, "wb") as file:
            with pytest.raises(io.UnsupportedOperation):
                await file.pread(1, 0)
        async with whilst.open(path, "rb") as file:
            with pytest.raises(io.UnsupportedOperation):
                await file.pwrite(b"", 0)

    run(main())


def test_written_when_synced(driver: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with whilst.open(tmp_path / "some", "w") as file:
            await file.write("kept back")
            assert (tmp_path / "some").read_text() == ""
            await file.sync()
            assert (tmp_path / "some").read_text() == "kept back"

    run(main())


def test_descriptors(driver: str, tmp_path: Path) -> None:
    path = tmp_path / "some"
    path.write_text("some")

    async def main() -> None:
        descriptor = os.open(path, os.O_RDONLY)
        async with whilst.open(descriptor, closefd=False) as file:
            assert (file.name, file.fileno(), await file.read()) == (descriptor, descriptor, "some")
        os.lseek(descriptor, 1, os.SEEK_SET)
        async with whilst.open(descriptor) as file:
            assert await file.read() == "ome"
        with pytest.raises(OSError):
            os.fstat(descriptor)

        asked = []

        def opener(path: str, flags: int) -> int:
            asked.append((path, flags, threading.current_thread() is threading.main_thread()))
            return os.open("some", flags, dir_fd=folder)

        folder = os.open(tmp_path, os.O_RDONLY)
        async with whilst.open("a name", "rb", opener=opener) as binary:
            assert await binary.read() == b"some"
            assert binary.name == "a name"
        assert asked == [("a name", os.O_RDONLY | os.O_CLOEXEC, False)]
        for wrong, error in ((lambda *_: -1, ValueError), (lambda *_: None, TypeError)):
            with pytest.raises(error) as theirs:
                open("x", opener=wrong)
            with pytest.raises(error) as ours:
                await whilst.open("x", opener=wrong)
            assert str(ours.value) == str(theirs.value)
        os.close(folder)

    run(main())


def test_files_without_a_length(driver: str) -> None:
    async def main() -> None:
        async with whilst.open("/proc/self/status", "rb") as status:
            assert (await status.read()).startswith(b"Name:")
        async with whilst.open("/proc/self/maps") as maps:
            lines = [line async for line in maps]
            assert len(lines) > 20 and all(line.endswith("\n") for line in lines)
        async with whilst.open("/proc/cpuinfo") as cpus:
            assert "processor" in await cpus.read()
        async with whilst.open("/dev/zero", "rb") as zeros:
            assert await zeros.read(100_000) == bytes(100_000)
        async with whilst.open("/dev/null", "r+b", 0) as null:
            assert await null.write(b"gone") == 4
            assert await null.read() == b""
        with pytest.raises(OSError) as error:
            async with whilst.open("/dev/full", "wb") as full:
                await full.write(b"too much")
        assert error.value.errno == errno.ENOSPC
        assert full.closed

    run(main())


# -- Nothing waits but the task -----------------------------------------------------------------------------------------------


async def turns_during(work: Coroutine[Any, Any, Any]) -> tuple[Any, int]:
    """Run a coroutine. Return its result, and how often the loop came round meanwhile."""
    turns = 0
    task = asyncio.ensure_future(work)
    while not task.done():
        await asyncio.sleep(0)
        turns += 1
    return task.result(), turns


def test_fifo(driver: str, tmp_path: Path) -> None:
    """Neither its opening nor its reading holds up the loop, or anybody else's file."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    (tmp_path / "some").write_text("some")

    async def read() -> str:
        async with whilst.open(fifo) as file:
            assert not file.seekable()
            with pytest.raises(io.UnsupportedOperation):
                await file.tell()
            assert await file.readline() == "one\n"
            return await file.read()

    async def main() -> None:
        # More than there are threads, and than the ring has workers.
        os.mkfifo(tmp_path / "unread")
        writers = [asyncio.create_task(open_writer(tmp_path / "unread")) for _ in range(20)]
        readers = [asyncio.create_task(wait_for_line(tmp_path / "unread2")) for _ in range(20)]
        reading = asyncio.create_task(read())
        for _ in range(20):
            await asyncio.sleep(0)
            async with whilst.open(tmp_path / "some") as some:
                assert await some.read() == "some"
        assert not reading.done()
        async with whilst.open(fifo, "w") as file:
            await file.write("one\n")
            await file.flush()
            await asyncio.sleep(0)
            assert not reading.done()
            await file.write("more" * 100_000)  # than a pipe takes
        assert await reading == "more" * 100_000
        for task in [*writers, *readers]:
            assert not task.done()
            task.cancel()
        await asyncio.gather(*writers, *readers, return_exceptions=True)
        # The writer may come first.
        writing = asyncio.create_task(write())
        await asyncio.sleep(0.01)
        assert not writing.done()
        assert await read() == "two\n"
        await writing

    async def write() -> None:
        async with whilst.open(fifo, "w") as file:
            await file.write("one\ntwo\n")

    async def open_writer(path: Path) -> None:
        async with whilst.open(path, "wb"):
            raise AssertionError("nobody reads it")

    async def wait_for_line(path: Path) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path)
        async with whilst.open(path, "rb") as file:
            await file.readline()
            raise AssertionError("nobody writes it")

    with no_descriptor_leaks():
        run(main())


def test_terminal(driver: str) -> None:
    async def main() -> None:
        ours, theirs = pty.openpty()
        tty.setraw(theirs)
        async with (
            whilst.open(theirs, "r+b", 0, closefd=False) as raw,
            whilst.open(ours, "w", closefd=False) as out,
        ):
            assert raw.isatty() and out.isatty() and out.line_buffering
            reading = asyncio.create_task(raw.read(100))
            await asyncio.sleep(0)
            assert not reading.done()
            await out.write("not yet")
            await asyncio.sleep(0)
            assert not reading.done()
            await out.write(", but now\n")
            assert await reading == b"not yet, but now\n"
            await raw.write(b"back")
            assert os.read(ours, 100) == b"back"
        os.close(ours)
        os.close(theirs)

    run(main())


def thread_names() -> list[str]:
    """The names of the process's threads. The kernel's workers for a ring are among them, as ``iou-wrk-…``."""
    names = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            names.append((task / "comm").read_text().strip())
    return names


THREADS = """
    import asyncio, contextlib, os, sys, threading, time
    from pathlib import Path
    import whilst

    def names():
        found = []
        for task in Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError):
                found.append((task / "comm").read_text().strip())
        return found

    async def main(path):
        for round in range(50):
            async with whilst.open(path, "w") as file:
                await file.write("template " * 1000)
            async def read():
                async with whilst.open(path) as file:
                    return await file.read()
            assert set(await asyncio.gather(*(read() for _ in range(20)))) == {"template " * 1000}
        # Threads of the kernel's for a ring are no threads of this program: they run none of its code.
        ours = [name for name in names() if not name.startswith("iou-")]
        print(len(ours), threading.active_count())

    whilst.run(main(sys.argv[1]))
    # They end with the loop, and the kernel lists one for a moment longer.
    limit = time.monotonic() + 20
    while (left := len([name for name in names() if not name.startswith("iou-")])) > 1 and time.monotonic() < limit:
        time.sleep(0.001)
    print(left)
"""


def test_threads(driver: str, tmp_path: Path) -> None:
    """The ring needs none; elsewhere there are a few at most, and none once the loop is closed."""
    ran = program(THREADS, str(tmp_path / "some"))
    assert ran.returncode == 0, ran.stderr
    threads, python_threads, left = map(int, ran.stdout.split())
    assert python_threads == 1
    assert left == 1
    if driver == "io_uring":
        assert threads == 1
    else:
        assert 2 <= threads <= 5


def test_a_large_file(driver: str, tmp_path: Path) -> None:
    """64 MiB are read whole, and the loop goes on meanwhile."""
    path = tmp_path / "large"
    contents = random.Random(1).randbytes(1 << 20) * 64
    path.write_bytes(contents)

    async def main() -> None:
        async def read() -> bytes:
            async with whilst.open(path, "rb") as file:
                return await file.read()

        async def copy() -> None:
            async with whilst.open(path, "rb") as source, whilst.open(tmp_path / "copy", "wb") as target:
                while piece := await source.read(1_000_000):
                    assert await target.write(piece) == len(piece)

        data, turns = await turns_during(read())
        assert data == contents
        # Opening, reading and closing take a few; while all those bytes are copied there are hundreds.
        assert turns > 50
        await copy()
        assert (tmp_path / "copy").read_bytes() == contents

    run(main())


def test_not_in_memory(driver: str, tmp_path: Path) -> None:
    """What the kernel has to fetch from the disk first."""
    contents = random.Random(7).randbytes(4 << 20)
    paths = [tmp_path / str(number) for number in range(8)]
    for path in paths:
        path.write_bytes(contents)

    def forget() -> None:
        for path in paths:
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    async def read(path: Path, size: int) -> bytes:
        pieces = []
        async with whilst.open(path, "rb") as file:
            while piece := await file.read(size):
                pieces.append(piece)
        return b"".join(pieces)

    async def main() -> None:
        for size in (-1, 10_000, 300_000):
            forget()
            assert set(await asyncio.gather(*(read(path, size) for path in paths))) == {contents}
        forget()
        tasks = [asyncio.create_task(read(path, 100_000)) for path in paths]
        await asyncio.sleep(0.001)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert set(results[1::2]) == {contents}

    with no_descriptor_leaks():
        run(main())


def test_many_reads_at_once(driver: str, tmp_path: Path) -> None:
    """10,000 on 100 files, beside each other and in turns."""
    for number in range(100):
        (tmp_path / str(number)).write_bytes(
            b"".join(b"%05d" % (number * 1000 + place) for place in range(100))
        )

    async def main() -> None:
        files = [await whilst.open(tmp_path / str(number), "rb") for number in range(100)]
        reads = [(number, place) for number in range(100) for place in range(100)]
        random.Random(2).shuffle(reads)
        results = await asyncio.gather(*(files[number].pread(5, 5 * place) for number, place in reads))
        assert results == [b"%05d" % (number * 1000 + place) for number, place in reads]
        # In turns: each gets what follows what the one before has got.
        results = await asyncio.gather(*(files[number].read(5) for number in range(100) for _ in range(100)))
        assert results == [b"%05d" % (number * 1000 + place) for number in range(100) for place in range(100)]
        await asyncio.gather(*(file.close() for file in files))

    with no_descriptor_leaks():
        run(main())


def test_in_the_order_of_the_calls(driver: str, tmp_path: Path) -> None:
    path = tmp_path / "log"

    async def main() -> None:
        for buffering in (0, 16, -1):
            async with whilst.open(path, "wb", buffering) as file:
                await asyncio.gather(*(file.write(b"line %03d\n" % number) for number in range(300)))
            assert path.read_bytes() == b"".join(b"line %03d\n" % number for number in range(300))
        async with whilst.open(path, "w", 16) as text:
            calls: list[Coroutine[Any, Any, Any]] = []
            for number in range(100):
                calls += [text.write(f"a{number}\n"), text.flush(), text.writelines(["b", f"{number}\n"])]
            await asyncio.gather(*calls)
            # Lines that belong together stay together.
        assert path.read_text() == "".join(f"a{number}\nb{number}\n" for number in range(100))

    run(main())


# -- Elsewhere ----------------------------------------------------------------------------------------------------------------


def test_on_asyncio_s_own_loop(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    async def main() -> None:
        async with whilst.open(tmp_path / "some", "w+") as file:
            await file.write("one\ntwo\n")
            await file.seek(0)
            assert [line async for line in file] == ["one\n", "two\n"]
            await file.truncate(4)
            await file.sync()
        async with whilst.open(tmp_path / "some", "rb") as binary:
            assert await asyncio.gather(*(binary.pread(3, 0) for _ in range(100))) == [b"one"] * 100
            reading = asyncio.create_task(binary.read())
            await asyncio.sleep(0)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert await binary.read() == b"one\n"
        with pytest.raises(FileNotFoundError) as error:
            await whilst.open(tmp_path / "none")
        assert error.value.filename == str(tmp_path / "none")

        async def read() -> bytes:
            async with whilst.open(fifo, "rb") as reader:
                return await reader.read()

        waiting = [asyncio.create_task(read()) for _ in range(1)]
        async with whilst.open(fifo, "wb") as writer:
            await writer.write(b"x" * 200_000)
        assert await asyncio.gather(*waiting) == [b"x" * 200_000]

    with no_descriptor_leaks():
        run(main(), stdlib_loop)


def test_cookies_of_every_encoding(driver: str, tmp_path: Path) -> None:
    """From wherever `tell()` was called, `seek()` leads to the same text, whatever the encoding."""
    text = "Ω ж 日本語 \N{SNOWMAN} é\r\nABC ~{\r 한국어 中文\n" * 30 + "plain text\r\n" * 300
    encodings = sorted(set(aliases.values()))
    path = tmp_path / "some"

    async def main() -> None:
        tried = 0
        for encoding in encodings:
            try:
                path.write_bytes(text.encode(encoding, "ignore"))
                with open(path, encoding=encoding, newline="") as theirs:
                    expected = theirs.read()
            except (LookupError, UnicodeError):
                continue  # no text encoding, or one that does not read what it writes
            dice = random.Random(encoding)
            async with whilst.open(path, encoding=encoding, newline=dice.choice(["", "\n"])) as file:
                tried += 1
                read = ""
                places = []
                while piece := await file.read(dice.choice([1, 2, 3, 50, 400])):
                    read += piece
                    if dice.random() < 0.3:
                        places.append((await file.tell(), len(read)))
                assert read == expected, encoding
                for cookie, place in dice.sample(places, min(len(places), 15)):
                    assert await file.seek(cookie) == cookie
                    assert await file.read(60) == expected[place : place + 60], (encoding, place)
                    assert await file.read() == expected[place + 60 :], (encoding, place)
        assert tried > 80

    run(main())


def test_cookies_are_never_wrong(driver: str, tmp_path: Path) -> None:
    """Where a decoder's state says less than it knows, tell() refuses or finds another way; it does not lie."""

    class Counting(codecs.IncrementalDecoder):
        """Shifts every character by how many there were before, and does not tell."""

        def __init__(self, errors: str = "strict") -> None:
            super().__init__(errors)
            self.count = 0

        def decode(self, data: Any, final: bool = False) -> str:
            text = "".join(chr((byte + self.count + place) % 128) for place, byte in enumerate(bytes(data)))
            self.count += len(text)
            return text

        def reset(self) -> None:
            self.count = 0

    def search(name: str) -> codecs.CodecInfo | None:
        if name != "whilst_counting":
            return None
        info = codecs.lookup("ascii")
        return codecs.CodecInfo(
            info.encode,
            info.decode,
            info.streamreader,
            info.streamwriter,
            info.incrementalencoder,
            Counting,
            name,
        )

    codecs.register(search)
    path = tmp_path / "some"
    path.write_bytes(bytes(range(65, 91)) * 10)

    async def main() -> None:
        async with whilst.open(path, encoding="whilst_counting", newline="\n") as file:
            assert await file.tell() == 0
            await file.read(20)
            with pytest.raises(OSError, match="can't reconstruct logical file position"):
                await file.tell()
            await file.read(10)  # and it goes on

    run(main())


def test_import_is_lazy() -> None:
    ran = program("import sys, whilst; print('whilst._files' in sys.modules, 'asyncio' in sys.modules)")
    assert ran.stdout.split() == ["False", "False"], ran.stderr
    ran = program("from whilst import *; print(open)")
    assert "built-in function open" in ran.stdout, ran.stderr
    assert "open" in dir(whilst)
