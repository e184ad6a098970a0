"""Instructions per operation, which hardly depend on the machine: the guard against regressions.

    python benches/instructions.py --loops whilst-epoll,uvloop --json FILE
    python benches/instructions.py --loops whilst-epoll --check FILE --tolerance 5

Callgrind counts the instructions that a process runs. Each row runs twice, the second time with twice the
operations: the difference is what these operations took, without the interpreter's start and the imports. The
kernel's own work is not in it.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from loops import LOOPS

HERE = Path(__file__).resolve().parent
OPERATIONS = {
    "call_soon": 2000,
    "chain": 2000,
    "timer_cancel": 2000,
    "sleep0": 2000,
    "protocol_ping_pong": 500,
    "streams_ping_pong": 500,
    "udp_ping_pong": 500,
}
"""The rows that are counted, and how many operations the shorter run has."""

PATIENCE = 300.0


class Failed(Exception):
    """A run that came to nothing, and why."""


def main() -> int:
    """Count, print and compare."""
    parser = argparse.ArgumentParser(description="Count instructions per operation by callgrind.")
    parser.add_argument("--loops", default="whilst-epoll,whilst-io_uring", help="separated by commas")
    parser.add_argument(
        "--rows", default="", metavar="PATTERN", help="rows with this regular expression in their name"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts here")
    parser.add_argument(
        "--check", type=Path, metavar="FILE", help="fail where a count here was smaller by more than"
    )
    parser.add_argument("--tolerance", type=float, default=5.0, metavar="PERCENT", help="this (default: 5)")
    arguments = parser.parse_args()
    names = [name.strip() for name in arguments.loops.split(",")]
    if unknown := set(names) - set(LOOPS):
        parser.error(f"no loop is called {', '.join(sorted(unknown))}: {', '.join(LOOPS)}")
    rows = [row for row in OPERATIONS if re.search(arguments.rows, row)]
    counts: dict[str, dict[str, Any]] = {row: {} for row in rows}
    for row in rows:
        for name in names:
            try:
                counts[row][name] = per_operation(row, name, OPERATIONS[row])
                words = f"{counts[row][name]:10,.0f}"
            except Failed as error:
                counts[row][name] = None
                words = f"failed: {error}"
            print(f"{row:24}{name:18}{words}", flush=True)
    results = {"python": platform.python_version(), "instructions_per_operation": counts}
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    if arguments.check is not None:
        return check(results, json.loads(arguments.check.read_text()), arguments.tolerance)
    return 0


def per_operation(row: str, loop: str, operations: int) -> float:
    """The instructions of one operation."""
    once, twice = (instructions(row, loop, count) for count in (operations, 2 * operations))
    return (twice - once) / operations


def instructions(row: str, loop: str, operations: int) -> int:
    """The instructions of a whole process."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    command += [sys.executable, str(HERE / "child.py"), row, loop, str(operations)]
    # Hashes are made alike, so that dictionaries have the same collisions in every run.
    environment = {**os.environ, **LOOPS[loop].environment, "PYTHONHASHSEED": "0"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=PATIENCE, check=False
        )
    except FileNotFoundError:
        raise SystemExit("valgrind is not installed") from None
    except subprocess.TimeoutExpired:
        raise Failed(f"no end in {PATIENCE:.0f} s") from None
    collected = re.search(r"Collected : (\d+)", done.stderr)
    answer = json.loads(done.stdout.splitlines()[0]) if done.stdout.strip() else {}
    if "error" in answer:
        raise Failed(answer["error"])
    if done.returncode != 0 or collected is None:
        raise Failed((done.stderr.strip().splitlines() or ["valgrind said nothing"])[-1])
    return int(collected[1])


def check(now: dict[str, Any], before: dict[str, Any], tolerance: float) -> int:
    """Compare with counts that were kept; 1 where something takes more, 0 where not."""
    if now["python"].split(".")[:2] != before["python"].split(".")[:2]:
        print(f"the kept counts are of Python {before['python']}, not {now['python']}", file=sys.stderr)
        return 1
    status = 0
    for row, loops in now["instructions_per_operation"].items():
        for loop, count in loops.items():
            kept = before["instructions_per_operation"].get(row, {}).get(loop)
            if kept is None:
                continue
            change = (count / kept - 1) * 100 if count is not None else float("inf")
            if change > tolerance:
                print(f"{row} on {loop}: {kept:,.0f} instructions before, {count} now", file=sys.stderr)
                status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
