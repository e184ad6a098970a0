"""The benchmark: every row on every loop, side by side.

    python benches/run.py                          five rounds of everything
    python benches/run.py --quick                  two short rounds
    python benches/run.py --rows 'echo|chain' --loops uvloop,whilst-epoll
    python benches/run.py --json FILE --markdown FILE --chart FILE.svg
    python benches/run.py --from FILE --chart FILE.svg

A round runs every row once on each loop, each measurement in fresh processes, so that what the machine does
meanwhile meets all loops alike. docs/benchmarks.md says what the rows are and how to read the figures.
"""

import argparse
import datetime
import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import chart
import measure
import report
from loops import LOOPS, install
from rows import ROWS


def main() -> int:
    """Do what the command line says."""
    arguments = parse()
    if arguments.render is not None:
        results = json.loads(arguments.render.read_text())
    else:
        refused = install() if arguments.install else {}
        for package, why in refused.items():
            print(f"{package} cannot be installed: {why}", file=sys.stderr)
        build()
        results = run(arguments, refused)
    report.summarise(results)
    tables = report.markdown(results)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    if arguments.markdown is not None:
        arguments.markdown.write_text(tables)
    if arguments.chart is not None:
        arguments.chart.write_text(chart.svg(results))
    if arguments.readme is not None:
        version = ".".join(results["machine"]["python"].split(".")[:2])
        words = f"![whilst beside the other event loops, CPython {version}]({arguments.chart})\n\n{tables}"
        arguments.readme.write_text(report.put_between(arguments.readme.read_text(), version, words))
    print(tables)
    if arguments.targets:
        print(report.targets(results))
    return 0


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure whilst and its peers, side by side.")
    parser.add_argument("--rounds", type=int, help="rounds (default: 5, with --quick 2)")
    parser.add_argument("--quick", action="store_true", help="a fifth of the operations, little load")
    parser.add_argument(
        "--rows", metavar="PATTERN", default="", help="rows whose name has this regular expression in it"
    )
    parser.add_argument("--loops", metavar="LIST", help=f"separated by commas, of {', '.join(LOOPS)}")
    parser.add_argument(
        "--seconds", type=float, help="how long a server is loaded (default: 1.2, with --quick 0.5)"
    )
    parser.add_argument(
        "--http",
        choices=("load", "wrk"),
        help="what loads the HTTP servers (default: wrk where it is installed)",
    )
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="what an operation's time is (cpu is for a machine that has other work)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables here")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="write the chart here, an SVG")
    parser.add_argument(
        "--readme",
        type=Path,
        metavar="FILE",
        help="put chart and tables into this Markdown file, between its marks for this Python (needs --chart)",
    )
    parser.add_argument(
        "--from", type=Path, metavar="FILE", dest="render", help="measure nothing, take these figures"
    )
    parser.add_argument(
        "--install",
        action="store_true",
        help="first install the peers and servers, as far as they can be had",
    )
    parser.add_argument(
        "--targets", action="store_true", help="also say which rows miss the project's targets"
    )
    parser.add_argument("--list", action="store_true", help="print the rows' names and end")
    arguments = parser.parse_args()
    if arguments.list:
        for row in ROWS.values():
            print(f"{row.name:24}{row.title}")
        raise SystemExit(0)
    if arguments.loops is not None:
        arguments.loops = [name.strip() for name in arguments.loops.split(",")]
        if unknown := set(arguments.loops) - {*LOOPS, *measure.LIMITS}:
            parser.error(
                f"no loop is called {', '.join(sorted(unknown))}: {', '.join((*LOOPS, *measure.LIMITS))}"
            )
    if arguments.readme is not None and arguments.chart is None:
        parser.error("--readme needs --chart, the image's path as the file names it")
    if not any(re.search(arguments.rows, name) for name in ROWS):
        parser.error(f"no row has {arguments.rows!r} in its name (--list names them)")
    arguments.rounds = arguments.rounds or (2 if arguments.quick else 5)
    arguments.seconds = arguments.seconds or (0.5 if arguments.quick else 1.2)
    # wrk counts in whole seconds, which a quick run has not.
    arguments.http = arguments.http or ("wrk" if measure.has_wrk() and not arguments.quick else "load")
    return arguments


def build() -> None:
    """Build the load and the limit, where Cargo is there; without, what was built before is used."""
    try:
        subprocess.run(
            ["cargo", "build", "--quiet", "--release", "-p", "whilst-load", "-p", "whilst-limit"],
            cwd=measure.HERE.parent,
            check=True,
        )
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        print(f"the load could not be built: {error}", file=sys.stderr)


def run(arguments: argparse.Namespace, refused: dict[str, str]) -> report.Results:
    """Measure round by round; the figures. `refused` has the packages that do not install here, and why."""
    os.environ["WHILST_BENCH_CLOCK"] = arguments.clock
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = 20_000 if most == resource.RLIM_INFINITY else min(20_000, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (enough, most))
    options = measure.Options(
        scale=0.2 if arguments.quick else 1.0, seconds=arguments.seconds, http=arguments.http
    )
    versions, missing = {}, {}
    for loop in LOOPS.values():
        try:
            versions[loop.name] = loop.version()
        except LookupError as error:
            why = refused.get(loop.package or "")
            missing[loop.name] = f"cannot be installed ({why})" if why is not None else str(error)
    rows = [row for name, row in ROWS.items() if re.search(arguments.rows, name)]
    wanted = arguments.loops or [*LOOPS, *measure.LIMITS]
    pairs = {row.name: [column for column in measure.columns(row) if column in wanted] for row in rows}
    measurements: dict[tuple[str, str], list[measure.Values]] = {
        (name, column): [] for name in pairs for column in pairs[name]
    }
    failures: dict[tuple[str, str], list[str]] = {key: [] for key in measurements}
    if len(measure.CORES) < 2:
        print(
            "one core only: servers and their load share it, and their figures mean little", file=sys.stderr
        )
    load_before = os.getloadavg()
    progress = Progress(
        [(name, column) for name in pairs for column in pairs[name] if column not in missing],
        arguments.rounds,
    )
    for number in range(arguments.rounds):
        for row in rows:
            # Another loop goes first in each round, so that none always follows the same one.
            columns = [column for column in pairs[row.name] if column not in missing]
            columns = columns[number % max(1, len(columns)) :] + columns[: number % max(1, len(columns))]
            for column in columns:
                key = (row.name, column)
                if failures[key]:
                    # One failure is enough for the cell, and what hangs would take its time again.
                    continue
                try:
                    measured = measure.measure(row, column, options)
                except measure.Failed as error:
                    failures[key].append(str(error))
                    progress.give_up(key)
                    words = f"failed: {error}"
                else:
                    measurements[key].append(measured)
                    words = report.figure(row, measured["value"])
                left = progress.left_after(key)
                print(
                    f"round {number + 1}/{arguments.rounds}, {left} left  {row.name:22}{column:16}{words}",
                    file=sys.stderr,
                    flush=True,
                )
    results: report.Results = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "machine": machine(),
        "load_average": {"before": load_before[0], "after": os.getloadavg()[0]},
        "quick": arguments.quick,
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "http_load": arguments.http,
        "clock": arguments.clock,
        "loops": versions,
        "missing": missing,
        "rows": {},
    }
    for row in rows:
        cells = {}
        for column in pairs[row.name]:
            if column in missing:
                cells[column] = {"error": missing[column], "missing": True, "failures": 1, "rounds": 1}
            else:
                cells[column] = report.cell(measurements[row.name, column], failures[row.name, column])
        results["rows"][row.name] = {"title": row.title, "target": row.target, "cells": cells}
    return results


class Progress:
    """How long a run will go on, from how long each measurement took the last time."""

    def __init__(self, keys: list[tuple[str, str]], rounds: int) -> None:
        self.to_do = dict.fromkeys(keys, rounds)
        self.took: dict[tuple[str, str], float] = {}
        self.last = time.monotonic()

    def give_up(self, key: tuple[str, str]) -> None:
        """Count on no more than the measurement that is under way."""
        self.to_do[key] = 1

    def left_after(self, key: tuple[str, str]) -> str:
        """The time that is left, now that this measurement has been made once more."""
        now = time.monotonic()
        self.took[key], self.last = now - self.last, now
        self.to_do[key] -= 1
        # What has not been measured yet is taken to be like the others: rough, and short, as the servers come last.
        usual = sum(self.took.values()) / len(self.took)
        seconds = sum(times * self.took.get(one, usual) for one, times in self.to_do.items())
        return f"{seconds / 60:.0f} min" if seconds >= 100 else f"{seconds:.0f} s"


def machine() -> dict[str, str | int]:
    """What the figures were measured on."""
    processor = "an unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.split(":", 1)[1].strip()
            break
    return {
        "implementation": platform.python_implementation(),
        "python": platform.python_version(),
        "compiler": platform.python_compiler(),
        "kernel": platform.release(),
        "processor": processor,
        "cores": len(measure.CORES),
    }


if __name__ == "__main__":
    sys.exit(main())
