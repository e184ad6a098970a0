"""`whilst.run` is `asyncio.run` on another loop: the same results, the same errors, the same end."""

import asyncio
import contextvars
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import whilst

Run = Callable[..., Any]


@pytest.fixture(params=["whilst.run", "asyncio.run"])
def run(request: pytest.FixtureRequest, driver: str) -> Run:
    """Both: what a test says must hold for the stdlib's too, or the test is wrong."""
    return whilst.run if request.param == "whilst.run" else asyncio.run


async def give(value: object) -> object:
    await asyncio.sleep(0)
    return value


async def fail(error: BaseException) -> None:
    await asyncio.sleep(0)
    raise error


def test_the_loop_is_of_whilst(driver: str) -> None:
    async def main() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    loop = whilst.run(main())
    assert type(loop) is whilst.Loop
    assert isinstance(loop, asyncio.AbstractEventLoop)
    assert loop.is_closed()


def test_the_result(run: Run) -> None:
    assert run(give(5)) == 5


def test_what_the_coroutine_raises(run: Run) -> None:
    with pytest.raises(LookupError, match="gone"):
        run(fail(LookupError("gone")))
    with pytest.raises(SystemExit) as caught:
        run(fail(SystemExit(3)))
    assert caught.value.code == 3
    with pytest.raises(KeyboardInterrupt):
        run(fail(KeyboardInterrupt()))
    with pytest.raises(asyncio.CancelledError):
        run(fail(asyncio.CancelledError()))


@pytest.mark.parametrize("debug", [True, False])
def test_debug(run: Run, debug: bool) -> None:
    async def main() -> bool:
        return asyncio.get_running_loop().get_debug()

    assert run(main(), debug=debug) is debug


def test_debug_by_default(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> bool:
        return asyncio.get_running_loop().get_debug()

    monkeypatch.delenv("PYTHONASYNCIODEBUG", raising=False)
    assert run(main()) is sys.flags.dev_mode
    if not sys.flags.ignore_environment:
        monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
        assert run(main()) is True


def test_a_factory_of_the_callers() -> None:
    made: list[asyncio.AbstractEventLoop] = []

    def factory() -> asyncio.AbstractEventLoop:
        made.append(asyncio.SelectorEventLoop())
        return made[-1]

    async def main() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    assert whilst.run(main(), loop_factory=factory) is made[0]
    assert made[0].is_closed()


@pytest.mark.parametrize("main", [None, 3, "main", give, object()], ids=repr)
def test_what_is_no_coroutine(main: object, driver: str) -> None:
    with pytest.raises((TypeError, ValueError)) as expected:
        asyncio.run(main)  # type: ignore[arg-type]
    with pytest.raises(expected.type) as seen:
        whilst.run(main)  # type: ignore[arg-type]
    assert str(seen.value) == str(expected.value)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="asyncio.run takes any awaitable from 3.14 on")
def test_any_awaitable(run: Run) -> None:
    class Awaitable:
        def __await__(self) -> Any:
            return give("awaited").__await__()

    assert run(Awaitable()) == "awaited"


def test_in_a_running_loop(run: Run) -> None:
    async def main() -> str:
        inner = give(1)
        try:
            with pytest.raises(RuntimeError) as caught:
                run(inner)
        finally:
            inner.close()  # type: ignore[attr-defined]
        return str(caught.value)

    assert run(main()) == "asyncio.run() cannot be called from a running event loop"


def test_arguments(run: Run) -> None:
    coroutine = give(1)
    try:
        with pytest.raises(TypeError):
            run(coroutine, True)
        with pytest.raises(TypeError):
            run(coroutine, unknown=1)
        with pytest.raises(TypeError):
            run()
    finally:
        coroutine.close()


def test_what_is_left_is_cleaned_up(run: Run) -> None:
    events: list[str] = []

    async def left() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            events.append("cancelled")
            raise

    async def numbers() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(0)
            events.append("generator closed")

    kept: list[object] = []

    async def main() -> None:
        kept.append(asyncio.create_task(left()))
        generator = numbers()
        kept.append(generator)
        await anext(generator)
        await asyncio.to_thread(events.append, "in a thread")
        await asyncio.sleep(0)

    run(main())
    assert events == ["in a thread", "cancelled", "generator closed"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("asyncio_")]


def test_what_fails_at_the_end_is_reported(run: Run) -> None:
    reported: list[dict[str, Any]] = []

    async def left() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            raise ValueError("in the clean-up")

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
        main.task = asyncio.create_task(left())  # type: ignore[attr-defined]
        await asyncio.sleep(0)

    run(main())
    assert [context["message"] for context in reported] == [
        "unhandled exception during asyncio.run() shutdown"
    ]
    assert str(reported[0]["exception"]) == "in the clean-up"


def test_context(run: Run) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    variable.set("outside")

    async def main() -> str:
        seen = variable.get()
        variable.set("inside")
        return seen

    assert run(main()) == "outside"
    assert variable.get() == "outside"


def test_ctrl_c(run: Run) -> None:
    """SIGINT cancels the main task, and what comes out is KeyboardInterrupt."""
    events: list[str] = []

    async def main() -> None:
        asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            events.append("cancelled")
            raise

    with pytest.raises(KeyboardInterrupt):
        run(main())
    assert events == ["cancelled"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_in_another_thread(run: Run) -> None:
    results: list[object] = []
    thread = threading.Thread(
        target=lambda: results.append(run(give(threading.current_thread().name))), name="other"
    )
    thread.start()
    thread.join(30)
    assert results == ["other"]


def test_one_after_another(run: Run) -> None:
    assert [run(give(n)) for n in range(50)] == list(range(50))


def test_as_a_loop_factory(driver: str) -> None:
    async def main() -> type:
        return type(asyncio.get_running_loop())

    with asyncio.Runner(loop_factory=whilst.new_event_loop) as runner:
        assert runner.run(main()) is whilst.Loop
        assert runner.run(main()) is whilst.Loop
    if sys.version_info >= (3, 12):
        assert asyncio.run(main(), loop_factory=whilst.new_event_loop) is whilst.Loop


def test_new_event_loop() -> None:
    first, second = whilst.new_event_loop(), whilst.new_event_loop()
    try:
        assert type(first) is type(second) is whilst.Loop
        assert first is not second
        assert not first.is_running()
        assert not first.is_closed()
    finally:
        first.close()
        second.close()
    assert first.is_closed()
