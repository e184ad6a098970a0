"""A record in Chrome's trace-event format, which Perfetto opens.

https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU is the format. A loop is a "process" here,
and each of its tasks a "thread": the task's life is a slice, in it lie its steps and its waits. Arrows lead from the line
that makes a task to its first step, and from the end of a task to the step of one that has waited for it. Bytes are
counters, one a transport.
"""

import json
from collections.abc import Iterator
from typing import Any

_LOOP = 1
"""The thread of what is no task's: polls and callbacks."""

_FIRST_TASK = 2

Event = dict[str, Any]


def pieces(record: dict[str, Any]) -> Iterator[str]:
    """The text of the file."""
    about = (
        "program",
        "python",
        "whilst",
        "driver",
        "started",
        "dropped",
        "dropped_tasks",
        "utilisation",
        "polls",
    )
    other = {name: record[name] for name in about}
    yield f'{{"displayTimeUnit":"ms","otherData":{json.dumps(other)},"traceEvents":['
    separator = "\n"
    for event in events(record):
        yield separator + json.dumps(event, separators=(",", ":"))
        separator = ",\n"
    yield "\n]}\n"


def events(record: dict[str, Any]) -> Iterator[Event]:
    """The events, each loop's lanes first."""
    converter = _Converter(record)
    yield from converter.lanes()
    yield from converter.tasks()
    yield from converter.loop()
    yield from converter.flows()
    yield from converter.bytes()


class _Converter:
    def __init__(self, record: dict[str, Any]) -> None:
        self.record = record
        self.strings: list[str] = record["strings"]
        self.end: float = record["duration"]
        count = len(record["tasks"]["id"])
        runs = record["runs"]
        self.runs: list[list[int]] = [[] for _ in range(count)]
        for index, task in enumerate(runs["task"]):
            self.runs[task].append(index)

    def lanes(self) -> Iterator[Event]:
        for loop, driver in enumerate(self.record["loops"]["driver"]):
            name = f"loop {loop + 1} ({self.strings[driver]})"
            yield _meta("process_name", loop + 1, 0, name=name)
            yield _meta("process_sort_index", loop + 1, 0, sort_index=loop)
            yield _meta("thread_name", loop + 1, _LOOP, name="loop")
            yield _meta("thread_sort_index", loop + 1, _LOOP, sort_index=0)
        tasks = self.record["tasks"]
        for index, name_ in enumerate(tasks["name"]):
            process, thread = self.lane(index)
            name = f"{self.strings[name_]} {self.strings[tasks['coro'][index]]}"
            yield _meta("thread_name", process, thread, name=name)
            yield _meta("thread_sort_index", process, thread, sort_index=index + 1)

    def tasks(self) -> Iterator[Event]:
        tasks, runs, waits = self.record["tasks"], self.record["runs"], self.record["waits"]
        for index, name in enumerate(tasks["name"]):
            error = tasks["error"][index]
            outcome = ("pending", "returned", "raised", "cancelled")[tasks["outcome"][index]]
            about = {
                "coroutine": self.strings[tasks["coro"][index]],
                "made at": self.place(tasks["made_at"][index]),
                "outcome": outcome if error < 0 else f"{outcome} {self.strings[error]}",
            }
            begin, end = tasks["begin"][index], tasks["end"][index]
            yield self.slice("task", self.strings[name], self.lane(index), begin, end, about)
        for task, begin, end in zip(runs["task"], runs["begin"], runs["end"], strict=True):
            yield self.slice("run", "runs", self.lane(task), begin, end, {})
        for index, task in enumerate(waits["task"]):
            kind = self.strings[waits["kind"][index]]
            about = {"at": self.place(waits["place"][index])}
            if waits["stack"][index] >= 0:
                stack = self.record["stacks"][waits["stack"][index]]
                about["stack"] = "\n".join(self.place(place) for place in stack)
            begin, end = waits["begin"][index], waits["end"][index]
            yield self.slice("wait", f"waits: {kind}", self.lane(task), begin, end, about)

    def loop(self) -> Iterator[Event]:
        polls, callbacks = self.record["polls_at"], self.record["callbacks"]
        for loop, begin, end in zip(polls["loop"], polls["begin"], polls["end"], strict=True):
            yield self.slice("poll", "polls", (loop + 1, _LOOP), begin, end, {})
        for index, name in enumerate(callbacks["name"]):
            lane = (callbacks["loop"][index] + 1, _LOOP)
            about = {"at": self.place(callbacks["place"][index])}
            begin, end = callbacks["begin"][index], callbacks["end"][index]
            yield self.slice("callback", self.strings[name], lane, begin, end, about)

    def flows(self) -> Iterator[Event]:
        tasks, runs, waits = self.record["tasks"], self.record["runs"], self.record["waits"]
        number = 0
        for child, parent in enumerate(tasks["parent"]):
            if parent >= 0 and self.runs[child]:
                number += 1
                first = runs["begin"][self.runs[child][0]]
                yield self.arrow("makes", number, "s", self.lane(parent), tasks["begin"][child])
                yield self.arrow("makes", number, "f", self.lane(child), first)
        for index, on in enumerate(waits["on"]):
            until = waits["end"][index]
            if on >= 0 and until >= 0 and self.runs[on] and tasks["end"][on] >= 0:
                number += 1
                last = runs["begin"][self.runs[on][-1]]
                yield self.arrow("wakes", number, "s", self.lane(on), last)
                yield self.arrow("wakes", number, "f", self.lane(waits["task"][index]), until)

    def bytes(self) -> Iterator[Event]:
        transports, moved = self.record["transports"], self.record["bytes"]
        totals = [[0, 0] for _ in transports["kind"]]
        for transport, at, received, sent in zip(
            moved["transport"], moved["at"], moved["in"], moved["out"], strict=True
        ):
            total = totals[transport]
            total[0] += received
            total[1] += sent
            kind, peer = (
                self.strings[transports["kind"][transport]],
                self.strings[transports["peer"][transport]],
            )
            yield {
                "ph": "C",
                "name": f"bytes of {kind} {peer}".rstrip() + f" #{transport + 1}",
                "pid": 1,
                "ts": at,
                "args": {"in": total[0], "out": total[1]},
            }

    def lane(self, task: int) -> tuple[int, int]:
        return self.record["tasks"]["loop"][task] + 1, _FIRST_TASK + task

    def place(self, number: int) -> str:
        if number < 0:
            return ""
        file, line, function, source = self.record["places"][number]
        text = f"{self.strings[file]}:{line} in {self.strings[function]}"
        return text if source < 0 else f"{text}: {self.strings[source]}"

    def slice(
        self, category: str, name: str, lane: tuple[int, int], begin: float, end: float, about: dict[str, str]
    ) -> Event:
        end = self.end if end < 0 else end
        process, thread = lane
        # The difference of two numbers with one decimal has more in floating point.
        duration = round(max(end - begin, 0), 1)
        event: Event = {"ph": "X", "cat": category, "name": name, "pid": process, "tid": thread}
        event |= {"ts": begin, "dur": duration}
        if about:
            event["args"] = {key: value for key, value in about.items() if value}
        return event

    @staticmethod
    def arrow(name: str, number: int, end: str, lane: tuple[int, int], at: float) -> Event:
        event: Event = {
            "ph": end,
            "cat": "flow",
            "name": name,
            "id": number,
            "pid": lane[0],
            "tid": lane[1],
            "ts": at,
        }
        if end == "f":
            # To the slice around that time, and not to the next one.
            event["bp"] = "e"
        return event


def _meta(name: str, process: int, thread: int, /, **arguments: object) -> Event:
    return {"ph": "M", "name": name, "pid": process, "tid": thread, "args": arguments}
