"""The introduction's program: the example, and the code block taken out of the text itself."""

from __future__ import annotations

import re
import sys
import textwrap
import time
from pathlib import Path

import pytest
from serving import EXAMPLES, REPOSITORY, Program

TEXT = REPOSITORY.parent / "shared" / "000_4edbf26123f0c4fd.txt"
"""The introduction to asyncio that the project answers to. It is beside the repository, not in it."""

LINES = [
    "Fetched http://bbc.co.uk after 1",
    "Fetched http://google.com after 2",
    "['<html>http://google.com', '<html>http://bbc.co.uk']",
]

LIMIT_SECONDS = 2.9
"""Two fetches one after the other would take 3 s; a little over 2 s with the start of an interpreter is
what is promised."""


def run(arguments: list[str], driver: str, cwd: Path) -> tuple[list[str], float]:
    """The lines that the program printed, and the seconds it took."""
    started = time.monotonic()
    with Program(arguments, driver=driver, cwd=cwd) as program:
        assert program.wait() == 0
        return program.output().splitlines(), time.monotonic() - started


@pytest.mark.parametrize("command", [["-m", "whilst"], []], ids=["whilst", "python"])
def test_example(driver: str, command: list[str]) -> None:
    if not command and sys.version_info >= (3, 14):
        pytest.skip("from Python 3.14 on, get_event_loop() raises where nobody has set a loop")
    if not command and sys.version_info >= (3, 12):
        # Python's own warning about get_event_loop() is no part of what the program prints.
        command = ["-W", "ignore::DeprecationWarning"]
    lines, seconds = run([*command, "introduction.py"], driver, EXAMPLES)
    assert lines[:3] == LINES
    took = re.fullmatch(r"Both fetches took (\d+\.\d+) s together\.", lines[3])
    assert took is not None and 2 <= float(took[1]) < 2.5
    assert len(lines) == 4
    assert 2 <= seconds < LIMIT_SECONDS


def code_block(text: str) -> str:
    """The first block of Python in a text of reStructuredText, without its indentation."""
    block: list[str] = []
    lines = iter(text.splitlines())
    for line in lines:
        if line.strip() == ".. code-block:: python":
            break
    for line in lines:
        if line.strip() and not line.startswith(" "):
            break
        block.append(line)
    return textwrap.dedent("\n".join(block)).strip("\n") + "\n"


def test_the_code_of_the_text_itself(driver: str, tmp_path: Path) -> None:
    """Unchanged but for the call of `main()` that the text leaves to its reader."""
    if not TEXT.exists():
        pytest.skip(f"{TEXT} is not there")
    code = code_block(TEXT.read_text())
    assert "asyncio.get_event_loop()" in code and "run_until_complete" in code
    program = tmp_path / "introduction_of_the_text.py"
    program.write_text(code + "\n\nmain()\n")
    lines, seconds = run(["-m", "whilst", str(program)], driver, tmp_path)
    assert lines == LINES
    assert 2 <= seconds < LIMIT_SECONDS


def test_the_loop_is_whilst_s(driver: str, tmp_path: Path, loop_name: str) -> None:
    """What `get_event_loop()` gives to a program that is run by the command is whilst's loop."""
    program = tmp_path / "which.py"
    program.write_text(
        "import asyncio\n"
        "loop = type(asyncio.get_event_loop())\n"
        "print(f'{loop.__module__}.{loop.__qualname__}')\n"
    )
    lines, _ = run(["-m", "whilst", str(program)], driver, tmp_path)
    assert lines == [loop_name]
