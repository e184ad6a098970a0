"""What every server of these tests knows about itself; used inside of the server's process only."""

import asyncio
import os
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import certificates
import whilst
from serving import descriptor_targets, open_sockets, payload

SHUTDOWN = "the app's own shutdown ran"
"""Printed by every app at the end of a graceful stop."""


class Record:
    """What the requests so far have left behind."""

    produced = 0
    """How many bytes of the latest download the app has handed to its server."""
    waiting = 0
    """How many requests wait in `/barrier`."""
    released: asyncio.Event
    """Lets `/held-upload` go on."""
    barrier: asyncio.Event
    """Lets those who wait in `/barrier` go on."""


def port() -> int:
    """The port to listen on, the last of the program's arguments."""
    return int(sys.argv[-1])


def tls() -> Path | None:
    """The file with the certificate and its key, where the program has the arguments `--tls FILE`."""
    return Path(sys.argv[2]) if sys.argv[1] == "--tls" else None


def tls_context() -> ssl.SSLContext | None:
    """The server's context, where there is to be TLS."""
    file = tls()
    return certificates.server_context(file) if file is not None else None


def check_loop() -> None:
    """Fail where the app does not run on whilst's loop, or not with the driver that was asked for."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, whilst.Loop), f"the server runs on {type(loop)}"
    Record.released = asyncio.Event()
    Record.barrier = asyncio.Event()


def facts() -> dict[str, Any]:
    """The answer of `/facts`."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, whilst.Loop), f"the server runs on {type(loop)}"
    rings = sum("io_uring" in target for target in descriptor_targets())
    if whilst.Loop.__module__.partition(".")[0] == "whilst":  # and not another loop that stands in for it
        # The driver must be the one that was asked for: a silent fallback would test one of them twice. (A program that only
        # watches descriptors, as Tornado does, has no ring with either.)
        assert loop.driver == os.environ["WHILST_DRIVER"], loop.driver
        assert rings == 0 or loop.driver == "io_uring", f"{rings} rings"
    return {
        "loop": f"{type(loop).__module__}.{type(loop).__qualname__}",
        "tasks": len(asyncio.all_tasks(loop)),
        "sockets": open_sockets(),
        "produced": Record.produced,
    }


async def barrier(count: int) -> None:
    """Return when `count` requests are in here at the same time."""
    Record.waiting += 1
    if Record.waiting == count:
        Record.waiting = 0
        Record.barrier.set()
        Record.barrier = asyncio.Event()
    else:
        await asyncio.wait_for(Record.barrier.wait(), 30)


def download(size: int) -> Iterator[bytes]:
    """`payload(size)`, counted."""
    Record.produced = 0
    for piece in payload(size):
        Record.produced += len(piece)
        yield piece
