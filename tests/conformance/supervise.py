"""Runs one test module in processes of its own, whatever happens to them.

A test that hangs or kills its process costs that process: it is counted as ``hung`` or ``crashed``, with the
tracebacks of all threads that faulthandler left, and a new process goes on with the tests behind it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

CHILD = Path(__file__).with_name("child.py")

#: Seconds between the request to die with a traceback (SIGABRT) and SIGKILL.
GRACE = 10.0

#: Characters of a process's output that are kept to explain a hang or a crash: its end, where faulthandler
#: writes.
LOG_TAIL = 20_000


@dataclass
class Outcome:
    """What became of one test.

    `outcome` is one of passed, skipped, failed, error, hung, crashed, or "not run" if the module's time was
    up.
    """

    outcome: str
    detail: str = ""
    loops: int = 0
    seconds: float = 0.0


@dataclass
class ModuleRun:
    """What became of one module: tests by id, in the order in which they ran.

    Failures outside of any test (an import, ``setUpClass``, the end of the process) are in `tests` under a
    name with a space in it, as unittest has it: ``setUpClass (…)``, ``exit (…)``.
    """

    module: str
    tests: dict[str, Outcome] = field(default_factory=dict)
    #: Tests that were left out by `Request.skip`.
    left_out: list[str] = field(default_factory=list)
    #: Loops made by the replacement, and their classes.
    loops: int = 0
    kinds: set[str] = field(default_factory=set)
    processes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Limits:
    """Seconds: for one test, and for a module with all its tests."""

    test: float
    module: float


@dataclass(frozen=True)
class Request:
    """What `child` is to do; its docstring says what each field means."""

    module: str
    loop: str | None = None
    only: list[str] | None = None
    skip: list[str] = field(default_factory=list)
    apart: list[str] = field(default_factory=list)
    match: str | None = None


def run_module(request: Request, environment: dict[str, str], limits: Limits) -> ModuleRun:
    """Run what `request` asks for, with `environment` added to this process's own.

    The tests that `request` wants apart come last, in a process without the others: they are expected to
    fail, and what a failed test leaves behind (an unclosed socket, a warning) must not be laid at another's
    door.
    """
    run = ModuleRun(request.module)
    apart: list[str] = []
    began = time.monotonic()
    deadline = began + limits.module
    while True:
        run.processes += 1
        known = len(run.tests)
        process = _Process(run, limits.test, deadline)
        process.execute(request, environment)
        apart += process.apart
        remaining = [test for test in process.collected if test not in run.tests]
        if not remaining:
            remaining, apart = apart, []
        if not remaining:
            break
        over = time.monotonic() >= deadline
        if over or (len(run.tests) == known and process.collected):
            reason = f"the module's {limits.module:g} s were over" if over else "no test could start"
            run.tests |= {test: Outcome("not run", reason) for test in [*remaining, *apart]}
            break
        request = replace(request, only=remaining, skip=[], apart=[])
    run.seconds = time.monotonic() - began
    return run


class _Process:
    """One process of a module's run: feeds the lines that it writes into `run`, and its end."""

    def __init__(self, run: ModuleRun, test_limit: float, deadline: float) -> None:
        self.run = run
        self.test_limit = test_limit
        self.deadline = deadline
        self.collected: list[str] = []
        self.apart: list[str] = []
        #: The test that has begun and not ended, and where its part of the log begins.
        self.current: str | None = None
        self.log_start = 0
        #: What a hang would be in.
        self.stage = "import"
        self.done = False

    def execute(self, request: Request, environment: dict[str, str]) -> None:
        with tempfile.TemporaryDirectory(prefix="conformance-", ignore_cleanup_errors=True) as folder:
            scratch = Path(folder, "scratch")
            scratch.mkdir()
            reading, writing = os.pipe()
            try:
                request_file = Path(folder, "request.json")
                request_file.write_text(json.dumps({**asdict(request), "results": writing}))
                with Path(folder, "log").open("ab") as log:
                    child = subprocess.Popen(
                        [sys.executable, "-W", "default", str(CHILD), str(request_file)],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        pass_fds=[writing],
                        # What the tests leave behind goes with the folder and with the session's process
                        # group.
                        cwd=scratch,
                        start_new_session=True,
                        env={**os.environ, "TMPDIR": str(scratch), **environment},
                    )
                os.close(writing)
                writing = -1
                try:
                    hung = self._follow(child, reading)
                finally:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
                self._conclude(child.returncode, hung, Path(folder, "log").read_bytes())
            finally:
                os.close(reading)
                if writing >= 0:
                    os.close(writing)

    def _follow(self, child: subprocess.Popen[bytes], reading: int) -> bool:
        """Read until the process is gone; true if it had to be told to go."""
        for line in self._lines(child, reading):
            self._take(json.loads(line))
        if child.poll() is not None:
            return False
        # Either nothing came for too long or the pipe was closed by a process that does not end.
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(self.test_limit if self.done else 0)
            return False
        child.send_signal(signal.SIGABRT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE)
        return True

    def _lines(self, child: subprocess.Popen[bytes], reading: int) -> Iterator[bytes]:
        """Yield the lines that the process writes, until it is gone or a limit has passed without one."""
        os.set_blocking(reading, False)
        buffer = b""
        heard = time.monotonic()
        while True:
            limit = min(heard + self.test_limit, self.deadline)
            readable, _, _ = select.select([reading], [], [], max(0.0, min(0.5, limit - time.monotonic())))
            if readable:
                data = os.read(reading, 1 << 16)
                if not data:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        child.wait(max(0.0, limit - time.monotonic()))
                    return
                *lines, buffer = (buffer + data).split(b"\n")
                heard = time.monotonic()
                yield from lines
            # A process that a test left behind may hold the pipe open: the end of the process is an end as
            # well.
            elif child.poll() is not None or time.monotonic() >= limit:
                return

    def _take(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "collected":
                self.collected = event["ids"]
                self.apart = event["apart"]
                self.run.left_out += event["left_out"]
                self.stage = "start"
            case "start":
                self.current, self.log_start = event["id"], event["log"]
            case "end":
                self.run.tests[event["id"]] = Outcome(
                    event["outcome"], event["detail"], event["loops"], event["seconds"]
                )
                self.run.loops += event["loops"]
                self.current = None
                self.stage = f"after {event['id']}"
            case "fixture":
                self.run.tests[event["id"]] = Outcome(event["outcome"], event["detail"])
            case "done":
                self.run.kinds |= set(event["kinds"])
                self.done = True
                self.stage = "exit"

    def _conclude(self, returncode: int, hung: bool, log: bytes) -> None:
        if self.done:
            # A fixture that failed or skipped takes the tests of its class or module with it.
            fixtures = [(name, it) for name, it in self.run.tests.items() if " " in name]
            for test in self.collected:
                if test not in self.run.tests and fixtures:
                    name, fixture = fixtures[-1]
                    self.run.tests[test] = Outcome(fixture.outcome, f"{name}: {fixture.detail}")
        if self.done and returncode == 0 and not hung:
            return
        tail = log[self.log_start :][-LOG_TAIL:].decode(errors="replace")
        how = f"no sign of life for {self.test_limit:g} s" if hung else _describe(returncode)
        outcome = Outcome("hung" if hung else "crashed", f"{how}\n{tail}")
        self.run.tests[self.current or f"{self.stage} ({self.run.module})"] = outcome


def _describe(returncode: int) -> str:
    if returncode < 0:
        return f"the process was killed by {signal.Signals(-returncode).name}"
    return f"the process ended with exit code {returncode}"
