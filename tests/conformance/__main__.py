"""Runs CPython's own asyncio tests with whilst's loop in the place of the stdlib's.

    python tests/conformance                         the modules that must be whole, over each driver there is
    python tests/conformance --all -j 2              every module of test.test_asyncio
    python tests/conformance --modules events --match '*writer*' -v
    python tests/conformance --loop uvloop:new_event_loop

With the Python that runs it. ``docs/conformance.md`` explains how it works and how to read its report.
Exit code: 0 if no test is lost and the list of exceptions holds, 1 if not, 2 if nothing could be run.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import drivers
import left_out
import report
import verdicts
from left_out import LeftOut
from supervise import Limits, ModuleRun, Request, run_module
from verdicts import Judgement

HERE = Path(__file__).parent

WHILST = "whilst:new_event_loop"


class Unusable(Exception):
    """Nothing can be run, and why."""


@dataclass(frozen=True)
class Job:
    driver: str
    module: str
    request: Request


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python tests/conformance",
        description="Run CPython's own asyncio tests with another event loop.",
    )
    add = parser.add_argument
    add("--loop", default="whilst", help="whilst (default), asyncio, or MODULE:FACTORY")
    add(
        "--driver",
        default="available",
        choices=("available", "both", *drivers.DRIVERS),
        help="of whilst; 'available' (default) passes over one that this machine does not have, 'both' fails",
    )
    add("--modules", default="", help="comma-separated; default: those that must be whole (exceptions.toml)")
    add("--all", action="store_true", help="every module of the suite")
    add("--match", help="only tests whose id matches this (a pattern, or a part of it)")
    add("--timeout", type=float, default=600, help="seconds for a module (default: %(default)s)")
    add("--test-timeout", type=float, default=30, help="seconds for a test (default: %(default)s)")
    add(
        "--retries",
        type=int,
        default=0,
        help="try lost tests again; what passes then is 'unsteady', not lost",
    )
    add("--json", type=Path, metavar="FILE", help="write the whole result there")
    add("-j", type=int, default=1, dest="workers", metavar="N", help="modules at a time")
    add("-v", action="store_true", dest="verbose", help="show the tracebacks of the tests that did not pass")
    add("--exceptions", type=Path, help="default: exceptions.toml beside this file; for other loops: none")
    add("--package", default="test.test_asyncio", help="with the test modules (default: %(default)s)")
    return parser.parse_args(arguments)


def read(file: Path) -> LeftOut:
    try:
        return left_out.read(file)
    except (OSError, ValueError) as problem:
        raise Unusable(str(problem)) from problem


def existing_modules(package: str) -> dict[str, int]:
    """Names of the test modules of `package` on this Python, with the size of their files."""
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        version = ".".join(platform.python_version_tuple()[:2])
        hint = f" (Debian has it in libpython{version}-testsuite)" if package.startswith("test.") else ""
        raise Unusable(f"{sys.executable} has no {package}{hint}")
    folder = Path(spec.submodule_search_locations[0])
    return {file.stem: file.stat().st_size for file in sorted(folder.glob("test_*.py"))}


def choose_modules(options: argparse.Namespace, lists: LeftOut) -> list[str]:
    existing = existing_modules(options.package)
    if options.modules:
        names = [name if name.startswith("test_") else f"test_{name}" for name in options.modules.split(",")]
    elif options.all:
        names = list(existing)
    else:
        names = [module.name for module in lists.for_run("").modules]
    missing = [name for name in names if name not in existing]
    if missing:
        raise Unusable(f"{options.package} has no {', '.join(missing)}")
    # The size of a file is near enough to its share of the time; the longest first keep all workers busy to
    # the end.
    return sorted(names, key=lambda name: -existing[name])


def choose_drivers(options: argparse.Namespace, loop: str) -> list[str]:
    """Drivers to run over; one without a name for a loop that has none."""
    if loop != WHILST:
        if loop != "asyncio" and (problem := drivers.probe(loop, "")):
            raise Unusable(f"{loop}: {problem}")
        return [""]
    wanted = drivers.DRIVERS if options.driver in ("both", "available") else (options.driver,)
    problems = {driver: problem for driver in wanted if (problem := drivers.probe(loop, driver))}
    usable = [driver for driver in wanted if driver not in problems]
    for driver, problem in problems.items():
        print(f"{driver}: cannot be used here: {problem}")
    if not usable or (problems and options.driver != "available"):
        raise Unusable("a driver that was asked for cannot be used")
    return usable


class Session:
    """One call of the command."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.loop = WHILST if options.loop == "whilst" else options.loop
        self.lists = read(options.exceptions or HERE / "exceptions.toml")
        if not options.exceptions and self.loop != WHILST:
            # The list tells what is known of whilst.
            self.lists.exceptions, self.lists.not_yet = [], []
        self.limits = Limits(options.test_timeout, options.timeout)
        self.match = options.match
        if self.match is not None and not any(sign in self.match for sign in "*?["):
            self.match = f"*{self.match}*"

    def run(self) -> list[Judgement]:
        modules = choose_modules(self.options, self.lists)
        chosen = choose_drivers(self.options, self.loop)
        with ThreadPoolExecutor(self.options.workers) as pool:
            jobs = [Job(driver, name, self.request(name, driver)) for name in modules for driver in chosen]
            done = list(pool.map(self.perform, jobs))
            by_driver: dict[str, dict[str, ModuleRun]] = {driver: {} for driver in chosen}
            for job, run in sorted(zip(jobs, done, strict=True), key=lambda pair: pair[0].module):
                by_driver[job.driver][job.module] = run
            stdlib = self.ask_stdlib(pool, by_driver)
            return [self.judge(pool, driver, runs, stdlib) for driver, runs in by_driver.items()]

    def request(self, module: str, driver: str) -> Request:
        lists = self.lists.for_run(driver)
        listed = [*lists.exceptions, *lists.not_yet]
        return Request(
            f"{self.options.package}.{module}",
            self.loop,
            skip=self.patterns([entry for entry in listed if not entry.run]),
            apart=self.patterns([entry for entry in listed if entry.run]),
            match=self.match,
        )

    def patterns(self, entries: list[left_out.Entry]) -> list[str]:
        return [f"{self.options.package}.{pattern}" for entry in entries for pattern in entry.tests]

    def perform(self, job: Job) -> ModuleRun:
        run = run_module(job.request, {drivers.VARIABLE: job.driver} if job.driver else {}, self.limits)
        if sys.stderr.isatty():
            print(f"\r\033[K{job.module} {job.driver}", end="", file=sys.stderr, flush=True)
        return run

    def ask_stdlib(
        self, pool: ThreadPoolExecutor, by_driver: dict[str, dict[str, ModuleRun]]
    ) -> dict[str, str]:
        """Outcomes on the stdlib's own loop, with nothing replaced, of the tests that did not pass."""
        if self.loop == "asyncio":
            return {}
        wanted: dict[str, dict[str, None]] = {}
        for runs in by_driver.values():
            for name, run in runs.items():
                if tests := verdicts.unfinished(run):
                    wanted.setdefault(name, {}).update(dict.fromkeys(tests))
        jobs = [
            Job("", name, Request(f"{self.options.package}.{name}", only=list(tests)))
            for name, tests in wanted.items()
        ]
        return {test: it.outcome for run in pool.map(self.perform, jobs) for test, it in run.tests.items()}

    def judge(
        self, pool: ThreadPoolExecutor, driver: str, runs: dict[str, ModuleRun], stdlib: dict[str, str]
    ) -> Judgement:
        lists = self.lists.for_run(driver)
        if self.loop == "asyncio":
            # The yardstick is not measured by itself: what does not pass here, and is not skipped, is lost.
            stdlib = {
                test: "skipped" if it.outcome == "skipped" else "passed"
                for run in runs.values()
                for test, it in run.tests.items()
            }
        again: dict[str, str] = {}
        for attempt in range(self.options.retries + 1):
            judgement = verdicts.judge(
                driver, runs, stdlib, again, lists, package=self.options.package, whole=self.match is None
            )
            lost = {
                name: tests
                for name, judged in judgement.verdicts.items()
                if (tests := [test for test, verdict in judged.items() if verdict == verdicts.LOST])
            }
            if not lost or attempt == self.options.retries:
                break
            jobs = [
                Job(
                    driver,
                    name,
                    replace(self.request(name, driver), only=tests, skip=[], apart=[], match=None),
                )
                for name, tests in lost.items()
            ]
            for run in pool.map(self.perform, jobs):
                again |= {test: it.outcome for test, it in run.tests.items()}
        if self.match is None:
            judgement.problems += verdicts.without_loops(runs, lists)
        return judgement


def main() -> int:
    options = parse()
    began = time.monotonic()
    try:
        judgements = Session(options).run()
    except Unusable as reason:
        print(f"conformance: {reason}", file=sys.stderr)
        return 2
    name = f"{platform.python_implementation()} {platform.python_version()}"
    for judgement in judgements:
        kinds = sorted({kind for run in judgement.runs.values() for kind in run.kinds})
        driver = f", {judgement.driver}" if judgement.driver else ""
        print(f"\n{options.loop}{driver}, {name}, loops made: {', '.join(kinds) or 'none'}\n")
        print(report.table(judgement))
        if said := report.failures(judgement, verbose=options.verbose, package=options.package):
            print(f"\n{said}")
        print()
        for problem in judgement.problems:
            print(f"{problem}{driver}")
    failed = any(judgement.problems for judgement in judgements)
    print(f"{'FAILED' if failed else 'ok'} in {time.monotonic() - began:.0f} s")
    if options.json:
        whole = {
            "python": name,
            "loop": options.loop,
            "package": options.package,
            "ok": not failed,
            "runs": [report.as_json(judgement) for judgement in judgements],
        }
        options.json.write_text(json.dumps(whole, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
