"""The text of the lines in a record."""

import linecache
from typing import Any


def add_sources(record: dict[str, Any]) -> None:
    """Append to each place the number of its line's text, stripped, or -1 where there is none."""
    strings: list[str] = record["strings"]
    numbers = {text: number for number, text in enumerate(strings)}
    places = []
    for file, line, function in record["places"]:
        text = linecache.getline(strings[file], line).strip() if line > 0 else ""
        number = -1
        if text:
            number = numbers.setdefault(text, len(strings))
            if number == len(strings):
                strings.append(text)
        places.append([file, line, function, number])
    record["places"] = places
