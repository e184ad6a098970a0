"""Text: :class:`TextFile`.

It is :class:`io.TextIOWrapper` over a :class:`~whilst._files.binary.BinaryFile`: bytes come in pieces, an incremental decoder
(and, for universal newlines, :class:`io.IncrementalNewlineDecoder`) makes characters of them, which are handed out.

Where in the file a character is, the decoder's characters do not say. So with them are kept the bytes they were made of and the
state in which the decoder was before: of the two, :meth:`TextFile.tell` finds the place again by decoding up to it once more.
"""

from __future__ import annotations

import codecs
import io
import os
from io import UnsupportedOperation
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

    from whilst._files.binary import BinaryFile

#: How many bytes are decoded at a time, at least; as many as :class:`io.TextIOWrapper` takes.
_PIECE = 8192

# A cookie of `tell()`: the position in bytes, how many characters follow it to the place meant, and the decoder's state there.
_POSITION_BITS = 64
_SKIP_BITS = 64


class TextFile:
    """A text file, as ``whilst.open(path)`` opens it.

    Its methods are those of the builtin text files, of which the ones that may wait are coroutines. As with
    :class:`BinaryFile` calls are done one at a time, in their order, and one that is cancelled leaves the file as if it had been
    made whole or not at all.
    """

    def __init__(
        self,
        buffer: BinaryFile,
        mode: str,
        encoding: str,
        errors: str,
        newline: str | None,
        line_buffering: bool,
    ) -> None:
        self._binary = buffer
        self._turns = buffer._turns
        self._mode = mode
        self._encoding = encoding
        self._errors = errors
        self._newline = newline
        self._line_buffering = line_buffering
        #: Line ends of other kinds are read as "\n".
        self._translates = newline is None
        #: What "\n" is written as, if not as itself.
        self._written_newline = newline if newline in ("\r", "\r\n") else ""
        self._decoder: Any = None
        self._encoder: Any = None
        #: Characters that were decoded; those before `_used` are handed out.
        self._decoded = ""
        self._used = 0
        #: The decoder's state before `_decoded`, and the bytes that were decoded since.
        self._snapshot: tuple[int, bytes] | None = None
        #: How many characters after a `seek()` are still to be skipped.
        self._skip = 0
        if buffer.writable() and buffer.seekable() and buffer._tell_now() != 0:
            self._begin_encoder(at_start=False)

    # What is known without waiting.

    @property
    def buffer(self) -> BinaryFile:
        """The binary file underneath."""
        return self._binary

    @property
    def name(self) -> Any:
        """The path or descriptor that the file was opened by."""
        return self._binary.name

    @property
    def mode(self) -> str:
        """The mode that the file was opened with."""
        return self._mode

    @property
    def encoding(self) -> str:
        """The name of the encoding."""
        return self._encoding

    @property
    def errors(self) -> str:
        """How what cannot be encoded or decoded is dealt with."""
        return self._errors

    @property
    def newlines(self) -> str | tuple[str, ...] | None:
        """The kinds of line ends that were read so far, with universal newlines; else None."""
        newlines: str | tuple[str, ...] | None = getattr(self._decoder, "newlines", None)
        return newlines

    @property
    def line_buffering(self) -> bool:
        """True if every line that is written is handed to the kernel at once."""
        return self._line_buffering

    @property
    def closed(self) -> bool:
        """True once the file is closed."""
        return self._binary.closed

    def __repr__(self) -> str:
        """Name the file, its mode and its encoding."""
        return f"<whilst.{type(self).__name__} name={self.name!r} mode={self._mode!r} encoding={self._encoding!r}>"

    def fileno(self) -> int:
        """Return the descriptor. What was written may not have reached it yet: see :meth:`flush`."""
        return self._binary.fileno()

    def isatty(self) -> bool:
        """Return True if the file is a terminal."""
        return self._binary.isatty()

    def readable(self) -> bool:
        """Return True if the file can be read."""
        return self._binary.readable()

    def writable(self) -> bool:
        """Return True if the file can be written."""
        return self._binary.writable()

    def seekable(self) -> bool:
        """Return True if the file has a position that can be set."""
        return self._binary.seekable()

    def _check_readable(self) -> None:
        if not self._binary.readable():
            raise UnsupportedOperation("not readable")

    def _check_writable(self) -> None:
        if not self._binary.writable():
            raise UnsupportedOperation("not writable")

    # Decoding, within a turn.

    def _new_decoder(self) -> Any:
        decoder: Any = codecs.getincrementaldecoder(self._encoding)(self._errors)
        if self._newline is None or self._newline == "":
            decoder = io.IncrementalNewlineDecoder(decoder, self._translates)
        return decoder

    def _forget_decoded(self) -> None:
        self._decoded, self._used, self._snapshot = "", 0, None

    async def _decode_piece(self, size: int = _PIECE) -> bool:
        """Decode another piece of up to `size` bytes. Return False at the end of the file."""
        data = await self._binary._read1(size)
        # Nothing waits from here on, so that characters and bytes are always in step.
        if self._decoder is None:
            self._decoder = self._new_decoder()
        pending, flags = self._decoder.getstate()
        decoded = self._decoder.decode(data, not data)
        if self._used == len(self._decoded) or self._snapshot is None:
            self._snapshot = (flags, pending + data)
            self._decoded, self._used = decoded, 0
        else:
            self._snapshot = (self._snapshot[0], self._snapshot[1] + data)
            self._decoded += decoded
        return bool(data)

    def _take(self, size: int) -> str:
        begin = self._used
        self._used = min(begin + size, len(self._decoded))
        return self._decoded[begin : self._used]

    async def _settle(self) -> None:
        """Skip the characters that the last `seek()` was to skip."""
        while self._skip:
            available = len(self._decoded) - self._used
            if self._skip <= available:
                self._used += self._skip
                self._skip = 0
            elif not await self._decode_piece() and self._skip > len(self._decoded) - self._used:
                self._skip = 0
                raise OSError("can't restore logical file position")

    async def _read(self, size: int) -> str:
        while (missing := size - (len(self._decoded) - self._used)) > 0:
            if not await self._decode_piece(max(_PIECE, missing)):
                break
        return self._take(size)

    async def _read_all(self) -> str:
        data = await self._binary._read_all()
        if self._decoder is None:
            self._decoder = self._new_decoder()
        text: str = self._decoded[self._used :] + self._decoder.decode(data, True)
        self._forget_decoded()
        return text

    def _take_line(self, limit: int) -> str | None:
        """Hand out a line, if there is a whole one or one of `limit` characters (-1: no limit)."""
        if limit == 0:
            return ""
        begin = self._used
        if self._translates or self._newline == "\n":
            end = self._decoded.find("\n", begin) + 1
        elif self._newline:
            end = self._decoded.find(self._newline, begin)
            end += len(self._newline) if end >= 0 else 1
        else:
            # The newline decoder keeps a "\r" back until it knows what follows it.
            end = self._decoded.find("\n", begin) + 1
            other = self._decoded.find("\r", begin, end or None) + 1
            if other and other != end - 1:
                end = other
        if limit >= 0 and (not end or end - begin > limit):
            if len(self._decoded) - begin < limit:
                return None
            end = begin + limit
        if not end:
            return None
        self._used = end
        return self._decoded[begin:end]

    async def _readline(self, limit: int) -> str:
        while (line := self._take_line(limit)) is None:
            available = len(self._decoded) - self._used
            if not await self._decode_piece(max(_PIECE, available)):
                # The end of the file may have let go of characters that were kept back.
                line = self._take_line(limit)
                return self._take(len(self._decoded)) if line is None else line
        return line

    # Reading.

    async def read(self, size: int | None = -1, /) -> str:
        """Read up to `size` characters, or all there are to the end of the file if it is negative or None."""
        self._check_readable()
        async with self._turns:
            self._check_readable()
            await self._settle()
            if size is None or size < 0:
                return await self._read_all()
            return await self._read(size)

    async def readline(self, size: int = -1, /) -> str:
        """Read a line with its end, or up to `size` characters of it; empty at the end of the file."""
        self._check_readable()
        if not self._turns.taken and not self._skip and (line := self._take_line(size)) is not None:
            return line
        async with self._turns:
            self._check_readable()
            await self._settle()
            return await self._readline(size)

    async def readlines(self, hint: int | None = -1, /) -> list[str]:
        """Read lines to the end of the file, or until they are more than `hint` characters together."""
        lines = []
        size = 0
        async with self._turns:
            self._check_readable()
            await self._settle()
            while line := await self._readline(-1):
                lines.append(line)
                size += len(line)
                if hint is not None and 0 < hint < size:
                    break
        return lines

    def __aiter__(self) -> Self:
        """Iterate over the lines."""
        self._binary._check_open()
        return self

    async def __anext__(self) -> str:
        """Return the next line."""
        if line := await self.readline():
            return line
        raise StopAsyncIteration

    # Writing.

    def _begin_encoder(self, *, at_start: bool) -> None:
        if self._encoder is None:
            if at_start:
                return  # It is made when it is needed.
            self._encoder = codecs.getincrementalencoder(self._encoding)(self._errors)
        if at_start:
            self._encoder.reset()
        else:
            # What only the start of a file has, a byte order mark, is written no more.
            self._encoder.setstate(0)

    async def write(self, text: str, /) -> int:
        """Write characters. Return how many there were.

        They are encoded at once, and kept until there are more than the buffer's size of them, or until :meth:`flush` or
        :meth:`close`; with line buffering, until there is the end of a line among them.
        """
        _check_text_type(text)
        self._check_writable()
        async with self._turns:
            self._check_writable()
            await self._settle()
            await self._write(text)
        return len(text)

    async def _write(self, text: str) -> None:
        if self._encoder is None:
            self._encoder = codecs.getincrementalencoder(self._encoding)(self._errors)
        ends_line = self._line_buffering and ("\n" in text or "\r" in text)
        if self._written_newline:
            data = self._encoder.encode(text.replace("\n", self._written_newline))
        else:
            data = self._encoder.encode(text)
        self._forget_decoded()
        if self._decoder is not None:
            self._decoder.reset()
        await self._binary._write(data)
        if ends_line:
            await self._binary._flush()

    async def writelines(self, lines: Iterable[str], /) -> None:
        """Write all of the lines, to which nothing is added, one after the other."""
        self._check_writable()
        async with self._turns:
            await self._settle()
            for line in lines:
                self._check_writable()
                await self._write(_check_text_type(line))

    async def flush(self) -> None:
        """Hand what was written to the kernel."""
        await self._binary.flush()

    async def sync(self, *, data_only: bool = False) -> None:
        """Flush, and have the kernel put the file on the disk: see :meth:`BinaryFile.sync`."""
        await self._binary.sync(data_only=data_only)

    async def truncate(self, size: int | None = None, /) -> int:
        """Cut or extend the file to `size` bytes, by default to the position. Return the new size.

        As with the builtin files, the position is that of the bytes underneath, which are read ahead: tell() and seek() there
        first, or say the size.
        """
        self._check_writable()
        async with self._turns:
            self._check_writable()
            return await self._binary._truncate(size)

    # The position.

    async def tell(self) -> int:
        """Return where the file is, as a number for :meth:`seek`; it is not a number of characters, and not always one of bytes.

        Raises OSError where the decoder cannot be brought back to here.
        """
        self._check_seekable()
        async with self._turns:
            self._binary._check_open()
            await self._settle()
            return await self._tell()

    def _check_seekable(self) -> None:
        if not self._binary.seekable():
            raise UnsupportedOperation("underlying stream is not seekable")

    async def _tell(self) -> int:
        await self._binary._flush()
        position = self._binary._tell_now()
        if self._snapshot is None:
            return position
        flags, data = self._snapshot
        position -= len(data)
        length, skip, flags = self._locate(flags, data)
        position += length
        if position == 0 and length == 0 and flags == self._first_flags():
            flags = 0  # A fresh decoder's state, which `seek(0)` begins with.
        return position | skip << _POSITION_BITS | flags << (_POSITION_BITS + _SKIP_BITS)

    def _first_flags(self) -> int:
        flags: int = self._new_decoder().getstate()[1]
        return flags

    def _locate(self, flags: int, data: bytes) -> tuple[int, int, int]:
        """Find the place between `_used` and the rest of `_decoded` in the bytes that these were decoded from.

        Returns how many bytes lie before it, how many characters between those and the place, and the decoder's state after those
        bytes, when it keeps none of them back.
        """
        decoder = self._new_decoder()

        def decode(length: int) -> str:
            decoder.setstate((b"", flags))
            return str(decoder.decode(data[:length]))

        def leads_here(length: int, characters: int, state: int) -> bool:
            # What a decoder says of its state need not be all of it.
            decoder.setstate((b"", state))
            return bool(decoder.decode(data[length:]) == self._decoded[characters:end])

        # At the end of the file a decoder lets go of more than it does here.
        end = len(decode(len(data)))
        if self._used > 0:
            # The most bytes that make no more characters than were used.
            low, high = 0, len(data)
            while low < high:
                middle = (low + high + 1) // 2
                if len(decode(middle)) <= self._used:
                    low = middle
                else:
                    high = middle - 1
            # Of a character that is begun there the bytes come back.
            for length in range(low, max(low - 16, 0) - 1, -1):
                characters = len(decode(length))
                pending, state = decoder.getstate()
                if not pending and leads_here(length, characters, state):
                    return length, self._used - characters, state
        if leads_here(0, 0, flags):
            return 0, self._used, flags
        raise OSError("can't reconstruct logical file position")

    async def seek(self, cookie: int, whence: int = os.SEEK_SET, /) -> int:
        """Set the position: to where `tell()` said so, to 0, to where it is (``seek(0, SEEK_CUR)``) or to the end (``seek(0,
        SEEK_END)``). Return it."""
        self._binary._check_open()
        self._check_seekable()
        async with self._turns:
            self._binary._check_open()
            if whence == os.SEEK_CUR:
                if cookie != 0:
                    raise UnsupportedOperation("can't do nonzero cur-relative seeks")
                await self._settle()
                cookie = await self._tell()
            elif whence == os.SEEK_END:
                if cookie != 0:
                    raise UnsupportedOperation("can't do nonzero end-relative seeks")
                await self._binary._flush()
                return self._seek_bytes(self._binary._seek_now(0, os.SEEK_END), 0, None)
            elif whence != os.SEEK_SET:
                raise ValueError(f"invalid whence ({whence}, should be 0, 1 or 2)")
            if cookie < 0:
                raise ValueError(f"negative seek position {cookie!r}")
            await self._binary._flush()
            position = cookie & ((1 << _POSITION_BITS) - 1)
            self._binary._seek_now(position, os.SEEK_SET)
            skip = cookie >> _POSITION_BITS & ((1 << _SKIP_BITS) - 1)
            self._seek_bytes(position, skip, cookie >> (_POSITION_BITS + _SKIP_BITS))
            await self._settle()
            return cookie

    def _seek_bytes(self, position: int, skip: int, flags: int | None) -> int:
        """Go on from a position in bytes, where the binary file is now, with a decoder in this state, or a fresh one."""
        self._forget_decoded()
        self._skip = skip
        if flags is not None and (position or flags or skip):
            if self._decoder is None and self._binary.readable():
                self._decoder = self._new_decoder()
            if self._decoder is not None:
                self._decoder.setstate((b"", flags))
        elif self._decoder is not None:
            self._decoder.reset()
        if self._binary.writable():
            self._begin_encoder(at_start=position == 0)
        return position

    # The end.

    async def close(self) -> None:
        """Write what is to be written yet, and close the file: see :meth:`BinaryFile.close`."""
        await self._binary.close()

    async def __aenter__(self) -> Self:
        """Return the file."""
        self._binary._check_open()
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


def _check_text_type(text: str) -> str:
    if not isinstance(text, str):
        raise TypeError(f"write() argument must be str, not {type(text).__name__}")
    return text


def check_text(encoding: str | None, errors: str | None, newline: str | None) -> tuple[str, str]:
    """Raise what a builtin text file raises for these arguments, or return the names of the encoding and of what is done on
    errors."""
    wrapper = io.TextIOWrapper(io.BytesIO(), encoding, errors, newline)
    return wrapper.encoding, wrapper.errors or "strict"
