"""asyncio's classic mistakes are explained, and nothing else is."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from corpus import ALONE, FAULTY, HARMLESS, LOST, source_of
from counts import COUNTS
from surroundings import environment

HERE = Path(__file__).parent
SECONDS = 100.0

#: How a program comes to be explained: what stands before its name, what the runner is told, and the environment.
WAYS: dict[str, tuple[list[str], str, dict[str, str]]] = {
    "whilst.explain": ([], "whilst", {}),
    "the command": (["-m", "whilst"], "command", {}),
    "debug mode": ([], "debug", {}),
    "WHILST_EXPLAIN=1": ([], "install", {"WHILST_EXPLAIN": "1"}),
}

#: How it does not.
OFF: dict[str, tuple[list[str], str, dict[str, str]]] = {
    "whilst.install": ([], "install", {}),
    "the command": (["-m", "whilst"], "command", {"WHILST_EXPLAIN": "0"}),
    "debug mode": ([], "debug", {"WHILST_EXPLAIN": "0"}),
}


def run(
    arguments: list[str], more: dict[str, str], cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    ran = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        cwd=cwd,
        env=environment(more),
    )
    ran.stderr = re.sub("0x[0-9a-f]+", "0x", ran.stderr)
    return ran


def outcomes(
    folder: Path, programs: dict[str, str], how: tuple[list[str], str, dict[str, str]]
) -> dict[str, dict[str, list[str]]]:
    """Run programs in one process. Return what was said of each, by its name."""
    names = {f"program_{number}": name for number, name in enumerate(programs)}
    folder.mkdir()
    for stem, name in names.items():
        (folder / f"{stem}.py").write_text(source_of(programs[name]))
    command, way, more = how
    ran = run([*command, str(HERE / "program.py"), str(folder), way], more)
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout.splitlines()[-1])
    return {names[stem]: outcome for stem, outcome in said.items()}


def is_explained(said: list[str], expected: str) -> bool:
    """Once, and by the whole of a line that is to be written, if that is what is expected."""
    if len(said) != 1 or expected not in said[0]:
        return False
    return (
        "`" in expected or "; write `" not in said[0] or f"write `{expected}`" in said[0] or "\n" in said[0]
    )


@pytest.mark.parametrize("way", WAYS)
def test_corpus(way: str, driver: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    faulty = {name: source for name, (source, _) in FAULTY.items()}
    lost = {name: source for name, (source, _) in LOST.items()}
    seen = outcomes(tmp_path / "faulty", faulty, WAYS[way])
    wrong = {
        name: seen[name]
        for name, (_, expected) in FAULTY.items()
        if not is_explained(seen[name]["notes"], expected)
    }
    seen = outcomes(tmp_path / "lost", lost, WAYS[way])
    for name, (_, expected) in LOST.items():
        said = seen[name]["lost"]
        # In debug mode Python itself says where a coroutine was made.
        is_said = (
            way == "debug mode"
            and "made it at" in expected
            and any("Coroutine created" in line for line in said)
        )
        if not is_said and not is_explained(
            [line for line in said if "Coroutine created" not in line], expected
        ):
            wrong[name] = seen[name]
    seen = outcomes(tmp_path / "harmless", HARMLESS, WAYS[way])
    falsely = {name: one["notes"] for name, one in seen.items() if one["notes"]}
    count = len(FAULTY) + len(LOST)
    request.config.stash[COUNTS][f"{way}, {driver}"] = (
        count - len(wrong),
        count,
        len(falsely),
        len(HARMLESS),
    )
    assert not wrong, "\n".join(f"{name}: {said}" for name, said in wrong.items())
    assert not falsely, "\n".join(f"{name}: {said}" for name, said in falsely.items())


@pytest.mark.parametrize("way", OFF)
def test_off(way: str, tmp_path: Path) -> None:
    # One of them turns debug mode on.
    programs = {name: source for name, (source, _) in (FAULTY | LOST).items() if "set_debug" not in source}
    seen = outcomes(tmp_path / "faulty", programs, OFF[way])
    assert {
        name: one for name, one in seen.items() if "whilst: " in json.dumps([one["notes"], one["lost"]])
    } == {}


@pytest.mark.parametrize("name", ALONE)
def test_alone(name: str, driver: str, tmp_path: Path) -> None:
    """What ends the program is explained in the traceback that the interpreter prints."""
    source, expected = ALONE[name]
    (tmp_path / "alone.py").write_text(source_of(source))
    ran = run(["-m", "whilst", "alone.py"], {}, tmp_path)
    said = [line for line in ran.stderr.splitlines() if line.startswith("whilst: ")]
    assert len(said) == 1, ran.stderr
    assert expected in said[0]
    plain = run(["-m", "whilst", "alone.py"], {"WHILST_EXPLAIN": "0"}, tmp_path)
    assert plain.returncode == ran.returncode
    assert [line for line in ran.stderr.splitlines() if line != said[0]] == plain.stderr.splitlines()


def test_manual(tmp_path: Path) -> None:
    """Each line of the manual's page is run, says what the page says of it and is corrected as there."""
    page = (HERE.parents[1] / "docs" / "pitfalls.md").read_text()
    rows = re.findall(r"^\| `(.+)` \| ([^`|]+) \| `(.+)` \|$", page, re.MULTILINE)
    rows += [
        (wrong, None, right)
        for wrong, right in re.findall(r"^\| `([^|]+)` \| `([^|]+)` \|$", page, re.MULTILINE)
    ]
    assert len(rows) > 25
    programs = {wrong: f"import time\n\nasync def main():\n    {wrong}\n" for wrong, _, _ in rows}
    seen = outcomes(tmp_path / "manual", programs, WAYS["the command"])
    for wrong, message, right in rows:
        said = seen[wrong]["notes" if message else "lost"]
        assert len(said) == 1, (wrong, said)
        assert f"write `{right}`" in said[0]
        # Newer Pythons have other words.
        if message and sys.version_info < (3, 12):
            assert message.replace("\\_", "_") in seen[wrong]["failed"][0]
