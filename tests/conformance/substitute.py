"""Puts another event loop where CPython's asyncio tests make the stdlib's.

The tests make a loop in one of three ways, and each is answered with as little as will do:

* ``asyncio.new_event_loop()``, ``asyncio.run()``, ``asyncio.Runner()``, ``IsolatedAsyncioTestCase`` and
  ``asyncio.DefaultEventLoopPolicy().new_event_loop()`` all end in ``_loop_factory`` of the stdlib's own
  policy class. That attribute is replaced, on the class: a policy that is merely *set* would be gone after
  the ``set_event_loop_policy(None)`` with which nearly every test module ends a test or itself. The class is
  there, under a private name, on the Pythons too whose public policy names warn (3.14).
* ``asyncio.SelectorEventLoop()``, ``asyncio.SelectorEventLoop(selector)`` and ``asyncio.EventLoop``: the
  names in the ``asyncio`` namespace are replaced by a `Stand`. The classes stay where they are defined, so
  what tests say about ``asyncio.unix_events`` or ``asyncio.selector_events`` still concerns the stdlib's
  classes.
* ``asyncio.BaseEventLoop()``, read from the ``asyncio`` namespace only by ``test_runners`` and
  ``test_pep492``, which mock the methods that it lacks. It is replaced in the same way, so that these two
  modules run on the loop.

``test_utils.TestLoop``, a subclass of ``base_events.BaseEventLoop`` with a clock of its own, is left alone.

Two private attributes of the stdlib's loop are used by tests that are about something else, and are lent to a
loop that lacks them: see `_lend` and `Substitution.adapt_utilities`.

`Substitution.made` counts the loops that were made: a count of zero tells that nothing was replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import sys
from collections.abc import Callable
from typing import Any

NAMES = ("SelectorEventLoop", "EventLoop", "BaseEventLoop")


class Substitution:
    """The replacement in this process. `install` it before the test module is imported.

    `spec` is ``asyncio`` (the stdlib's loop by the same way in: loops are counted and nothing else changes)
    or ``MODULE:FACTORY``.
    """

    def __init__(self, spec: str) -> None:
        self.spec = spec
        self.made = 0
        self.kinds: set[type] = set()
        self._factory: Callable[[], Any] | None = None
        if spec != "asyncio":
            module, _, attribute = spec.partition(":")
            self._factory = getattr(importlib.import_module(module), attribute)

    def install(self) -> None:
        """Replace the factory of the default policy and the names in the ``asyncio`` namespace."""
        from asyncio import unix_events

        policy = getattr(unix_events, "_UnixDefaultEventLoopPolicy", None)
        selector_loop = unix_events._UnixSelectorEventLoop
        if policy is not None:
            policy._loop_factory = Stand(self, selector_loop)
        else:
            # A Python without policies: the function itself is all that is left.
            asyncio.new_event_loop = asyncio.events.new_event_loop = Stand(self, selector_loop)
        for name in NAMES:
            original = getattr(asyncio, name, None)
            if original is not None:
                setattr(asyncio, name, Stand(self, original))

    def adapt_utilities(self) -> None:
        """Let the tests' own clean-up close a loop without the private attribute that it looks at.

        ``test_utils.TestCase.close_loop`` reads ``loop._default_executor`` before it closes the loop. With a
        loop that has no such attribute every test that uses it would end in an error about the helper,
        whatever the test itself found out.
        """
        utilities = sys.modules.get("test.test_asyncio.utils")
        if utilities is None:
            return
        close_loop = utilities.TestCase.close_loop

        def close(loop: Any) -> None:
            if not hasattr(loop, "_default_executor"):
                if not loop.is_closed():
                    loop.run_until_complete(loop.shutdown_default_executor())
                loop = _WithoutExecutor(loop)
            close_loop(loop)

        utilities.TestCase.close_loop = staticmethod(close)

    def make(self, original: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._factory is None:
            loop = original(*args, **kwargs)
        else:
            # The selector that a test hands over belongs to the loop from then on; no other loop has a use
            # for it.
            for selector in (*args, *kwargs.values()):
                if selector is not None:
                    selector.close()
            loop = self._factory()
            _lend(loop)
        self.made += 1
        self.kinds.add(type(loop))
        return loop


class Stand:
    """Stands in a namespace where a loop class stood: called, it makes the other loop.

    ``isinstance(loop, stand)`` holds for what it makes as well as for the class's own instances, a subclass
    of it is one of the class itself, and attributes are the class's.
    """

    def __init__(self, substitution: Substitution, original: type) -> None:
        self._substitution = substitution
        self._original = original

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._substitution.make(self._original, args, kwargs)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self._original) or type(instance) in self._substitution.kinds

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return (self._original,)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


def _lend(loop: Any) -> None:
    """Give `loop` a ``_stop_serving``, with which test_events' ``test_prompt_cancellation`` cleans up."""

    def stop_serving(sock: Any) -> None:
        loop.remove_reader(sock)
        sock.close()

    if not hasattr(loop, "_stop_serving"):
        # A loop without a __dict__ goes without.
        with contextlib.suppress(AttributeError):
            loop._stop_serving = stop_serving


class _WithoutExecutor:
    """A loop whose executor has been shut down, to the eyes of `close_loop`."""

    _default_executor = None

    def __init__(self, loop: Any) -> None:
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)
