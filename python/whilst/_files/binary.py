"""Bytes: :class:`BinaryFile`."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import stat
import warnings
from io import UnsupportedOperation
from typing import TYPE_CHECKING, Any

from whilst._files.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

    from _typeshed import ReadableBuffer, WriteableBuffer

    from whilst._files.raw import Raw

#: The least and the most that a read without a known end asks for, in bytes.
_LEAST, _MOST = 64 * 1024, 1024 * 1024

_WHENCES = {os.SEEK_SET, os.SEEK_CUR, os.SEEK_END, os.SEEK_DATA, os.SEEK_HOLE}


def closed_error() -> ValueError:
    return ValueError("I/O operation on closed file.")


class BinaryFile:
    """A binary file, as ``whilst.open(path, "rb")`` and its like open it.

    Its methods are those of the builtin binary files, of which the ones that may wait are coroutines. Calls are done one at a
    time, in their order, whichever tasks they come from; only any number of :meth:`pread` go on side by side.

    A call that is cancelled leaves the file as if it had been made whole or not at all: a read that is cancelled has read
    nothing, and what a cancelled write has taken over is written like the rest.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        raw: Raw,
        name: Any,
        mode: str,
        buffer_size: int,
        *,
        readable: bool,
        writable: bool,
    ) -> None:
        self._loop = loop
        self._raw = raw
        self._name = name
        self._mode = mode
        #: 0: every call is an operation of the kernel's, and nothing is read ahead or kept back.
        self._buffer_size = buffer_size
        self._readable = readable
        self._writable = writable
        self._turns = Turns(loop)
        self._closed = False
        self._closing: asyncio.Task[None] | None = None
        self._seekable: bool | None = None
        #: What was read and not yet handed out: `_buffer` from `_start` on, then `_more`.
        self._buffer = b""
        self._start = 0
        self._more: list[bytes] = []
        self._got = 0
        #: What is to be written yet.
        self._unwritten: list[bytes] = []
        self._unwritten_size = 0
        #: How many operations are under way that need no turn, and who waits for there to be none.
        self._beside = 0
        self._none_beside: asyncio.Future[None] | None = None

    # What is known without waiting.

    @property
    def name(self) -> Any:
        """The path or descriptor that the file was opened by."""
        return self._name

    @property
    def mode(self) -> str:
        """The mode, spelled as the builtin binary files do: ``"rb"``, ``"rb+"``, ``"wb"`` and so on."""
        return self._mode

    @property
    def closed(self) -> bool:
        """True once the file is closed."""
        return self._closed

    def __repr__(self) -> str:
        """Name the file and its mode."""
        return f"<whilst.{type(self).__name__} name={self._name!r} mode={self._mode!r}>"

    def _check_open(self) -> None:
        if self._closed:
            raise closed_error()

    def fileno(self) -> int:
        """Return the descriptor. What was written may not have reached it yet: see :meth:`flush`."""
        self._check_open()
        return self._raw.fileno()

    def isatty(self) -> bool:
        """Return True if the file is a terminal."""
        self._check_open()
        return stat.S_ISCHR(self._raw.mode) and os.isatty(self._raw.fileno())

    def readable(self) -> bool:
        """Return True if the file can be read."""
        self._check_open()
        return self._readable

    def writable(self) -> bool:
        """Return True if the file can be written."""
        self._check_open()
        return self._writable

    def seekable(self) -> bool:
        """Return True if the file has a position that can be set."""
        self._check_open()
        if self._seekable is None:
            try:
                os.lseek(self._raw.fileno(), 0, os.SEEK_CUR)
            except OSError:
                self._seekable = False
            else:
                self._seekable = True
        return self._seekable

    def _check_readable(self) -> None:
        self._check_open()
        if not self._readable:
            raise UnsupportedOperation("not readable" if self._buffer_size else "File not open for reading")

    def _check_writable(self) -> None:
        self._check_open()
        if not self._writable:
            raise UnsupportedOperation("not writable" if self._buffer_size else "File not open for writing")

    def _check_seekable(self) -> None:
        if not self.seekable():
            raise UnsupportedOperation("File or stream is not seekable.")

    # The buffer of what was read. Nothing here waits, but for `_fill`.

    def _have(self) -> int:
        """Return how many bytes were read and not yet handed out."""
        return len(self._buffer) - self._start + sum(map(len, self._more))

    def _join(self) -> None:
        """Put all that was read into `_buffer`, from its start on."""
        if self._more:
            if self._start < len(self._buffer):
                self._more.insert(0, self._buffer[self._start :] if self._start else self._buffer)
            self._buffer = self._more[0] if len(self._more) == 1 else b"".join(self._more)
            self._start = 0
            self._more = []

    def _take(self, size: int) -> bytes:
        """Hand out up to `size` bytes."""
        self._join()
        buffer, start = self._buffer, self._start
        if size >= len(buffer) - start:
            self._buffer, self._start = b"", 0
            return buffer[start:] if start else buffer
        self._start = start + size
        return buffer[start : start + size]

    def _was_read(self, data: bytes) -> None:
        self._got = len(data)
        if data:
            self._more.append(data)

    async def _fill(self, size: int) -> int:
        """Read once, up to `size` bytes. Return how many there were."""
        if self._unwritten:
            await self._flush()
        await self._turns.operate(self._raw.read, self._was_read, size, None)
        return self._got

    def _drop_read_ahead(self) -> None:
        """Forget what was read and not handed out, and put the kernel's position to where this file's is."""
        if have := self._have():
            if self.seekable():
                os.lseek(self._raw.fileno(), -have, os.SEEK_CUR)
            self._buffer, self._start, self._more = b"", 0, []

    # Reading, within a turn.

    async def _read(self, size: int) -> bytes:
        if self._buffer_size == 0:
            if size and not self._have():
                await self._fill(size)
            return self._take(size)
        while (missing := size - self._have()) > 0:
            # What is more than the buffer goes to whoever asked without a copy.
            if not await self._fill(max(missing, self._buffer_size)):
                break
        return self._take(size)

    async def _read_all(self) -> bytes:
        while True:
            end = 0
            if stat.S_ISREG(self._raw.mode):
                # Asked for one byte more than is left, the kernel says with the same answer that this was the end.
                end = os.fstat(self._raw.fileno()).st_size - self._kernel_position()
            if not await self._fill(end + 1 if end > 0 else min(max(_LEAST, self._have()), _MOST)):
                break
            if self._got == end:
                break
        return self._take(self._have())

    def _kernel_position(self) -> int:
        return os.lseek(self._raw.fileno(), 0, os.SEEK_CUR) if self.seekable() else 0

    async def _read1(self, size: int) -> bytes:
        if size and not self._have():
            await self._fill(size)
        return self._take(size)

    def _take_line(self, limit: int) -> bytes | None:
        """Hand out a line, if there is a whole one or one of `limit` bytes (-1: no limit) in the buffer."""
        if limit == 0:
            return b""
        self._join()
        end = self._buffer.find(b"\n", self._start) + 1
        if limit >= 0 and (not end or end - self._start > limit):
            if len(self._buffer) - self._start < limit:
                return None
            end = self._start + limit
        if not end:
            return None
        return self._take(end - self._start)

    async def _readline(self, limit: int) -> bytes:
        while (line := self._take_line(limit)) is None:
            # An unbuffered file must not be read beyond the line.
            if not await self._fill(max(self._buffer_size, self._have()) if self._buffer_size else 1):
                return self._take(self._have())
        return line

    # Reading.

    async def read(self, size: int | None = -1, /) -> bytes:
        """Read up to `size` bytes, or all there is to the end of the file if it is negative or None.

        Fewer bytes than asked for mean that the file has ended; an unbuffered file reads once and may return fewer at any time.
        """
        self._check_readable()
        if size is None or size < 0:
            async with self._turns:
                self._check_readable()
                return await self._read_all()
        if not self._turns.taken and size <= len(self._buffer) - self._start:
            return self._take(size)
        async with self._turns:
            self._check_readable()
            return await self._read(size)

    async def readall(self) -> bytes:
        """Read all there is to the end of the file."""
        return await self.read()

    async def read1(self, size: int = -1, /) -> bytes:
        """Read up to `size` bytes with one operation at most; without, as much as is read at a time."""
        self._check_readable()
        async with self._turns:
            self._check_readable()
            return await self._read1(size if size >= 0 else self._buffer_size or io.DEFAULT_BUFFER_SIZE)

    async def peek(self, size: int = 0, /) -> bytes:
        """Return what the next read will begin with, without moving on: all that was read ahead, and at least one byte unless the
        file has ended. `size` is ignored, as by the builtin files."""
        self._check_readable()
        if not self._buffer_size:
            raise UnsupportedOperation("peek")
        async with self._turns:
            self._check_readable()
            if not self._have():
                await self._fill(self._buffer_size)
            self._join()
            return self._buffer[self._start :]

    async def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Read into a writable buffer until it is full or the file has ended. Return the number of bytes.

        The buffer is not touched while the call waits, so that a cancelled one leaves it alone.
        """
        with memoryview(buffer) as view, view.cast("B") as place:
            data = await self.read(len(place))
            place[: len(data)] = data
        return len(data)

    async def readinto1(self, buffer: WriteableBuffer, /) -> int:
        """Read into a writable buffer with one operation at most. Return the number of bytes."""
        with memoryview(buffer) as view, view.cast("B") as place:
            data = await self.read1(len(place))
            place[: len(data)] = data
        return len(data)

    async def readline(self, size: int | None = -1, /) -> bytes:
        """Read a line with its end, or up to `size` bytes of it; empty at the end of the file."""
        self._check_readable()
        limit = -1 if size is None else size
        if not self._turns.taken and (line := self._take_line(limit)) is not None:
            return line
        async with self._turns:
            self._check_readable()
            return await self._readline(limit)

    async def readlines(self, hint: int | None = -1, /) -> list[bytes]:
        """Read lines to the end of the file, or until they are more than `hint` bytes together."""
        lines = []
        size = 0
        async with self._turns:
            self._check_readable()
            if hint is None or hint <= 0:
                return io.BytesIO(await self._read_all()).readlines()
            while line := await self._readline(-1):
                lines.append(line)
                size += len(line)
                if size > hint:
                    break
        return lines

    def __aiter__(self) -> Self:
        """Iterate over the lines."""
        self._check_open()
        return self

    async def __anext__(self) -> bytes:
        """Return the next line."""
        if line := await self.readline():
            return line
        raise StopAsyncIteration

    # Writing, within a turn.

    def _accept(self, data: bytes) -> None:
        """Take over what is to be written. Nothing waits."""
        self._drop_read_ahead()
        if data:
            self._unwritten.append(data)
            self._unwritten_size += len(data)

    async def _flush(self) -> None:
        while self._unwritten:
            if len(self._unwritten) > 1:
                self._unwritten = [b"".join(self._unwritten)]
            await self._turns.operate(self._raw.write, self._was_written, self._unwritten[0], None)

    def _was_written(self, count: int) -> None:
        rest = self._unwritten[0][count:]
        self._unwritten = [rest] if rest else []
        self._unwritten_size = len(rest)

    def _seek_now(self, offset: int, whence: int) -> int:
        descriptor = self._raw.fileno()
        have = self._have()
        if whence == os.SEEK_CUR:
            offset -= have
        elif whence == os.SEEK_SET and have:
            # Within what was read ahead nothing need be read again.
            self._join()
            begin = os.lseek(descriptor, 0, os.SEEK_CUR) - len(self._buffer)
            if begin <= offset <= begin + len(self._buffer):
                self._start = offset - begin
                return offset
        position = os.lseek(descriptor, offset, whence)
        self._buffer, self._start, self._more = b"", 0, []
        return position

    def _tell_now(self) -> int:
        position = os.lseek(self._raw.fileno(), 0, os.SEEK_CUR)
        return position - self._have() + self._unwritten_size

    # Writing.

    async def write(self, data: ReadableBuffer, /) -> int:
        """Write bytes. Return how many there were: all, but for an unbuffered file, which writes once.

        They are kept until there are more than the buffer's size of them, or until :meth:`flush` or :meth:`close`.
        """
        data = _bytes_of(data)
        self._check_writable()
        if not self._turns.taken and 0 < self._unwritten_size + len(data) <= self._buffer_size:
            self._accept(data)
            return len(data)
        async with self._turns:
            self._check_writable()
            if self._buffer_size == 0:
                return await self._write_once(data, None)
            await self._write(data)
        return len(data)

    async def _write(self, data: bytes) -> None:
        if self._unwritten_size + len(data) > self._buffer_size and len(data) < self._buffer_size:
            await self._flush()
        self._accept(data)
        if self._unwritten_size > self._buffer_size:
            await self._flush()

    async def _write_once(self, data: bytes, offset: int | None) -> int:
        written = 0

        def was_written(count: int) -> None:
            nonlocal written
            written = count

        self._drop_read_ahead()
        await self._turns.operate(self._raw.write, was_written, data, offset)
        return written

    async def writelines(self, lines: Iterable[ReadableBuffer], /) -> None:
        """Write all of the lines, to which nothing is added, one after the other."""
        self._check_writable()
        async with self._turns:
            for line in lines:
                self._check_writable()
                if self._buffer_size:
                    await self._write(_bytes_of(line))
                else:
                    await self._write_once(_bytes_of(line), None)

    async def flush(self) -> None:
        """Hand what was written to the kernel."""
        self._check_open()
        if not self._turns.taken and not self._unwritten:
            return
        async with self._turns:
            self._check_open()
            await self._flush()

    async def sync(self, *, data_only: bool = False) -> None:
        """Flush, and have the kernel put the file on the disk: `fsync(2)`.

        With `data_only` what is not needed to read the data again, such as the time of the change, may be left out:
        `fdatasync(2)`.
        """
        async with self._turns:
            self._check_open()
            await self._flush()
            await self._turns.operate(self._raw.sync, _nothing, data_only)

    async def truncate(self, size: int | None = None, /) -> int:
        """Cut or extend the file to `size` bytes, by default to the position, which stays. Return the new size."""
        self._check_writable()
        async with self._turns:
            self._check_writable()
            return await self._truncate(size)

    async def _truncate(self, size: int | None) -> int:
        await self._flush()
        self._drop_read_ahead()
        if size is None:
            self._check_seekable()
            size = await self._tell()
        if size < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        await self._turns.operate(self._raw.truncate, _nothing, size)
        return size

    # The position.

    async def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Set the position: `offset` bytes from the start, from the position (``SEEK_CUR``) or from the end (``SEEK_END``).
        Return it, from the start."""
        self._check_open()
        if whence not in _WHENCES:
            raise ValueError(f"whence value {whence} unsupported")
        self._check_seekable()
        async with self._turns:
            self._check_open()
            await self._flush()
            return self._seek_now(offset, whence)

    async def tell(self) -> int:
        """Return the position."""
        self._check_seekable()
        async with self._turns:
            self._check_open()
            return await self._tell()

    async def _tell(self) -> int:
        if self._mode.startswith("a"):
            await self._flush()  # Where the end is by then, the kernel knows.
        return self._tell_now()

    # Anywhere.

    async def pread(self, size: int, offset: int, /) -> bytes:
        """Read up to `size` bytes from `offset` on, with one operation, and leave the position alone.

        Any number of these may be under way at once. What was written before is written first.
        """
        self._check_readable()
        _check_offset(offset)
        if self._turns.taken or self._unwritten:
            async with self._turns:
                self._check_readable()
                await self._flush()
        data: bytes = await self._do_beside(self._raw.read, size, offset)
        return data

    async def pwrite(self, data: ReadableBuffer, offset: int, /) -> int:
        """Write bytes to `offset` on, with one operation, and leave the position alone. Return how many were written, maybe fewer
        than all.

        On Linux a file that was opened to append is appended to all the same: see `pwrite(2)`.
        """
        self._check_writable()
        _check_offset(offset)
        data = _bytes_of(data)
        async with self._turns:
            self._check_writable()
            await self._flush()
            return await self._write_once(data, offset)

    async def _do_beside(self, begin: Any, *args: Any) -> Any:
        self._check_open()
        self._check_loop()
        future = begin(*args, self._ended_beside)
        self._beside += 1
        return await future

    def _ended_beside(self, _value: Any, _error: BaseException | None) -> None:
        self._beside -= 1
        if not self._beside and self._none_beside is not None and not self._none_beside.done():
            self._none_beside.set_result(None)

    # The end.

    async def close(self) -> None:
        """Write what is to be written yet, and close the file. A file that is closed stays so.

        A call that is cancelled closes the file all the same, in the background.
        """
        if self._closed:
            return
        if self._closing is None:
            if not (self._turns.taken or self._unwritten or self._beside):
                self._check_loop()
                self._closed = True
                await self._raw.close()
                return
            self._closing = self._loop.create_task(self._close())
        await asyncio.shield(self._closing)

    def _check_loop(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("the file was opened in a different event loop")

    async def _close(self) -> None:
        async with self._turns:
            try:
                await self._flush()
            finally:
                self._closed = True
                if self._beside:
                    self._none_beside = self._loop.create_future()
                    await self._none_beside
                await self._raw.close()

    async def __aenter__(self) -> Self:
        """Return the file."""
        self._check_open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        """Close the file."""
        await self.close()

    def __del__(self, _warn: Any = warnings.warn) -> None:
        """Warn of a file that was never closed, write what was to be written, and close it."""
        if getattr(self, "_closed", True):
            return
        _warn(f"unclosed file {self!r}", ResourceWarning, source=self)
        self._closed = True
        try:
            while self._unwritten and not self._raw.pollable:
                self._unwritten = [b"".join(self._unwritten)]
                self._was_written(os.write(self._raw.fileno(), self._unwritten[0]))
        except (OSError, ValueError):
            pass
        finally:
            self._raw.close_now()


def _bytes_of(data: ReadableBuffer) -> bytes:
    """Return a copy of what may change, or the bytes themselves."""
    if type(data) is bytes:
        return data
    if isinstance(data, str):
        raise TypeError("a bytes-like object is required, not 'str'")
    with memoryview(data) as view:
        return view.tobytes()


def _nothing(_value: None) -> None:
    pass


def _check_offset(offset: int) -> None:
    if offset < 0:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
