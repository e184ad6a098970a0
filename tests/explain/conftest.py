"""The counts of the corpus, at the end of pytest's output."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from counts import COUNTS


def pytest_configure(config: pytest.Config) -> None:
    config.stash[COUNTS] = {}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for way, (explained, faulty, falsely, harmless) in config.stash.get(COUNTS, {}).items():
        terminalreporter.write_line(
            f"pitfalls: {explained} of {faulty} explained, {falsely} of {harmless} falsely ({way})"
        )
