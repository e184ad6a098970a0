"""Loops that are in each other's way, and where there is none."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from whilst._explain.mistakes import Hint, short
from whilst._explain.rewriting import Rewriting
from whilst._explain.values import is_coroutine_function

if TYPE_CHECKING:
    import re

    from whilst._explain.place import Place

_RUNNERS = ("run", "run_until_complete", "run_forever")


def run_inside(_exception: BaseException, place: Place, _match: re.Match[str]) -> Hint | None:
    """``asyncio.run()`` and its like where a loop runs."""
    place = _of_program(place)
    node, tree = place.node(ast.Call), place.tree()
    if node is None or tree is None or place.is_package:
        return None
    name = short(tree.source(node.func))
    reason = f"`{name}()` runs an event loop, and one runs already"
    if name.rpartition(".")[2] not in _RUNNERS[:2] or not node.args or isinstance(node.args[0], ast.Starred):
        return Hint(reason)
    if not place.is_async_at(node):
        return Hint(f"{reason}: make this function `async def` and await what it is to run")
    if (
        not name.startswith(("asyncio.", "loop.", "runner.", "whilst."))
        and name != "run"
        and "run_until_complete" not in name
    ):
        return Hint(reason)
    rewriting = Rewriting(tree)
    (argument, *_) = node.args
    if is_coroutine_function(place.value(argument)):
        # Not called either.
        return Hint(reason)
    rewriting.await_in_place_of(node, argument)
    return Hint(reason, rewriting.line(node))


def other_loop(_exception: BaseException, place: Place, match: re.Match[str]) -> Hint | None:
    """A future, task or lock of a loop that is not the one that runs."""
    del place
    if "what" not in match.groupdict():
        what = "future"
    else:
        what = match["what"].rpartition(" got ")[2].lstrip("<").partition(" ")[0].rpartition(".")[2]
    return Hint(
        f"this {what} belongs to another event loop than the one that runs now, as one of an earlier `asyncio.run()` does: "
        "make it in the coroutine that uses it"
    )


def no_loop(_exception: BaseException, place: Place, _match: re.Match[str]) -> Hint | None:
    """``asyncio.create_task()`` and its like where no loop runs."""
    place = _of_program(place)
    node, tree = place.node(ast.Call), place.tree()
    if node is None or tree is None or place.is_package:
        return None
    reason = f"`{short(tree.source(node.func))}()` needs a running event loop"
    if not place.is_in_main_thread:
        return Hint(
            f"{reason}, and none runs in this thread: from another one, `asyncio.run_coroutine_threadsafe()` and "
            "`loop.call_soon_threadsafe()` reach it"
        )
    return Hint(f"{reason}: call it in a coroutine that `asyncio.run()` runs")


def _of_program(place: Place) -> Place:
    """The innermost place in the program's own code, below what it uses."""
    if not place.is_package:
        return place
    return next((caller for caller in place.callers() if not caller.is_package), place)
