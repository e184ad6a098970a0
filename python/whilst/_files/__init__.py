"""Asynchronous files: :func:`open`, in the manner of the builtin one.

``opening`` checks arguments and opens, ``binary`` buffers bytes, ``text`` decodes and encodes, and ``raw`` is what they read and
write through where that is not the loop's own driver.
"""

from __future__ import annotations

from whilst._files.binary import BinaryFile
from whilst._files.opening import Opening, open
from whilst._files.text import TextFile

__all__ = ["BinaryFile", "Opening", "TextFile", "open"]

for _class in (BinaryFile, TextFile):
    _class.__module__ = "whilst"
