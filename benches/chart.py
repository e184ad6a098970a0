"""The chart of the README: for every row, how many times as good as asyncio each loop is.

A row is a line with a mark for each loop on a logarithmic scale, so that twice as fast and half as fast are
as far from asyncio. The SVG is written by hand: it has no script and no font of its own, and follows the
reader's light or dark scheme.
"""

import math
from html import escape
from typing import Any

import report
from loops import LOOPS
from rows import ROWS, Inside

LEFT, WIDTH, RIGHT = 340, 520, 40
ROW, TOP = 22, 86
FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"

MARKS = {
    "uvloop": "square",
    "zuvloop": "cross",
    "rloop": "diamond",
    "blazio": "triangle",
    "whilst-epoll": "ring",
    "whilst-io_uring": "disc",
}
"""A shape for each loop, as colour alone does not tell them apart for everybody. asyncio is the line at 1."""

STYLE = f"""
  text {{ font: 12px {FONT}; fill: #1f2328; }}
  .quiet {{ fill: #59636e; }}
  .heading {{ font-weight: 600; }}
  .title {{ font-size: 15px; font-weight: 600; }}
  .grid {{ stroke: #d1d9e0; }}
  .one {{ stroke: #59636e; }}
  .peer {{ fill: #818b98; stroke: #818b98; }}
  .ours {{ fill: #d1480a; stroke: #d1480a; }}
  .ring, .cross {{ fill: none; stroke-width: 2; }}
  @media (prefers-color-scheme: dark) {{
    text {{ fill: #f0f6fc; }}
    .quiet {{ fill: #9198a1; }}
    .grid {{ stroke: #3d444d; }}
    .one {{ stroke: #9198a1; }}
    .peer {{ fill: #7d8590; stroke: #7d8590; }}
    .ours {{ fill: #ff8a4c; stroke: #ff8a4c; }}
    .ring, .cross {{ fill: none; }}
  }}
"""


def svg(results: dict[str, Any]) -> str:
    """Draw the rows that asyncio has done."""
    groups = [
        ("Inside one loop: time per operation", [n for n in results["rows"] if isinstance(ROWS[n], Inside)]),
        ("A server under load", [n for n in results["rows"] if not isinstance(ROWS[n], Inside)]),
    ]
    ratios = {name: _ratios(results, name) for name in results["rows"]}
    groups = [(heading, [n for n in names if len(ratios[n]) > 1]) for heading, names in groups]
    groups = [(heading, names) for heading, names in groups if names]
    shown = [ratio for _, names in groups for name in names for ratio in ratios[name].values()]
    low, high = _bounds(shown)

    def x(ratio: float) -> float:
        share = (math.log10(ratio) - math.log10(low)) / (math.log10(high) - math.log10(low))
        return LEFT + share * WIDTH

    height = TOP + sum(ROW * (len(names) + 2) for _, names in groups) + 30
    machine = results["machine"]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + RIGHT} {height:.0f}" '
        f'role="img" aria-label="Each event loop compared with asyncio, row by row">',
        f"<style>{STYLE}</style>",
        _text(12, 24, "Compared with asyncio, which is at 1 \u00d7 (further right is better)", "title"),
        _text(
            12,
            44,
            f"{machine['implementation']} {machine['python']}, Linux {machine['kernel'].split('-')[0]}, "
            f"{machine['cores']} cores, {results['date']}, medians of {results['rounds']} interleaved rounds",
            "quiet",
        ),
        *_legend({column for name in ratios for column in ratios[name]}),
    ]
    y = TOP + ROW
    for heading, names in groups:
        parts.append(_text(12, y, heading, "heading"))
        top, bottom = y - 6, y + ROW * len(names) + 10
        for tick in _ticks(low, high):
            kind = "one" if tick == 1 else "grid"
            parts.append(f'<path class="{kind}" d="M{x(tick):.1f} {top:.1f}V{bottom:.1f}"/>')
            parts.append(_text(x(tick), top - 3, f"{tick:g} {report.TIMES}", "quiet", "middle"))
        for name in names:
            y += ROW
            parts.append(_text(LEFT - 12, y + 4, ROWS[name].title.replace("`", ""), "", "end"))
            values = [x(value) for value in ratios[name].values()]
            parts.append(f'<path class="grid" d="M{min(values):.1f} {y}H{max(values):.1f}"/>')
            for column in (column for column in MARKS if column in ratios[name]):
                value = results["rows"][name]["cells"][column]["value"]
                told = f"{column}: {report.figure(ROWS[name], value)}"
                parts.append(_mark(column, x(ratios[name][column]), y, told))
        y += ROW * 2
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def _ratios(results: dict[str, Any], name: str) -> dict[str, float]:
    """How many times as good as asyncio the loops are in a row, asyncio itself among them."""
    done = {
        column: one["value"]
        for column, one in results["rows"][name]["cells"].items()
        if column in LOOPS and one.get("value", 0) > 0
    }
    if "asyncio" not in done:
        return {}
    higher = report.higher_is_better(ROWS[name])
    return {column: report.ratio(value, done["asyncio"], higher) for column, value in done.items()}


def _bounds(ratios: list[float]) -> tuple[float, float]:
    low, high = min([0.5, *ratios]), max([4.0, *ratios])
    return low / 1.1, high * 1.1


def _ticks(low: float, high: float) -> list[float]:
    steps = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)
    return [tick for tick in steps if low <= tick <= high]


def _legend(columns: set[str]) -> list[str]:
    parts, x = [], 18.0
    for column in MARKS:
        if column in columns:
            parts.append(_mark(column, x, 64, column))
            parts.append(_text(x + 10, 68, column))
            x += 34 + 7 * len(column)
    return parts


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(words)}</text>'


def _mark(column: str, x: float, y: float, told: str) -> str:
    shape = MARKS[column]
    side = "peer" if LOOPS[column].is_peer else "ours"
    match shape:
        case "square":
            drawn = f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"'
        case "diamond":
            drawn = f'<path d="M{x:.1f} {y - 5.5:.1f}l5.5 5.5l-5.5 5.5l-5.5-5.5z"'
        case "triangle":
            drawn = f'<path d="M{x:.1f} {y - 5:.1f}l5.5 9h-11z"'
        case "cross":
            drawn = f'<path d="M{x - 4:.1f} {y - 4:.1f}l8 8m0-8l-8 8"'
        case _:
            drawn = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{4.5 if shape == "ring" else 5.5}"'
    tag = drawn[1:].split()[0]
    return f'{drawn} class="{side} {shape}"><title>{escape(told)}</title></{tag}>'
