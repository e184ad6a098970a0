"""Writes a judgement: as a table for people, as JSON for programs."""

from __future__ import annotations

from collections import Counter
from typing import Any

from supervise import ModuleRun
from verdicts import EXCEPTION, LOST, NOT_YET, STDLIB_TOO, UNSTEADY, Judgement

#: Heading, and whether the figure counts outcomes or verdicts of that name.
COLUMNS = (
    ("tests", "", ""),
    ("passed", "outcome", "passed"),
    ("failed", "outcome", "failed"),
    ("errors", "outcome", "error"),
    ("hung", "outcome", "hung"),
    ("crashed", "outcome", "crashed"),
    ("not run", "outcome", "not run"),
    ("skipped", "outcome", "skipped"),
    (NOT_YET, "verdict", NOT_YET),
    ("excepted", "verdict", EXCEPTION),
    (STDLIB_TOO, "verdict", STDLIB_TOO),
    (UNSTEADY, "verdict", UNSTEADY),
    (LOST, "verdict", LOST),
)


def counts(run: ModuleRun, verdicts: dict[str, str]) -> dict[str, int]:
    """The figures of a module, by column."""
    outcomes = Counter(it.outcome for it in run.tests.values())
    judged = Counter(verdicts.values())
    figures = {name: (outcomes if kind == "outcome" else judged)[key] for name, kind, key in COLUMNS if kind}
    return {"tests": len(run.tests) + len(run.left_out), **figures}


def table(judgement: Judgement) -> str:
    """A line a module, and the sums. Columns in which nothing happened are left out."""
    rows = {name: counts(run, judgement.verdicts[name]) for name, run in judgement.runs.items()}
    total: Counter[str] = Counter()
    for row in rows.values():
        total.update(row)
    always = ("tests", "passed", "failed", "errors", "skipped", LOST)
    columns = [name for name, _, _ in COLUMNS if name in always or total[name]]
    lines = [["module", *columns, "loops", "seconds"]]
    for name, row in rows.items():
        run = judgement.runs[name]
        figures = [str(row[column] or "-") for column in columns]
        lines.append([name, *figures, str(run.loops), f"{run.seconds:.1f}"])
    runs = judgement.runs.values()
    loops, seconds = sum(run.loops for run in runs), sum(run.seconds for run in runs)
    lines.append(["total", *(str(total[column]) for column in columns), str(loops), f"{seconds:.1f}"])
    widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def failures(judgement: Judgement, *, verbose: bool, package: str) -> str:
    """The tests that are lost, and with `verbose` all that did not pass, with what they had to say."""
    lines = []
    for name, run in judgement.runs.items():
        for test, it in run.tests.items():
            verdict = judgement.verdicts[name][test]
            if verdict in (LOST, UNSTEADY) or (verbose and verdict):
                said = it.detail.strip().splitlines() or [""]
                # unittest puts what the assertion said last, faulthandler the reason first.
                essence = said[0] if it.outcome in ("hung", "crashed") else said[-1]
                lines.append(f"{verdict}: {test.removeprefix(f'{package}.')}: {it.outcome}: {essence}")
                if verbose:
                    lines += [f"    {line}" for line in said]
    return "\n".join(lines)


def as_json(judgement: Judgement) -> dict[str, Any]:
    """All of it."""
    return {
        "driver": judgement.driver,
        "problems": judgement.problems,
        "modules": {
            name: {
                **counts(run, judgement.verdicts[name]),
                "loops": run.loops,
                "kinds": sorted(run.kinds),
                "processes": run.processes,
                "seconds": round(run.seconds, 3),
                "results": {
                    test: {
                        "outcome": it.outcome,
                        "verdict": judgement.verdicts[name][test],
                        "detail": it.detail,
                        "loops": it.loops,
                        "seconds": it.seconds,
                    }
                    for test, it in run.tests.items()
                },
                "left_out": {test: judgement.verdicts[name][test] for test in run.left_out},
            }
            for name, run in judgement.runs.items()
        },
    }
