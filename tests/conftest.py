"""Fixtures of all tests: the driver on which a test's loops run, and the engine of their TLS."""

import ctypes
import errno
import functools
import os

import pytest

pytest.register_assert_rewrite("oracle", "tls")

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
