"""The oracle of these tests: what a scenario does on asyncio's own loop is what it does on whilst.

A scenario is a coroutine function that takes a list and notes in it what a program could see. :func:`same` runs it on both
loops and compares the notes; what is right is what this interpreter's asyncio does.
"""

import asyncio
import contextlib
import gc
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import whilst

#: No wait in a test is longer, in seconds.
SECONDS = 10.0

Scenario = Callable[[list[Any]], Coroutine[Any, Any, Any]]


def stdlib_loop() -> asyncio.AbstractEventLoop:
    """Return a loop of asyncio's own, whatever is installed."""
    return asyncio.SelectorEventLoop()


def factories() -> tuple[Callable[[], asyncio.AbstractEventLoop], Callable[[], asyncio.AbstractEventLoop]]:
    """Return what makes either loop, asyncio's own first."""
    return stdlib_loop, whilst.new_event_loop


def run(
    main: Coroutine[Any, Any, Any],
    factory: Callable[[], asyncio.AbstractEventLoop] = whilst.new_event_loop,
    *,
    debug: bool | None = None,
) -> Any:
    """Run a coroutine on a new loop, within the limit of time."""

    async def limited() -> Any:
        return await asyncio.wait_for(main, SECONDS)

    with asyncio.Runner(loop_factory=factory, debug=debug) as runner:
        return runner.run(limited())


def notes_of(
    scenario: Scenario, factory: Callable[[], asyncio.AbstractEventLoop], *, debug: bool | None = None
) -> list[Any]:
    """Run a scenario on a new loop. Return what it noted."""
    notes: list[Any] = []
    run(scenario(notes), factory, debug=debug)
    return notes


def same(scenario: Scenario, *, debug: bool | None = None) -> list[Any]:
    """Run a scenario on asyncio's loop and on whilst's, assert that the notes are the same, and return them."""
    expected = notes_of(scenario, stdlib_loop, debug=debug)
    actual = notes_of(scenario, whilst.new_event_loop, debug=debug)
    assert actual == expected
    assert expected, "a scenario that notes nothing compares nothing"
    return actual


def error_of(call: Callable[..., object], *args: object, **keywords: object) -> tuple[str, str]:
    """Return the class and the words of the exception that a call raises."""
    try:
        call(*args, **keywords)
    except BaseException as error:
        return type(error).__name__, str(error)
    return "nothing", "was raised"


async def error_of_awaiting(awaitable: Awaitable[object]) -> tuple[str, str]:
    """Return the class and the words of the exception that an awaitable raises."""
    try:
        await awaitable
    except Exception as error:
        return type(error).__name__, str(error)
    return "nothing", "was raised"


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until a condition holds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + SECONDS / 2
    while not condition():
        assert loop.time() < end, "the condition never held"
        await asyncio.sleep(0.001)


async def turns(count: int = 5) -> None:
    """Let the loop run some iterations."""
    for _ in range(count):
        await asyncio.sleep(0)


def handler_notes(loop: asyncio.AbstractEventLoop, notes: list[Any]) -> None:
    """Note what the loop's exception handler is given: the message, the exception, and which keys there are.

    A callback's name is all that is kept of its description, and the names that whilst gives to its own are not compared.
    """

    def handler(_loop: object, context: dict[str, Any]) -> None:
        exception = context.get("exception")
        notes.append(("handler", context["message"].split("<")[0], type(exception).__name__, str(exception)))

    loop.set_exception_handler(handler)


def descriptors() -> set[str]:
    """Return the numbers of this process's open descriptors."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            os.readlink(entry)  # Not the one that lists the folder, which is closed by now.
            found.add(entry.name)
    return found


@contextlib.contextmanager
def no_descriptor_leaks() -> Iterator[None]:
    """Assert that as many descriptors are open afterwards as before."""
    gc.collect()
    before = descriptors()
    yield
    gc.collect()
    assert len(descriptors()) <= len(before), descriptors() - before


@contextlib.contextmanager
def socket_pair(family: int = socket.AF_UNIX) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected sockets that do not block; of the internet's family they are TCP's."""
    if family == socket.AF_UNIX:
        first, second = socket.socketpair()
    else:
        with socket.socket(family) as listener:
            listener.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
            listener.listen(1)
            first = socket.create_connection(listener.getsockname()[:2], timeout=SECONDS)
            second, _ = listener.accept()
    with first, second:
        first.setblocking(False)
        second.setblocking(False)
        yield first, second


def reset(sock: socket.socket) -> None:
    """Close a TCP socket so that its peer sees a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


def program(source: str, *arguments: str, options: tuple[str, ...] = (), **keywords: Any) -> Any:
    """Run a program in a process of its own. Return the `subprocess.CompletedProcess`."""
    keywords.setdefault("timeout", SECONDS)
    return subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(source), *arguments],
        capture_output=True,
        text=True,
        check=False,
        **keywords,
    )
