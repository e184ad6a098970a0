"""Programs as subprocesses, for the tests of real servers: started, waited for, talked to over sockets,
stopped.

Shared by the tests in this folder, `tests/examples` and `tests/soak`. Nothing here sleeps in place of
waiting for an event: a wait is for a condition, tries it again every few milliseconds, and gives up after a
limit with the program's output.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import hashlib
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

HERE = Path(__file__).resolve().parent
APPS = HERE / "apps"
REPOSITORY = HERE.parents[1]
EXAMPLES = REPOSITORY / "examples"

DRIVERS = ("epoll", "io_uring")

START_SECONDS = 30.0
"""The limit of a server's start: generous, since a busy machine starts interpreters slowly."""

WAIT_SECONDS = 20.0
"""The limit of every other wait."""

MIB = 1 << 20

COMPLAINTS = (
    "Traceback (most recent call last)",
    "Exception in callback",
    "Fatal error",
    "Fatal write error",
    "Fatal read error",
    "ResourceWarning",
    "RuntimeWarning",
    "Task was destroyed but it is pending",
    "Task exception was never retrieved",
    "Future exception was never retrieved",
    "was never awaited",
    "Unhandled exception",
    "panicked at",
)
"""What no server may print, whatever its clients do. (asyncio's "socket.send() raised exception" is none of
these: it says that the app went on writing to a connection that was lost, which frameworks do.)"""

T = TypeVar("T")


@functools.cache
def io_uring_refusal() -> str | None:
    """Why the kernel gives no ring here, or None where it does.

    Asked of the kernel itself (``io_uring_setup``, number 425 on all architectures), not of whilst: a
    whilst that fails to use a ring that is to be had must fail its tests, not skip them.
    """
    if not sys.platform.startswith("linux"):
        return "io_uring is Linux's"
    libc = ctypes.CDLL(None, use_errno=True)
    parameters = ctypes.create_string_buffer(120)  # struct io_uring_params
    ring = libc.syscall(425, 1, parameters)
    if ring < 0:
        return f"io_uring_setup: {errno.errorcode.get(ctypes.get_errno(), '?')}"
    os.close(ring)
    return None


def wait_for(condition: Callable[[], T], what: str, seconds: float = WAIT_SECONDS) -> T:
    """The first true value of `condition`, which is tried again and again; fails when `seconds` are over."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"not after {seconds} s: {what} (last seen: {value!r})")
        time.sleep(0.01)


def free_port() -> int:
    """A port that nobody listens on right now. Another program can take it in between, which is rare enough
    here."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def connect(port: int, *, receive_buffer: int | None = None) -> socket.socket:
    """A blocking TCP connection to this machine, with a limit on each of its operations."""
    sock = socket.socket()
    sock.settimeout(WAIT_SECONDS)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.connect(("127.0.0.1", port))
    return sock


def reset(sock: socket.socket) -> None:
    """Close so that the peer gets an RST, as from a machine that went away, and not an orderly end."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def listens(port: int) -> bool:
    """Whether somebody accepts connections on `port`."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS):
            return True
    except ConnectionError:
        return False


def kernel_listens(port: int) -> bool:
    """Whether a socket listens on `port` of 127.0.0.1, by the kernel's own list: asked without a
    connection, which a server that is about to stop would still accept and have to close."""
    address = f"0100007F:{port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(fields[1] == address and fields[3] == "0A" for fields in map(str.split, lines))


class Program:
    """A program of Python as a subprocess, its output (both streams) in a file.

    A context manager: the program is ended at the end of the block, whatever happened, by its own process id.
    """

    def __init__(
        self,
        arguments: list[str],
        *,
        driver: str,
        cwd: Path = APPS,
        port: int | None = None,
        env: dict[str, str] | None = None,
        show: bool = True,
    ) -> None:
        self.arguments = arguments
        self.port = port
        self.cwd = cwd
        self.show = show
        """Whether to print the program's output at its end, which pytest shows where a test fails."""
        self.env = {
            **os.environ,
            "WHILST_DRIVER": driver,
            "PYTHONUNBUFFERED": "1",
            "PYTHONFAULTHANDLER": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            # A transport or a socket that nobody closed says so.
            "PYTHONWARNINGS": "always::ResourceWarning",
            **(env or {}),
        }
        if cwd == APPS:
            # The apps of the tests use this module too, and the certificates.
            self.env["PYTHONPATH"] = os.pathsep.join(
                filter(None, [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH")])
            )

    def __enter__(self) -> Program:
        self._file = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [sys.executable, *self.arguments],
            cwd=self.cwd,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            # Away from the terminal's process group: a Ctrl-C of the person at the terminal is pytest's.
            start_new_session=True,
        )
        try:
            if self.port is not None:
                self._wait_until_ready(self.port)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.show:
            print(f"--- {' '.join(self.arguments)} ended with {self.process.returncode}; its output:")
            print(self.output())
        self._file.close()

    def _wait_until_ready(self, port: int) -> None:
        def ready() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the program ended with {self.process.returncode}:\n{self.output()}")
            return listens(port)

        wait_for(ready, f"{self.arguments} listens on {port}", START_SECONDS)

    @property
    def pid(self) -> int:
        return self.process.pid

    def output(self) -> str:
        """All that the program has printed so far."""
        size = os.fstat(self._file.fileno()).st_size
        return os.pread(self._file.fileno(), size, 0).decode(errors="replace")

    def complaints(self, allowed: tuple[str, ...] = ()) -> list[str]:
        """The lines of the output that no server should print."""
        return [
            line
            for line in self.output().splitlines()
            if any(word in line for word in COMPLAINTS) and not any(word in line for word in allowed)
        ]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = WAIT_SECONDS) -> int:
        """The exit code; fails with the output when the program does not end."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {seconds} s:\n{self.output()}") from None


@functools.cache
def _block() -> bytes:
    return random.Random(1).randbytes(64 * 1024)


def payload(size: int) -> Iterator[bytes]:
    """`size` bytes (a multiple of 64 KiB) that look random, in pieces of 64 KiB of which no two are the
    same."""
    rest = _block()[8:]
    for number in range(size // len(_block())):
        yield number.to_bytes(8, "big") + rest


@functools.cache
def payload_sha256(size: int) -> str:
    """The checksum of `payload(size)`."""
    digest = hashlib.sha256()
    for piece in payload(size):
        digest.update(piece)
    return digest.hexdigest()


def descriptor_targets(pid: int | str = "self") -> list[str]:
    """What the descriptors of the process are: ``socket:[...]``, ``anon_inode:[io_uring]``, a file's path."""
    targets = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            targets.append(str(descriptor.readlink()))
    return targets


def open_sockets(pid: int | str = "self") -> int:
    """How many descriptors of the process are sockets."""
    return sum(target.startswith("socket:") for target in descriptor_targets(pid))
