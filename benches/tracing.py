"""What recording a trace costs a server: the same requests with `whilst.trace` and without, in turns.

    python benches/tracing.py                                the row `uvicorn`, both drivers: CPU time
    python benches/tracing.py --row streams_echo_1k --loops whilst-epoll --rounds 9
    python benches/tracing.py --instructions                 instructions instead, by callgrind

A server of the benchmark's rows runs on the first core, its load on the second. It records for one turn of the load
and for the next it does not, so that both meet the same process and the same moment; a round is such a pair, and every
other round begins with the traced one. Compared is the CPU time that the server's process takes for a request. Where a
process has its memory is chance, so there are several. Instructions are counted over a fixed number of requests, and
come out nearly the same each time; the kernel's are not among them.

`tracing.py --serve ROW LOOP` is the server, which does what it reads from its standard input.
"""

import argparse
import asyncio
import gc
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import measure
from child import say, settle_allocator
from loops import LOOPS
from rows import ROWS, Throughput

DRIVERS = ("whilst-epoll", "whilst-io_uring")
CLIENT_PATIENCE = 120.0
MARK = "getpriority"


def main() -> None:
    """Measure, and print the results."""
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], sys.argv[3])
        return
    rows = {name: row for name, row in ROWS.items() if type(row) is Throughput}
    parser = argparse.ArgumentParser(description="Measure what recording a trace costs a server.")
    parser.add_argument("--row", default="uvicorn", choices=rows, help="the server (default: uvicorn)")
    parser.add_argument(
        "--loops", default=",".join(DRIVERS), help="whilst's, separated by commas (default: both)"
    )
    parser.add_argument("--processes", type=int, default=3, help="servers, one after the other (default: 3)")
    parser.add_argument("--rounds", type=int, default=9, help="pairs of turns with each of them (default: 9)")
    parser.add_argument("--seconds", type=float, default=0.6, help="how long a turn is (default: 0.6)")
    parser.add_argument("--instructions", action="store_true", help="count instructions, by callgrind")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep callgrind's files here")
    arguments = parser.parse_args()
    row = rows[arguments.row]
    for loop in arguments.loops.split(","):
        if loop not in DRIVERS:
            parser.error(f"no loop that records is called {loop}: {', '.join(DRIVERS)}")
        if arguments.instructions:
            without, traced = count(row, loop, arguments.keep)
            words = (
                f"{without:9,.0f} instructions a request, traced {traced:9,.0f}: {traced / without - 1:+.1%}"
            )
        else:
            words = times(row, loop, arguments.processes, arguments.rounds, arguments.seconds)
        print(f"{sys.version.split()[0]:8}{row.name:18}{loop:17}{words}", flush=True)


def times(row: Throughput, loop: str, processes: int, rounds: int, seconds: float) -> str:
    """The CPU time of a request with and without, over all rounds of all processes."""
    options = measure.Options(scale=1.0, seconds=seconds, http="load")
    taken: dict[bool, list[float]] = {False: [], True: []}
    by_process = []
    for process in range(processes):
        with Server(row, loop) as server:
            for turn in range(rounds):
                for traced in (False, True) if (process + turn) % 2 == 0 else (True, False):
                    if traced:
                        server.tell("trace")
                    load = measure._load(row, server.port, server.pid, options)
                    if traced:
                        server.tell("forget")
                    taken[traced].append(load["server_cpu_seconds"] / load["requests"] * 1e6)
        by_process.append(statistics.median(shares(taken)[-rounds:]))
    low, median, high = statistics.quantiles(shares(taken), n=4)
    without, with_ = (statistics.median(values) for values in taken.values())
    return (
        f"{without:6.2f} µs of CPU a request, traced {with_:6.2f}: {median:+.1%} (quartiles of {len(taken[True])}"
        f" pairs {low:+.1%}, {high:+.1%}; by process {', '.join(f'{it:+.1%}' for it in by_process)})"
    )


def shares(taken: dict[bool, list[float]]) -> list[float]:
    """What each traced turn took more than the other of its round."""
    return [traced / without - 1 for without, traced in zip(taken[False], taken[True], strict=True)]


def count(row: Throughput, loop: str, keep: Path | None) -> tuple[float, float]:
    """The instructions of one request without and with a trace."""
    turns = 40
    with ExitStack() as stack:
        folder = keep
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="whilst-callgrind-")))
        folder.mkdir(parents=True, exist_ok=True)
        out = folder / f"{row.name}.{loop}"
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", f"--dump-before={MARK}"]
        with Server(row, loop, command) as server:
            for traced in (False, True):
                server.tell("trace-slowed" if traced else "collect")
                with connections(row, server.port) as exchange:
                    exchange(10)
                    server.tell("mark")
                    exchange(turns)
                    server.tell("mark")
        # A dump holds what was counted since the dump before it.
        dumps = [
            int(found[1])
            for number in (2, 4)
            if (
                found := re.search(
                    r"^(?:totals|summary): (\d+)", Path(f"{out}.{number}").read_text(), re.MULTILINE
                )
            )
        ]
    without, traced_ = (dump / (turns * row.connections) for dump in dumps)
    return without, traced_


@contextmanager
def connections(row: Throughput, port: int) -> Iterator["Exchange"]:
    """The row's connections, and what exchanges a message on all of them so many times."""
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=CLIENT_PATIENCE))
            for _ in range(row.connections)
        ]
        yield Exchange(row, sockets)


class Exchange:
    """A client that sends on all its connections, then receives on all of them."""

    def __init__(self, row: Throughput, sockets: list[socket.socket]) -> None:
        http = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        self.message = http if row.load == "http" else bytes(row.size)
        self.sockets = sockets
        # An answer of HTTP is as long as the first, which ends with the body.
        self.end = measure.BODY.encode() if row.load == "http" else self.message[-1:]
        self.length = 0 if row.load == "http" else row.size

    def __call__(self, turns: int) -> None:
        for _ in range(turns):
            for one in self.sockets:
                one.sendall(self.message)
            for one in self.sockets:
                answer = b""
                while len(answer) < self.length or not answer.endswith(self.end):
                    more = one.recv(1 << 20)
                    if not more:
                        raise measure.Failed("the server has closed a connection")
                    answer += more
                self.length = len(answer)


class Server:
    """A server of a row in a process of its own, on the first core."""

    def __init__(self, row: Throughput, loop: str, under: list[str] | None = None) -> None:
        self.command = [*(under or []), sys.executable, __file__, "--serve", row.name, loop]
        # Hashes are made alike, so that dictionaries have the same collisions in every run.
        self.environment = {**LOOPS[loop].environment, "PYTHONHASHSEED": "0"}

    def __enter__(self) -> "Server":
        self._stack = ExitStack()
        started = measure._started(self.command, measure.CORES[:1], self.environment)
        self.process: subprocess.Popen[str]
        self.stderr: IO[str]
        self.process, self.stderr = self._stack.enter_context(started)
        self.pid = self.process.pid
        self.port = int(measure._answer(self.process, self.stderr)["port"])
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def tell(self, word: str) -> None:
        """Have it do this, and wait until it is done."""
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        measure._answer(self.process, self.stderr)


def serve(name: str, loop_name: str) -> None:
    """Serve, and do what standard input says until it ends."""
    import whilst
    from whilst import _whilst

    settle_allocator()
    row = ROWS[name]
    assert isinstance(row, Throughput)
    loops = []
    # Never written.
    file = Path(tempfile.gettempdir(), "whilst-bench-trace.json")

    def new_loop() -> asyncio.AbstractEventLoop:
        loops.append(LOOPS[loop_name].factory()())
        return loops[0]

    def do(word: str) -> None:
        if word == "trace":
            whilst.trace(file).start()
        elif word == "trace-slowed":
            # For callgrind every callback takes long.
            whilst.trace(file, threshold=1.0).start()
        elif word == "forget":
            _whilst.forget_trace()
        if word == "mark":
            os.getpriority(os.PRIO_PROCESS, 0)
        else:
            gc.collect()
        say(done=word)

    def obey() -> None:
        for line in sys.stdin:
            loops[0].call_soon_threadsafe(do, line.strip())
        os._exit(0)

    threading.Thread(target=obey, daemon=True).start()
    row.serve(new_loop, lambda port: say(port=port))


if __name__ == "__main__":
    try:
        main()
    except measure.Failed as error:
        sys.exit(f"tracing.py: {error}")
