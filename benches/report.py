"""What the measurements come to: medians, spreads and ratios, and the tables of them in Markdown."""

import statistics
from typing import Any

from loops import LOOPS
from measure import LIMITS
from rows import ROWS, Idle, Inside, Kept, Row, Throughput

TIMES = "\u00d7"
FULL = 0.9
"""A load that used this share of its core, or more, may have been what was slow."""

Cell = dict[str, Any]
Results = dict[str, Any]


def cell(measurements: list[dict[str, Any]], failures: list[str]) -> Cell:
    """What the rounds of one row on one loop come to.

    One failure makes the cell a failure: a loop that answers four times of five has not done the row.
    """
    if failures:
        return {"error": failures[0], "failures": len(failures), "rounds": len(measurements) + len(failures)}
    result: Cell = {"rounds": len(measurements)}
    for name in measurements[0]:
        if name == "latency_us":
            result["latency_us"] = {
                percentile: statistics.median(one["latency_us"][percentile] for one in measurements)
                for percentile in measurements[0]["latency_us"]
            }
            continue
        values = [one[name] for one in measurements]
        result[name] = statistics.median(values)
        if name in ("value", "cpu_us"):
            result[f"{name}s"] = values
            result[f"{name}_spread"] = spread(values)
    result["peak_bytes"] = max(one["peak_bytes"] for one in measurements)
    if "load_cpu_share" in result:
        result["load_was_full"] = result["load_cpu_share"] >= FULL
    return result


def spread(values: list[float]) -> float:
    """Half of what lies between the quartiles, as a share of the median; zero for a single value."""
    if len(values) < 2 or not (median := statistics.median(values)):
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / 2 / median


def higher_is_better(row: Row) -> bool:
    """Which way the row's value is read."""
    return isinstance(row, Throughput) and not isinstance(row, Idle)


def ratio(mine: float, other: float, higher: bool) -> float:
    """How many times as good the first is as the second."""
    mine, other = (mine, other) if higher else (other, mine)
    return mine / other if other else float("inf")


def summarise(results: Results) -> None:
    """Add to every row its best peer and the ratios of whilst to it, above 1 where whilst is ahead."""
    for name, entry in results["rows"].items():
        higher = higher_is_better(ROWS[name])
        cells = entry["cells"]
        done = {column: one for column, one in cells.items() if "error" not in one}
        peers = {column: one for column, one in done.items() if column in LOOPS and LOOPS[column].is_peer}
        entry["ratios"] = {}
        entry["best_peer"] = None
        if not peers:
            entry["ratios"] = {column: {} for column in done if column in LOOPS and not LOOPS[column].is_peer}
            continue
        best = (max if higher else min)(peers, key=lambda column: peers[column]["value"])
        entry["best_peer"] = best
        cheapest = min((one["cpu_us"] for one in peers.values() if "cpu_us" in one), default=None)
        for column, one in done.items():
            if column in LOOPS and not LOOPS[column].is_peer:
                ratios = {"value": ratio(one["value"], peers[best]["value"], higher)}
                if cheapest is not None:
                    ratios["cpu"] = cheapest / one["cpu_us"]
                if limit := done.get("limit-io_uring"):
                    ratios["limit"] = ratio(one["value"], limit["value"], higher)
                    ratios["limit_cpu"] = limit["cpu_us"] / one["cpu_us"]
                entry["ratios"][column] = ratios


def compared(results: Results, name: str) -> tuple[dict[str, float], str]:
    """Each loop of a row compared with the best peer, 1 for that peer itself, and what is compared where it is not the value.

    A server's requests say nothing where a load has filled its core or the clock is the CPU's: CPU time does then.
    """
    row, cells = ROWS[name], results["rows"][name]["cells"]
    done = {column: one for column, one in cells.items() if column in LOOPS and one.get("value", 0) > 0}
    by_cpu = all("cpu_us" in one for one in done.values()) and (
        getattr(row, "by_cpu", False)
        or results["clock"] == "cpu"
        or any(one.get("load_was_full") for one in cells.values())
    )
    values = {column: one["cpu_us" if by_cpu else "value"] for column, one in done.items()}
    higher = higher_is_better(row) and not by_cpu
    peers = [value for column, value in values.items() if LOOPS[column].is_peer]
    if not peers:
        return {}, ""
    best = (max if higher else min)(peers)
    return {
        column: ratio(value, best, higher) for column, value in values.items()
    }, "CPU time" if by_cpu else ""


def markdown(results: Results) -> str:
    """All tables, with what they were measured on."""
    machine = results["machine"]
    notes: list[str] = []
    lines = [
        f"{machine['implementation']} {machine['python']}, Linux {machine['kernel']}, "
        f"{machine['processor']}, {machine['cores']} cores, {results['date']}. "
        f"{results['rounds']} interleaved rounds: medians, and half "
        "of what lies between the quartiles as a percentage. "
        + ("**A quick run: good for orders of magnitude.** " if results["quick"] else "")
        + ("Inside one loop, time is CPU time of the process. " if results["clock"] == "cpu" else "")
        + _disturbed(results)
        + "The best peer is in bold; “whilst / best” is above 1 where whilst is ahead of every peer.",
        "",
        "Versions: " + ", ".join(f"{name} {what}" for name, what in results["loops"].items()) + ".",
    ]
    groups: list[tuple[str, type[Row], tuple[type[Row], ...]]] = [
        ("Inside one loop: microseconds per operation unless said, lower is better", Inside, ()),
        (
            "A server on one core, the load on another: requests per second, higher is better, "
            "and the server's CPU time per request in microseconds, lower is better",
            Throughput,
            (Kept, Idle),
        ),
        (
            "A server whose process computes, too: the share of requests that it keeps, higher is better",
            Kept,
            (),
        ),
        ("A server with idle connections: bytes per connection, lower is better", Idle, ()),
    ]
    for heading, kind, without in groups:
        rows = {
            name: entry
            for name, entry in results["rows"].items()
            if isinstance(ROWS[name], kind) and not isinstance(ROWS[name], without)
        }
        if rows:
            lines += ["", f"### {heading}", "", *_table(rows, notes)]
    lines += ["", *_memory_table(results)]
    if notes:
        lines += ["", "Without a figure:", "", *(f"* {note}" for note in dict.fromkeys(notes))]
    return "\n".join(lines) + "\n"


def put_between(text: str, version: str, words: str) -> str:
    """The text with these words between the marks that it has for this version of Python, instead of what is there."""
    begin, end = f"<!-- benchmark {version}: begin -->", f"<!-- benchmark {version}: end -->"
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise SystemExit(f"the file has no lines {begin} and {end}, which the figures go between")
    return f"{before}{begin}\n{words.strip()}\n{end}{after}"


def _disturbed(results: Results) -> str:
    load = results["load_average"]["before"]
    return f"**The machine had other work (load average {load:.1f} before the run).** " if load > 0.5 else ""


def _table(rows: dict[str, Any], notes: list[str]) -> list[str]:
    columns = [name for name in (*LOOPS, *LIMITS) if any(name in entry["cells"] for entry in rows.values())]
    columns = [column for column in columns if not _absent(rows, column, notes)]
    ours = [column for column in columns if column in LOOPS and not LOOPS[column].is_peer]
    head = [*columns, *(f"{column} / best" for column in ours)]
    lines = ["| | " + " | ".join(head) + " |", "| --- |" + " ---: |" * len(head)]
    for name, entry in rows.items():
        row = ROWS[name]
        words = [_words(row, column, entry, notes) for column in columns]
        words += [_ratio_words(row, entry, column) for column in ours]
        lines.append(f"| {row.title} | " + " | ".join(words) + " |")
    if any(one.get("load_was_full") for entry in rows.values() for one in entry["cells"].values()):
        lines += ["", f"† The load used {FULL:.0%} of its core or more: read the CPU time, not the requests."]
    for entry in rows.values():
        for column, ratios in entry["ratios"].items():
            if "limit" in ratios:
                lines += [
                    "",
                    f"{entry['title']}: {column} answers {ratios['limit']:.0%} of the requests that "
                    "the server without Python answers on io_uring; "
                    f"per second of CPU time {ratios['limit_cpu']:.0%}.",
                ]
    return lines


def _absent(rows: dict[str, Any], column: str, notes: list[str]) -> bool:
    """Whether a loop is in no row, for one reason, which is noted once for all."""
    cells = [entry["cells"][column] for entry in rows.values() if column in entry["cells"]]
    reasons = {one.get("error") for one in cells}
    if len(reasons) == 1 and None not in reasons and all(one.get("missing") for one in cells):
        notes.append(f"{column} {reasons.pop()}.")
        return True
    return False


def _words(row: Row, column: str, entry: dict[str, Any], notes: list[str]) -> str:
    one = entry["cells"].get(column)
    if one is None:
        return ""
    if "error" in one:
        times = f" ({one['failures']} of {one['rounds']} rounds)" if one["failures"] < one["rounds"] else ""
        notes.append(f"{column}, {row.title}: {one['error']}{times}.")
        return "refused" if "NotImplementedError" in one["error"] else "failed"
    number = figure(row, one["value"])
    if column == entry.get("best_peer"):
        number = f"**{number}**"
    if one["rounds"] > 1:
        number += f" ±{one['value_spread']:.0%}"
    if "cpu_us" in one:
        number += ("†" if one["load_was_full"] else "") + f", {one['cpu_us']:.2f} µs"
    return number


def figure(row: Row, value: float) -> str:
    """A value with its unit, to three digits."""
    match row:
        case Inside():
            return three_digits(value) + (" ms" if row.unit == "ms" else "")
        case Kept():
            return f"{value:.1f} %"
        case Idle():
            return f"{value:,.0f} B"
    return three_digits(value / 1000) + " k/s"


def three_digits(value: float) -> str:
    """A number as a reader wants it: no more digits than were measured."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _ratio_words(row: Row, entry: dict[str, Any], column: str) -> str:
    ratios = entry["ratios"].get(column)
    if not ratios:
        return ""
    words = f"{ratios['value']:.2f} {TIMES}"
    if "cpu" in ratios:
        words += f", CPU {ratios['cpu']:.2f} {TIMES}"
    return words


def targets(results: Results) -> str:
    """The rows that have not reached the project's target, for whoever works on them.

    A server is judged by its requests, or by its CPU time where the row says so or a load has filled its core; in a run of CPU
    time that alone counts. epoll alone has to be level with uvloop on every row.
    """
    lines: list[str] = []
    for name, entry in results["rows"].items():
        row, cells = ROWS[name], entry["cells"]
        higher = higher_is_better(row)
        full = any(one.get("load_was_full") for one in cells.values())
        by_cpu = isinstance(row, Throughput) and (row.by_cpu or full or results["clock"] == "cpu")
        for column, ratios in entry["ratios"].items():
            value = cells[column]["value"]
            which = "cpu" if by_cpu and "cpu" in ratios else "value"
            words = " (CPU time)" if which == "cpu" else ""
            if row.target is not None and ratios.get(which, row.target) < row.target:
                lines.append(
                    f"{name:22}{column:16} {ratios[which]:.2f} of {row.target:.2f} {TIMES} {entry['best_peer']}{words}"
                )
            if row.goal is not None and ratio(value, row.goal, higher) < 1:
                lines.append(f"{name:22}{column:16} {figure(row, value)}, wanted {figure(row, row.goal)}")
            limit = getattr(row, "limit_target", None)
            if limit is not None and "limit" in ratios:
                reached = ratios["limit_cpu" if by_cpu else "limit"]
                if reached < limit:
                    lines.append(
                        f"{name:22}{column:16} {reached:.2f} of {limit:.2f} {TIMES} the limit on io_uring{words}"
                    )
            uvloop = cells.get("uvloop", {})
            # What a loop's import and its memory are to be, the goals say.
            if column == "whilst-epoll" and "value" in uvloop and row.goal is None:
                level = (
                    uvloop["cpu_us"] / cells[column]["cpu_us"]
                    if which == "cpu"
                    else ratio(value, uvloop["value"], higher)
                )
                if level < 1:
                    lines.append(f"{name:22}{column:16} {level:.2f} {TIMES} uvloop, wanted level{words}")
    return "\n".join(lines) + "\n" if lines else "every target is reached\n"


def _memory_table(results: Results) -> list[str]:
    columns = [*LOOPS, *LIMITS]
    peaks: dict[str, dict[str, int]] = {column: {} for column in columns}
    for name, entry in results["rows"].items():
        for column, one in entry["cells"].items():
            if "error" not in one:
                peaks[column][name] = one["peak_bytes"]
    lines = [
        "### Peak memory of the process, MiB",
        "",
        "| | median of the rows | largest | in |",
        "| --- | ---: | ---: | --- |",
    ]
    for column, by_row in peaks.items():
        if by_row:
            most = max(by_row, key=lambda name: by_row[name])
            middle = statistics.median(by_row.values())
            lines.append(
                f"| {column} | {middle / 2**20:.1f} | {by_row[most] / 2**20:.1f} | {ROWS[most].title} |"
            )
    return lines
