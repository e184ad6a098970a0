"""A trace, read back from the file that was written."""

import json
import re
from pathlib import Path
from typing import Any


class Trace:
    """The record in a page."""

    def __init__(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        found = re.search(r'<script[^>]*id="record"[^>]*>(.*?)</script>', text, re.DOTALL)
        assert found, "the page has a record"
        self.record: dict[str, Any] = json.loads(found[1])
        self.strings: list[str] = self.record["strings"]

    def rows(self, table: str) -> list[dict[str, Any]]:
        """The rows of a table, with what its numbers refer to in their place."""
        columns = self.record[table]
        lengths = {len(column) for column in columns.values()}
        assert len(lengths) <= 1, f"the columns of {table} are of one length"
        rows = []
        for index in range(lengths.pop() if lengths else 0):
            row = {name: column[index] for name, column in columns.items()}
            for name in ("name", "coro", "kind", "error", "peer", "driver"):
                if name in row:
                    row[name] = self.strings[row[name]] if row[name] >= 0 else None
            for name in ("place", "made_at"):
                if name in row:
                    row[name] = self.place(row[name])
            rows.append(row)
        return rows

    def place(self, number: int) -> str:
        """A line's text, or `file:line` where it has none."""
        if number < 0:
            return ""
        file, line, _function, source = self.record["places"][number]
        return self.strings[source] if source >= 0 else f"{self.strings[file]}:{line}"

    def tasks(self) -> list[dict[str, Any]]:
        return self.rows("tasks")

    def task(self, coroutine: str) -> dict[str, Any]:
        """The one task of this coroutine function, with its number as `index`."""
        found = [
            task | {"index": index}
            for index, task in enumerate(self.tasks())
            if task["coro"].rpartition(".")[2] == coroutine
        ]
        assert len(found) == 1, found
        return found[0]

    def waits(self, coroutine: str) -> list[dict[str, Any]]:
        index = self.task(coroutine)["index"]
        return [wait for wait in self.rows("waits") if wait["task"] == index]

    def runs(self, coroutine: str) -> list[dict[str, Any]]:
        index = self.task(coroutine)["index"]
        return [run for run in self.rows("runs") if run["task"] == index]
