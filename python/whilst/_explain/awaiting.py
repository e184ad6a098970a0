"""``await``, ``async for`` and ``async with`` on the wrong kind, their plain forms on asynchronous ones, and awaiting twice."""

from __future__ import annotations

import ast
import asyncio
import functools
import inspect
import time
import types
from typing import TYPE_CHECKING, Any

from whilst._explain.mistakes import Hint, short
from whilst._explain.place import UNKNOWN, Place, is_a, span_of
from whilst._explain.rewriting import Rewriting
from whilst._explain.using import context_expressions, not_awaited
from whilst._explain.values import AWAITABLES, code_of, is_coroutine_function, is_surely, kind_of, may_be
from whilst._owners import is_above_stdlib

if TYPE_CHECKING:
    import re


#: Functions in C that never give anything to be awaited. (That of `dict.get` is whatever was put in.)
_NEVER_ASYNCHRONOUS = (
    *(print, open, len, sorted, input, sum, isinstance, id, hash, repr),
    *(
        list.append,
        list.extend,
        list.clear,
        list.sort,
        set.add,
        set.discard,
        dict.update,
        dict.clear,
        str.join,
        str.split,
    ),
    *(asyncio.Task.cancel, asyncio.Future.cancel, asyncio.Future.set_result, asyncio.Future.set_exception),
)


# -- await --------------------------------------------------------------------------------------------------------------------


def await_of(exception: BaseException, place: Place, match: re.Match[str]) -> Hint | None:
    """``await`` of something else."""
    if not place.is_innermost and match["type"] in ("function", "method"):
        # As `asyncio.wait_for()` does.
        return not_called(exception, place, match)
    node, tree = place.node(ast.Await), place.tree()
    if node is None or tree is None or not place.is_innermost:
        return None
    awaited, type_name = node.value, match["type"]
    source = short(tree.source(awaited))
    value = place.value(awaited)
    if isinstance(awaited, ast.Call):
        return _await_of_call(place, node, awaited, type_name)
    if type_name in ("function", "method") and is_coroutine_function(value):
        reason = f"`{source}` is a function, which has to be called"
        if place.is_package or not _takes_nothing(value, type_name == "method"):
            return Hint(reason)
        rewriting = Rewriting(tree)
        rewriting.call(awaited)
        return Hint(reason, rewriting.expression(node))
    if type_name in ("list", "tuple", "set", "generator") and not place.is_package:
        return _await_of_several(place, node, type_name)
    return None


def _takes_nothing(function: Any, is_method: bool) -> bool:
    """Whether a coroutine function can be called without arguments."""
    if is_a(function, functools.partial):
        return False
    is_method = is_method or is_a(function, types.MethodType)
    function = getattr(function, "__func__", function)
    code = function.__code__
    needed = code.co_argcount - len(function.__defaults__ or ()) - is_method
    keywords = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    return needed <= 0 and all(name in (function.__kwdefaults__ or {}) for name in keywords)


def _await_of_several(place: Place, node: ast.Await, type_name: str) -> Hint | None:
    awaited, tree = node.value, place.tree()
    assert tree is not None
    rewriting = Rewriting(tree)
    if isinstance(awaited, (ast.List, ast.Tuple, ast.Set)):
        if not awaited.elts or not all(is_surely(place, element, AWAITABLES) for element in awaited.elts):
            return None
        inner = ", ".join(tree.source(element) for element in awaited.elts)
        rewriting.replace(span_of(awaited), f"asyncio.gather({inner})")
    else:
        value = place.value(awaited)
        if isinstance(awaited, (ast.ListComp, ast.SetComp, ast.GeneratorExp)):
            if not is_surely(place, awaited.elt, AWAITABLES):
                return None
        elif type(value) not in (list, tuple, set) or not value or not all(kind_of(one) for one in value):
            return None
        line, column, end_line, end_column = span_of(awaited)
        rewriting.insert(line, column, "asyncio.gather(*")
        rewriting.insert(end_line, end_column, ")")
    return Hint(f"a {type_name} of awaitables cannot be awaited as it is", rewriting.expression(node))


def _await_of_call(place: Place, node: ast.Await, call: ast.Call, type_name: str) -> Hint | None:
    tree = place.tree()
    assert tree is not None
    name, function = short(tree.source(call.func)), _function_of(place, call.func)
    if function is UNKNOWN:
        return None
    rewriting = Rewriting(tree)
    if function is time.sleep and not place.is_package:
        rewriting.replace(span_of(call.func), "asyncio.sleep")
        return Hint(f"`{name}` blocks the event loop and gives nothing to be awaited", rewriting.line(node))
    if type_name == "async_generator":
        if _code_flags(function) & inspect.CO_ASYNC_GENERATOR:
            return Hint(f"`{name}()` is an asynchronous generator, which `async for` goes through")
        return None
    what = "None" if type_name == "NoneType" else f"a {type_name}"
    if is_coroutine_function(getattr(function, "__wrapped__", None)):
        return Hint(
            f"`{name}` is made with `async def`, but a decorator has put a plain function in its place, which has returned {what}"
        )
    if _code_flags(function) & (inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ITERABLE_COROUTINE):
        return None
    reason = f"`{name}` is no asynchronous function: it has returned {what}, which cannot be awaited"
    if place.is_package or not _is_never_asynchronous(place, call.func, function):
        return Hint(reason)
    rewriting.drop_await(node)
    return Hint(reason, rewriting.line(node))


def _function_of(place: Place, node: ast.expr) -> Any:
    """The plain function, in Python or C, that an expression is, or UNKNOWN."""
    value = place.value(node)
    if value is UNKNOWN and isinstance(node, ast.Attribute):
        # A method in C of an object that is known.
        owner = place.value(node.value)
        if owner is not UNKNOWN and not is_a(owner, (type, types.ModuleType)):
            value = inspect.getattr_static(type(owner), node.attr, UNKNOWN)
    kinds = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.MethodDescriptorType)
    return value if is_a(value, kinds) else UNKNOWN


def _code_flags(function: Any) -> int:
    code = code_of(function)
    return code.co_flags if code is not None else 0


def _is_never_asynchronous(place: Place, node: ast.expr, function: Any) -> bool:
    """Whether this expression names, whenever it is run, a function that never gives anything to be awaited."""
    is_local = isinstance(node, ast.Name) and place.is_local(node.id)
    if any(function is one for one in _NEVER_ASYNCHRONOUS):
        return not is_local
    function = getattr(function, "__func__", function)
    if not is_a(function, types.FunctionType):
        return False
    if isinstance(node, ast.Name):
        is_fixed = not is_local
    elif isinstance(node, ast.Attribute):
        # A method may be another one in another class, but not where both are the standard library's.
        owner = place.value(node.value)
        is_fixed = is_a(owner, types.ModuleType) or not is_above_stdlib(function.__code__.co_filename)
    else:
        is_fixed = False
    return is_fixed and _returns_plain_values(function)


def _returns_plain_values(function: types.FunctionType) -> bool:
    """Whether all that a function returns are constants, texts, collections and the like, by its source."""
    import linecache

    lines = linecache.getlines(function.__code__.co_filename, function.__globals__)
    try:
        tree = ast.parse("".join(inspect.getblock(lines[function.__code__.co_firstlineno - 1 :])).strip())
    except (SyntaxError, IndexError):
        try:
            block = inspect.getblock(lines[function.__code__.co_firstlineno - 1 :])
            tree = ast.parse("if 1:\n" + "".join(block))
        except (SyntaxError, IndexError):
            return False
    found: list[ast.Return] = []
    waiting: list[ast.AST] = [tree]
    functions = 0
    while waiting:
        one = waiting.pop()
        if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            functions += 1
            if functions > 1:
                continue
        if isinstance(one, ast.Return):
            found.append(one)
        waiting.extend(ast.iter_child_nodes(one))
    plain = (
        ast.Constant,
        ast.List,
        ast.Dict,
        ast.Tuple,
        ast.Set,
        ast.JoinedStr,
        ast.Compare,
        ast.ListComp,
        ast.DictComp,
    )
    return functions > 0 and all(one.value is None or isinstance(one.value, plain) for one in found)


def awaited_twice(_exception: BaseException, place: Place, match: re.Match[str]) -> Hint | None:
    """A coroutine that has run, or runs, already."""
    node, tree = place.node(ast.Await), place.tree()
    if node is None or tree is None:
        return None
    value, source = place.value(node.value), short(tree.source(node.value))
    before = (
        "is being awaited elsewhere"
        if "being" in match.string
        else "has been awaited, run as a task or closed before"
    )
    if place.is_innermost and is_a(value, types.CoroutineType):
        return Hint(
            f"`{source}` {before}, and a coroutine runs once: keep what the first `await` gave, or make a task of it at first "
            f"(`asyncio.create_task({source})`), which can be awaited as often as one likes"
        )
    if place.is_innermost and isinstance(node.value, ast.Call):
        function = place.value(node.value.func)
        # What holds a coroutine instead of its result.
        if is_a(function, functools._lru_cache_wrapper) and is_coroutine_function(function.__wrapped__):
            name = short(tree.source(node.value.func))
            return Hint(
                f"`{name}` keeps the coroutine of its first call, which was awaited before, and not what that gave: "
                "`functools.cache` and its kin are for functions that are not `async def`"
            )
    return None


def not_called(_exception: BaseException, place: Place, _match: re.Match[str]) -> Hint | None:
    """``asyncio.run(main)``: a coroutine function in the place of a coroutine."""
    node, tree = place.node(ast.Call), place.tree()
    if node is None:
        awaited = place.node(ast.Await)
        node = awaited.value if awaited is not None and isinstance(awaited.value, ast.Call) else None
    if node is None or tree is None or place.is_package:
        return None
    functions = [
        one
        for one in node.args
        if isinstance(one, (ast.Name, ast.Attribute)) and is_coroutine_function(place.value(one))
    ]
    if len(functions) != 1:
        return None
    (argument,) = functions
    reason = f"`{short(tree.source(argument))}` is a function, which has to be called"
    value = place.value(argument)
    is_method = isinstance(argument, ast.Attribute) and not isinstance(
        place.value(argument.value), (type, types.ModuleType)
    )
    if not _takes_nothing(value, is_method):
        return Hint(reason)
    rewriting = Rewriting(tree)
    rewriting.call(argument)
    return Hint(reason, rewriting.line(node))


# -- The other kind of loop or block -------------------------------------------------------------------------------------------


def async_for(_exception: BaseException, place: Place, match: re.Match[str]) -> Hint | None:
    """``async for`` over what is no asynchronous iterable."""
    loop, tree = _loop_of(place, ast.AsyncFor), place.tree()
    if loop is None or tree is None or not place.is_innermost:
        return None
    type_name, source = match["type"], short(tree.source(loop.iter))
    if type_name in AWAITABLES:
        certain = is_surely(place, loop.iter, [type_name]) or may_be(place, loop.iter, [type_name])
        return (
            not_awaited(place, loop.iter, AWAITABLES[type_name], place.value(loop.iter)) if certain else None
        )
    if place.is_package or not hasattr(_class_of(place, loop.iter, type_name), "__iter__"):
        return None
    reason = f"`{source}` is a {type_name}, which an ordinary loop goes through"
    if isinstance(loop, ast.comprehension):
        return Hint(reason)
    rewriting = Rewriting(tree)
    rewriting.replace((loop.lineno, loop.col_offset, loop.lineno, loop.col_offset + len("async for")), "for")
    return Hint(reason, rewriting.line(loop))


def asynchronous_aiter(_exception: BaseException, place: Place, match: re.Match[str]) -> Hint | None:
    """``async def __aiter__``, which has to be a plain method."""
    if not place.is_innermost or not match.string.endswith(": coroutine"):
        return None
    return Hint(
        "`__aiter__` is made with `async def` here: it has to be a plain method; `__anext__` is the asynchronous one"
    )


def plain_for(_exception: BaseException, place: Place, match: re.Match[str]) -> Hint | None:
    """``for`` over an asynchronous generator."""
    loop, tree = _loop_of(place, ast.For), place.tree()
    if tree is None or place.is_package or not place.is_innermost:
        return None
    if loop is None:
        return _collected(place)
    if place.operation != "GET_ITER":
        # It is what the iterable gave that is none.
        return None
    source = short(tree.source(loop.iter))
    reason = f"`{source}` is an asynchronous generator"
    if not place.is_async_at(loop.iter):
        return Hint(f"{reason}, which only `async for` in an `async def` function goes through")
    rewriting = Rewriting(tree)
    if isinstance(loop, ast.comprehension):
        line, column, _, _ = span_of(loop.target)
        before = tree.lines[line - 1][:column].rstrip()
        # What takes a generator does not take an asynchronous one.
        if not before.endswith(b"for") or isinstance(tree.parents.get(loop), ast.GeneratorExp):
            return Hint(reason)
        rewriting.insert(line, len(before) - len("for"), "async ")
        return Hint(reason, rewriting.line(loop.iter))
    rewriting.insert(loop.lineno, loop.col_offset, "async ")
    return Hint(reason, rewriting.line(loop))


def _collected(place: Place) -> Hint | None:
    """``list(numbers())``."""
    node, tree = place.node(ast.Call), place.tree()
    if node is None or tree is None or len(node.args) != 1 or node.keywords:
        return None
    function = place.value(node.func)
    (argument,) = node.args
    value = place.value(argument)
    if value is UNKNOWN and isinstance(argument, ast.Call):
        is_generator = bool(_code_flags(place.value(argument.func)) & inspect.CO_ASYNC_GENERATOR)
    else:
        is_generator = is_a(value, types.AsyncGeneratorType)
    if not is_generator:
        return None
    source = tree.source(argument)
    reason = f"`{short(source)}` is an asynchronous generator"
    brackets = "[]" if function is list else "{}" if function is set else None
    if brackets is None or not place.is_async_at(node):
        return Hint(f"{reason}, which only `async for` in an `async def` function goes through")
    rewriting = Rewriting(tree)
    rewriting.replace(span_of(node), f"{brackets[0]}item async for item in {source}{brackets[1]}")
    return Hint(reason, rewriting.line(node))


def _loop_of(place: Place, kind: type[ast.For | ast.AsyncFor]) -> Any:
    """The loop, or the part of a comprehension, that the failed instruction has begun."""
    tree = place.tree()
    loop = place.node(kind)
    if loop is not None or tree is None:
        return loop
    is_async = kind is ast.AsyncFor
    comprehension = place.node(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    if comprehension is not None:
        first = comprehension.generators[0]
        return first if len(comprehension.generators) == 1 and bool(first.is_async) == is_async else None
    node = place.node(ast.expr)
    above = tree.parents.get(node) if node is not None else None
    if isinstance(above, (kind, ast.comprehension)) and above.iter is node:
        return above if not isinstance(above, ast.comprehension) or bool(above.is_async) == is_async else None
    return None


def async_with(_exception: BaseException, place: Place, match: re.Match[str]) -> Hint | None:
    """``async with`` on what is for `with`."""
    return _with(place, match["type"], ast.AsyncWith)


def plain_with(_exception: BaseException, place: Place, match: re.Match[str]) -> Hint | None:
    """``with`` on what is for `async with`."""
    return _with(place, match["type"], ast.With)


def _with(place: Place, type_name: str, kind: type[ast.With | ast.AsyncWith]) -> Hint | None:
    tree, managers = place.tree(), context_expressions(place, kind)
    if tree is None or len(managers) != 1 or place.is_package or not place.is_innermost:
        return None
    is_async = kind is ast.AsyncWith
    (manager,) = managers
    found = _class_of(place, manager, type_name)
    wanted = ("__enter__", "__exit__") if is_async else ("__aenter__", "__aexit__")
    if not all(hasattr(found, name) for name in wanted):
        return None
    block = next((above for above in tree.above(manager) if isinstance(above, kind)), None)
    if block is None:
        return None
    source = short(tree.source(manager))
    reason = f"`{source}` is {'no' if is_async else 'an'} asynchronous context manager"
    if len(block.items) != 1:
        return Hint(reason)
    rewriting = Rewriting(tree)
    if is_async:
        rewriting.replace(
            (block.lineno, block.col_offset, block.lineno, block.col_offset + len("async with")), "with"
        )
        return Hint(reason, rewriting.line(block))
    if not place.is_async_at(manager):
        return Hint(f"{reason}, for `async with` in an `async def` function")
    rewriting.insert(block.lineno, block.col_offset, "async ")
    return Hint(reason, rewriting.line(block))


def _class_of(place: Place, node: ast.expr, name: str) -> type | None:
    """The class of what an expression gives, if it is known and has the name that a message calls it."""
    import sys

    value = place.value(node)
    last = name.rpartition(".")[2]
    if value is not UNKNOWN:
        return type(value) if type(value).__name__ == last else None
    if isinstance(node, ast.Call):
        function = place.value(node.func)
        if is_a(function, type):
            return function if function.__name__ == last else None
        # One of the same file's, by `asyncio.timeout()` and its like.
        if is_a(function, types.FunctionType):
            found = function.__globals__.get(last)
            if isinstance(found, type):
                return found
    # Classes of C's are called by their module, too, if that is not builtins.
    found = getattr(sys.modules.get(name.rpartition(".")[0] or "builtins"), last, None)
    return found if isinstance(found, type) else None
