"""Whose a piece of code is, by the name of its file."""

import asyncio
import os
from pathlib import Path

import pytest
import whilst
from whilst._owners import Owner, is_above_stdlib, is_package, owner_of


@pytest.mark.parametrize(
    ("file", "owner"),
    [
        ("", Owner.RUNTIME),
        ("<frozen importlib._bootstrap>", Owner.RUNTIME),
        # Which is an installed package itself.
        (str(Path(whilst.__file__).parent / "_loop/running.py"), Owner.RUNTIME),
        (asyncio.tasks.__file__, Owner.STDLIB),
        # Below the standard library's folder, as pip has it, in Debian's, and in another environment.
        (str(Path(os.__file__).parent / "site-packages/aiohttp/web.py"), Owner.PACKAGE),
        ("/usr/lib/python3/dist-packages/yaml/__init__.py", Owner.PACKAGE),
        ("/srv/venv/lib/python3.13/site-packages/whilst_plugin.py", Owner.PACKAGE),
        ("/srv/program/site-packages.py", Owner.PROGRAM),
        ("/srv/program/main.py", Owner.PROGRAM),
        ("<stdin>", Owner.PROGRAM),
    ],
)
def test_by_the_file(file: str, owner: Owner) -> None:
    assert owner_of(file) is owner
    assert is_package(file) == (owner is Owner.PACKAGE)
    assert is_above_stdlib(file) == (owner in (Owner.PACKAGE, Owner.PROGRAM))
