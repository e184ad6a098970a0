"""The chart of the README: for every row, how many times as good as the best peer each loop is.

The best peer is the line at 1, and a row's bar reaches from there to whilst: to the right where it is ahead, to the left
where it is behind. The scale is logarithmic, so that twice as fast and half as fast are as far from the line. The SVG is
written by hand: it has no script and no font of its own, follows the reader's light or dark scheme, and brings its
background with it, as a page's scheme can be another than the reader's.
"""

import math
from html import escape
from typing import Any

import report
from loops import LOOPS
from rows import ROWS

LEFT, WIDTH, RIGHT = 340, 490, 190
ROW, TOP, GAP = 22, 126, 36
LOW, HIGH = 0.1, 4.0
"""What the scale shows; beyond it a mark is an arrow at the edge, and its figure is in the row's last columns."""

FONT = "system-ui, -apple-system, 'Segoe UI', 'Noto Sans', Helvetica, Arial, sans-serif"

DISC = "M-6 0a6 6 0 1 0 12 0a6 6 0 1 0-12 0z"
RING = "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z"
MARKS = {
    "asyncio": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "uvloop": "M-4-4h8v8h-8z",
    "zuvloop": "M-5-3h10l-5 8.5z",
    "rloop": "M0-5.5l5.5 5.5l-5.5 5.5l-5.5-5.5z",
    "blazio": "M-5 4h10l-5-8.5z",
    "rsloop": "M-1.5-5h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5v-3h3.5z",
    "whilst-epoll": RING,
    "whilst-io_uring": DISC,
}
"""A shape for each loop, as colour alone does not tell them apart for everybody. Later ones lie over earlier ones."""

LIGHT = {
    "paper": "#ffffff",
    "edge": "#d1d9e0",
    "text": "#1f2328",
    "quiet": "#59636e",
    "grid": "#e4e8ec",
    "one": "#6e7781",
    "stripe": "#f6f8fa",
    "ahead": "#2da44e",
    "behind": "#cf222e",
    "ours": "#d9480f",
    "asyncio": "#8c959f",
    "uvloop": "#3b7dd8",
    "zuvloop": "#8250df",
    "rloop": "#0e8a8a",
    "blazio": "#b08800",
    "rsloop": "#bf3989",
}
DARK = {
    "paper": "#0d1117",
    "edge": "#3d444d",
    "text": "#f0f6fc",
    "quiet": "#9198a1",
    "grid": "#262c36",
    "one": "#9198a1",
    "stripe": "#151b23",
    "ahead": "#3fb950",
    "behind": "#f85149",
    "ours": "#ff8a4c",
    "asyncio": "#7d8590",
    "uvloop": "#5ca4ff",
    "zuvloop": "#b48cff",
    "rloop": "#39c5c5",
    "blazio": "#e3b341",
    "rsloop": "#ff7ac3",
}


def _rules(colours: dict[str, str]) -> str:
    peers = "".join(f".{name}{{fill:{colours[name]}}}" for name in MARKS if LOOPS[name].is_peer)
    return (
        f"text{{fill:{colours['text']}}}.quiet{{fill:{colours['quiet']}}}"
        f".paper{{fill:{colours['paper']};stroke:{colours['edge']}}}.stripe{{fill:{colours['stripe']}}}"
        f".grid{{stroke:{colours['grid']}}}.one{{stroke:{colours['one']}}}"
        f".ahead{{fill:{colours['ahead']}}}.behind{{fill:{colours['behind']}}}{peers}"
        f".whilst-io_uring{{fill:{colours['ours']};stroke:{colours['paper']}}}"
        f".whilst-epoll{{fill:{colours['paper']};stroke:{colours['ours']};stroke-width:2.5}}"
    )


STYLE = (
    f"text{{font:13px {FONT}}}.heading{{font-weight:600}}.title{{font-size:19px;font-weight:600}}"
    ".num{font-variant-numeric:tabular-nums}.bar{opacity:.32}.peer{opacity:.85}"
    f"{_rules(LIGHT)}@media(prefers-color-scheme:dark){{{_rules(DARK)}}}"
)


def svg(results: dict[str, Any]) -> str:
    """Draw the rows that whilst and a peer have done, one group below the other."""
    groups: dict[str, list[str]] = {}
    for name in results["rows"]:
        ratios, _ = report.compared(results, name)
        if any(not LOOPS[column].is_peer for column in ratios):
            groups.setdefault(ROWS[name].group, []).append(name)
    shown = {
        column for names in groups.values() for name in names for column in report.compared(results, name)[0]
    }
    machine, width = results["machine"], LEFT + WIDTH + RIGHT
    parts = [
        _text(24, 38, "whilst beside the other event loops of asyncio", "title"),
        _text(24, 60, f"The best of the others is at 1 {report.TIMES}. Further right is better.", "quiet"),
        _text(
            width - 24,
            60,
            f"{machine['implementation']} {machine['python']}, Linux {machine['kernel'].split('-')[0]}, "
            f"{machine['cores']} cores, {results['date']}, medians of {results['rounds']} rounds",
            "quiet",
            "end",
        ),
        *_legend(shown),
    ]
    y = TOP
    for heading, names in groups.items():
        top, bottom = y + 10, y + 10 + ROW * len(names)
        for index in range(0, len(names), 2):
            parts.append(
                f'<rect class="stripe" x="12" y="{top + ROW * index}" width="{width - 24}" height="{ROW}"/>'
            )
        for tick in (0.1, 0.2, 0.5, 1, 2, 4):
            kind = "one" if tick == 1 else "grid"
            parts.append(f'<path class="{kind}" d="M{_x(tick):.1f} {top - 4}V{bottom + 4}"/>')
            parts.append(_text(_x(tick), top - 8, f"{tick:g} {report.TIMES}", "quiet num", "middle"))
        parts.append(_text(24, top - 8, heading, "heading"))
        for column, end in (("whilst-epoll", width - 102), ("whilst-io_uring", width - 24)):
            if column in shown:
                parts.append(_text(end, top - 8, column.removeprefix("whilst-"), "quiet", "end"))
        for index, name in enumerate(names):
            parts += _row(results, name, top + ROW * index + ROW / 2)
        y = bottom + GAP
    height = y - GAP + 24
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
            'aria-label="whilst and each other event loop compared with the best of the others, row by row">',
            f"<style>{STYLE}</style>",
            f'<rect class="paper" x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="10"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _row(results: dict[str, Any], name: str, y: float) -> list[str]:
    """A row: its title, the bar from the best peer to the better of whilst's drivers, the marks and the figures."""
    row, width = ROWS[name], LEFT + WIDTH + RIGHT
    ratios, what = report.compared(results, name)
    title = row.title.replace("`", "") + (f" ({what})" if what else "")
    parts = [_text(LEFT - 22, y + 4.5, title, "", "end")]
    ours = {column: one for column, one in ratios.items() if not LOOPS[column].is_peer}
    best = max(ours.values())
    start, end = sorted((_x(1), _x(best)))
    kind = "ahead" if best > 1 else "behind"
    parts.append(
        f'<rect class="bar {kind}" x="{start:.1f}" y="{y - 5}" width="{end - start:.1f}" height="10" rx="2"/>'
    )
    for column in (column for column in MARKS if column in ratios):
        value = results["rows"][name]["cells"][column]["value"]
        told = f"{column}: {report.figure(row, value)}, {_times(ratios[column])}"
        parts.append(_mark(column, _x(ratios[column]), y, told, ratios[column]))
    for column, at in (("whilst-epoll", width - 102), ("whilst-io_uring", width - 24)):
        if column in ours:
            parts.append(
                _text(at, y + 4.5, _times(ours[column]), f"num heading {_side(ours[column])}", "end")
            )
    return parts


def _side(ratio: float) -> str:
    """Whether a figure is ahead, behind or neither: two hundredths from level are level."""
    return "ahead" if ratio > 1.02 else "behind" if ratio < 0.98 else ""


def _x(ratio: float) -> float:
    """Where a ratio is on the scale, at its edge where it is beyond."""
    share = math.log(min(max(ratio, LOW), HIGH) / LOW) / math.log(HIGH / LOW)
    return LEFT + share * WIDTH


def _times(ratio: float) -> str:
    return f"{ratio:.2f} {report.TIMES}" if ratio < 9.95 else f"{ratio:.0f} {report.TIMES}"


def _legend(columns: set[str]) -> list[str]:
    parts, x = [], 30.0
    for column in reversed(MARKS):
        if column in columns:
            parts.append(_mark(column, x, 88, column))
            parts.append(_text(x + 12, 92.5, column.replace("-", ", ")))
            x += 40 + 7.4 * len(column)
    return parts


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(words)}</text>'


def _mark(column: str, x: float, y: float, told: str, ratio: float = 1.0) -> str:
    shape = MARKS[column]
    if ratio < LOW:
        shape = "M4-5v10l-9-5z"
    elif ratio > HIGH:
        shape = "M-4-6v12l10-6z"
    kind = f"peer {column}" if LOOPS[column].is_peer else column
    return f'<path class="{kind}" transform="translate({x:.1f} {y:.1f})" d="{shape}"><title>{escape(told)}</title></path>'
