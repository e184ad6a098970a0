"""The loops that are measured: how each is made, and where each comes from."""

import asyncio
import importlib
import importlib.metadata
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Loop:
    """A loop: the module whose `new_event_loop` makes it, and the PyPI package that the module is in.

    `since` is the first Python that the package is for. `environment` is set for the process that the loop
    runs in.
    """

    name: str
    module: str
    package: str | None = None
    since: tuple[int, int] = (3, 11)
    environment: dict[str, str] = field(default_factory=dict)
    is_peer: bool = True

    def version(self) -> str:
        """The installed version; LookupError, which says why, where there is none."""
        if self.package is None:
            return platform.python_version()
        if sys.version_info < self.since:
            raise LookupError(f"is for Python {self.since[0]}.{self.since[1]} and up")
        try:
            version = importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            raise LookupError("is not installed") from None
        if self.package == "whilst" and importlib.import_module("whilst._whilst").PROFILE_GUIDED:
            version += " (built by a profile)"
        return version

    def factory(self) -> Callable[[], asyncio.AbstractEventLoop]:
        """Import the package; what makes a loop."""
        new_event_loop: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module(
            self.module
        ).new_event_loop
        return new_event_loop


LOOPS = {
    loop.name: loop
    for loop in (
        Loop("asyncio", "asyncio"),
        Loop("uvloop", "uvloop", "uvloop"),
        Loop("zuvloop", "zuvloop", "zuvloop", since=(3, 14)),
        Loop("rloop", "rloop", "rloop"),
        Loop("blazio", "blazio", "blazio"),
        Loop("rsloop", "rsloop", "rsloop"),
        Loop("whilst-epoll", "whilst", "whilst", environment={"WHILST_DRIVER": "epoll"}, is_peer=False),
        Loop("whilst-io_uring", "whilst", "whilst", environment={"WHILST_DRIVER": "io_uring"}, is_peer=False),
    )
}
"""In the order of the table's columns. winloop is uvloop for Windows, and so is not here."""

SERVERS = ("uvicorn", "httptools", "aiohttp")
"""Packages that rows need beside the loops."""


def install() -> dict[str, str]:
    """Install what the rows need into this interpreter's environment; what could not be had, and why.

    One at a time, as a peer that is not for this Python must not keep the others away, and wheels only: a
    peer is measured as its authors built it.
    """
    peers = [loop for loop in LOOPS.values() if loop.package is not None and loop.is_peer]
    wanted = [loop.package for loop in peers if sys.version_info >= loop.since and loop.package is not None]
    missing = {}
    for package in (*wanted, *SERVERS):
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary", ":all:", package]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            missing[package] = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
    return missing
