"""Fixtures of the tests of real programs: the drivers, and a server of each framework."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from servers import RunningServer, Servers
from services import PostgreSQL, Redis
from serving import DRIVERS, io_uring_refusal


@pytest.fixture(params=DRIVERS, scope="session")
def driver(request: pytest.FixtureRequest) -> str:
    """The name of a driver, for `WHILST_DRIVER`; every test that takes it runs on both."""
    if request.param == "io_uring" and (refusal := io_uring_refusal()):
        pytest.skip(refusal)
    return str(request.param)


@pytest.fixture
def here(driver: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Like `driver`, for loops in the process of the tests themselves."""
    monkeypatch.setenv("WHILST_DRIVER", driver)
    return driver


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """Servers that are kept between tests, one of each kind at a time."""
    with Servers() as kept:
        yield kept


@pytest.fixture
def server(kind: str, driver: str, servers: Servers) -> Iterator[RunningServer]:
    """A server of the kind that the test names, on `driver`. What the test leaves behind in it fails the
    test."""
    running = servers.get(kind, driver)
    seen = len(running.output())
    yield running
    try:
        running.check_nothing_left()
    finally:
        print(f"--- what {kind} printed during the test:")
        print(running.output()[seen:])


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL that is kept between tests."""
    with PostgreSQL() as service:
        yield service


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    """A Redis that is kept between tests."""
    with Redis() as service:
        yield service
