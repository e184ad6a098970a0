"""``whilst.open``: what the builtin ``open`` does, but for waiting."""

from __future__ import annotations

import asyncio
import builtins
import errno
import io
import os
import stat
import sys
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from whilst._files.binary import BinaryFile
from whilst._files.raw import InExecutor, Polled
from whilst._files.text import TextFile, check_text
from whilst._whilst import LoopCore

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import TracebackType
    from typing import overload

    from _typeshed import FileDescriptorOrPath, OpenBinaryMode, OpenTextMode

    from whilst._files.raw import Raw

_FileT_co = TypeVar("_FileT_co", covariant=True)

#: How long is waited between two tries to open a FIFO that nobody reads, in seconds, at first and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05


#: Without its types, which want a literal mode.
_builtin_open: Any = builtins.open


class _Checked(Exception):
    """Raised in the place of opening a file, with the flags that it would have been opened with."""


def _refuse(_path: str, flags: int) -> int:
    raise _Checked(flags)


def _flags_of(file: Any, mode: Any, arguments: tuple[Any, ...], closefd: Any) -> tuple[Any, int]:
    """Have the builtin `open` check the arguments, in its own words, up to where it would open the file.

    Returns the path as str or bytes, or the descriptor, and the flags for `os.open`.
    """
    if not isinstance(file, (str, bytes)) and hasattr(type(file), "__fspath__"):
        file = os.fspath(file)
    number = isinstance(file, int)
    if number and file < 0:
        raise ValueError("negative file descriptor")
    try:
        # A descriptor would be taken as it is.
        _builtin_open("" if number else file, mode, *arguments, closefd or number, _refuse)
    except _Checked as checked:
        return file, checked.args[0]
    raise AssertionError("the builtin open() opened a file without its opener")


class Opening(Generic[_FileT_co]):
    """What :func:`open` returns: ``await`` it, or use it in ``async with``, to have the file opened."""

    def __init__(self, start: Callable[[], Any]) -> None:
        self._start = start
        self._file: Any = None

    def __await__(self) -> Generator[Any, Any, _FileT_co]:
        """Open the file and return it."""
        file: _FileT_co = yield from self._start().__await__()
        return file

    async def __aenter__(self) -> _FileT_co:
        """Open the file and return it."""
        self._file = await self._start()
        file: _FileT_co = self._file
        return file

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        """Close the file."""
        await self._file.close()


if TYPE_CHECKING:

    @overload
    def open(
        file: FileDescriptorOrPath,
        mode: OpenTextMode = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Callable[[str, int], int] | None = None,
    ) -> Opening[TextFile]: ...
    @overload
    def open(
        file: FileDescriptorOrPath,
        mode: OpenBinaryMode,
        buffering: int = -1,
        encoding: None = None,
        errors: None = None,
        newline: None = None,
        closefd: bool = True,
        opener: Callable[[str, int], int] | None = None,
    ) -> Opening[BinaryFile]: ...
    @overload
    def open(
        file: FileDescriptorOrPath,
        mode: str,
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Callable[[str, int], int] | None = None,
    ) -> Opening[TextFile | BinaryFile]: ...


def open(
    file: Any,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Callable[[str, int], int] | None = None,
) -> Any:
    """Open a file without blocking the loop.

    ``async with whilst.open(path) as file:`` closes it at the end of the block; ``file = await whilst.open(path)`` leaves that to
    ``await file.close()``. The arguments are those of the builtin :func:`open`, and mean the same. An `opener` is called
    in the loop's default executor.

    Raises what the builtin raises for the arguments, at once; and what opening raises (:exc:`OSError`), when it is awaited.

    The manual's page on files says what runs where, and what differs.
    """
    # An unusable encoding is refused before a file is made or emptied.
    binary = isinstance(mode, str) and "b" in mode
    path, flags = _flags_of(file, mode, (buffering, encoding, errors, newline), closefd)
    if buffering < -1:
        buffering = -1
    if binary:
        codec = None
        if buffering == 1:
            buffering = -1
    else:
        if buffering == 0:
            raise ValueError("can't have unbuffered text I/O")
        codec = check_text(io.text_encoding(encoding), errors, newline)

    async def start() -> TextFile | BinaryFile:
        loop = asyncio.get_running_loop()
        raw = await _open_raw(loop, path, flags, closefd, opener)
        try:
            return _make(loop, raw, path, mode, flags, buffering, codec, newline)
        except BaseException:
            raw.close_now()
            raise

    return Opening(start)


def _make(
    loop: asyncio.AbstractEventLoop,
    raw: Raw,
    name: Any,
    mode: str,
    flags: int,
    buffering: int,
    codec: tuple[str, str] | None,
    newline: str | None,
) -> TextFile | BinaryFile:
    if stat.S_ISDIR(raw.mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    access = flags & os.O_ACCMODE
    terminal = buffering in (-1, 1) and stat.S_ISCHR(raw.mode) and os.isatty(raw.fileno())
    line_buffering = codec is not None and (buffering == 1 or terminal)
    if buffering == 1 or buffering == -1:
        # As the builtin does: from 3.14 on in larger pieces.
        buffering = max(io.DEFAULT_BUFFER_SIZE, min(raw.block_size, 8 * 1024 * 1024))
    binary = BinaryFile(
        loop,
        Polled(loop, raw) if raw.pollable else raw,
        name,
        _raw_mode(mode),
        buffering,
        readable=access != os.O_WRONLY,
        writable=access != os.O_RDONLY,
    )
    if "a" in mode and binary.seekable():
        os.lseek(raw.fileno(), 0, os.SEEK_END)
    if "+" in mode and buffering and not binary.seekable():
        binary._closed = True  # It was never anybody's to close.
        raise io.UnsupportedOperation("File or stream is not seekable.")
    if codec is None:
        return binary
    try:
        return TextFile(binary, mode, *codec, newline, line_buffering)
    except BaseException:
        binary._closed = True
        raise


def _raw_mode(mode: str) -> str:
    """Return the mode as the builtin binary files spell it."""
    letter = next(letter for letter in "xaw" if letter in mode) if not set(mode).isdisjoint("xaw") else "r"
    if "+" in mode:
        # Up to 3.14 the builtin files forget that they were made empty.
        return f"{'r' if letter == 'w' and sys.version_info < (3, 15) else letter}b+"
    return f"{letter}b"


async def _open_raw(
    loop: asyncio.AbstractEventLoop,
    file: str | bytes | int,
    flags: int,
    owned: bool,
    opener: Callable[..., int] | None,
) -> Raw:
    if isinstance(file, int):
        if stat.S_ISDIR(os.fstat(file).st_mode):
            # Here, where the descriptor is not ours to close yet.
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), file)
        return _adopt(loop, file, owned)
    if opener is not None:
        descriptor: Any = await loop.run_in_executor(None, opener, file, flags)
        if not isinstance(descriptor, int):
            raise TypeError("expected integer from opener")
        if descriptor < 0:
            raise ValueError(f"opener returned {descriptor}")
        os.set_inheritable(descriptor, False)
        return _adopt(loop, descriptor, True)
    pause = _FIRST_PAUSE
    waits = False
    while True:
        try:
            return await _open_path(loop, os.fsencode(file), flags)
        except OSError as error:
            # Nobody reads the FIFO yet (ENXIO), or somebody's lease on the file is being called in (EAGAIN): see open(2).
            if error.errno == errno.ENXIO and not waits:
                status = await loop.run_in_executor(None, os.stat, file)
                waits = stat.S_ISFIFO(status.st_mode)
            if error.errno != errno.EAGAIN and not (error.errno == errno.ENXIO and waits):
                raise OSError(error.errno, error.strerror, file) from None
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _adopt(loop: asyncio.AbstractEventLoop, descriptor: int, owned: bool) -> Raw:
    if isinstance(loop, LoopCore):
        return loop._adopt_file(descriptor, owned)
    return InExecutor(loop, descriptor, owned)


async def _open_path(loop: asyncio.AbstractEventLoop, path: bytes, flags: int) -> Raw:
    if isinstance(loop, LoopCore):
        # A file that nobody waits for any more is closed by being forgotten.
        return await loop._open_file(path, flags, 0o666)

    def open_it() -> int:
        return os.open(path, flags | os.O_NONBLOCK, 0o666)

    opening = loop.run_in_executor(None, open_it)
    try:
        descriptor = await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close_unwanted)
        raise
    raw = InExecutor(loop, descriptor, True)
    if not raw.pollable:
        os.set_blocking(descriptor, True)
    return raw


def _close_unwanted(opening: asyncio.Future[int]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        os.close(opening.result())
