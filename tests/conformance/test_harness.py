"""The harness, run as a command on a toy suite whose tests fail, hang and kill their process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

COMMAND = Path(__file__).parent

TESTS = """
import asyncio
import os
import time
import unittest


class Mixed(unittest.TestCase):
    def test_a_passes(self):
        asyncio.new_event_loop().close()

    def test_b_fails(self):
        self.fail("toy failure")

    def test_c_hangs(self):
        print("toy hang begins", flush=True)
        time.sleep(600)

    def test_d_aborts(self):
        os.abort()

    def test_e_exits(self):
        os._exit(3)

    def test_f_errors(self):
        raise LookupError("toy error")

    @unittest.skip("toy skip")
    def test_g_skipped(self):
        pass

    def test_h_subtests(self):
        for number in range(3):
            with self.subTest(number=number):
                self.assertNotEqual(number, 1)

    def test_i_passes(self):
        with asyncio.Runner() as runner:
            runner.run(asyncio.sleep(0))


class Fixture(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        raise LookupError("toy fixture")

    def test_never(self):
        pass
"""

#: Fails with a loop of this class and passes with the stdlib's, or the other way about.
DIFFERENT = """
import asyncio
import unittest


class Different(unittest.TestCase):
    def setUp(self):
        self.loop = asyncio.SelectorEventLoop()
        self.addCleanup(self.loop.close)
        self.other = type(self.loop).__name__ == "OtherLoop"

    def test_lost(self):
        self.assertIsInstance(self.loop, asyncio.SelectorEventLoop)
        self.assertFalse(self.other)

    def test_excepted(self):
        self.assertFalse(self.other)

    def test_nowhere(self):
        self.fail("also on the stdlib's loop")

    def test_refused(self):
        if self.other:
            self.skipTest("not with this loop")

    def test_not_yet(self):
        self.assertFalse(self.other)

    def test_left_out(self):
        self.fail("must not be run")

    def test_passes(self):
        self.assertTrue(self.other)

"""

OTHER = """
import asyncio.unix_events


class OtherLoop(asyncio.unix_events._UnixSelectorEventLoop):
    pass
"""


class Suite:
    """A package ``toy`` with test modules, and the command run on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "toy").mkdir()
        (folder / "toy/__init__.py").touch()
        (folder / "other.py").write_text(OTHER)

    def run(self, exceptions: str, *arguments: str) -> tuple[int, str, dict[str, Any]]:
        """Run the command; return its exit code, what it printed, and the JSON's part about the one run."""
        (self.folder / "exceptions.toml").write_text(exceptions)
        result = self.folder / "result.json"
        done = subprocess.run(
            [
                *(sys.executable, str(COMMAND), "--package", "toy", "--all", "--json", str(result)),
                *("--exceptions", str(self.folder / "exceptions.toml"), *arguments),
            ],
            env={**os.environ, "PYTHONPATH": str(self.folder)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        print(done.stdout, done.stderr)
        assert result.exists(), done.stderr
        (run,) = json.loads(result.read_text())["runs"]
        return done.returncode, done.stdout, run


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path)


def test_a_failure_a_hang_and_a_crash_are_counted_and_survived(suite: Suite) -> None:
    (suite.folder / "toy/test_mixed.py").write_text(TESTS)
    code, output, run = suite.run("", "--loop", "asyncio", "--test-timeout", "2")
    module = run["modules"]["test_mixed"]
    outcomes = {
        name.removeprefix("toy.test_mixed."): (it["outcome"], it["verdict"])
        for name, it in module["results"].items()
    }
    assert outcomes == {
        "Mixed.test_a_passes": ("passed", ""),
        "Mixed.test_b_fails": ("failed", "lost"),
        "Mixed.test_c_hangs": ("hung", "lost"),
        "Mixed.test_d_aborts": ("crashed", "lost"),
        "Mixed.test_e_exits": ("crashed", "lost"),
        "Mixed.test_f_errors": ("error", "lost"),
        "Mixed.test_g_skipped": ("skipped", ""),
        "Mixed.test_h_subtests": ("failed", "lost"),
        "Mixed.test_i_passes": ("passed", ""),
        "Fixture.test_never": ("error", "lost"),
        "setUpClass (toy.test_mixed.Fixture)": ("error", "lost"),
    }
    details = {name.rpartition("test_")[2]: it["detail"] for name, it in module["results"].items()}
    assert "toy failure" in details["b_fails"]
    assert "toy hang begins" in details["c_hangs"]
    assert "in test_c_hangs" in details["c_hangs"], "the traceback that faulthandler left"
    assert "in test_d_aborts" in details["d_aborts"]
    assert "SIGABRT" in details["d_aborts"]
    assert "exit code 3" in details["e_exits"]
    # One process to begin with, and one after each that was lost.
    assert module["processes"] == 4
    assert module["loops"] == 2
    assert code == 1
    assert "8 tests are lost" in output


def test_what_passes_on_the_stdlibs_loop_only_is_lost_unless_it_is_in_the_list(suite: Suite) -> None:
    (suite.folder / "toy/test_different.py").write_text(DIFFERENT)
    exceptions = """
        [[exception]]
        tests = ["test_different.Diff*.test_excepted"]
        reason = "toy"
        [[exception]]
        tests = ["test_different.Different.test_refused"]
        reason = "toy"
        [[not_yet]]
        tests = ["test_different.Different.test_not_yet"]
        capability = "toy"
        [[not_yet]]
        tests = ["test_different.Different.test_left_out"]
        capability = "toy"
        run = false
    """
    code, output, run = suite.run(exceptions, "--loop", "other:OtherLoop")
    module = run["modules"]["test_different"]
    verdicts = {name.rpartition(".")[2]: it["verdict"] for name, it in module["results"].items()}
    assert verdicts == {
        "test_lost": "lost",
        "test_excepted": "exception",
        "test_nowhere": "stdlib too",
        "test_refused": "exception",
        "test_not_yet": "not yet",
        "test_passes": "",
    }
    assert module["left_out"] == {"toy.test_different.Different.test_left_out": "not yet"}
    assert module["processes"] == 2, "what is listed runs apart from the others"
    assert module["kinds"] == ["other.OtherLoop"]
    assert module["loops"] == 6
    assert run["problems"] == ["1 tests are lost"]
    assert code == 1
    assert "lost: test_different.Different.test_lost: failed: AssertionError" in output


def test_all_is_well_when_the_list_holds(suite: Suite) -> None:
    (suite.folder / "toy/test_different.py").write_text(DIFFERENT)
    exceptions = """
        [[exception]]
        tests = ["test_different.Different.test_lost", "test_different.Different.test_excepted"]
        reason = "toy"
        [[exception]]
        tests = ["test_different.Different.test_refused", "test_different.Different.test_left_out"]
        reason = "toy"
        run = false
        [[not_yet]]
        tests = ["test_different.Different.test_not_yet"]
        capability = "toy"
    """
    code, _, run = suite.run(exceptions, "--loop", "other:OtherLoop")
    assert run["problems"] == []
    assert code == 0


def test_a_stale_entry_fails_the_run(suite: Suite) -> None:
    (suite.folder / "toy/test_mixed.py").write_text(TESTS)
    exceptions = """
        [[module]]
        name = "test_mixed"
        [[exception]]
        tests = ["test_mixed.Mixed.test_a_passes", "test_mixed.Mixed.test_gone"]
        reason = "toy"
        [[exception]]
        tests = ["test_mixed.Mixed.test_i_passes"]
        reason = "toy"
        may_pass = true
        [[exception]]
        tests = ["test_mixed.Mixed.test_from_long_ago"]
        reason = "toy"
        python = "<3.2"
        [[not_yet]]
        tests = ["test_mixed.Mixed.test_not_there_either"]
        capability = "toy"
    """
    code, _, run = suite.run(exceptions, "--loop", "other:OtherLoop", "--test-timeout", "2")
    assert run["problems"] == [
        "stale entry, it passes: test_mixed.Mixed.test_a_passes",
        "stale entry, there is no such test: test_mixed.Mixed.test_gone",
        "stale entry, there is no such test: test_mixed.Mixed.test_not_there_either",
    ]
    assert code == 1


def test_a_module_that_makes_no_loop_fails_the_run(suite: Suite) -> None:
    (suite.folder / "toy/test_idle.py").write_text(
        "import unittest\nclass Idle(unittest.TestCase):\n    def test_nothing(self):\n        pass\n"
    )
    code, _, run = suite.run('[[module]]\nname = "test_idle"\n', "--loop", "other:OtherLoop")
    assert run["problems"] == ["test_idle: no loop was made"]
    assert code == 1
    code, _, run = suite.run('[[module]]\nname = "test_idle"\nloops = false\n', "--loop", "other:OtherLoop")
    assert code == 0


def test_a_module_whose_time_is_up_does_not_hold_the_run(suite: Suite) -> None:
    (suite.folder / "toy/test_slow.py").write_text(
        "import time, unittest\nclass Slow(unittest.TestCase):\n"
        "    def test_a(self):\n        time.sleep(600)\n    def test_b(self):\n        pass\n"
    )
    code, _, run = suite.run("", "--loop", "asyncio", "--timeout", "2")
    outcomes = {
        name.rpartition(".")[2]: it["outcome"] for name, it in run["modules"]["test_slow"]["results"].items()
    }
    assert outcomes == {"test_a": "hung", "test_b": "not run"}
    assert code == 1


def test_an_entry_without_a_reason_is_refused(suite: Suite) -> None:
    (suite.folder / "bad.toml").write_text('[[exception]]\ntests = ["test_x.Y.test_z"]\n')
    done = subprocess.run(
        [sys.executable, str(COMMAND), "--package", "toy", "--exceptions", str(suite.folder / "bad.toml")],
        env={**os.environ, "PYTHONPATH": str(suite.folder)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "missing: reason" in done.stderr
