"""Load on the Quart and the uvicorn example for a while: no error, and no growth of memory.

    python tests/soak/wrk_soak.py --seconds 30
    python tests/soak/wrk_soak.py --seconds 5 --target uvicorn --driver epoll

`wrk` (``apt-get install wrk``) keeps 64 connections busy. What fails the run: an answer other than 2xx or
3xx, a socket error or a timeout that wrk counts, a complaint in the server's output, a server that does not
stop in order, and memory that grows.

**What counts as growth.** The server's resident memory (``VmRSS`` of ``/proc/PID/status``, of the process
that serves) is sampled ten times a second, after a warm-up under the same load that brings in lazy imports,
caches and the sockets' buffers. Compared are the medians of the first and of the last third of the samples:
a median, since a single sample can meet a collection of garbage half done. More than 2 MiB between them is
growth. CPython's allocator takes memory in arenas of 1 MiB and the C library in steps of its own, so a step
or two of that size is no leak; yet between the middles of the two thirds of a run of 30 s lie 20 s of
requests, tens of thousands of them, and a leak of one small object (100 bytes) a request is above 2 MiB
from 21 000 requests on. The bytes a request are printed too.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "frameworks"))

from serving import DRIVERS, EXAMPLES, MIB, Program, free_port, io_uring_refusal

TARGETS = ("quart", "uvicorn")

GROWTH_LIMIT = 2 * MIB
"""Growth of the median resident memory from the first third to the last, in bytes, that is still none; see
above."""

SAMPLES_PER_SECOND = 10
WARM_UP_SECONDS = 3


@dataclass
class Figures:
    """What one run showed."""

    target: str
    driver: str
    seconds: float
    requests: int
    errors: list[str]
    first_third: float
    last_third: float
    complaints: list[str]
    exit_code: int
    output: str

    @property
    def growth(self) -> float:
        """Bytes of resident memory more in the last third than in the first."""
        return self.last_third - self.first_third

    @property
    def faults(self) -> list[str]:
        """Why the run failed; empty where it passed."""
        faults = [*self.errors, *self.complaints]
        if self.requests == 0:
            faults.append("no request was answered")
        if self.growth > GROWTH_LIMIT:
            faults.append(f"memory grew by {self.growth / MIB:.2f} MiB")
        if self.exit_code != 0:
            faults.append(f"the server ended with {self.exit_code}")
        return faults

    def __str__(self) -> str:
        # Between the middles of the two thirds lie two thirds of the requests.
        each = self.growth / (self.requests * 2 / 3) if self.requests else 0
        return (
            f"{self.target:8} {self.driver:9} {self.seconds:3.0f} s  {self.requests:7} requests  "
            f"{self.requests / self.seconds:7.0f}/s  errors {len(self.errors)}  "
            f"RSS {self.first_third / MIB:.2f} -> {self.last_third / MIB:.2f} MiB "
            f"({self.growth / MIB:+.2f} MiB, {each:+.1f} bytes a request)  "
            + ("; ".join(self.faults) or "passed")
        )


def server(target: str, driver: str) -> Program:
    """The example as its documentation starts it, without a log line for every request."""
    port = free_port()
    if target == "quart":
        arguments = ["-m", "quart_site", "--port", str(port)]
    else:
        arguments = [
            "-m",
            "uvicorn",
            "--loop",
            "whilst:new_event_loop",
            "--no-access-log",
            "--port",
            str(port),
        ]
        arguments.append("uvicorn_app:app")
    return Program(arguments, driver=driver, cwd=EXAMPLES, port=port, show=False)


def resident_bytes(pid: int) -> int:
    """VmRSS, which the kernel gives in KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None, status
    return int(found[1]) * 1024


def wrk(port: int, seconds: int, connections: int) -> subprocess.Popen[str]:
    command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s"]
    return subprocess.Popen(
        [*command, "--timeout", "5s", f"http://127.0.0.1:{port}/"], stdout=subprocess.PIPE, text=True
    )


def read_report(report: str) -> tuple[int, list[str]]:
    """The number of requests in wrk's report, and what it says of errors."""
    found = re.search(r"(\d+) requests in", report)
    assert found is not None, report
    errors = re.findall(r"^\s*((?:Socket errors|Non-2xx or 3xx responses):.*)$", report, re.MULTILINE)
    return int(found[1]), errors


def soak(target: str, driver: str, seconds: int, connections: int) -> Figures:
    """Start the example, load it, and say what was seen."""
    with server(target, driver) as program:
        assert program.port is not None
        warm_up = wrk(program.port, WARM_UP_SECONDS, connections)
        report, _ = warm_up.communicate(timeout=WARM_UP_SECONDS + 30)
        _, errors = read_report(report)

        samples: list[int] = []
        load = wrk(program.port, seconds, connections)
        try:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and load.poll() is None:
                samples.append(resident_bytes(program.pid))
                time.sleep(1 / SAMPLES_PER_SECOND)
            report, _ = load.communicate(timeout=30)
        finally:
            if load.poll() is None:
                load.kill()
                load.wait()
        requests, more = read_report(report)

        program.signal(signal.SIGINT)
        exit_code = program.wait()
        third = len(samples) // 3
        return Figures(
            target=target,
            driver=driver,
            seconds=seconds,
            requests=requests,
            errors=errors + more,
            first_third=statistics.median(samples[:third]),
            last_third=statistics.median(samples[-third:]),
            complaints=program.complaints(),
            exit_code=exit_code,
            output=program.output(),
        )


def main() -> int:
    parser = argparse.ArgumentParser(description="Load on the examples: no error, no growth of memory.")
    parser.add_argument(
        "--seconds", type=int, default=30, help="of load, for each run (default: %(default)s)"
    )
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--target", choices=TARGETS, help="only this example (default: both)")
    parser.add_argument("--driver", choices=DRIVERS, help="only this driver (default: both)")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is missing: apt-get install wrk")
    failed = False
    for driver in [arguments.driver] if arguments.driver else DRIVERS:
        if driver == "io_uring" and (refusal := io_uring_refusal()):
            print(f"io_uring is left out: {refusal}")
            continue
        for target in [arguments.target] if arguments.target else TARGETS:
            figures = soak(target, driver, arguments.seconds, arguments.connections)
            print(figures, flush=True)
            if figures.faults:
                print(figures.output, flush=True)
                failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
