"""One measurement's process: `child.py ROW LOOP [OPERATIONS]`.

A row inside one loop prints what it measured, a line of JSON, and the process ends. A server prints its port,
a line of JSON, and serves until its standard input ends; the line `compute` there starts a thread that
computes for good. Whatever goes wrong is a line of JSON, too.
"""

import asyncio
import functools
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from loops import LOOPS
from rows import ROWS, Inside, Kept, Throughput


def main() -> None:
    """Run the row that the command line names."""
    row, loop = ROWS[sys.argv[1]], LOOPS[sys.argv[2]]
    settle_allocator()
    try:
        if isinstance(row, Inside):

            def import_and_make() -> asyncio.AbstractEventLoop:
                return loop.factory()()

            new_loop = import_and_make if row.imports else loop.factory()
            operations = int(sys.argv[3]) if len(sys.argv) > 3 else row.operations
            measured = row.workload(new_loop, operations)
            say(operations=measured.operations, seconds=measured.seconds, peak_bytes=peak_memory())
        elif isinstance(row, Throughput):
            threading.Thread(target=obey, daemon=True).start()
            new_loop = loop.factory()
            if isinstance(row, Kept) and row.busy_poll:
                new_loop = functools.partial(new_loop, busy_poll=row.busy_poll)
            row.serve(new_loop, lambda port: say(port=port))
    except Exception as error:
        lines = str(error).strip().splitlines()
        say(error=": ".join([type(error).__name__, *lines[:1]]))
        raise
    finally:
        # A loop that cannot be closed, or threads that it left, must not keep the process.
        sys.stdout.flush()
        sys.stderr.flush()


def peak_memory() -> int:
    """The most resident memory that this process has had, in bytes.

    getrusage(2) has a figure of this name, which a process inherits from the one that has started it.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def settle_allocator() -> None:
    """Bring the C library's allocator into the state that it has in a program which has run for a while.

    glibc maps and unmaps blocks of 128 KiB and more until the first such block is freed whole, which raises
    the limit (mallopt(3), M_MMAP_THRESHOLD). asyncio receives into blocks of 256 KiB which it then shrinks,
    so that in a process where nothing has freed a large block each receive costs three system calls more,
    and in any other none. Which of the two a short program meets is chance, and not what a row is to show.
    """
    large = bytearray(4 << 20)
    del large


def say(**values: Any) -> None:
    """Tell the process that started this one."""
    print(json.dumps(values), flush=True)


def obey() -> None:
    """Do what standard input says, and end the process with it: as Ctrl-C would, and if it goes on for 5 s, at once."""
    for line in sys.stdin:
        if line.strip() == "compute":
            threading.Thread(target=compute, daemon=True).start()
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)
    os._exit(0)


def compute() -> None:
    """Keep a core busy with Python code, as a thread of a program's own would."""
    count = 0
    while True:
        count += 1


if __name__ == "__main__":
    main()
