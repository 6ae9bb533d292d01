"""What a change may put in place of an operator, a number, a default or the name of a function."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

COMPARED: Mapping[type, tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
COMPUTED: Mapping[type, tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "/"),
    ast.Mod: ("%", "//"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
}
OPPOSITES = {
    **{"min": "max", "max": "min", "amin": "amax", "amax": "amin", "any": "all", "all": "any"},
    **{"argmax": "argmin", "argmin": "argmax", "minimum": "maximum", "maximum": "minimum"},
    **{"ceil": "floor", "floor": "ceil", "ge": "gt", "sum": "mean", "mean": "sum"},
}
BUILTIN_OPPOSITES = {"min", "max", "any", "all"}
TALK = {"print", "warn", "say", "info", "debug", "warning", "error", "log", "write", "require_room"}
"""Calls that only speak to people: neither dropped nor changed."""
PASSED_OVER = {"help", "aliases", "non_blocking", "validate_args"}
"""Arguments that are for people, or for speed alone. The `strict` of `zip` is passed over too: it is an assert."""
PATH_WORDS = ("root", "folder", "path", "dir", "PATH", "Path", "parent")
"""A division in whose text one of these stands joins paths."""


def name_of(call: ast.Call) -> str:
    """The last word of what is called; empty where it has no name."""
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def is_text(node: ast.AST) -> bool:
    """Whether a node is a text or a docstring's constant."""
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def another_value(value: object, annotation: ast.AST | None) -> str | None:
    """The code of another default of the same type; None where there is none to think of."""
    if isinstance(value, bool):
        return str(not value)
    if isinstance(value, int):
        return str(value + 1)
    if isinstance(value, float):
        return repr(value * 2 if value else 0.5)
    if isinstance(value, str) and annotation is not None:
        words = [part.value for part in ast.walk(annotation) if isinstance(part, ast.Constant)]
        others = [word for word in words if isinstance(word, str) and word != value]
        return f'"{others[0]}"' if others else None
    return None


def other_numbers(value: object) -> Iterator[str]:
    """The code of neighbours of a number: one more and one less, or twice as much."""
    if isinstance(value, bool):
        yield str(not value)
    elif isinstance(value, int):
        yield str(value + 1)
        if value > 0:
            yield str(value - 1)
    elif isinstance(value, float):
        yield repr(value * 2 if value else 0.5)


def defaults_of(arguments: ast.arguments) -> Iterator[tuple[ast.arg, ast.expr]]:
    """The arguments of a function that have a default, with it."""
    positional = [*arguments.posonlyargs, *arguments.args]
    yield from zip(positional[len(positional) - len(arguments.defaults) :], arguments.defaults, strict=True)
    for argument, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if value is not None:
            yield argument, value
