"""Instructions per operation, which hardly depend on the machine: the guard against regressions.

    python benches/instructions.py --loops whilst-epoll,uvloop --json FILE
    python benches/instructions.py --check benches/instructions.json      (make guard)
    python benches/instructions.py --json benches/instructions.json       (make guard-update)

Callgrind counts the instructions of a process that runs the rows one after the other (`counted.py`), and writes the
count down wherever the process calls `getpriority`, which is where a row begins and ends to measure. The kernel's own
work is not in it, and neither are the interpreter's start and the imports.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from loops import LOOPS

HERE = Path(__file__).resolve().parent
OPERATIONS = {
    "call_soon": 4000,
    "chain": 4000,
    "timer_cancel": 4000,
    "sleep0": 2000,
    "connect": 200,
    "protocol_ping_pong": 1000,
    "streams_ping_pong": 1000,
    "udp_ping_pong": 1000,
    "sock_ping_pong": 1000,
    "tls_ping_pong": 500,
}
"""The rows that are counted, and how many operations each has."""

GUARDED = ("whilst-epoll", "whilst-io_uring")
PATIENCE = 300.0
MARK = "getpriority"
NOT_COMPARABLE = 3
"""The exit status where the kept counts are another interpreter's, which says nothing of whilst."""

Counts = dict[str, dict[str, float | None]]


class Failed(Exception):
    """A run that came to nothing, and why."""


def main() -> int:
    """Count, print and compare."""
    parser = argparse.ArgumentParser(description="Count instructions per operation by callgrind.")
    parser.add_argument("--loops", default=",".join(GUARDED), help="separated by commas (default: whilst's)")
    parser.add_argument(
        "--rows", default="", metavar="PATTERN", help="rows with this regular expression in their name"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts here")
    parser.add_argument(
        "--check", type=Path, metavar="FILE", help="fail where a count here was smaller by more than"
    )
    parser.add_argument("--tolerance", type=float, default=3.0, metavar="PERCENT", help="this (default: 3)")
    arguments = parser.parse_args()
    names = [name.strip() for name in arguments.loops.split(",")]
    if unknown := set(names) - set(LOOPS):
        parser.error(f"no loop is called {', '.join(sorted(unknown))}: {', '.join(LOOPS)}")
    rows = [row for row in OPERATIONS if re.search(arguments.rows, row)]
    kept = json.loads(arguments.check.read_text()) if arguments.check is not None else None
    if kept is not None and (why := other_interpreter(kept["interpreter"])):
        print(f"not compared with {arguments.check}: {why}", file=sys.stderr)
        return NOT_COMPARABLE
    counts: Counts = {row: {} for row in rows}
    for name in names:
        for row, told in count(name, rows).items():
            counts[row][name] = None if isinstance(told, str) else round(told, 1)
            words = f"failed: {told}" if isinstance(told, str) else f"{told:10,.0f}"
            print(f"{row:24}{name:18}{words}", flush=True)
    if arguments.json is not None:
        results = {"interpreter": interpreter(), "instructions_per_operation": counts}
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    if kept is not None:
        return check(counts, kept["instructions_per_operation"], arguments.tolerance)
    return 0


def interpreter() -> dict[str, str]:
    """What the counts depend on besides whilst: the interpreter runs most of the instructions itself."""
    return {
        "python": platform.python_version(),
        "compiler": platform.python_compiler(),
        "optimised": str("--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")),
        "machine": platform.machine(),
    }


def other_interpreter(kept: dict[str, str]) -> str | None:
    """Why counts of that interpreter cannot be compared with this one's, or None where they can."""
    differ = [
        f"{what} {kept.get(what)}, not {here}"
        for what, here in interpreter().items()
        if kept.get(what) != here
    ]
    return "its counts are of " + "; ".join(differ) if differ else None


def count(loop: str, rows: list[str]) -> dict[str, float | str]:
    """The instructions of one operation of each row, or why there is no such figure."""
    with tempfile.TemporaryDirectory(prefix="whilst-callgrind-") as directory:
        out = Path(directory, "out")
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", f"--dump-before={MARK}"]
        command += [sys.executable, str(HERE / "counted.py"), loop]
        command += [f"{row}={OPERATIONS[row]}" for row in rows]
        # Hashes are made alike, so that dictionaries have the same collisions in every run.
        environment = {**os.environ, **LOOPS[loop].environment, "PYTHONHASHSEED": "0"}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, env=environment, timeout=PATIENCE, check=False
            )
        except FileNotFoundError:
            raise SystemExit("valgrind is not installed") from None
        except subprocess.TimeoutExpired:
            return dict.fromkeys(rows, f"no end in {PATIENCE:.0f} s")
        # A dump holds what was counted since the dump before it.
        dumps = [
            int(found[1])
            for path in sorted(Path(directory).glob("out.*"), key=lambda path: int(path.suffix[1:]))
            if (found := re.search(r"^(?:totals|summary): (\d+)", path.read_text(), re.MULTILINE))
        ]
    words = (done.stderr.strip().splitlines() or ["valgrind said nothing"])[-1]
    results: dict[str, float | str] = dict.fromkeys(rows, f"the process ended before: {words}")
    for one in map(json.loads, done.stdout.splitlines()):
        if "error" in one:
            results[one["row"]] = one["error"]
        else:
            results[one["row"]] = dumps[one["marks"] - 1] / one["operations"]
    return results


def check(now: Counts, kept: Counts, tolerance: float) -> int:
    """Compare with counts that were kept; 1 where something takes more or is not counted, 0 where not.

    What takes a good deal less is told: with the old count kept, it could grow back unseen.
    """
    status = 0
    for row, loops in now.items():
        for loop, number in loops.items():
            before = kept.get(row, {}).get(loop)
            what = f"{row} on {loop}"
            if before is None:
                print(f"NOT KEPT: {what} has no count to compare with (make guard-update)")
            elif number is None:
                print(f"FAILED: {what} could not be counted; it took {before:,.0f} instructions before")
                status = 1
            else:
                change = (number / before - 1) * 100
                words = f"{what}: {before:,.0f} instructions before, {number:,.0f} now ({change:+.1f} %)"
                if change > tolerance:
                    print(f"FAILED: {words}")
                    status = 1
                elif change < -tolerance:
                    print(f"BETTER: {words}; make guard-update keeps that")
    return status


if __name__ == "__main__":
    sys.exit(main())
