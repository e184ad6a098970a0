"""`whilst --trace OUT`, and what becomes of the file however a program ends."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from traces import Trace

SECONDS = 60
INTRODUCTION = Path(__file__).parents[2] / "examples" / "introduction.py"


def run(directory: Path, *arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    if code:
        (directory / "program.py").write_text(code)
    return subprocess.run(
        [sys.executable, "-m", "whilst", *arguments],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def test_the_introductions_example(tmp_path: Path, driver: str) -> None:
    ended = run(tmp_path, "--trace", "out.html", str(INTRODUCTION))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("Fetched http://bbc.co.uk after 1\n")
    assert ended.stdout.count("\n") == 4
    trace = Trace(tmp_path / "out.html")
    assert trace.record["driver"] == driver
    assert trace.record["program"] == str(INTRODUCTION)
    # The function that calls both is no coroutine: they have no parent, but the line.
    long, short = trace.tasks()[:2]
    assert long["coro"] == short["coro"] == "simulated_fetch"
    assert long["begin"] <= short["begin"] < short["end"] < long["end"]
    assert 1.9e6 < long["end"] - long["begin"] < 3e6
    assert 0.9e6 < short["end"] - short["begin"] < 1.9e6
    assert {wait["kind"] for wait in trace.rows("waits") if wait["task"] in (0, 1)} == {"sleep"}
    assert {wait["place"] for wait in trace.rows("waits")[:2]} == {"await asyncio.sleep(delay)"}
    assert long["made_at"] == "asyncio.gather("


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("", 0),
        ("raise SystemExit(3)", 3),
        ("raise ZeroDivisionError", 1),
        ("signal.raise_signal(signal.SIGINT)", -signal.SIGINT),
        ("os._exit(4)", 4),
    ],
)
@pytest.mark.parametrize("within", [True, False])
def test_however_a_program_ends(tmp_path: Path, end: str, status: int, within: bool) -> None:
    code = f"""
import asyncio, os, signal

async def main():
    await asyncio.sleep(0.01)
    {end if within else ""}

asyncio.run(main())
{"" if within else end}
"""
    ended = run(tmp_path, "--trace=out.html", "program.py", code=code)
    assert ended.returncode == status, ended.stderr
    assert ended.stdout == ""
    if status == 4:
        assert not (tmp_path / "out.html").exists()
    else:
        assert Trace(tmp_path / "out.html").task("main")["begin"] > 0
    assert {path.name for path in tmp_path.iterdir()} <= {"out.html", "program.py"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trace"], "Argument expected for the --trace option"),
        (
            ["--trace", "out.txt", "program.py"],
            "--trace: a trace's name must end in .html or .json: 'out.txt'",
        ),
        (["--trace", "no/out.html", "program.py"], "--trace: [Errno 2] No such file or directory:"),
    ],
)
def test_what_is_refused(tmp_path: Path, arguments: list[str], message: str) -> None:
    ended = run(tmp_path, *arguments, code="print('it ran')")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(message)


def test_the_programs_arguments_are_its_own(tmp_path: Path) -> None:
    ended = run(
        tmp_path, "--trace", "out.json", "program.py", "--trace", "x", code="import sys; print(sys.argv)"
    )
    assert ended.stdout == "['program.py', '--trace', 'x']\n"
    ended = run(tmp_path, "--trace", "out.json", "-m", "program", "y")
    assert ended.stdout == f"['{tmp_path / 'program.py'}', 'y']\n"
    ended = run(tmp_path, "--trace", "out.json", "-c", "import sys; print(sys.argv)", "z")
    assert ended.stdout == "['-c', 'z']\n"
    assert (tmp_path / "out.json").stat().st_size > 0


def test_a_forked_child_leaves_the_file_alone(tmp_path: Path) -> None:
    code = """
import asyncio, os, sys

async def parent(): await asyncio.sleep(0)
async def child(): await asyncio.sleep(0)

asyncio.run(parent())
if (process := os.fork()) == 0:
    asyncio.run(child())
    sys.exit()
os.waitpid(process, 0)
assert not os.path.exists("out.html")
"""
    ended = run(tmp_path, "--trace", "out.html", "program.py", code=code)
    assert ended.returncode == 0, ended.stderr
    trace = Trace(tmp_path / "out.html")
    assert "parent" in [task["coro"] for task in trace.tasks()]
    assert "child" not in [task["coro"] for task in trace.tasks()]


def test_a_program_that_goes_elsewhere(tmp_path: Path) -> None:
    code = "import asyncio, os; os.chdir('/'); asyncio.run(asyncio.sleep(0))"
    assert run(tmp_path, "--trace", "out.html", "program.py", code=code).returncode == 0
    assert Trace(tmp_path / "out.html").tasks()


def test_the_old_file_stays_until_there_is_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "out.html").write_text("old")
    code = "import asyncio; print(open('out.html').read()); asyncio.run(asyncio.sleep(0))"
    assert run(tmp_path, "--trace", "out.html", "program.py", code=code).stdout == "old\n"
    assert Trace(tmp_path / "out.html").tasks()
    assert (tmp_path / "out.html").stat().st_mode & 0o444 == 0o444
