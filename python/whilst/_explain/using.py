"""Coroutines, tasks and futures that are used without being awaited: ``await request.form.get("key")``."""

from __future__ import annotations

import ast
import asyncio
import difflib
from typing import TYPE_CHECKING, Any

from whilst._explain.mistakes import Hint, short
from whilst._explain.place import UNKNOWN, is_a
from whilst._explain.rewriting import Rewriting
from whilst._explain.values import AWAITABLES, code_of, is_surely, kind_of, may_be

if TYPE_CHECKING:
    import re

    from whilst._explain.place import Place, Tree

#: What programs expect of tasks who know threads, other futures or other languages. Who asks for one of these wants no result.
_OF_TASKS = frozenset(
    [
        "add_done_callback",
        "alive",
        "cancel",
        "cancelled",
        "catch",
        "clear",
        "done",
        "exception",
        "finally",
        "get_name",
        "id",
        "ident",
        "is_alive",
        "is_cancelled",
        "is_complete",
        "is_completed",
        "is_done",
        "is_failed",
        "is_finished",
        "is_pending",
        "is_running",
        "join",
        "kill",
        "pending",
        "poll",
        "ready",
        "reject",
        "resolve",
        "result",
        "resume",
        "run",
        "running",
        "set_name",
        "start",
        "started",
        "stop",
        "successful",
        "terminate",
        "then",
        "wait",
        "send",
        "throw",
    ]
)
_OF_TASKS_ONLY = frozenset(
    [
        "close",
        "finish",
        "finished",
        "is_closed",
        "is_set",
        "loop",
        "name",
        "pause",
        "pid",
        "set",
        "shutdown",
        "state",
        "status",
    ]
)


#: Builtin functions that complain of their argument, and not of what is in it.
_OF_ONE = (len, int, float, abs, iter, list, tuple, set, dict, next, bytes, round)


def attribute(exception: AttributeError, place: Place, _match: re.Match[str]) -> Hint | None:
    """``request.form.get``, where `form` is a coroutine."""
    node = place.node(ast.Attribute)
    if node is None or not place.is_innermost:
        return None
    owner, name = exception.obj, exception.name
    if owner is None:
        # Of an attribute that is set, Python 3.11 does not note whose.
        owner, name = place.value(node.value), node.attr
    what = kind_of(owner)
    value = place.value(node.value)
    if what is None or name is None or name != node.attr or (value is not UNKNOWN and value is not owner):
        return None
    if name.startswith("__") or _is_own(owner, name, isinstance(node.value, ast.Name)):
        return None
    known = _result_of(owner)
    if known is not UNKNOWN and not hasattr(type(known), name) and name not in getattr(known, "__dict__", ()):
        return None
    if getattr(owner, "_asyncio_future_blocking", False):
        # A loop or an unpacking has gone through it, which gives the future itself: that was to be awaited.
        return None
    if value is UNKNOWN and not isinstance(
        node.value, (ast.Call, ast.Attribute, ast.Subscript, ast.NamedExpr)
    ):
        return None
    return not_awaited(place, node.value, what, owner)


def _is_own(owner: Any, name: str, is_named: bool) -> bool:
    """Whether an attribute was meant to be the coroutine's or task's own, by a wrong name: that is another mistake."""
    own = [one for one in dir(owner) if not one.startswith("_")]
    if difflib.get_close_matches(name, own, 1, 0.75) or any(one in name for one in own if len(one) > 3):
        return True
    if kind_of(owner) != "a coroutine":
        return name in _OF_TASKS or name in _OF_TASKS_ONLY
    # One that was made in this very line is there for what it gives.
    return name in _OF_TASKS and is_named


def _result_of(owner: Any) -> Any:
    """The result of a task that is done, or UNKNOWN."""
    if (
        kind_of(owner) == "a coroutine"
        or not owner.done()
        or owner.cancelled()
        or owner._exception is not None
    ):
        return UNKNOWN
    return owner._result


def operand(_exception: BaseException, place: Place, match: re.Match[str]) -> Hint | None:
    """What an operator, a call, a loop or a `with` was given."""
    names = [name for name in match.groupdict().values() if name in AWAITABLES]
    if not names:
        return None
    candidates, only_certain = _operands(place, match)
    chosen = [node for node in candidates if is_surely(place, node, names)]
    if not chosen and not only_certain:
        chosen = [node for node in candidates if may_be(place, node, names)]
    if len(chosen) != 1:
        return None
    return not_awaited(place, chosen[0], AWAITABLES[names[0]], place.value(chosen[0]))


def iterated_future(_exception: BaseException, place: Place, _match: re.Match[str]) -> Hint | None:
    """``first, second = asyncio.gather(…)``: a future that is iterated over gives itself, once."""
    tree = place.tree()
    if tree is None or not place.is_innermost:
        return None
    chosen: Any = None
    if place.operation.startswith("UNPACK"):
        node = place.node(ast.Tuple, ast.List)
        parent = tree.parents.get(node) if node is not None else None
        chosen = parent.value if isinstance(parent, ast.Assign) else None
    elif place.operation == "FOR_ITER":
        node = place.node(ast.For) or place.node(ast.expr)
        parent = node if isinstance(node, ast.For) else tree.parents.get(node) if node is not None else None
        chosen = (
            parent.iter if isinstance(parent, ast.For) and (node is parent or parent.iter is node) else None
        )
    names = [name for name in AWAITABLES if name != "coroutine"]
    if chosen is None or not is_surely(place, chosen, names):
        return None
    return not_awaited(place, chosen, "a future", place.value(chosen))


def _operands(place: Place, match: re.Match[str]) -> tuple[list[ast.expr], bool]:
    """The expressions that the failed instruction has worked on, and whether only one that is known may be called wrong."""
    operation = place.operation
    sides = match.groupdict()
    has_sides = "left" in sides or "right" in sides

    def with_sides(left: ast.expr, right: ast.expr) -> tuple[list[ast.expr], bool]:
        return [
            one for side, one in (("left", left), ("right", right)) if sides.get(side) in AWAITABLES
        ], False

    if operation.startswith(
        ("CALL", "PRECALL", "DICT_MERGE", "LIST_EXTEND", "DICT_UPDATE", "SET_UPDATE", "LIST_TO_TUPLE")
    ):
        return ([], True) if has_sides else _operands_of_call(place, match)
    if not place.is_innermost:
        return [], True
    if operation == "GET_ITER":
        node = place.node(ast.For, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp) or place.node(
            ast.expr
        )
        tree = place.tree()
        match node, tree.parents.get(node) if tree is not None and node is not None else None:
            case ast.For(), _:
                return [node.iter], False
            case (ast.expr(), (ast.For() | ast.comprehension()) as loop) if loop.iter is node:
                return [node], False
            case ((ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp()), _):
                return [node.generators[0].iter], len(node.generators) > 1
            case _:
                return [], True
    if operation == "UNPACK_SEQUENCE" or operation == "UNPACK_EX":
        node, tree = place.node(ast.Tuple, ast.List), place.tree()
        parent = tree.parents.get(node) if tree is not None and node is not None else None
        return ([parent.value] if isinstance(parent, ast.Assign) else []), False
    if operation in ("BEFORE_WITH", "BEFORE_ASYNC_WITH", "LOAD_SPECIAL"):
        return context_expressions(place, ast.With, ast.AsyncWith), False
    match place.node(ast.Subscript, ast.UnaryOp, ast.BinOp, ast.Compare, ast.AugAssign):
        case ast.Subscript(value=value) if (
            operation.endswith(("SUBSCR", "SLICE")) or operation == "BINARY_OP"
        ):
            return [value], False
        case ast.UnaryOp(operand=value) if operation.startswith(("UNARY", "CALL_INTRINSIC")):
            return [value], False
        case ast.BinOp(left=left, right=right) if operation == "BINARY_OP":
            return with_sides(left, right)
        case ast.AugAssign(target=left, value=right) if operation == "BINARY_OP":
            return with_sides(left, right)
        case ast.Compare(left=left, ops=[ast.In() | ast.NotIn()], comparators=[right]) if (
            operation == "CONTAINS_OP"
        ):
            return [right], False
        case ast.Compare(left=left, ops=[_], comparators=[right]) if operation == "COMPARE_OP":
            return with_sides(left, right)
    return [], True


def _operands_of_call(place: Place, match: re.Match[str]) -> tuple[list[ast.expr], bool]:
    node = place.node(ast.Call)
    if node is None:
        return [], True
    arguments: list[ast.expr] = [one.value if isinstance(one, ast.Starred) else one for one in node.args]
    arguments += [keyword.value for keyword in node.keywords]
    if "callable" in match.string:
        # What was called, or what that has called.
        return [node.func, *arguments], bool(arguments)
    if "subscriptable" in match.string or "attribute" in match.string:
        return [], True
    if "JSON" in match.string:
        # In whatever was to be written.
        arguments = [one for argument in arguments for one in ast.walk(argument) if isinstance(one, ast.expr)]
        return arguments, True
    # Of a builtin function with one argument it is plain which was wrong, of others only if it is known what they are.
    function = place.value(node.func)
    is_plain = len(arguments) == 1 and any(function is one for one in _OF_ONE)
    return arguments, not is_plain


def context_expressions(place: Place, *kinds: type[ast.With | ast.AsyncWith]) -> list[ast.expr]:
    """The managers of a `with` of which the failed instruction has entered one; a single one where that is known."""
    block = place.node(*kinds)
    if block is not None:
        return [item.context_expr for item in block.items]
    node, tree = place.node(ast.expr), place.tree()
    item = tree.parents.get(node) if tree is not None and node is not None else None
    if isinstance(item, ast.withitem) and tree is not None and isinstance(tree.parents.get(item), kinds):
        return [item.context_expr]
    return []


# -- What is said of it -------------------------------------------------------------------------------------------------------


def not_awaited(place: Place, node: ast.expr, what: str, value: Any) -> Hint | None:
    """Say that an expression has to be awaited before it is used."""
    tree = place.tree()
    if tree is None or isinstance(node, ast.Await) or _is_current(value):
        return None
    if (parameter := _parameter(place, node)) is not None and value is not UNKNOWN:
        return _passed_without(place, parameter, what, value)
    source = short(tree.source(node))
    reason = f"`{source}` is {what} that was not awaited"
    if place.is_package:
        return Hint(reason)
    if not place.is_async_at(node):
        if what == "a coroutine" and not _is_in_async_function(tree, node):
            return Hint(f"{reason}, and only a function made with `async def` can await it")
        return Hint(reason)
    rewriting = Rewriting(tree)
    rewriting.await_(node)
    outer = _await_around(tree, node)
    if outer is None:
        return Hint(reason, rewriting.line(node))
    rewriting.drop_await(outer)
    # What is awaited now may be asynchronous itself.
    remark = ", with another `await` in front if what that gives is to be awaited as well"
    return Hint(reason, rewriting.expression(outer), remark)


def _is_current(value: Any) -> bool:
    """Whether this is the task that runs, which cannot await itself."""
    if not is_a(value, asyncio.Task):
        return False
    if value.done():
        # Looked at after its end it is the one that has failed.
        return not value.cancelled() and value._exception is not None
    loop = asyncio._get_running_loop()
    return loop is not None and asyncio.current_task(loop) is value


def _parameter(place: Place, node: ast.expr) -> str | None:
    """The name of the function's parameter that an expression is, or None."""
    code = place.code
    count = code.co_argcount + code.co_kwonlyargcount
    if isinstance(node, ast.Name) and node.id in code.co_varnames[:count] and not node.id.startswith("."):
        return node.id
    return None


def _passed_without(place: Place, name: str, what: str, value: Any) -> Hint | None:
    """Say of an argument that it had to be awaited before the function was called, and show the call if it is found."""
    function = place.code.co_name
    if function in ("<lambda>", "<listcomp>", "<genexpr>", "<setcomp>", "<dictcomp>"):
        return None
    reason = f"`{name}` is {what} that was passed to `{function}()` without being awaited"
    for caller in place.callers():
        call, tree = caller.node(ast.Call), caller.tree()
        if call is None:
            awaited = caller.node(ast.Await)
            call = awaited.value if awaited is not None and isinstance(awaited.value, ast.Call) else None
        if call is None or tree is None:
            break
        arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
        passed = [one for one in arguments if _gives(caller, one, value)]
        if len(passed) != 1:
            break
        if _parameter(caller, passed[0]) is not None:
            continue
        if caller.is_package or not caller.is_async_at(passed[0]):
            break
        rewriting = Rewriting(tree)
        rewriting.await_(passed[0])
        return Hint(reason, rewriting.line(passed[0]))
    return Hint(reason)


def _gives(place: Place, node: ast.expr, value: Any) -> bool:
    """Whether an expression is surely this very coroutine or task."""
    known = place.value(node)
    if known is not UNKNOWN:
        return known is value
    code = getattr(value, "cr_code", None)
    if not isinstance(node, ast.Call) or code is None:
        return False
    return code_of(place.value(node.func)) is code


def _is_in_async_function(tree: Tree, node: ast.AST) -> bool:
    for above in tree.above(node):
        if isinstance(above, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            return isinstance(above, ast.AsyncFunctionDef)
    return False


def _await_around(tree: Tree, node: ast.expr) -> ast.Await | None:
    """The `await` that was meant for this node and took the attributes, items and calls behind it, too."""
    for above in tree.above(node):
        match above:
            case ast.Attribute(value=inner) | ast.Subscript(value=inner) | ast.Call(func=inner) if (
                inner is node
            ):
                node = above
            case ast.Await():
                return above
            case _:
                return None
    return None
