"""``whilst.open`` does what the builtin ``open`` does, which is asked the same."""

import asyncio
import io
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import whilst
from oracle import run


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
