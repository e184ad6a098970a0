"""A trace as JSON, by the rules of Chrome's trace-event format."""

import asyncio
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import whilst

pytestmark = pytest.mark.usefixtures("driver")


async def child(seconds: float) -> None:
    await asyncio.sleep(seconds)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read(100))
    writer.close()
    await writer.wait_closed()


async def main() -> None:
    await asyncio.gather(child(0.03), child(0.01))
    await asyncio.create_task(child(0), name='a "name" </script>')
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    writer.write(b"12345")
    assert await reader.read(100) == b"12345"
    writer.close()
    await writer.wait_closed()
    server.close()


@pytest.fixture
def events(tmp_path: Path) -> list[dict[str, Any]]:
    path = tmp_path / "trace.json"
    with whilst.trace(path):
        whilst.run(main())
    whole = json.loads(path.read_text())
    assert whole["displayTimeUnit"] == "ms"
    assert whole["otherData"]["dropped"] == 0
    found: list[dict[str, Any]] = whole["traceEvents"]
    return found


def test_each_event_has_what_its_phase_asks_for(events: list[dict[str, Any]]) -> None:
    wanted = {
        "M": {"name", "pid", "tid", "args"},
        "X": {"name", "cat", "pid", "tid", "ts", "dur"},
        "C": {"name", "pid", "ts", "args"},
        "s": {"name", "cat", "id", "pid", "tid", "ts"},
        "f": {"name", "cat", "id", "pid", "tid", "ts", "bp"},
    }
    for event in events:
        assert wanted[event["ph"]] <= event.keys(), event
        assert event.get("ts", 0) >= 0
        assert event.get("dur", 0) >= 0
    assert {event["ph"] for event in events} == wanted.keys()


def test_slices_of_a_lane_lie_in_each_other_or_apart(events: list[dict[str, Any]]) -> None:
    lanes = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            lanes[event["pid"], event["tid"]].append((event["ts"], -event["dur"], event["name"]))
    for slices in lanes.values():
        # Tenths of microseconds, as whole numbers.
        open_until: list[int] = []
        for begin, duration, name in sorted(slices):
            begin, end = round(begin * 10), round((begin - duration) * 10)
            while open_until and open_until[-1] <= begin:
                open_until.pop()
            assert not open_until or end <= open_until[-1], name
            open_until.append(end)


def test_arrows_begin_and_end_in_slices(events: list[dict[str, Any]]) -> None:
    slices = [event for event in events if event["ph"] == "X"]
    arrows: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        if event["ph"] in "sf":
            arrows[event["id"]].append(event)
            lane = (event["pid"], event["tid"])
            assert any(
                (it["pid"], it["tid"]) == lane and it["ts"] <= event["ts"] <= it["ts"] + it["dur"]
                for it in slices
            ), event
    assert {event["name"] for both in arrows.values() for event in both} == {"makes", "wakes"}
    for begin, end in arrows.values():
        assert (begin["ph"], end["ph"], begin["name"]) == ("s", "f", end["name"])
        assert begin["ts"] <= end["ts"]


def test_lanes_have_names(events: list[dict[str, Any]]) -> None:
    named = {
        (event["pid"], event["tid"]): event["args"]["name"]
        for event in events
        if event["name"] == "thread_name"
    }
    used = {(event["pid"], event["tid"]) for event in events if event["ph"] in "Xsf"}
    assert used <= named.keys()
    assert 'a "name" </script> child' in named.values()


def test_bytes_are_counted(events: list[dict[str, Any]]) -> None:
    counters = [event for event in events if event["ph"] == "C"]
    assert {tuple(event["args"].items()) for event in counters} >= {(("in", 5), ("out", 5))}
    assert all(event["name"].startswith("bytes of tcp 127.0.0.1:") for event in counters)
