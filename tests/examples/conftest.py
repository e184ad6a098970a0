"""Fixtures of the examples' tests: the drivers. How programs are run is in `tests/frameworks/serving.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "frameworks"))

from serving import DRIVERS, io_uring_refusal


@pytest.fixture(params=DRIVERS, scope="session")
def driver(request: pytest.FixtureRequest) -> str:
    """The name of a driver, for `WHILST_DRIVER`; every test that takes it runs on both."""
    if request.param == "io_uring" and (refusal := io_uring_refusal()):
        pytest.skip(refusal)
    return str(request.param)


@pytest.fixture(scope="session")
def loop_name() -> str:
    """The name under which the examples report whilst's loop."""
    import whilst

    return f"{whilst.Loop.__module__}.{whilst.Loop.__qualname__}"
