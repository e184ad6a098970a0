"""Fixtures of all tests: the driver on which a test's loops run, and the engine of their TLS."""

import ctypes
import errno
import functools
import gc
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("oracle", "pipe_ends", "tls", "transports")

DRIVERS = ("epoll", "io_uring")


@functools.cache
def _io_uring_refusal() -> str | None:
    """Why the kernel gives no ring here, or None where it does.

    The kernel itself is asked (``io_uring_setup`` is number 425 on every architecture), and not whilst, lest a whilst that fails
    to use a ring which is to be had skips its tests.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    parameters = ctypes.create_string_buffer(120)  # struct io_uring_params
    ring = libc.syscall(425, 1, parameters)
    if ring < 0:
        return f"the kernel refuses io_uring here: {errno.errorcode.get(ctypes.get_errno(), '?')}"
    os.close(ring)
    return None


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A test that takes this runs on both drivers, in its own process and in those that it starts."""
    name = str(request.param)
    if name == "io_uring" and (refusal := _io_uring_refusal()):
        pytest.skip(refusal)
    monkeypatch.setenv("WHILST_DRIVER", name)
    return name


@pytest.fixture(params=("libssl", "memory_bio"))
def tls_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A test that takes this runs with both engines of TLS, where both can be had."""
    from tls import libssl_is_callable

    name = str(request.param)
    if name == "libssl" and not libssl_is_callable():
        pytest.skip("the libssl of this Python is not called directly")
    monkeypatch.setenv("WHILST_TLS_ENGINE", name)
    return name


@pytest.fixture
def left_behind() -> Iterator[None]:
    """Have what a test leaves behind complain in that test."""
    yield
    gc.collect()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is marked ``fresh_process`` in a process of its own.

    It depends on what the interpreter has learnt of asyncio's classes. CPython 3.13 leaves less room in each new instance of a
    class for attributes that it has not seen yet, and those of later instances then lie in dictionaries.
    """
    if pyfuncitem.get_closest_marker("fresh_process") is None or "WHILST_TESTS_FRESH" in os.environ:
        return None
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", pyfuncitem.nodeid]
    ran = subprocess.run(
        command,
        cwd=pyfuncitem.config.rootpath,
        env={**os.environ, "WHILST_TESTS_FRESH": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return True


def _set_aside() -> None:
    """Have the garbage collector pass over what is there by now: modules, tests, and what pytest keeps of them.

    A full collection, of which the tests of what is not closed ask for many, otherwise goes through some 700,000 objects.
    """
    gc.collect()
    gc.freeze()


def pytest_collection_finish() -> None:
    _set_aside()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is not None and nextitem.path != item.path:
        _set_aside()
