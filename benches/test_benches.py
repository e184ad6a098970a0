"""The benchmark's own tests: what is computed from the figures, and one short run that makes some."""

import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import chart
import instructions
import report
from rows import ROWS

RUN = Path(__file__).with_name("run.py")


def results(**cells: dict[str, object]) -> report.Results:
    """The results of one row, `chain`."""
    return {
        "date": "2026-01-01",
        "machine": {
            "implementation": "CPython",
            "python": "3.13.0",
            "kernel": "6.1-x",
            "processor": "P",
            "cores": 2,
        },
        "load_average": {"before": 0.0, "after": 0.0},
        "quick": False,
        "clock": "wall",
        "rounds": 5,
        "loops": {},
        "rows": {"chain": {"title": ROWS["chain"].title, "target": 1.2, "cells": cells}},
    }


def measured(*values: float) -> report.Cell:
    """A cell of these values."""
    return report.cell([{"value": value, "peak_bytes": 1 << 20} for value in values], [])


def test_a_cell_is_the_median_and_half_of_what_lies_between_the_quartiles() -> None:
    one = measured(5, 1, 2, 4, 3)
    assert one["value"] == 3
    assert one["value_spread"] == pytest.approx(1 / 3)
    assert one["values"] == [5, 1, 2, 4, 3]


def test_one_failed_round_makes_a_failed_cell() -> None:
    one = report.cell([{"value": 1.0, "peak_bytes": 1}], ["died by SIGSEGV"])
    assert one == {"error": "died by SIGSEGV", "failures": 1, "rounds": 2}


def test_ratios_are_to_the_best_peer_and_above_one_where_whilst_is_ahead() -> None:
    figures = results(
        asyncio=measured(4.0),
        uvloop=measured(2.0),
        **{"whilst-epoll": measured(1.0), "whilst-io_uring": measured(4.0)},
    )
    report.summarise(figures)
    row = figures["rows"]["chain"]
    assert row["best_peer"] == "uvloop"
    assert row["ratios"] == {"whilst-epoll": {"value": 2.0}, "whilst-io_uring": {"value": 0.5}}
    assert "whilst-io_uring" in report.targets(figures)
    assert "whilst-epoll" not in report.targets(figures)
    assert report.ratio(2.0, 1.0, higher=True) == 2.0


def test_the_table_says_who_failed_who_refused_and_who_is_not_there() -> None:
    missing = {"error": "is not installed", "missing": True, "failures": 1, "rounds": 1}
    figures = results(
        asyncio=measured(4.0),
        uvloop={"error": "died by SIGSEGV", "failures": 1, "rounds": 5},
        rloop={"error": "NotImplementedError", "failures": 5, "rounds": 5},
        blazio=missing,
    )
    report.summarise(figures)
    table = report.markdown(figures)
    row = next(line for line in table.splitlines() if line.startswith(f"| {ROWS['chain'].title}"))
    assert row.split("|")[2:-1] == [" **4.00** ", " failed ", " refused "]
    assert f"* uvloop, {ROWS['chain'].title}: died by SIGSEGV (1 of 5 rounds)." in table
    assert "* blazio is not installed." in table


def test_the_chart_is_an_svg_with_a_mark_for_each_loop() -> None:
    figures = results(asyncio=measured(4.0), uvloop=measured(2.0), **{"whilst-epoll": measured(1.0)})
    report.summarise(figures)
    drawn = ElementTree.fromstring(chart.svg(figures))
    told = [title.text for title in drawn.iter("{http://www.w3.org/2000/svg}title")]
    assert told == ["uvloop", "whilst-epoll", "uvloop: 2.00", "whilst-epoll: 1.00"]


def test_instructions_that_have_grown_fail_the_check(capsys: pytest.CaptureFixture[str]) -> None:
    kept: instructions.Counts = {"chain": {"uvloop": 1000.0}}
    for count, status, told in (
        (1000.0, 0, ""),
        (1049.0, 0, ""),
        (1051.0, 1, "FAILED"),
        (None, 1, "FAILED"),
        (900.0, 0, "BETTER"),
    ):
        assert instructions.check({"chain": {"uvloop": count}}, kept, tolerance=5.0) == status
        assert capsys.readouterr().out.partition(":")[0] == told
    assert instructions.check({"sleep0": {"uvloop": 1.0}}, kept, tolerance=5.0) == 0
    assert capsys.readouterr().out.startswith("NOT KEPT: sleep0 on uvloop")


def test_another_interpreters_instructions_are_not_compared() -> None:
    here = instructions.interpreter()
    assert instructions.other_interpreter(here) is None
    why = instructions.other_interpreter({**here, "python": "3.10.1"})
    assert why == f"its counts are of python 3.10.1, not {here['python']}"


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="there is no valgrind")
def test_the_guard_counts_two_rows_and_fails_where_one_has_grown(tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    command = [
        sys.executable,
        str(RUN.with_name("instructions.py")),
        "--loops",
        "asyncio",
        "--rows",
        "chain|sleep0",
    ]

    def guard(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments], stdout=subprocess.PIPE, text=True, timeout=110, check=False
        )

    assert guard("--json", str(kept)).returncode == 0
    file = json.loads(kept.read_text())
    counts = file["instructions_per_operation"]
    assert sorted(counts) == ["chain", "sleep0"]
    assert all(1000 < count < 100_000 for loops in counts.values() for count in loops.values()), counts
    counts["sleep0"]["asyncio"] /= 1.1
    counts["chain"]["asyncio"] *= 1.1
    kept.write_text(json.dumps(file))
    checked = guard("--check", str(kept))
    assert checked.returncode == 1
    told = [line for line in checked.stdout.splitlines() if ":" in line]
    assert told[0].startswith("BETTER: chain on asyncio") and told[1].startswith("FAILED: sleep0 on asyncio")
    assert "(+10.0 %)" in told[1]
    file["interpreter"]["python"] = "3.10.1"
    kept.write_text(json.dumps(file))
    assert guard("--check", str(kept)).returncode == instructions.NOT_COMPARABLE


def test_a_short_run_measures_a_row_of_each_kind_on_asyncio(tmp_path: Path) -> None:
    written = tmp_path / "results.json"
    names = [
        "chain",
        "protocol_ping_pong",
        "import_and_first_loop",
        "echo_1k",
        "raw_http",
        "kept_1",
        "idle_protocol",
    ]
    command = [sys.executable, str(RUN), "--quick", "--rounds", "1", "--seconds", "0.2", "--loops", "asyncio"]
    command += ["--rows", f"^({'|'.join(names)})$", "--json", str(written)]
    subprocess.run(command, check=True, timeout=240, stdout=subprocess.DEVNULL)
    rows = json.loads(written.read_text())["rows"]
    assert sorted(rows) == sorted(names)
    for row in rows.values():
        assert row["cells"]["asyncio"]["value"] > 0, row
