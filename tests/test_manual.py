"""What the manual says of the interface and of the conformance tests is true, and its links lead somewhere."""

import asyncio
import re
import tomllib
from asyncio import base_events, unix_events
from pathlib import Path

import pytest
import whilst

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def table() -> dict[str, str]:
    """The methods of the manual's page, and whose code is said to run first."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", (ROOT / "docs" / "methods.md").read_text(), re.MULTILINE)
    assert len(rows) == len(dict(rows)), "a method is there twice"
    return dict(rows)


def test_every_method_has_its_line() -> None:
    interface = {name for name in dir(asyncio.AbstractEventLoop) if not name.startswith("_")}
    assert set(table()) == interface


def test_it_says_whose_code_runs() -> None:
    theirs = (unix_events._UnixSelectorEventLoop, base_events.BaseEventLoop)  # type: ignore[attr-defined]

    def by(name: str) -> str:
        ours = getattr(whilst.Loop, name)
        return "CPython" if any(ours is getattr(cls, name, None) for cls in theirs) else "whilst"

    said = table()
    assert said == {name: by(name) for name in said}


def test_every_test_that_is_left_out_has_its_reason_in_the_manual() -> None:
    """By its last name: the classes that it is run in differ only in what they hand to the stdlib's loop."""
    listed = tomllib.loads((ROOT / "tests" / "conformance" / "exceptions.toml").read_text())
    names = {name.rsplit(".", 1)[1] for entry in listed["exception"] for name in entry["tests"]}
    page = (ROOT / "docs" / "conformance.md").read_text()
    assert not [name for name in names if name not in page]
    assert len(names) <= 10
    assert not listed.get("not_yet")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#\s]*)(?:#([^)]*))?\)", page.read_text()):
        other = (page.parent / target).resolve() if target else page
        assert other.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.*)$", other.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in anchors, (target, anchor)
