"""``whilst.open``: the builtin ``open`` says what is right, and nothing waits but the task that asked."""

import asyncio
import codecs
import contextlib
import errno
import gc
import io
import os
import pty
import random
import signal
import threading
import tty
import warnings
from collections.abc import Callable, Coroutine
from encodings.aliases import aliases
from pathlib import Path
from typing import Any

import pytest
import whilst
from oracle import SECONDS, no_descriptor_leaks, program, run, stdlib_loop, until

# -- The oracle ---------------------------------------------------------------------------------------------------------------


async def outcome(call: Callable[[], Any]) -> Any:
    """What a call returns, awaited if it is to be, or the class and the words of what it raises."""
    try:
        result = call()
        if asyncio.iscoroutine(result):
            result = await result
    except (OSError, ValueError, TypeError, LookupError) as error:
        kind = "UnsupportedOperation" if isinstance(error, io.UnsupportedOperation) else type(error).__name__
        # The builtin classes word these in ways of their own, which differ from each other.
        words = "" if kind == "UnsupportedOperation" else str(error)
        return kind, words
    return bytes(result) if isinstance(result, memoryview | bytearray) else result


def brief(argument: Any) -> Any:
    """An argument as it is worth printing."""
    return argument if isinstance(argument, int | str) else f"{len(argument)} bytes"


class Both:
    """The same calls on a builtin file and on one of whilst's, each with a copy of the same contents."""

    def __init__(self, folder: Path, contents: bytes) -> None:
        self.theirs_path = folder / "theirs"
        self.ours_path = folder / "ours"
        self.contents = contents
        self.done: list[str] = []

    async def open(self, *args: Any, **keywords: Any) -> bool:
        """Open both. False where both refuse, in the same words."""
        self.theirs_path.unlink(missing_ok=True)
        self.ours_path.unlink(missing_ok=True)
        if "x" not in args[0]:
            self.theirs_path.write_bytes(self.contents)
            self.ours_path.write_bytes(self.contents)
        self.done = [f"open{args}{keywords}"]
        expected = await outcome(lambda: open(self.theirs_path, *args, **keywords))

        async def ours() -> Any:
            return await whilst.open(self.ours_path, *args, **keywords)

        actual = await outcome(ours)
        if isinstance(expected, tuple):
            assert actual == expected
            return False
        assert not isinstance(actual, tuple), actual
        self.theirs, self.ours = expected, actual
        return True

    async def do(self, method: str, *args: Any) -> Any:
        """Call a method of both."""
        self.done.append(f"{method}{tuple(map(brief, args))}")
        expected = await outcome(lambda: getattr(self.theirs, method)(*args))
        actual = await outcome(lambda: getattr(self.ours, method)(*args))
        assert actual == expected, self.done[-8:]
        return expected

    async def close(self) -> None:
        await self.do("close")
        assert self.ours_path.read_bytes() == self.theirs_path.read_bytes(), self.done


BINARY_MODES = ["rb", "r+b", "wb", "w+b", "ab", "a+b", "xb", "x+b"]


async def random_binary_call(both: Both, dice: random.Random, size: int) -> None:
    """One call, with arguments that make sense or nearly do."""
    count = dice.choice([0, 1, 2, 7, 100, 4000, 8192, 20_000, -1])
    if not both.ours.readable():
        count = count or 1  # The builtin ones do not always notice that nothing cannot be read.
    data = dice.randbytes(dice.choice([0, 1, 3, 50, 5000, 9000, 30_000])).replace(b"\x07", b"\n")
    match dice.randrange(12):
        case 0 | 1:
            await both.do("read", count)
        case 2:
            await both.do("readline", *([] if dice.random() < 0.5 else [count]))
        case 3:
            await both.do("readlines", *([] if dice.random() < 0.3 else [dice.choice([1, 100, 10_000])]))
        case 4:
            theirs, ours = bytearray(max(count, 0)), bytearray(max(count, 0))
            expected = await outcome(lambda: both.theirs.readinto(theirs))
            actual = await outcome(lambda: both.ours.readinto(ours))
            both.done.append(f"readinto({len(theirs)})")
            assert (actual, ours) == (expected, theirs), both.done
        case 5 | 6 | 7:
            await both.do("write", dice.choice([bytes, bytearray, memoryview])(data))
        case 8:
            whence = dice.choice([0, 0, 1, 2])
            offset = dice.randrange(size) if whence == 0 else dice.randrange(-200, 200)
            await both.do("seek", offset, whence)
        case 9:
            if "ab" in both.ours.mode:
                await both.do("flush")  # Where the end will be, the builtin ones do not know before.
            await both.do("tell")
        case 10:
            await both.do("flush")
        case 11:
            if "ab" in both.ours.mode:
                await both.do("flush")
            await both.do("truncate", *([] if dice.random() < 0.5 else [dice.randrange(size)]))


@pytest.mark.parametrize("buffering", [-1, 0, 5, 1000])
@pytest.mark.parametrize("mode", BINARY_MODES)
def test_binary_like_the_builtin(driver: str, tmp_path: Path, mode: str, buffering: int) -> None:
    async def main() -> None:
        for seed in range(12):
            dice = random.Random(f"{seed} {mode} {buffering}")
            contents = dice.randbytes(dice.choice([0, 100, 30_000])).replace(b"\x0b", b"\n")
            both = Both(tmp_path, contents)
            assert await both.open(mode, buffering)
            for _ in range(40):
                await random_binary_call(both, dice, len(contents) + 100)
            await both.close()

    run(main())


TEXTS = {
    "ascii": "one\ntwo\r\nthree\rfour\r\r\n\nfive",
    "more": "wörld\n€uro\r\n𝄞 clef\r" * 20 + "end",
    "long": ("x" * 3000 + "é\n") * 20,
    "empty": "",
}


async def random_text_call(both: Both, dice: random.Random, cookies: list[tuple[int, int]]) -> None:
    count = dice.choice([0, 1, 2, 7, 100, 10_000, -1])
    match dice.randrange(8):
        case 0 | 1:
            await both.do("read", count)
        case 2 | 3:
            await both.do("readline", *([] if dice.random() < 0.7 else [count]))
        case 4:
            await both.do("readlines", dice.choice([-1, 1, 50]))
        case 5:
            # What the numbers are is nobody's business, but what is read from there is.
            both.done.append("tell()")
            expected = await outcome(both.theirs.tell)
            actual = await outcome(both.ours.tell)
            if expected == ("OSError", "telling position disabled by next() call"):
                return  # It was readlines() that stopped midway. Ours can tell.
            assert isinstance(expected, int) == isinstance(actual, int), (both.done, expected, actual)
            if isinstance(expected, int):
                cookies.append((expected, actual))
        case 6 if cookies:
            expected, actual = dice.choice(cookies)
            both.done.append(f"seek({expected} {actual})")
            assert isinstance(await outcome(lambda: both.theirs.seek(expected)), int)
            assert await outcome(lambda: both.ours.seek(actual)) == actual, both.done
        case _:
            await both.do("seek", 0, dice.choice([0, 2]))


NEWLINES = [None, "", "\n", "\r", "\r\n"]
ENCODINGS = [
    "utf-8",
    "utf-8-sig",
    "utf-16",
    "utf-16-le",
    "utf-32",
    "latin-1",
    "shift_jis",
    "iso2022_jp",
    "utf-7",
    "cp1252",
]


@pytest.mark.parametrize("newline", NEWLINES)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_text_reads_like_the_builtin(driver: str, tmp_path: Path, encoding: str, newline: str | None) -> None:
    async def main() -> None:
        for seed, text in enumerate([*TEXTS.values(), "日本語テキスト\r\nかな\rカナ\n" * 400]):
            contents = text.encode(encoding, "ignore")
            for mode in ("r", "r+"):
                dice = random.Random(f"{seed} {encoding} {newline} {mode}")
                both = Both(tmp_path, contents)
                assert await both.open(mode, encoding=encoding, newline=newline)
                cookies: list[tuple[int, int]] = []
                for _ in range(60):
                    await random_text_call(both, dice, cookies)
                await both.close()

    run(main())


@pytest.mark.parametrize("newline", NEWLINES)
def test_newlines(driver: str, tmp_path: Path, newline: str | None) -> None:
    async def main() -> None:
        for contents in (b"", b"one", b"one\n", b"one\r", b"a\r\nb", b"a\rb\nc\r\nd", b"a\n\rb"):
            both = Both(tmp_path, contents)
            assert await both.open("r", newline=newline)
            while True:
                assert both.ours.newlines == both.theirs.newlines, both.done
                if not await both.do("readline"):
                    break
            assert both.ours.newlines == both.theirs.newlines, both.done
            await both.close()

    run(main())


@pytest.mark.parametrize("mode", ["w", "w+", "a", "a+", "x", "r+"])
@pytest.mark.parametrize("newline", NEWLINES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1", "iso2022_jp"])
def test_text_writes_like_the_builtin(
    driver: str, tmp_path: Path, encoding: str, newline: str | None, mode: str
) -> None:
    async def main() -> None:
        for seed in range(4):
            dice = random.Random(f"{seed} {encoding} {newline} {mode}")
            both = Both(tmp_path, "before\r\nthat\n".encode(encoding) if seed % 2 else b"")
            buffering = dice.choice([-1, 1, 20])
            assert await both.open(mode, buffering, encoding, "replace", newline)
            for _ in range(40):
                match dice.randrange(6):
                    case 0:
                        await both.do("seek", 0, dice.choice([0, 2]))
                    case 1:
                        await both.do("flush")
                    case 2:
                        await both.do("writelines", ["a\n", "b\r\n", "ü"])
                    case 3:
                        # A reader in between begins where the next writer does: at the start or at the end.
                        if await both.do("seek", 0) == 0:
                            await both.do("read")
                    case 4:
                        await both.do("truncate", dice.choice([0, 1000]))
                    case _:
                        await both.do("write", dice.choice(["", "x", "line\n", "ü\r\n", "y" * 9000, "\n\n"]))
            assert both.ours.line_buffering == both.theirs.line_buffering
            await both.close()

    run(main())


@pytest.mark.parametrize(
    ("args", "keywords"),
    [
        (("q",), {}),
        (("",), {}),
        (("rw",), {}),
        (("rr",), {}),
        (("rbt",), {}),
        (("br+w",), {}),
        (("U",), {}),
        ((None,), {}),
        ((b"r",), {}),
        (("rb",), {"encoding": "utf-8"}),
        (("rb",), {"errors": "strict"}),
        (("rb",), {"newline": ""}),
        (("r", 0), {}),
        (("r", "1"), {}),
        (("r", 1.0), {}),
        (("r",), {"encoding": "no such"}),
        (("r",), {"encoding": "hex"}),
        (("r",), {"encoding": 5}),
        (("r",), {"encoding": "utf-8\0"}),
        (("r",), {"newline": "x"}),
        (("r",), {"newline": b"\n"}),
        (("r",), {"closefd": False}),
        (("x",), {}),
    ],
)
def test_refused_as_by_the_builtin(driver: str, tmp_path: Path, args: Any, keywords: Any) -> None:
    path = tmp_path / "some"
    path.write_text("some")

    async def main() -> None:
        async def ours() -> Any:
            return await whilst.open(path, *args, **keywords)

        expected = await outcome(lambda: open(path, *args, **keywords))
        assert isinstance(expected, tuple)
        assert await outcome(ours) == expected

    run(main())


@pytest.mark.parametrize(
    "file", [None, 1.5, -1, "", "no\0name", b"no\0name", "none/below", 10_000, object, Path("none")]
)
def test_files_refused_as_by_the_builtin(driver: str, file: Any) -> None:
    async def main() -> None:
        async def ours() -> Any:
            return await whilst.open(file)

        expected = await outcome(lambda: open(file))
        assert isinstance(expected, tuple)
        assert await outcome(ours) == expected

    run(main())


def test_errors_have_the_filename(driver: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    async def main() -> None:
        for path, mode in [
            (tmp_path / "none", "r"),
            (str(tmp_path / "none"), "rb"),
            (bytes(tmp_path / "none"), "rb"),
            (tmp_path, "r"),
            (tmp_path, "w"),
            (tmp_path / "file" / "below", "w"),
            (tmp_path / "file", "x"),
        ]:
            with pytest.raises(OSError) as theirs:
                open(path, mode)
            with pytest.raises(OSError) as ours:
                await whilst.open(path, mode)
            assert type(ours.value) is type(theirs.value)
            assert ours.value.errno == theirs.value.errno
            assert ours.value.strerror == theirs.value.strerror
            assert ours.value.filename == theirs.value.filename
            assert str(ours.value) == str(theirs.value)

    run(main())


def test_a_wrong_encoding_empties_no_file(driver: str, tmp_path: Path) -> None:
    path = tmp_path / "some"
    path.write_text("some")
    with pytest.raises(LookupError):
        whilst.open(path, "w", encoding="no such")
    assert path.read_text() == "some"


@pytest.mark.parametrize("mode", ["r", "rt", "r+", "w", "w+", "a", "a+t", *BINARY_MODES])
@pytest.mark.parametrize("buffering", [-1, 0, 1, 100])
def test_attributes(driver: str, tmp_path: Path, mode: str, buffering: int) -> None:
    if buffering == (1 if "b" in mode else 0):
        return

    async def main() -> None:
        both = Both(tmp_path, b"some\n")
        assert await both.open(mode, buffering)
        theirs, ours = both.theirs, both.ours
        assert ours.mode == theirs.mode
        assert ours.closed is False
        assert ours.name == str(both.ours_path) and theirs.name == str(both.theirs_path)
        for name in ("readable", "writable", "seekable", "isatty"):
            assert getattr(ours, name)() == getattr(theirs, name)(), name
        assert os.fstat(ours.fileno()).st_ino == both.ours_path.stat().st_ino
        assert not os.get_inheritable(ours.fileno())
        assert os.get_blocking(ours.fileno())
        if "b" not in mode:
            for name in ("encoding", "errors", "newlines", "line_buffering"):
                assert getattr(ours, name) == getattr(theirs, name), name
            assert ours.buffer.mode == theirs.buffer.mode
            assert isinstance(ours, whilst.TextFile) and isinstance(ours.buffer, whilst.BinaryFile)
        else:
            assert isinstance(ours, whilst.BinaryFile)
        assert repr(ours).startswith(f"<whilst.{type(ours).__name__} name={str(both.ours_path)!r} mode=")
        await both.close()
        assert ours.closed is theirs.closed is True
        await both.close()
        for name in (
            "fileno",
            "readable",
            "writable",
            "seekable",
            "isatty",
            "read",
            "tell",
            "flush",
            "readline",
        ):
            assert await outcome(getattr(ours, name)) == ("ValueError", "I/O operation on closed file.")
        with pytest.raises(ValueError, match="closed"):
            async with ours:
                pass

    run(main())


def test_warning_about_line_buffering(driver: str, tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match="line buffering .* isn't supported in binary mode"):
        whilst.open(tmp_path / "some", "wb", 1)


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


# -- Cancelling ---------------------------------------------------------------------------------------------------------------


def test_a_cancelled_read_has_read_nothing(driver: str, tmp_path: Path) -> None:
    path = tmp_path / "some"
    contents = random.Random(3).randbytes(200_000)
    path.write_bytes(contents)

    async def main() -> None:
        dice = random.Random(4)
        for buffering in (-1, 0, 100):
            async with whilst.open(path, "rb", buffering) as file:
                arrived = b""
                cancelled = 0
                while True:
                    task = asyncio.create_task(file.read(dice.choice([10, 3000, 20_000])))
                    for _ in range(dice.randrange(4)):
                        await asyncio.sleep(0)
                    if dice.random() < 0.5:
                        task.cancel()
                    try:
                        piece = await task
                    except asyncio.CancelledError:
                        cancelled += 1
                        continue
                    if not piece:
                        break
                    arrived += piece
                    assert await file.tell() == len(arrived)
                assert arrived == contents
                assert cancelled > 3
        async with whilst.open(path, "r", encoding="latin-1", newline="") as text:
            text_arrived = ""
            while True:
                task = asyncio.create_task(text.readline())
                for _ in range(dice.randrange(3)):
                    await asyncio.sleep(0)
                if dice.random() < 0.5:
                    task.cancel()
                try:
                    line = await task
                except asyncio.CancelledError:
                    continue
                if not line:
                    break
                text_arrived += line
            assert text_arrived == contents.decode("latin-1")

    run(main())


def test_a_cancelled_write_is_whole(driver: str, tmp_path: Path) -> None:
    path = tmp_path / "some"

    async def main() -> None:
        dice = random.Random(5)
        for buffering in (0, 64, -1):
            async with whilst.open(path, "wb", buffering) as file:
                for number in range(200):
                    task = asyncio.create_task(file.write(b"line %05d\n" % number * 10))
                    for _ in range(dice.randrange(3)):
                        await asyncio.sleep(0)
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task
            lines = path.read_bytes().splitlines(keepends=True)
            assert len(lines) % 10 == 0
            numbers = [int(line[5:]) for line in lines]
            assert all(line == b"line %05d\n" % number for line, number in zip(lines, numbers, strict=True))
            assert numbers == sorted(numbers) and numbers

    run(main())


def test_cancelled_while_opening_and_closing(driver: str, tmp_path: Path) -> None:
    async def main() -> None:
        dice = random.Random(6)
        for number in range(300):
            path = tmp_path / str(number % 7)

            async def use() -> None:
                async with whilst.open(path, "w") as file:
                    await file.write("whole")

            task = asyncio.create_task(use())
            for _ in range(dice.randrange(6)):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        # What a close that was cancelled has left is done in the background.
        await until(lambda: len(asyncio.all_tasks()) <= 2)
        for path in tmp_path.iterdir():
            assert path.read_text() in ("", "whole")

    with no_descriptor_leaks():
        run(main())


def test_close_waits_for_what_is_under_way(driver: str, tmp_path: Path) -> None:
    path = tmp_path / "some"
    path.write_bytes(b"x" * 3_000_000)

    async def main() -> None:
        file = await whilst.open(path, "r+b")
        reads = [asyncio.create_task(file.pread(3_000_000, 0)) for _ in range(10)]
        in_turn = asyncio.create_task(file.read())
        await asyncio.sleep(0)
        descriptor = file.fileno()
        closing = [asyncio.create_task(file.close()) for _ in range(3)]
        await asyncio.gather(*closing)
        assert all(read.done() for read in [*reads, in_turn])
        with pytest.raises(OSError):
            os.fstat(descriptor)
        assert all([len(await read) == 3_000_000 for read in [*reads, in_turn]])
        with pytest.raises(ValueError, match="closed"):
            await file.pread(1, 0)

    with no_descriptor_leaks():
        run(main())


def test_a_write_that_fails_later(driver: str) -> None:
    async def main() -> None:
        file = await whilst.open("/dev/full", "wb", 100)
        await file.write(b"x" * 10)
        for _ in range(2):
            with pytest.raises(OSError) as error:
                await file.flush()
            assert error.value.errno == errno.ENOSPC
        with pytest.raises(OSError):
            await file.close()
        assert file.closed
        await file.close()

    with no_descriptor_leaks():
        run(main())


# -- The end ------------------------------------------------------------------------------------------------------------------


def test_a_directory_s_descriptor_stays_open(driver: str, tmp_path: Path) -> None:
    async def main() -> None:
        folder = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(IsADirectoryError) as theirs:
            open(folder)
        with pytest.raises(IsADirectoryError) as ours:
            await whilst.open(folder)
        assert str(ours.value) == str(theirs.value)
        os.close(folder)

    run(main())


def test_never_closed(driver: str, tmp_path: Path) -> None:
    path = tmp_path / "some"

    async def main() -> None:
        file = await whilst.open(path, "w")
        await file.write("not lost")
        with pytest.warns(
            ResourceWarning, match=r"unclosed file <whilst\.BinaryFile name='.*some' mode='wb'>"
        ):
            del file
            gc.collect()
        assert path.read_text() == "not lost"

    with no_descriptor_leaks():
        run(main())


def test_no_descriptor_is_left(driver: str, tmp_path: Path) -> None:
    path = tmp_path / "some"
    path.write_text("some")

    async def main() -> None:
        for number in range(500):
            async with whilst.open(path, ["r", "rb", "a+"][number % 3]) as file:
                await file.read()
            with contextlib.suppress(OSError):
                await whilst.open(tmp_path)

    with no_descriptor_leaks():
        run(main())


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_loop_that_ends_with_operations_under_way(driver: str, tmp_path: Path) -> None:
    path = tmp_path / "some"
    path.write_bytes(b"x" * 1_000_000)

    async def leave() -> None:
        file = await whilst.open(path, "r+b")
        for _ in range(10):
            tasks.append(asyncio.ensure_future(file.pread(1_000_000, 0)))
            tasks.append(asyncio.ensure_future(file.pwrite(b"y" * 1000, 0)))
        await asyncio.sleep(0)
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0)

    with no_descriptor_leaks():
        for _ in range(20):
            loop = whilst.new_event_loop()
            tasks: list[asyncio.Future[Any]] = []
            tasks.append(loop.create_task(leave()))
            loop.run_forever()
            loop.close()
            for task in tasks:
                task._log_destroy_pending = False  # type: ignore[attr-defined]
            del task, tasks, loop
            gc.collect()
    assert path.stat().st_size == 1_000_000


def test_a_loop_that_runs_again_in_another_thread(driver: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    loop = whilst.new_event_loop()

    async def begin() -> tuple[whilst.BinaryFile, list[asyncio.Task[int]]]:
        file = await whilst.open(path, "ab", 0)
        writes = [asyncio.ensure_future(file.write(b"once;")) for _ in range(50)]
        await asyncio.sleep(0)
        return file, writes

    async def end(file: whilst.BinaryFile, writes: list[asyncio.Task[int]]) -> None:
        assert await asyncio.gather(*writes) == [5] * 50
        await file.close()

    file, writes = loop.run_until_complete(begin())
    thread = threading.Thread(target=lambda: loop.run_until_complete(end(file, writes)))
    thread.start()
    thread.join(SECONDS)
    assert path.read_bytes() == b"once;" * 50
    loop.close()


def test_another_loop(driver: str, tmp_path: Path) -> None:
    path = tmp_path / "some"
    path.write_text("some")

    async def begin() -> whilst.BinaryFile:
        return await whilst.open(path, "rb")

    first, second = whilst.new_event_loop(), whilst.new_event_loop()
    file = first.run_until_complete(begin())
    for call in (file.read, lambda: file.pread(1, 0), file.close):
        with pytest.raises(RuntimeError, match="different event loop"):
            second.run_until_complete(call())
    assert first.run_until_complete(file.read()) == b"some"
    first.run_until_complete(file.close())
    first.close()
    second.close()
    with pytest.raises(RuntimeError, match="no running event loop"):
        whilst.open(path).__await__().send(None)


def test_forked_child(driver: str, tmp_path: Path) -> None:
    """A child that a running loop forks may read files on a loop of its own, and the parent goes on."""
    path = tmp_path / "some"
    path.write_text("some" * 1000)

    async def main() -> None:
        async with whilst.open(path, "rb") as file:
            reads = [asyncio.create_task(file.pread(4000, 0)) for _ in range(20)]
            await asyncio.sleep(0)
            child = os.fork()
            if not child:
                status = 1
                try:
                    signal.alarm(int(SECONDS))
                    asyncio._set_running_loop(None)

                    async def in_child() -> bytes:
                        async with whilst.open(path, "rb") as other:
                            return await other.read()

                    status = int(whilst.run(in_child()) != b"some" * 1000)
                finally:
                    os._exit(status)
            assert all([await read == b"some" * 1000 for read in reads])
            assert await asyncio.to_thread(os.waitpid, child, 0) == (child, 0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, from 3.12 on
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


def test_cancelled_calls_do_not_hold_up_others(driver: str, tmp_path: Path) -> None:
    path = tmp_path / "some"
    path.write_bytes(b"0123456789" * 1000)

    async def main() -> None:
        async with whilst.open(path, "rb", 0) as file:
            for _ in range(100):
                await file.seek(0)
                tasks = [asyncio.create_task(file.read(10)) for _ in range(10)]
                await asyncio.sleep(0)
                for task in tasks[::2]:
                    task.cancel()
                results = await asyncio.gather(*tasks, return_exceptions=True)
                assert results[1::2] == [b"0123456789"] * 5
                # The first was under way and its bytes were kept; those that waited have not begun.
                assert await file.tell() == 50

    run(main())


def test_cancelled_when_its_turn_has_come(driver: str, tmp_path: Path) -> None:
    path = tmp_path / "some"
    path.write_bytes(b"0123456789")

    async def main() -> None:
        async with whilst.open(path, "rb", 0) as file:

            async def read_and_cancel() -> bytes:
                data = await file.read(1)
                # It has been given the turn just now, and does not know yet.
                second.cancel()
                return data

            first = asyncio.create_task(read_and_cancel())
            second = asyncio.create_task(file.read(1))
            third = asyncio.create_task(file.read(1))
            results = await asyncio.gather(first, second, third, return_exceptions=True)
            assert results[::2] == [b"0", b"1"]
            assert isinstance(results[1], asyncio.CancelledError)

    run(main())


def test_import_is_lazy() -> None:
    ran = program("import sys, whilst; print('whilst._files' in sys.modules, 'asyncio' in sys.modules)")
    assert ran.stdout.split() == ["False", "False"], ran.stderr
    ran = program("from whilst import *; print(open)")
    assert "built-in function open" in ran.stdout, ran.stderr
    assert "open" in dir(whilst)
