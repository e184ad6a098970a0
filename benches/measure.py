"""Measurements: the processes of one, where they run, and what comes of it.

Each is made in fresh processes. A row inside one loop runs on the first core; of a server, the server runs on
the first core and the load on the second.
"""

import contextlib
import dataclasses
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from loops import LOOPS, Loop
from rows import Idle, Inside, Kept, Row, Throughput

HERE = Path(__file__).resolve().parent
BINARIES = HERE.parent / "target" / "release"
CORES = sorted(os.sched_getaffinity(0))
LIMITS = ("limit-epoll", "limit-io_uring")
PATIENCE = 45.0
BODY = "Hello, world!"

Values = dict[str, Any]


class Failed(Exception):
    """A measurement that came to nothing, and why."""


@dataclass(frozen=True)
class Options:
    """How much is measured."""

    scale: float
    seconds: float
    http: str


def columns(row: Row) -> list[str]:
    """Everything that a row is measured on."""
    if isinstance(row, Kept) and row.busy_poll:
        return [loop.name for loop in LOOPS.values() if not loop.is_peer]
    limits = LIMITS if isinstance(row, Throughput) and row.limit else ()
    return [*LOOPS, *limits]


def measure(row: Row, column: str, options: Options) -> Values:
    """Measure a row on one loop, once; a dictionary with at least `value`, in the row's unit."""
    match row:
        case Inside():
            return _inside(row, LOOPS[column], options)
        case Kept():
            return _kept(row, column, options)
        case Idle():
            return _idle(row, column)
        case Throughput():
            return _throughput(row, column, options)
    raise TypeError(row)


def _inside(row: Inside, loop: Loop, options: Options) -> Values:
    operations = max(1, round(row.operations * options.scale))
    if row.unit == "ms":
        operations = row.operations
    command = [sys.executable, str(HERE / "child.py"), row.name, loop.name, str(operations)]
    with tempfile.TemporaryDirectory(prefix="whilst-bench-") as directory:
        environment = {**loop.environment, "TMPDIR": directory}
        with _started(command, CORES[: row.cores], environment) as (process, stderr):
            answer = _answer(process, stderr)
    seconds = float(answer["seconds"]) / int(answer["operations"])
    return {
        "value": seconds * (1e3 if row.unit == "ms" else 1e6),
        "peak_bytes": answer["peak_bytes"],
        "operations": answer["operations"],
    }


def _throughput(row: Throughput, column: str, options: Options) -> Values:
    with _server(row, column) as (process, port):
        load = _load(row, port, process.pid, options)
        return {
            "value": load["requests"] / load["seconds"],
            "cpu_us": load["server_cpu_seconds"] / load["requests"] * 1e6,
            "server_cpu_share": load["server_cpu_seconds"] / load["seconds"],
            "load_cpu_share": load["load_cpu_share"],
            "latency_us": load["latency_us"],
            "peak_bytes": _memory(process.pid, "VmHWM"),
        }


def _kept(row: Kept, column: str, options: Options) -> Values:
    with _server(row, column) as (process, port):
        alone = _load(row, port, process.pid, options)
        assert process.stdin is not None
        process.stdin.write("compute\n")
        process.stdin.flush()
        beside = _load(row, port, process.pid, options)
        alone_rate, beside_rate = (load["requests"] / load["seconds"] for load in (alone, beside))
        return {
            "value": beside_rate / alone_rate * 100,
            "alone": alone_rate,
            "beside": beside_rate,
            "latency_us": beside["latency_us"],
            "peak_bytes": _memory(process.pid, "VmHWM"),
        }


def _idle(row: Idle, column: str) -> Values:
    with _server(row, column) as (process, port):
        # What a loop makes for its first connections, once, is not a connection's.
        with _idle_connections(row, port, 500):
            pass
        time.sleep(0.2)
        before = _memory(process.pid, "VmRSS")
        with _idle_connections(row, port, row.connections):
            after = _memory(process.pid, "VmRSS")
        return {
            "value": (after - before) / row.connections,
            "peak_bytes": _memory(process.pid, "VmHWM"),
        }


@contextlib.contextmanager
def _idle_connections(row: Idle, port: int, count: int) -> Iterator[None]:
    command = [_binary("whilst-load"), "idle", "--port", str(port), "--connections", str(count)]
    command += ["--size", str(row.size)]
    with _started(command, CORES[1:2]) as (process, stderr):
        _answer(process, stderr)
        yield


@contextlib.contextmanager
def _server(row: Throughput, column: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start the server, on the first core."""
    if column in LIMITS:
        command, environment = [_binary("whilst-limit"), column.removeprefix("limit-")], {}
    else:
        command = [sys.executable, str(HERE / "child.py"), row.name, column]
        environment = LOOPS[column].environment
    with _started(command, CORES[:1], environment) as (process, stderr):
        port = int(_answer(process, stderr)["port"])
        try:
            yield process, port
        except Failed as error:
            status = process.poll()
            if status is None:
                raise
            raise Failed(f"the server {_ended(status, stderr)} ({error})") from error


def _load(row: Throughput, port: int, server: int, options: Options) -> Values:
    if row.load == "http" and options.http == "wrk":
        return _wrk(row, port, server, options)
    command = [_binary("whilst-load"), row.load, "--port", str(port), "--server-pid", str(server)]
    command += ["--connections", str(row.connections), "--seconds", str(options.seconds)]
    command += ["--body", BODY] if row.load == "http" else ["--size", str(row.size)]
    with _started(command, CORES[1:2]) as (process, stderr):
        answer = _answer(process, stderr)
    if answer["errors"]:
        raise Failed(f"{answer['errors']} connections failed: {answer['last_error']}")
    if not answer["requests"]:
        raise Failed("the server answered nothing")
    return answer


def _wrk(row: Throughput, port: int, server: int, options: Options) -> Values:
    """The same load by wrk, whose report is made one of `whilst-load`.

    wrk compares no answer's body, and has no warm-up: a short run of `whilst-load`, which does both, comes before.
    """
    _load(row, port, server, dataclasses.replace(options, http="load", seconds=0.1))
    command = ["wrk", "--threads", "1", "--connections", str(row.connections), "--latency"]
    url = f"http://127.0.0.1:{port}/"
    environment = {"LC_ALL": "C"}

    def run(seconds: float) -> str:
        with _started(
            [*command, "--duration", f"{max(1, round(seconds))}s", url], CORES[1:2], environment
        ) as (
            process,
            stderr,
        ):
            try:
                out, _ = process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                raise Failed("wrk did not end") from None
            if process.returncode != 0:
                raise Failed(f"wrk {_ended(process.returncode, stderr)}")
            return out

    own, cpu, start = resource.getrusage(resource.RUSAGE_CHILDREN), _cpu_seconds(server), time.perf_counter()
    lines = [line.split() for line in run(options.seconds).splitlines()]
    seconds, cpu = time.perf_counter() - start, _cpu_seconds(server) - cpu
    done = resource.getrusage(resource.RUSAGE_CHILDREN)
    own_cpu = done.ru_utime + done.ru_stime - own.ru_utime - own.ru_stime
    requests, latency = 0, {}
    for words in lines:
        match words:
            case ["Socket", "errors:", *rest]:
                raise Failed("wrk saw errors: " + " ".join(rest))
            case ["Non-2xx", *_]:
                raise Failed("wrk saw answers that were not 200")
            case [count, "requests", "in", duration, *_]:
                requests, seconds = int(count), float(duration.rstrip("s,"))
            case [("50%" | "90%" | "99%") as percentile, value]:
                latency["p" + percentile[:-1]] = _microseconds(value)
    if not requests:
        raise Failed("the server answered nothing")
    return {
        "requests": requests,
        "seconds": seconds,
        "server_cpu_seconds": cpu,
        "load_cpu_share": own_cpu / seconds,
        "latency_us": latency,
    }


def _microseconds(value: str) -> float:
    for suffix, factor in (("us", 1.0), ("ms", 1e3), ("s", 1e6), ("m", 6e7)):
        if value.endswith(suffix):
            return float(value.removesuffix(suffix)) * factor
    raise ValueError(value)


def _cpu_seconds(pid: int) -> float:
    """The CPU time of a process, by its own clock, whose id clock_getcpuclockid(3) makes this way."""
    return time.clock_gettime((~pid << 3) | 2)


def _memory(pid: int, field: str) -> int:
    """A field of the process's status, in bytes: VmRSS is its resident memory, VmHWM the most of it ever."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise Failed("the server has ended")


def _binary(name: str) -> str:
    path = BINARIES / name
    if not path.exists():
        raise Failed(f"{name} is not built: cargo build --release -p {name}")
    return str(path)


@contextlib.contextmanager
def _started(
    command: list[str], cores: list[int], environment: dict[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """A process on these cores, which is ended with the block; with it, its standard error's file."""
    pin: Callable[[], None] | None = (lambda: os.sched_setaffinity(0, cores)) if cores else None
    with tempfile.TemporaryFile("w+") as stderr:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, **(environment or {})},
            preexec_fn=pin,
        )
        try:
            yield process, stderr
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()


def _answer(process: subprocess.Popen[str], stderr: IO[str]) -> Values:
    """The next line of JSON that the process prints."""
    assert process.stdout is not None
    # The descriptor is waited for, not the file, which is right as long as the file has buffered nothing: one
    # line is asked for, and one is printed.
    selected = _readable(process.stdout.fileno(), PATIENCE)
    if not selected:
        raise Failed(f"no answer in {PATIENCE:.0f} s")
    line = process.stdout.readline()
    if not line:
        raise Failed(_ended(process.wait(PATIENCE), stderr))
    answer: Values = json.loads(line)
    if "error" in answer:
        raise Failed(str(answer["error"]))
    return answer


def _readable(descriptor: int, seconds: float) -> bool:
    return bool(select.select([descriptor], [], [], seconds)[0])


def _ended(status: int, stderr: IO[str]) -> str:
    stderr.seek(0)
    words = (stderr.read().strip().splitlines() or [""])[-1]
    how = f"died by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    return f"{how}: {words}" if words else how


def has_wrk() -> bool:
    """Whether wrk is installed."""
    return shutil.which("wrk") is not None
