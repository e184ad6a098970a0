"""Runs the tests of one module and says what happens, as it happens. Started by `supervise`, not by hand.

The one argument is a file with the request, in JSON::

    {"module": "test.test_asyncio.test_events",     what to import
     "results": 5,                                  the descriptor to write to
     "loop": "whilst:new_event_loop",               as Substitution takes it; null: nothing is replaced
     "only": ["…TestCase.test_a", …],               test ids; null: all
     "skip": ["…TestCase.test_b", …],               patterns of test ids that are not run
     "apart": ["…TestCase.test_c", …],              patterns of test ids that the parent asks for later
     "match": "*pipe*"}                             pattern of test ids that are run; null: all

(patterns as `fnmatch` has them).

Each line written is a JSON object with an "event":

``collected``  ids of the tests that will be run, in order, and of those that "skip" and "apart" leave out
``start``      a test begins: id, and the size of the log at this moment
``end``        it ended: id, outcome, detail (traceback or reason), loops made, seconds
``fixture``    something outside a test (setUpClass, setUpModule, import) failed or skipped: id, outcome, why
``done``       all tests were run: the kinds of the loops that were made

A line is written before what it announces begins: a crash or a hang is known by the line that is missing.
"""

from __future__ import annotations

import faulthandler
import fnmatch
import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from substitute import Substitution


class Stream:
    """The way to the parent. A test's forked children have it, too, and must not use it."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self._descriptor = descriptor
        self._owner = os.getpid()

    def send(self, event: str, **fields: Any) -> None:
        if os.getpid() != self._owner:
            return
        data = memoryview(json.dumps({"event": event, **fields}).encode() + b"\n")
        while data:
            data = data[os.write(self._descriptor, data) :]


class Result(unittest.TestResult):
    """Sends each outcome on. The worst of a test's outcomes (body, clean-up, subtests) is the test's."""

    SEVERITY = ("passed", "skipped", "failed", "error")

    def __init__(self, stream: Stream, substitution: Substitution | None) -> None:
        super().__init__()
        self.stream = stream
        self.substitution = substitution
        self.current: str | None = None

    @property
    def loops(self) -> int:
        return self.substitution.made if self.substitution else 0

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.current = test.id()
        self.outcome = "passed"
        self.detail: list[str] = []
        self.loops_before = self.loops
        self.stream.send("start", id=self.current, log=os.fstat(2).st_size)
        self.began = time.perf_counter()

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        if self.current is None:
            return
        self.stream.send(
            "end",
            id=self.current,
            outcome=self.outcome,
            detail="\n".join(self.detail),
            loops=self.loops - self.loops_before,
            seconds=round(time.perf_counter() - self.began, 3),
        )
        self.current = None

    def note(self, test: Any, outcome: str, detail: str) -> None:
        if self.current is None:
            self.stream.send("fixture", id=test.id(), outcome=outcome, detail=detail)
            return
        if self.SEVERITY.index(outcome) > self.SEVERITY.index(self.outcome):
            self.outcome = outcome
        self.detail.append(detail)

    def describe(self, err: Any, test: Any) -> str:
        # The traceback as unittest shows it, from the test's own first line on.
        return str(self._exc_info_to_string(err, test))  # type: ignore[attr-defined]

    def addError(self, test: Any, err: Any) -> None:
        self.note(test, "error", self.describe(err, test))

    def addFailure(self, test: Any, err: Any) -> None:
        self.note(test, "failed", self.describe(err, test))

    def addSkip(self, test: Any, reason: str) -> None:
        if self.current is None and isinstance(test, unittest.TestCase):
            # CPython 3.12.1 does not start a test that a decorator skips.
            self.stream.send("end", id=test.id(), outcome="skipped", detail=reason, loops=0, seconds=0.0)
        # Within a test that has several subtests a skip of one leaves the test as it is.
        elif self.current is None or test.id() == self.current:
            self.note(test, "skipped", reason)

    def addExpectedFailure(self, test: Any, err: Any) -> None:
        pass

    def addUnexpectedSuccess(self, test: Any) -> None:
        self.note(test, "failed", "unexpected success")

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        if err is not None:
            failed = issubclass(err[0], test.failureException)
            self.note(test, "failed" if failed else "error", self.describe(err, subtest))


def matches(test: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(test, pattern) for pattern in patterns)


def flatten(suite: Any) -> Iterator[unittest.TestCase]:
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flatten(test)
        else:
            yield test


def main() -> None:
    # Imported here: tests start processes with multiprocessing, which imports this file again in each of
    # them.
    from substitute import Substitution

    # The tests must see the path that they would see without this directory.
    sys.path.remove(str(Path(__file__).parent))

    request = json.loads(Path(sys.argv[1]).read_text())
    stream = Stream(request["results"])
    faulthandler.enable()
    # A shell without job control has what it runs in the background ignore Ctrl-C, and the tests of it hang.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # A core dump of each crash would cost more than the test.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    substitution = Substitution(request["loop"]) if request["loop"] else None
    if substitution:
        substitution.install()
    name = request["module"]
    try:
        module = importlib.import_module(name)
    except unittest.SkipTest as skip:
        stream.send("fixture", id=f"import ({name})", outcome="skipped", detail=str(skip))
        module = None
    except Exception:
        stream.send("fixture", id=f"import ({name})", outcome="error", detail=traceback.format_exc())
        module = None
    if substitution:
        substitution.adapt_utilities()
    tests = [] if module is None else list(flatten(unittest.defaultTestLoader.loadTestsFromModule(module)))
    if request["only"] is not None:
        only = set(request["only"])
        tests = [test for test in tests if test.id() in only]
    if request["match"] is not None:
        tests = [test for test in tests if matches(test.id(), [request["match"]])]
    listed: dict[str, list[str]] = {"skip": [], "apart": []}
    for kind, ids in listed.items():
        ids += [test.id() for test in tests if matches(test.id(), request[kind])]
        tests = [test for test in tests if not matches(test.id(), request[kind])]
    ids = [test.id() for test in tests]
    stream.send("collected", ids=ids, left_out=listed["skip"], apart=listed["apart"])

    result = Result(stream, substitution)
    unittest.TestSuite(tests).run(result)

    kinds = substitution.kinds if substitution else set()
    stream.send("done", kinds=sorted(f"{kind.__module__}.{kind.__qualname__}" for kind in kinds))


if __name__ == "__main__":
    main()
