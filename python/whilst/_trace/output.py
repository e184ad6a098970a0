"""Where a trace goes: a file of the kind that its name says, there as a whole or not at all."""

import os
from collections.abc import Callable, Iterable
from typing import IO


class Output:
    """A file to be. Raises :exc:`ValueError` if its name does not say what is to be in it."""

    def __init__(self, path: "str | os.PathLike[str]") -> None:
        name = os.fspath(path)
        if not isinstance(name, str):
            raise TypeError(f"a path must be a str, not {type(name).__name__}")
        ending = os.path.splitext(name)[1].lower()
        if ending not in _WRITERS:
            raise ValueError(f"a trace's name must end in .html or .json: {name!r}")
        self._pieces = _WRITERS[ending]
        # The program may go to another directory meanwhile.
        self._path = os.path.realpath(name)

    def check(self) -> None:
        """Raise :exc:`OSError` if the file could not be written now."""
        if os.path.isdir(self._path):
            raise IsADirectoryError(21, os.strerror(21), self._path)
        with self._open():
            pass
        os.unlink(self._temporary)

    def write(self, record: dict[str, object]) -> None:
        """Write a record into the file, which has the old contents, or is not there, until it has all of the new."""
        try:
            with self._open() as file:
                for piece in self._pieces(record):
                    file.write(piece)
            os.replace(self._temporary, self._path)
        except BaseException:
            if os.path.exists(self._temporary):
                os.unlink(self._temporary)
            raise

    @property
    def _temporary(self) -> str:
        directory, name = os.path.split(self._path)
        return os.path.join(directory, f".{name}.{os.getpid()}.tmp")

    def _open(self) -> IO[str]:
        try:
            return open(self._temporary, "w", encoding="utf-8", errors="surrogateescape")
        except OSError as error:
            # Of the file that was asked for.
            error.filename = self._path
            raise


def _page(record: dict[str, object]) -> Iterable[str]:
    from whilst._trace.page import page

    return (page(record),)


def _perfetto(record: dict[str, object]) -> Iterable[str]:
    from whilst._trace.perfetto import pieces

    return pieces(record)


_WRITERS: dict[str, Callable[[dict[str, object]], Iterable[str]]] = {".html": _page, ".json": _perfetto}
