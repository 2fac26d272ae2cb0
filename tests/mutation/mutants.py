"""Small changes to a module that a test ought to notice: one comparison, bound, sign, constant or statement each.

Places that no result depends on are left out: docstrings, annotations, decorators, messages of errors and of the log,
progress, ``strict=``, ``device=`` and ``prepend_bos=`` (of text, and the package passes tokens), bounds of memory.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Mutant", "count", "mutant"]

COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_PAIRS = (
    *(("min", "max"), ("any", "all"), ("mean", "sum"), ("argmin", "argmax"), ("amin", "amax"), ("sin", "cos")),
    *(("softmax", "log_softmax"), ("ceil", "floor"), ("std", "var"), ("zeros", "ones"), ("zeros_like", "ones_like")),
)
RENAMED = {a: b for pair in _PAIRS for a, b in (pair, pair[::-1])}
WITHOUT = {"abs", "sqrt", "exp", "log", "clone", "float", "double", "sorted", "lower", "strip"}
"""Calls whose argument, or whose object, can stand in their place."""
SYMMETRIC = {"min", "max", "dot", "isinstance", "equal", "getattr", "hasattr"}
SPOKEN = {"progress", "debug", "info", "warning", "warn"}
"""Calls that only tell a person something; their own arguments are left alone."""
KEPT_KEYWORDS = {"strict", "device", "stacklevel", "prepend_bos"}
COSTS = {"max_batch_tokens", "CHUNK", "PASS_TOKENS", "READOUT_ROWS", "_READOUT_ROWS", "BATCH", "CACHED_TEXTS"}
"""What bounds memory or time, and changes no number."""


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A changed module.

    Args:
        line: Where the change is.
        operator: What kind of change.
        before, after: The statement, or its head.
        reach: First and last line that must run for the change to matter; None if it matters on import.
        source: The whole module, changed.
    """

    line: int
    operator: str
    before: str
    after: str
    reach: tuple[int, int] | None
    source: str


@dataclass(frozen=True)
class _Site:
    operator: str
    line: int
    statement: ast.stmt
    function: ast.FunctionDef | None
    node: ast.AST
    field: str
    index: int | None
    new: Callable[[], Any]


def count(source: str) -> int:
    """How many mutants a module has."""
    return len(list(_sites(ast.parse(source))))


def mutant(source: str, number: int) -> Mutant:
    """One of a module's mutants, numbered in the order of its lines."""
    tree = ast.parse(source)
    site = list(_sites(tree))[number]
    before = _head(site.statement)
    new = site.new()
    if site.index is None:
        setattr(site.node, site.field, new)
    else:
        getattr(site.node, site.field)[site.index] = new
    ast.fix_missing_locations(tree)
    after = _head(new if isinstance(new, ast.stmt) else site.statement)
    return Mutant(
        line=site.line, operator=site.operator, before=before, after=after, reach=_reach(site), source=ast.unparse(tree)
    )


def _reach(site: _Site) -> tuple[int, int] | None:
    statement = site.statement
    if isinstance(statement, ast.FunctionDef):  # a default
        return statement.body[0].lineno, statement.end_lineno or statement.body[-1].lineno
    if site.function is None:
        return None
    body = getattr(statement, "body", None)
    return statement.lineno, (body[0].lineno - 1 if body else statement.end_lineno or statement.lineno)


def _head(statement: ast.stmt) -> str:
    """A statement as text; of one with a body, what stands before it."""
    if not isinstance(getattr(statement, "body", None), list):
        return ast.unparse(statement)
    fields = [name for name in ("body", "orelse", "finalbody", "handlers") if hasattr(statement, name)]
    kept = {name: getattr(statement, name) for name in fields}
    for name in fields:
        setattr(statement, name, [ast.Pass()] if name == "body" else [])
    text = ast.unparse(statement) if not isinstance(statement, ast.Try) else "try:\n    pass"
    for name, value in kept.items():
        setattr(statement, name, value)
    return "\n".join(text.splitlines()[:-1])


def _sites(tree: ast.Module) -> Iterator[_Site]:
    for index, statement in enumerate(tree.body):
        yield from _in_statement(statement, tree, "body", index, None)


def _in_statement(
    statement: ast.stmt, parent: ast.AST, field: str, index: int, function: ast.FunctionDef | None
) -> Iterator[_Site]:
    def site(operator: str, node: ast.AST, field: str, index: int | None, new: Callable[[], Any]) -> _Site:
        line = statement.lineno if operator == "statement dropped" else getattr(node, "lineno", statement.lineno)
        return _Site(operator, line, statement, function, node, field, index, new)

    if _is_left_out(statement):
        return
    if function is not None and _can_be_dropped(statement, function):
        yield site("statement dropped", parent, field, index, ast.Pass)
    if isinstance(statement, ast.Raise) or (isinstance(statement, ast.Expr) and _called(statement.value) in SPOKEN):
        return
    if isinstance(statement, (ast.Break, ast.Continue)):
        other = ast.Continue if isinstance(statement, ast.Break) else ast.Break
        yield site("break and continue", parent, field, index, other)
    if isinstance(statement, ast.AugAssign):
        for op in _other(statement.op, COMPUTED):
            yield site("arithmetic", statement, "op", None, op)
    if isinstance(statement, ast.If) and _name(statement.test) not in SPOKEN and not _is_not(statement.test):
        yield site("condition negated", statement, "test", None, lambda: _negated(statement.test))
    if isinstance(statement, ast.Return):
        if isinstance(statement.value, ast.Tuple) and len(statement.value.elts) > 1:
            elts = statement.value.elts
            if ast.dump(elts[0]) != ast.dump(elts[1]):
                swapped = [elts[1], elts[0], *elts[2:]]
                yield site("returned values swapped", statement.value, "elts", None, lambda: swapped)
        elif statement.value is not None and function is not None and _name(function.returns) == "bool":
            yield site("return value negated", statement, "value", None, lambda: _negated(statement.value))
    inner = statement if isinstance(statement, ast.FunctionDef) else function
    for name, value in ast.iter_fields(statement):
        if name in ("decorator_list", "returns", "annotation", "bases", "keywords", "type_params", "target", "targets"):
            subscripts = [node for node in _listed(value) if isinstance(node, ast.Subscript)]
            for node in subscripts if name in ("target", "targets") else []:
                yield from _in_expression(node.slice, node, "slice", None, site)
            continue
        for position, child in enumerate(_listed(value)):
            place = position if isinstance(value, list) else None
            if isinstance(child, ast.stmt):
                yield from _in_statement(child, statement, name, position, inner)
            elif isinstance(child, ast.ExceptHandler):
                for at, part in enumerate(child.body):
                    yield from _in_statement(part, child, "body", at, inner)
            elif isinstance(child, ast.arguments):
                positional = child.args[len(child.args) - len(child.defaults) :]
                for field_name, named in (("defaults", positional), ("kw_defaults", child.kwonlyargs)):
                    for at, (default, arg) in enumerate(zip(getattr(child, field_name), named, strict=True)):
                        if default is not None and arg.arg not in COSTS:
                            yield from _in_expression(default, child, field_name, at, site)
            elif isinstance(child, ast.withitem):
                yield from _in_expression(child.context_expr, child, "context_expr", None, site)
            elif isinstance(child, ast.expr):
                yield from _in_expression(child, statement, name, place, site)


def _in_expression(node: ast.expr, parent: ast.AST, field: str, index: int | None, site: Any) -> Iterator[_Site]:
    if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Call) and _called(node) in SPOKEN):
        return
    for operator, new in _instead(node):
        made = new()
        if ast.dump(made) != ast.dump(node):
            yield site(operator, parent, field, index, new)
    if isinstance(node, ast.Compare):
        for at, op in enumerate(node.ops):
            for other in _other(op, COMPARED):
                yield site("comparison", node, "ops", at, other)
    if isinstance(node, ast.BinOp):
        for other in _other(node.op, COMPUTED):
            yield site("arithmetic", node, "op", None, other)
    if isinstance(node, ast.BoolOp):
        yield site("and, or", node, "op", None, ast.Or if isinstance(node.op, ast.And) else ast.And)
    if isinstance(node, ast.Call):
        yield from _in_call(node, site)
    for name, value in ast.iter_fields(node):
        for position, child in enumerate(_listed(value)):
            place = position if isinstance(value, list) else None
            if isinstance(child, ast.expr):
                yield from _in_expression(child, node, name, place, site)
            elif isinstance(child, ast.keyword) and child.arg not in KEPT_KEYWORDS:
                yield from _in_expression(child.value, child, "value", None, site)
            elif isinstance(child, ast.comprehension):
                yield from _in_expression(child.iter, child, "iter", None, site)
                if child.ifs:
                    yield site("condition dropped", child, "ifs", None, list)
                for at, condition in enumerate(child.ifs):
                    yield from _in_expression(condition, child, "ifs", at, site)


def _in_call(node: ast.Call, site: Any) -> Iterator[_Site]:
    called = _called(node)
    for at in range(len(node.args) - 1):
        pair = node.args[at : at + 2]
        if called in SYMMETRIC or any(_is_unlike_others(arg) for arg in pair):
            continue
        if ast.dump(pair[0]) != ast.dump(pair[1]):
            swapped = [*node.args[:at], pair[1], pair[0], *node.args[at + 2 :]]
            yield site("arguments swapped", node, "args", None, lambda swapped=swapped: swapped)
    for at, keyword in enumerate(node.keywords):
        if keyword.arg not in {None, *KEPT_KEYWORDS} and not called[:1].isupper():
            rest = [*node.keywords[:at], *node.keywords[at + 1 :]]
            yield site("keyword dropped", node, "keywords", None, lambda rest=rest: rest)


def _instead(node: ast.expr) -> Iterator[tuple[str, Callable[[], ast.expr]]]:
    """What may stand in the place of an expression."""
    if isinstance(node, ast.Constant):
        value = node.value
        if isinstance(value, bool):
            yield "constant", lambda: ast.Constant(not value)
        elif isinstance(value, int):
            yield "constant", lambda: ast.Constant(value + 1)
            yield "constant", lambda: _constant(value - 1)
        elif isinstance(value, float):
            yield "constant", lambda: ast.Constant(2 * value or 1.0)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not, ast.Invert)):
        if isinstance(node.operand, ast.Constant):  # dim=1 is dim=-1 as often as not; its value is changed anyway
            return
        yield "sign or not dropped", lambda: node.operand
    elif isinstance(node, ast.BoolOp):
        for at in range(len(node.values)):
            rest = [*node.values[:at], *node.values[at + 1 :]]
            yield "operand dropped", lambda rest=rest: rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
    elif isinstance(node, ast.IfExp) and _name(node.test) not in SPOKEN:
        yield "branches swapped", lambda: ast.IfExp(node.test, node.orelse, node.body)
    elif isinstance(node, ast.Slice):
        yield from _other_slices(node)
    elif isinstance(node, ast.Attribute):
        if node.attr in {"T", "mT"}:
            yield "transpose dropped", lambda: node.value
        elif node.attr in RENAMED:
            yield "renamed", lambda: ast.Attribute(node.value, RENAMED[node.attr], node.ctx)
    elif isinstance(node, ast.Name) and node.id in RENAMED and isinstance(node.ctx, ast.Load):
        yield "renamed", lambda: ast.Name(RENAMED[node.id], node.ctx)
    elif isinstance(node, ast.Call):
        yield from _other_calls(node)


def _other_slices(node: ast.Slice) -> Iterator[tuple[str, Callable[[], ast.expr]]]:
    if node.lower is not None:
        yield "slice", lambda: ast.Slice(None, node.upper, node.step)
        if not isinstance(node.lower, ast.Constant):  # constants are changed anyway
            yield "slice", lambda: ast.Slice(_plus(node.lower, 1), node.upper, node.step)
    if node.upper is not None:
        yield "slice", lambda: ast.Slice(node.lower, None, node.step)
        if not isinstance(node.upper, ast.Constant):
            yield "slice", lambda: ast.Slice(node.lower, _plus(node.upper, -1), node.step)


def _other_calls(node: ast.Call) -> Iterator[tuple[str, Callable[[], ast.expr]]]:
    called = _called(node)
    if called == "range" and not any(isinstance(arg, ast.Starred) for arg in node.args):
        if len(node.args) == 1:
            yield "range", lambda: _call(node, [ast.Constant(1), node.args[0]])
            yield "range", lambda: _call(node, [_plus(node.args[0], -1)])
        else:
            yield "range", lambda: _call(node, [_plus(node.args[0], 1), *node.args[1:]])
            yield "range", lambda: _call(node, [node.args[0], _plus(node.args[1], -1), *node.args[2:]])
    elif called in WITHOUT:
        if isinstance(node.func, ast.Attribute) and not node.args:
            yield "call dropped", lambda: node.func.value
        elif len(node.args) == 1 and not isinstance(node.args[0], ast.Starred):
            new = (
                _call(ast.Call(ast.Name("list", ast.Load()), [], []), node.args) if called == "sorted" else node.args[0]
            )
            yield "call dropped", lambda: new


def _call(node: ast.Call, args: list[ast.expr]) -> ast.Call:
    return ast.Call(node.func, args, [])


def _plus(node: Any, by: int) -> ast.expr:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return _constant(node.value + by)
    return ast.BinOp(node, ast.Add() if by > 0 else ast.Sub(), ast.Constant(abs(by)))


def _constant(value: int) -> ast.expr:
    return ast.Constant(value) if value >= 0 else ast.UnaryOp(ast.USub(), ast.Constant(-value))


def _negated(node: Any) -> ast.expr:
    return node.operand if _is_not(node) else ast.UnaryOp(ast.Not(), node)


def _is_not(node: Any) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)


def _is_unlike_others(arg: ast.expr) -> bool:
    """A model, a name in quotes: in another's place it fails at once, and shows nothing."""
    text = isinstance(arg, ast.Constant) and isinstance(arg.value, str)
    return text or isinstance(arg, ast.Starred) or _name(arg) in {"model", "self"}


def _other(op: Any, table: dict[Any, Any]) -> list[Any]:
    return [table[type(op)]] if type(op) in table else []


def _is_left_out(statement: ast.stmt) -> bool:
    """Imports, docstrings, assertions for the type checker, names of types."""
    if isinstance(statement, (ast.Import, ast.ImportFrom, ast.Assert, ast.Pass)):
        return True
    if isinstance(statement, ast.FunctionDef) and "shortened" in statement.name:  # for messages
        return True
    if isinstance(statement, ast.Expr) and isinstance(statement.value, (ast.Constant, ast.Yield, ast.YieldFrom)):
        return isinstance(statement.value, ast.Constant)
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        value = statement.value
        is_type = isinstance(value, ast.Subscript) and _name(value.value) in {"Literal", "Callable", "tuple", "Union"}
        name = statement.targets[0].id
        return is_type or name == "__all__" or name in COSTS or _called(value) in {"TypeVar", "getLogger"}
    return False


def _can_be_dropped(statement: ast.stmt, function: ast.FunctionDef) -> bool:
    if isinstance(statement, (ast.Raise, ast.AugAssign, ast.Delete)):
        return True
    if isinstance(statement, ast.Expr):
        called = _called(statement.value)
        return called == "warn" or (isinstance(statement.value, ast.Call) and called not in SPOKEN)
    if isinstance(statement, ast.Return):
        return statement.value is None
    if isinstance(statement, ast.Assign):
        bound = {arg.arg for arg in (*function.args.args, *function.args.kwonlyargs)}
        for node in ast.walk(function):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.lineno < statement.lineno:
                bound.add(node.id)
        return all(
            isinstance(target, (ast.Subscript, ast.Attribute)) or _name(target) in bound for target in statement.targets
        )
    return False


def _called(node: ast.AST) -> str:
    """The last part of the name that is called; "" if it is no call."""
    if not isinstance(node, ast.Call):
        return ""
    return node.func.attr if isinstance(node.func, ast.Attribute) else _name(node.func)


def _name(node: ast.AST | None) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
