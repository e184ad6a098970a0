"""Arguments by position and by keyword, as the documented signatures have them, and what is said when they are wrong."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import whilst


@pytest.fixture(params=[asyncio.SelectorEventLoop, whilst.Loop])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    """Both: what a test says must hold for the stdlib's too, or the test is wrong."""
    loop = request.param()
    yield loop
    loop.close()


def run(loop: asyncio.AbstractEventLoop) -> None:
    loop.call_later(0.02, loop.stop)
    loop.run_forever()


@pytest.mark.parametrize(
    "schedule",
    [
        lambda loop, callback: loop.call_soon(callback=callback),
        lambda loop, callback: loop.call_soon(callback=callback, context=None),
        lambda loop, callback: loop.call_soon_threadsafe(callback=callback),
        lambda loop, callback: loop.call_later(delay=0, callback=callback),
        lambda loop, callback: loop.call_later(0, callback=callback),
        lambda loop, callback: loop.call_later(callback=callback, context=None, delay=0),
        lambda loop, callback: loop.call_at(when=loop.time(), callback=callback),
        lambda loop, callback: loop.call_at(loop.time(), callback=callback),
    ],
)
def test_by_keyword(loop: asyncio.AbstractEventLoop, schedule: Callable[..., asyncio.Handle]) -> None:
    called: list[tuple[Any, ...]] = []
    handle = schedule(loop, lambda *arguments: called.append(arguments))
    assert isinstance(handle, asyncio.Handle)
    run(loop)
    assert called == [()]


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (lambda loop: loop.call_soon(), r"call_soon\(\) missing 1 required positional argument: 'callback'"),
        (lambda loop: loop.call_later(), r"missing 2 required positional arguments: 'delay' and 'callback'"),
        (lambda loop: loop.call_later(1), r"missing 1 required positional argument: 'callback'"),
        (lambda loop: loop.call_later(callback=print), r"missing 1 required positional argument: 'delay'"),
        (lambda loop: loop.call_at(when=1), r"missing 1 required positional argument: 'callback'"),
        (
            lambda loop: loop.call_soon(print, callback=print),
            r"call_soon\(\) got multiple values for argument 'callback'",
        ),
        (
            lambda loop: loop.call_soon(print, contxt=None),
            r"call_soon\(\) got an unexpected keyword argument 'contxt'",
        ),
        (lambda loop: loop.call_soon(callback=print, other=1), r"got an unexpected keyword argument 'other'"),
        (lambda loop: loop.call_at(None, print), r"when cannot be None"),
        (lambda loop: loop.call_later(None, print), r"delay must not be None"),
    ],
)
def test_wrong(
    loop: asyncio.AbstractEventLoop, schedule: Callable[[asyncio.AbstractEventLoop], object], words: str
) -> None:
    with pytest.raises(TypeError, match=words):
        schedule(loop)
