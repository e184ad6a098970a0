"""Reads ``exceptions.toml``: which modules must be whole, and which tests are left out, and why.

The file has three kinds of entries; the file itself says what each is for. A test is named
``test_events.SelectEventLoopTests.test_writer_callback``; where CPython runs the same body in a class per
selector, a pattern (as `fnmatch` has it) may stand for the class.
"""

from __future__ import annotations

import fnmatch
import operator
import sys
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

_COMPARISONS = {"<": operator.lt, "<=": operator.le, "==": operator.eq, ">=": operator.ge, ">": operator.gt}


@dataclass(frozen=True)
class Module:
    """A module that must be whole."""

    name: str
    #: False: its tests make no loop, or only loops of their own (``test_utils.TestLoop``).
    loops: bool = True
    #: The first Python that has it.
    since: str = "3.11"


@dataclass(frozen=True)
class Entry:
    """Tests that are left out: for good (`reason`) or until there is a `capability`."""

    tests: list[str]
    reason: str = ""
    capability: str = ""
    #: Pythons that it is about, as ">=3.12,<3.14"; empty: all.
    python: str = ""
    #: Driver that it is about; empty: both.
    driver: str = ""
    #: False: the tests are not even tried, since they would hang or take the process down.
    run: bool = True
    #: True: the tests pass now and then, or on some machines, so passing does not make the entry stale.
    may_pass: bool = False
    #: True: not every bugfix release of the Pythons in `python` has the tests.
    may_be_absent: bool = False

    def covers(self, test: str) -> bool:
        return any(fnmatch.fnmatchcase(test, pattern) for pattern in self.tests)

    def applies(self, python: tuple[int, int], driver: str) -> bool:
        return self.driver in ("", driver) and all(
            _holds(python, comparison) for comparison in self.python.split(",") if comparison
        )

    def __str__(self) -> str:
        where = "".join(f" [{part}]" for part in (self.python, self.driver) if part)
        return f"{', '.join(self.tests)}{where}: {self.capability or self.reason}"


@dataclass
class LeftOut:
    """The whole file."""

    modules: list[Module] = field(default_factory=list)
    exceptions: list[Entry] = field(default_factory=list)
    not_yet: list[Entry] = field(default_factory=list)
    #: False: nobody has compared the file with the tests of this Python, so a name that is not there is no
    #: error.
    checked: bool = True

    def for_run(self, driver: str, python: tuple[int, int] = sys.version_info[:2]) -> LeftOut:
        """What of it concerns this Python and `driver`."""
        return replace(
            self,
            modules=[module for module in self.modules if _holds(python, f">={module.since}")],
            exceptions=[entry for entry in self.exceptions if entry.applies(python, driver)],
            not_yet=[entry for entry in self.not_yet if entry.applies(python, driver)],
        )


def read(file: Path) -> LeftOut:
    """Read `file`; ValueError says what is wrong with it."""
    data = tomllib.loads(file.read_text())
    pythons = data.pop("checked", None)
    result = LeftOut(checked=pythons is None or f"{sys.version_info[0]}.{sys.version_info[1]}" in pythons)
    for kind, target, needs in (
        ("exception", result.exceptions, "reason"),
        ("not_yet", result.not_yet, "capability"),
    ):
        for table in data.pop(kind, []):
            _check(file, kind, table, Entry, ("tests", needs))
            entry = Entry(**table)
            entry.applies((3, 11), "")
            target.append(entry)
    for table in data.pop("module", []):
        _check(file, "module", table, Module, ("name",))
        result.modules.append(Module(**table))
    if data:
        raise ValueError(f"{file}: unknown: {', '.join(data)}")
    return result


def _check(file: Path, kind: str, table: dict[str, Any], form: type, needed: tuple[str, ...]) -> None:
    unknown = set(table) - set(form.__dataclass_fields__)  # type: ignore[attr-defined]
    missing = [key for key in needed if not table.get(key)]
    if unknown or missing:
        problem = f"unknown: {', '.join(unknown)}" if unknown else f"missing: {', '.join(missing)}"
        raise ValueError(f"{file}: [[{kind}]] {table}: {problem}")


def _holds(python: tuple[int, int], comparison: str) -> bool:
    text = comparison.strip()
    sign = text.rstrip("0123456789. ")
    if sign not in _COMPARISONS:
        raise ValueError(f"no comparison of Python versions: {comparison!r}")
    major, minor = text[len(sign) :].strip().split(".")
    return bool(_COMPARISONS[sign](python, (int(major), int(minor))))
