"""Judges a run: which tests are lost, which entries of the list no longer hold, where no loop was made."""

from __future__ import annotations

from dataclasses import dataclass, field

from left_out import Entry, LeftOut
from supervise import ModuleRun, Outcome

#: What a test that passed or was skipped by CPython itself is: no verdict is needed.
FINE = ""

#: Does not pass on the loop and does on the stdlib's.
LOST = "lost"

#: The same, but it passed when it was tried again.
UNSTEADY = "unsteady"

#: The same, but it is in the list.
EXCEPTION = "exception"

#: Does not pass on the stdlib's loop either.
STDLIB_TOO = "stdlib too"

#: The same, but it needs a capability that does not exist yet.
NOT_YET = "not yet"


@dataclass
class Judgement:
    """A run over one driver. `problems` is empty if all is well."""

    driver: str
    runs: dict[str, ModuleRun]
    verdicts: dict[str, dict[str, str]] = field(default_factory=dict)
    lost: dict[str, Outcome] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def shorten(test: str, package: str) -> str:
    """Return `test` without the package, as the list of exceptions and the report name it."""
    return test.removeprefix(f"{package}.")


def unfinished(run: ModuleRun) -> list[str]:
    """Tests of which the stdlib's loop must be asked whether it passes them.

    Skips are among them: a test that is skipped because the loop is not the stdlib's is one that does not
    pass.
    """
    return [test for test, it in run.tests.items() if it.outcome != "passed" and " " not in test]


def judge(
    driver: str,
    runs: dict[str, ModuleRun],
    stdlib: dict[str, str],
    again: dict[str, str],
    left_out: LeftOut,
    *,
    package: str,
    whole: bool,
) -> Judgement:
    """Judge `runs` (by module name).

    `stdlib` and `again` have outcomes by test: on the stdlib's loop, and of a second try on the loop itself.
    `whole` tells that modules were run as wholes, so that a test that did not turn up does not exist.
    """
    result = Judgement(driver, runs)
    for name, run in runs.items():
        verdicts = result.verdicts[name] = {}
        for test, it in run.tests.items():
            short = shorten(test, package)
            # Of what is outside of the tests (setUpClass) only failures are reported.
            there = stdlib.get(test, "passed" if " " in test else "")
            if it.outcome == "passed" or (it.outcome == "skipped" and " " in test):
                verdicts[test] = FINE
            elif there != "passed":
                verdicts[test] = FINE if it.outcome == there == "skipped" else STDLIB_TOO
            elif any(entry.covers(short) for entry in left_out.exceptions):
                verdicts[test] = EXCEPTION
            elif any(entry.covers(short) for entry in left_out.not_yet):
                verdicts[test] = NOT_YET
            elif again.get(test) == "passed":
                verdicts[test] = UNSTEADY
            else:
                verdicts[test] = LOST
                result.lost[short] = it
        for test in run.left_out:
            excepted = any(entry.covers(shorten(test, package)) for entry in left_out.exceptions)
            verdicts[test] = EXCEPTION if excepted else NOT_YET
    if result.lost:
        result.problems.append(f"{len(result.lost)} tests are lost")
    if whole:
        for entry in [*left_out.exceptions, *left_out.not_yet]:
            result.problems += _stale(entry, runs, package, left_out.checked)
    return result


def without_loops(runs: dict[str, ModuleRun], left_out: LeftOut) -> list[str]:
    """Modules that should have made loops and made none: nothing was replaced, their figures are void."""
    return [
        f"{module.name}: no loop was made"
        for module in left_out.modules
        if module.loops and module.name in runs and runs[module.name].loops == 0
    ]


def _stale(entry: Entry, runs: dict[str, ModuleRun], package: str, checked: bool) -> list[str]:
    """Say for each pattern of `entry` if it stands for no test, or for none that does not pass."""
    found = []
    for pattern in entry.tests:
        name = pattern.split(".")[0]
        if name not in runs:
            continue
        one = Entry([pattern])
        run = runs[name]
        outcomes = [it.outcome for test, it in run.tests.items() if one.covers(shorten(test, package))]
        left_out = [test for test in run.left_out if one.covers(shorten(test, package))]
        if not outcomes and not left_out:
            if checked and not entry.may_be_absent:
                found.append(f"stale entry, there is no such test: {pattern}")
        elif not left_out and not entry.may_pass and all(outcome == "passed" for outcome in outcomes):
            found.append(f"stale entry, it passes: {pattern}")
    return found
