"""A program in a terminal of its own: a pseudo-terminal, with pyte as what draws on the other side of it."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from types import TracebackType

import pyte

# No wait of a test is longer.
SECONDS = 30.0


class Terminal:
    """*command* in a terminal of that size; a context manager that ends it."""

    def __init__(
        self,
        command: Sequence[str],
        env: dict[str, str],
        columns: int = 80,
        height: int = 24,
        cwd: str | None = None,
    ) -> None:
        self._screen = pyte.Screen(columns, height)
        self._stream = pyte.ByteStream(self._screen)
        # All that the program has ever sent.
        self.received = b""
        self._own, its = pty.openpty()
        _set_size(its, columns, height)
        # What a session's leader opens first becomes its terminal (tty(4)): Ctrl-C and changes of size are signals then.
        opened = ["sh", "-c", 'exec "$@" <"$0" >"$0" 2>&1', os.ttyname(its), *command]
        self.process = subprocess.Popen(
            opened, stdin=its, stdout=its, stderr=its, env=env, cwd=cwd, start_new_session=True
        )
        os.close(its)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(SECONDS)
        os.close(self._own)

    @property
    def lines(self) -> list[str]:
        # pyte leaves an empty cell behind a character that is two columns wide.
        return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def styles(self, text: str) -> set[str]:
        """The colours of the line in which *text* is, with "reverse" and "bold" among them."""
        for number, line in enumerate(self._screen.display):
            if text in line:
                cells = [self._screen.buffer[number][column] for column in range(self._screen.columns)]
                names = {cell.fg for cell in cells if cell.data.strip()}
                names |= {"reverse" for cell in cells if cell.reverse} | {
                    "bold" for cell in cells if cell.bold
                }
                return names - {"default"}
        raise AssertionError(f"{text!r} is not in\n{self.text}")

    def send(self, keys: str) -> None:
        os.write(self._own, keys.encode())

    def resize(self, columns: int, height: int) -> None:
        self._screen.resize(height, columns)
        # The kernel sends SIGWINCH.
        _set_size(self._own, columns, height)

    def until(self, reached: Callable[[str], object]) -> str:
        """Draw what comes until ``reached(text)``, and return that text."""
        end = time.monotonic() + SECONDS
        while not reached(self.text):
            left = end - time.monotonic()
            if left <= 0 or not self._draw(left):
                raise AssertionError(
                    f"the screen never got there (process: {self.process.poll()}):\n{self.text}"
                )
        return self.text

    def shows(self, *texts: str) -> str:
        """Wait until all *texts* are on the screen."""
        return self.until(lambda text: all(one in text for one in texts))

    def ends(self) -> int:
        """Wait until the program has ended, drawing what it says; its exit status."""
        end = time.monotonic() + SECONDS
        while self._draw(max(0.0, end - time.monotonic())):
            assert time.monotonic() < end, self.text
        return self.process.wait(max(0.1, end - time.monotonic()))

    def _draw(self, seconds: float) -> bool:
        """Draw what has come within *seconds*; False where nothing will come any more."""
        if not select.select([self._own], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self._own, 65536)
        except OSError:
            # EIO: nobody has the other side open.
            return False
        self.received += data
        self._stream.feed(data)
        return bool(data)


def _set_size(descriptor: int, columns: int, height: int) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", height, columns, 0, 0))
