"""Asking a program over its control socket: see :mod:`whilst._control` for what is asked and answered."""

import errno
import json
import os
import select
import time
from typing import Any

from whilst import _control

# For how long a program may be silent. Its answering thread needs the GIL, which one that computes lets go of every 5 ms.
PATIENCE = 5.0


class Unreachable(Exception):
    """A program cannot be asked; the text says why, and what to do."""


class Ended(Exception):
    """The program has closed the connection: it has ended, or runs no loop of ours any more."""


class Client:
    """A connection to a program."""

    def __init__(self, pid: int) -> None:
        """Raises :exc:`Unreachable`."""
        self.pid = pid
        self._received = bytearray()
        try:
            self._socket = _control.connect(pid, _owner(pid), PATIENCE)
        except OSError as error:
            raise Unreachable(_why_not(pid, error)) from None
        self._socket.setblocking(False)

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, request: dict[str, Any]) -> None:
        """Ask, without waiting. Raises :exc:`Ended`."""
        try:
            # A request is far shorter than a socket's buffer, and the one before has been answered.
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError:
            raise Ended from None

    def receive(self) -> dict[str, Any] | None:
        """The next answer, or None where it is not all there yet. Raises :exc:`Ended` and :exc:`Unreachable`."""
        while b"\n" not in self._received:
            try:
                data = self._socket.recv(1 << 18)
            except BlockingIOError:
                return None
            except OSError:
                raise Ended from None
            if not data:
                raise Ended
            self._received += data
        line, _, rest = self._received.partition(b"\n")
        self._received = rest
        answer = json.loads(line)
        if not isinstance(answer, dict) or answer.get("protocol") != _control.PROTOCOL:
            raise Unreachable(f"process {self.pid} answers as another version of whilst does")
        return answer

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Ask, and wait for the answer. Raises :exc:`Ended`, and :exc:`Unreachable` after :data:`PATIENCE`."""
        self.send(request)
        end = time.monotonic() + PATIENCE
        while (answer := self.receive()) is None:
            if not select.select([self], [], [], max(0.0, end - time.monotonic()))[0]:
                raise Unreachable(f"process {self.pid} does not answer (waited for {PATIENCE:.0f} s)")
        return answer


def _owner(pid: int) -> int | None:
    """Whose process it is, for root may look into anybody's; None where that cannot be known."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


def _why_not(pid: int, error: OSError) -> str:
    """Why there is no connection to *pid*, in words."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return f"there is no process {pid}"
    except PermissionError:
        return f"process {pid} is another user's: only the user who runs it may look into it"
    if isinstance(error, PermissionError):
        return f"no permission to connect to process {pid}: {_control.address(pid, _owner(pid))}"
    if error.errno == errno.EAGAIN or isinstance(error, TimeoutError):  # Nobody accepts.
        return f"process {pid} does not answer (waited for {PATIENCE:.0f} s)"
    variable = _environment(pid, b"WHILST_CONTROL")
    if _has_loaded(pid, b"/_whilst.") is False:
        return f"process {pid} has not loaded whilst: there is no loop to look into"
    if variable in (None, b"", b"0"):
        return f"process {pid} has not allowed it: start it with WHILST_CONTROL=1 in its environment"
    return (
        f"process {pid} has made no event loop of whilst yet"
        if isinstance(error, FileNotFoundError)
        else f"process {pid} refuses: {error}"
    )


def _environment(pid: int, name: bytes) -> bytes | None:
    """The variable with which *pid* was started; None where it had none, or that cannot be known."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        return None
    return next((value for key, _, value in (one.partition(b"=") for one in variables) if key == name), None)


def _has_loaded(pid: int, name: bytes) -> bool | None:
    """Whether a library is in the memory of *pid*; None where that cannot be known."""
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:
            return name in file.read()
    except OSError:
        return None


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and was not waited for yet does not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # After the name, which is in parentheses and may have any character in it, comes the state.
            return file.read().rpartition(b") ")[2][:1] not in (b"Z", b"X", b"")
    except OSError:
        return False
