"""A short soak as a test; `wrk_soak.py` says what it looks at, and runs long ones from the command line."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from wrk_soak import DRIVERS, TARGETS, io_uring_refusal, soak

SECONDS = int(os.environ.get("WHILST_SOAK_SECONDS", "3"))
"""Seconds of load for each run: short here, so that every run of the tests can afford it."""


@pytest.mark.timeout(SECONDS + 90)
@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("target", TARGETS)
def test_soak(target: str, driver: str) -> None:
    if driver == "io_uring" and (refusal := io_uring_refusal()):
        pytest.skip(refusal)
    figures = soak(target, driver, SECONDS, connections=64)
    print(figures, figures.output, sep="\n")
    assert figures.faults == []
