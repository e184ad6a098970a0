"""Whose a piece of code is, by the name of its file: for reports that look for the program's own line."""

import os
from enum import IntEnum
from functools import cache


class Owner(IntEnum):
    """Whose a piece of code is; the greater, the nearer to the program."""

    RUNTIME = 0
    """Of whilst, frozen into the interpreter, or written in C: of no file."""
    STDLIB = 1
    PACKAGE = 2
    """Of a package that was installed, wherever that is."""
    PROGRAM = 3


#: What the names of files of each begin with.
RUNTIME = (os.path.join(os.path.dirname(__file__), ""), "<frozen ")
STDLIB = os.path.join(os.path.dirname(os.__file__), "")
#: What is somewhere in those of packages, which may be in the folder of the standard library.
PACKAGES = ("/site-packages/", "/dist-packages/")


@cache
def owner_of(file: str) -> Owner:
    """Whose the code in *file* is, a ``co_filename``. A trace goes by the same rule (``crates/python/src/trace/places.rs``)."""
    if not file or file.startswith(RUNTIME):
        return Owner.RUNTIME
    if any(folder in file for folder in PACKAGES):
        return Owner.PACKAGE
    return Owner.STDLIB if file.startswith(STDLIB) else Owner.PROGRAM


def is_package(file: str) -> bool:
    """Whether a file is an installed package's."""
    return owner_of(file) is Owner.PACKAGE


def is_above_stdlib(file: str) -> bool:
    """Whether a file is the program's or an installed package's."""
    return owner_of(file) >= Owner.PACKAGE
