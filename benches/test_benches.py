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


def test_figures_are_put_between_the_marks_of_their_python() -> None:
    marks = [
        f"<!-- benchmark {version}: {which} -->" for version in ("3.13", "3.14") for which in ("begin", "end")
    ]
    text = "before\n{}\nold\n{}\n{}\n{}\nafter\n".format(*marks)
    new = report.put_between(text, "3.13", "new\n")
    assert new == text.replace("old", "new")
    assert report.put_between(new, "3.14", "x").count("x\n") == 1
    with pytest.raises(SystemExit, match=r"benchmark 3\.12: begin"):
        report.put_between(text, "3.12", "new")


def test_the_chart_has_a_mark_for_each_loop_and_its_ratio_to_the_best_peer() -> None:
    figures = results(
        asyncio=measured(40.0),
        uvloop=measured(2.0),
        **{"whilst-epoll": measured(2.5), "whilst-io_uring": measured(1.0)},
    )
    report.summarise(figures)
    drawn = ElementTree.fromstring(chart.svg(figures))
    space = "{http://www.w3.org/2000/svg}"
    told = [title.text for title in drawn.iter(f"{space}title")]
    assert told[4:] == [
        "asyncio: 40.0, 0.05 \u00d7",
        "uvloop: 2.00, 1.00 \u00d7",
        "whilst-epoll: 2.50, 0.80 \u00d7",
        "whilst-io_uring: 1.00, 2.00 \u00d7",
    ]
    # The bar is from the best peer to the better driver.
    (bar,) = (one for one in drawn.iter(f"{space}rect") if "bar" in one.get("class", ""))
    assert bar.get("class") == "bar ahead"
    assert float(bar.get("x", 0)) == pytest.approx(chart._x(1), abs=0.1)
    assert float(bar.get("width", 0)) == pytest.approx(chart._x(2) - chart._x(1), abs=0.1)


def test_a_server_is_compared_by_cpu_time_where_its_load_was_full() -> None:
    def server(requests: float, cpu_us: float, full: bool) -> report.Cell:
        return {"value": requests, "cpu_us": cpu_us, "load_was_full": full, "rounds": 5, "peak_bytes": 1}

    figures = results()
    for full, uvloop, what in ((False, 0.9, ""), (True, 0.5, "CPU time")):
        cells = {
            "uvloop": server(90, 8, full),
            "rloop": server(100, 4, False),
            "whilst-epoll": server(110, 2, False),
        }
        figures["rows"] = {"sock_echo_1k": {"title": "", "cells": cells}}
        ratios, compared = report.compared(figures, "sock_echo_1k")
        assert (ratios["uvloop"], ratios["rloop"], compared) == (uvloop, 1.0, what)


def test_targets_say_what_is_missed() -> None:
    def server(requests: float, cpu_us: float) -> report.Cell:
        return {"value": requests, "cpu_us": cpu_us, "load_was_full": False, "rounds": 5, "peak_bytes": 1}

    figures = results()
    cells = {"uvloop": server(100, 4), "whilst-epoll": server(200, 5), "limit-io_uring": server(400, 2)}
    figures["rows"] = {
        "echo_1k": {"title": "", "cells": cells},
        "idle_protocol": {
            "title": "",
            "cells": {"whilst-epoll": {"value": 900.0, "rounds": 5, "peak_bytes": 1}},
        },
    }
    report.summarise(figures)
    lines = [line.split(None, 2)[::2] for line in report.targets(figures).splitlines()]
    assert lines == [
        ["echo_1k", "0.80 of 1.20 \u00d7 uvloop (CPU time)"],
        ["echo_1k", "0.40 of 0.85 \u00d7 the limit on io_uring (CPU time)"],
        ["echo_1k", "0.80 \u00d7 uvloop, wanted level (CPU time)"],
        ["idle_protocol", "900 B, wanted 800 B"],
    ]


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
