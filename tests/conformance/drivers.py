"""Finds out which of whilst's drivers there are here, by using each."""

from __future__ import annotations

import os
import subprocess
import sys

DRIVERS = ("epoll", "io_uring")

#: The environment variable that forces a driver.
VARIABLE = "WHILST_DRIVER"

# A loop that only sleeps needs no ring, so bytes have to move.
_PROBE = """
import asyncio, socket, sys

module, _, attribute = sys.argv[1].partition(":")
factory = getattr(__import__(module, fromlist=["_"]), attribute)

async def main():
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        await asyncio.get_running_loop().sock_sendall(one, b"1")
        assert await asyncio.get_running_loop().sock_recv(other, 1) == b"1"

with asyncio.Runner(loop_factory=factory) as runner:
    runner.run(asyncio.wait_for(main(), 10))
    if sys.argv[2] and runner.get_loop().driver != sys.argv[2]:
        sys.exit(f"the loop runs on {runner.get_loop().driver}")
"""


def probe(loop: str, driver: str) -> str:
    """Move a byte with `loop` (MODULE:FACTORY) over `driver`; return why that fails, or an empty string."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _PROBE, loop, driver],
            env={**os.environ, VARIABLE: driver} if driver else None,
            capture_output=True,
            text=True,
            timeout=30,
        )
    except subprocess.TimeoutExpired:
        return "no answer within 30 s"
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"
