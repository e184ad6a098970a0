"""A program that runs those of a folder, one by one, and prints as JSON what was said of each.

``program.py FOLDER WAY``, where the way is ``command`` (run by the command), ``install`` (`whilst.install`), ``debug`` (that, and
`asyncio.run` in debug mode) or ``whilst`` (`whilst.run` after `whilst.explain`).
"""

import asyncio
import gc
import importlib.util
import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

folder, way = sys.argv[1:]


def run(coroutine: Any) -> Any:
    if way == "whilst":
        import whilst

        return whilst.run(coroutine)
    return asyncio.run(coroutine, debug=True if way == "debug" else None)


def notes(error: BaseException | None, seen: set[int]) -> list[str]:
    """All notes of an exception, of its causes and of those that it groups."""
    if error is None or id(error) in seen:
        return []
    seen.add(id(error))
    found = [note for note in getattr(error, "__notes__", ()) if note.startswith("whilst: ")]
    for other in (error.__cause__, error.__context__, *getattr(error, "exceptions", ())):
        found += notes(other, seen)
    return list(dict.fromkeys(found))


class Records(logging.Handler):
    """What asyncio has logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += self.format(record).splitlines()


def outcome(path: Path) -> dict[str, list[str]]:
    """Run one. Return the notes on what it ends with, and the explanations among its warnings and its log."""
    records = Records()
    logger = logging.getLogger("asyncio")
    logger.addHandler(records)
    logger.propagate = False
    said: list[str] = []
    failed: list[str] = []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            spec = importlib.util.spec_from_file_location(path.stem, path)
            module = importlib.util.module_from_spec(spec)
            sys.modules[path.stem] = module
            spec.loader.exec_module(module)
            run(module.main())
        except (Exception, asyncio.CancelledError) as error:
            said = notes(error, set())
            failed = [str(error)]
            # What the program refers to is to go here, and not while another one runs.
            error.__traceback__ = error.__context__ = error.__cause__ = None
        del sys.modules[path.stem]
        module.__dict__.clear()
        del module
        gc.collect()
    logger.removeHandler(records)
    marks = ("whilst: ", "Coroutine created at") if way == "debug" else ("whilst: ",)
    lost = [line for one in warned for line in str(one.message).splitlines() if line.startswith(marks)]
    lost += [line for line in records.lines if line.startswith("whilst: ") and line not in said]
    return {"failed": failed, "notes": said, "lost": lost}


if way == "whilst":
    import whilst

    whilst.explain()
elif way == "debug" or way == "install":
    import whilst

    whilst.install()
print(json.dumps({path.stem: outcome(path) for path in sorted(Path(folder).glob("*.py"))}))
