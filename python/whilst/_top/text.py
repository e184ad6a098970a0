"""Text for a terminal: harmless, of a known width, and figures that fit into few columns."""

import unicodedata
from functools import lru_cache

# Characters that a terminal may take for more than a character: controls, formats (which turn the direction of writing, or
# join what follows), surrogates, private ones, those that do not exist, and separators of lines and paragraphs.
_HARMFUL = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# They choose between two looks of the character before, whose widths differ, and terminals do not agree on them.
_VARIATIONS = frozenset(map(chr, range(0xFE00, 0xFE10)))


def harmless(text: str) -> str:
    """*text* with each character that could steer a terminal written as Python writes it, ``\\x1b``.

    Names of tasks are the program's, and may come from whoever talks to it.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_written(character) for character in text)


def _written(character: str) -> str:
    if character in _VARIATIONS:
        return ""
    if unicodedata.category(character) in _HARMFUL:
        return character.encode("unicode_escape").decode("ascii")
    return " " if character.isspace() else character


@lru_cache(maxsize=4096)
def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def width(text: str) -> int:
    """The columns that harmless *text* takes: East Asian wide characters take two, combining ones none (UAX #11)."""
    if text.isascii():
        return len(text)
    return sum(map(_columns, text))


def clip(text: str, columns: int, more: str = "…") -> str:
    """*text*, or as much of its beginning as fits into *columns* with *more* behind it."""
    if width(text) <= columns:
        return text
    if columns < width(more):
        return ""
    left = columns - width(more)
    kept = []
    for character in text:
        left -= _columns(character)
        if left < 0:
            break
        kept.append(character)
    return "".join(kept) + more


def clip_left(text: str, columns: int, more: str = "…") -> str:
    """*text*, or as much of its end as fits: of a path, the end says more."""
    if width(text) <= columns:
        return text
    if columns < width(more):
        return ""
    left = columns - width(more)
    start = len(text)
    while start and left >= _columns(text[start - 1]):
        start -= 1
        left -= _columns(text[start])
    # A combining character must not be left without the one that it belongs to.
    while start < len(text) and not _columns(text[start]):
        start += 1
    return more + text[start:]


def pad(text: str, columns: int, more: str = "…") -> str:
    """*text* clipped and filled up to exactly *columns*."""
    text = clip(text, columns, more)
    return text + " " * (columns - width(text))


def pad_left(text: str, columns: int) -> str:
    """*text* moved to the right end of *columns*; not clipped, for it is a figure."""
    return " " * (columns - width(text)) + text


def duration(seconds: float) -> str:
    """A time in at most seven columns: ``85 µs``, ``1.20 ms``, ``12.3 s``, ``2 m 05 s``, ``3 h 07 m``, ``12 d 4 h``."""
    if seconds < 0.0005e-3:
        return "0 s"
    if seconds < 0.9995e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.9995:
        return f"{_three_figures(seconds * 1e3)} ms"
    if seconds < 99.95:
        return f"{_three_figures(seconds)} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} m"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def size(count: float) -> str:
    """Bytes in at most seven columns, in powers of 1000: ``812 B``, ``1.23 kB``, ``45.6 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} B" if unit == "B" else f"{_three_figures(count)} {unit}"
        count /= 1000
    return f"{_three_figures(count)} TB"


def amount(count: float) -> str:
    """A count or a rate: ``0.25``, ``8.3``, ``1,234``, ``1.23 M``."""
    if count == 0 or count == int(count) < 10:
        return f"{count:.0f}"
    if count < 0.995:
        return f"{count:.2f}"
    if count < 9.95:
        return f"{count:.1f}"
    if count < 999_999.5:
        return f"{count:,.0f}"
    return f"{_three_figures(count / 1e6)} M"


def _three_figures(value: float) -> str:
    if value < 9.995:
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
