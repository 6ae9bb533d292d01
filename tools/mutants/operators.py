"""Changes of operators, numbers, indices and calls: the part of the walk that looks at expressions."""

from __future__ import annotations

import ast

from tools.mutants.alternatives import (
    BUILTIN_OPPOSITES,
    COMPARED,
    COMPUTED,
    OPPOSITES,
    PASSED_OVER,
    PATH_WORDS,
    TALK,
    is_text,
    name_of,
    other_numbers,
)
from tools.mutants.places import Change, Source


class Expressions(ast.NodeVisitor):
    """Collects the changes of one file in `found`; `_around` holds the functions around the node that is visited."""

    def __init__(self, file: str, text: str) -> None:
        self.found: list[Change] = []
        self._file, self._source = file, Source(text)
        self._around: list[ast.FunctionDef | ast.AsyncFunctionDef] = []

    def _add(self, kind: str, line: int, span: tuple[int, int], new: str, *, imported: bool | None = None) -> None:
        """Note a change, unless it gives the same text."""
        start, end = span
        old = self._source.text[start:end]
        if old != new:
            function = self._around[-1].name if self._around else ""
            at_import = not self._around if imported is None else imported
            self.found.append(Change(self._file, kind, line, start, end, old, new, function, at_import))

    def _replace(self, kind: str, node: ast.expr | ast.stmt, new: str, *, imported: bool | None = None) -> None:
        """Note the replacement of a whole node."""
        self._add(kind, node.lineno, self._source.span(node), new, imported=imported)

    def _turn(self, kind: str, left: ast.AST, right: ast.AST, words: tuple[str, str]) -> None:
        """Note the replacement of the operator between two operands."""
        place = self._source.operator(left, right, words[0])
        if place is not None:
            self._add(kind, self._source.line_of(place[0]), place, words[1])

    # Operators

    def visit_Compare(self, node: ast.Compare) -> None:
        """A boundary moved by one, or the opposite."""
        left = node.left
        for operator, right in zip(node.ops, node.comparators, strict=True):
            self._turn("compare", left, right, COMPARED[type(operator)])
            left = right
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        """The inverse operation, where the operands are no texts, lists or paths."""
        sides = (node.left, node.right)
        joined = any(is_text(side) or isinstance(side, ast.List | ast.Tuple | ast.Set | ast.Dict) for side in sides)
        path = isinstance(node.op, ast.Div) and any(word in self._source.of(node) for word in PATH_WORDS)
        if type(node.op) in COMPUTED and not joined and not path:
            self._turn("arith", node.left, node.right, COMPUTED[type(node.op)])
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """As `visit_BinOp`."""
        if not isinstance(node.value, ast.JoinedStr | ast.List) and type(node.op) in COMPUTED:
            old, new = COMPUTED[type(node.op)]
            if isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.Div | ast.BitOr | ast.BitAnd):
                self._turn("arith", node.target, node.value, (f"{old}=", f"{new}="))
        self.visit(node.value)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """And for or, or for and."""
        words = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._turn("boolop", left, right, words)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        """Without the `not`, the `~` or the sign."""
        if isinstance(node.op, ast.Not | ast.Invert):
            self._replace("negate", node, f"({self._source.of(node.operand)})")
        elif isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
            self._replace("arith", node, f"({self._source.of(node.operand)})")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """Neighbours of a number, the other truth value."""
        kind = "bool" if isinstance(node.value, bool) else "const"
        for new in other_numbers(node.value):
            self._replace(kind, node, new)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        """An index or the end of a slice moved by one."""
        for part in node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]:
            if not self._around:
                continue
            if isinstance(part, ast.Slice):
                for side, sign in ((part.lower, "+"), (part.upper, "-")):
                    if side is not None:
                        self._replace("slice", side, f"{self._source.of(side)} {sign} 1")
            elif isinstance(part, ast.Constant) and isinstance(part.value, int):
                self._replace("slice", part, str(part.value + 1))
        self.generic_visit(node)

    # Calls

    def visit_Call(self, node: ast.Call) -> None:
        """What is called, and with what; messages and help are passed over."""
        name = name_of(node)
        if name in TALK:
            return
        self._axis(node)
        self._limits(node, name)
        self._choice(node, name)
        self._method(node, name)
        self.visit(node.func)
        positional = {"require": node.args[:1], "option": []}.get(name, node.args)
        passed_over = PASSED_OVER | ({"strict"} if name == "zip" else set())
        for part in (*positional, *(word.value for word in node.keywords if word.arg not in passed_over)):
            self.visit(part)

    def _axis(self, node: ast.Call) -> None:
        """The other of the first two axes."""
        for word in node.keywords:
            value = word.value
            if word.arg in ("dim", "axis") and isinstance(value, ast.Constant) and type(value.value) is int:
                self._replace("dim", value, {0: "1", 1: "0"}.get(value.value, self._source.of(value)))

    def _limits(self, node: ast.Call, name: str) -> None:
        """A lower limit in place of an upper one."""
        words = [word for word in node.keywords if word.arg in ("min", "max")]
        if name in ("clamp", "clamp_", "clip") and len(words) == 1:
            start = self._source.offset(words[0].lineno, words[0].col_offset)
            self._add("swap", words[0].lineno, (start, start + 3), OPPOSITES[words[0].arg or ""])

    def _choice(self, node: ast.Call, name: str) -> None:
        """The two values of `where` in the other order, the opposite condition of a fill."""
        if name == "where" and len(node.args) == 3:
            one, two = node.args[1:]
            (start, stop), (again, end) = self._source.span(one), self._source.span(two)
            middle = self._source.text[stop:again]
            self._add("swap", one.lineno, (start, end), self._source.of(two) + middle + self._source.of(one))
        elif name in ("where", "masked_fill") and len(node.args) >= 2:
            self._replace("swap", node.args[0], f"~({self._source.of(node.args[0])})")

    def _method(self, node: ast.Call, name: str) -> None:
        """Without a `detach`, an `abs` or a `sorted`; the smallest for the largest."""
        func = node.func
        if isinstance(func, ast.Attribute) and not node.args and name in ("detach", "logical_not", "abs", "square"):
            self._replace("detach" if name == "detach" else "negate", node, self._source.of(func.value))
        if name in OPPOSITES and self._around:
            end = self._source.span(func)[1]
            if isinstance(func, ast.Attribute):
                line = func.end_lineno or func.lineno
                self._add("extreme", line, (end - len(name), end), OPPOSITES[name])
            elif name in BUILTIN_OPPOSITES:
                self._replace("extreme", func, OPPOSITES[name])
        if name == "sorted" and node.args:
            self._replace("sort", node, f"list({self._source.of(node.args[0])})")
