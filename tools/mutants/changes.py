"""Which changes there are: a walk over the tree of a file that proposes, at every node, what may be wrong there.

A change is one that a tired programmer could make and that alters behaviour: a boundary, a sign, a dropped call, two
arguments in the wrong order. Texts for people, imports and asserts are left alone.
"""

# ruff: noqa: N802 - the names of methods are those of ast.NodeVisitor

from __future__ import annotations

import ast
from pathlib import Path

from tools.mutants.alternatives import TALK, another_value, defaults_of, is_text, name_of
from tools.mutants.operators import Expressions
from tools.mutants.places import Change


def changes_of(root: Path, file: str) -> list[Change]:
    """Every change of one file, in the order of the walk; `alters` says which are worth a try.

    Args:
        root: folder of the project.
        file: path inside it.
    """
    text = (root / file).read_text(encoding="utf-8")
    finder = Finder(file, text)
    finder.visit(ast.parse(text))
    return finder.found


def alters(change: Change, text: str) -> bool:
    """Whether the changed file is Python, and other Python than before."""
    try:
        tree = ast.parse(change.applied(text))
    except SyntaxError:
        return False
    return ast.dump(tree) != ast.dump(ast.parse(text))


class Finder(Expressions):
    """The whole walk: declarations and statements as well."""

    # What is left alone

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Texts with values are for people."""

    def visit_Import(self, node: ast.Import) -> None:
        """Nothing to change."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """Nothing to change."""

    def visit_Assert(self, node: ast.Assert) -> None:
        """An assert says what is known, and checks nothing that a user gives."""

    # Declarations

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """The body, not the decorator: `frozen` and `kw_only` are for the reader."""
        for statement in node.body:
            if not (isinstance(statement, ast.Expr) and is_text(statement.value)):
                self.visit(statement)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """Defaults of dataclasses and of settings."""
        value = node.value
        if value is None:
            return
        if not self._around and not isinstance(value, ast.Call):
            self._default(value, node.annotation)
        self.visit(value)
        if isinstance(value, ast.Call) and name_of(value) == "option" and value.args:
            self._default(value.args[0], node.annotation)

    def _default(self, node: ast.expr, annotation: ast.AST | None = None) -> None:
        """Another default."""
        new = another_value(node.value, annotation) if isinstance(node, ast.Constant) else None
        if new:
            self._replace("default", node, new, imported=True)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        """Decorators that stop gradients, defaults, and the body without its docstring."""
        self._gradient_stops(node)
        self._around.append(node)
        for argument, value in defaults_of(node.args):
            if "block" not in argument.arg:  # how many rows at a time changes nothing
                self._default(value, argument.annotation)
        first = node.body[0]
        documented = isinstance(first, ast.Expr) and is_text(first.value)
        for statement in node.body[int(documented) :]:
            self.visit(statement)
        self._around.pop()

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        """As any other function."""
        self.visit_FunctionDef(node)

    def _gradient_stops(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        """Drop `@torch.no_grad()` and `@torch.inference_mode()`."""
        for decorator in node.decorator_list:
            if any(word in self._source.of(decorator) for word in ("no_grad", "inference_mode")):
                start, end = self._source.span(decorator)
                self._add("detach", decorator.lineno, (start - 1, end), "", imported=True)

    # Statements

    def visit_Expr(self, node: ast.Expr) -> None:
        """A call for its effect: a check, a sort, or anything else, dropped."""
        if isinstance(node.value, ast.Constant):
            return
        if isinstance(node.value, ast.Call) and self._around:
            name = name_of(node.value)
            if name.startswith(("require", "_require", "check", "_check")) and name != "require_room":
                self._replace("guard", node, "pass")
            elif name == "sort":
                self._replace("sort", node, "pass")
            elif name not in TALK and "__init__" not in name:
                self._replace("dropcall", node, "pass")
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        """An error that is not raised."""
        self._replace("guard", node, "pass")

    def visit_Return(self, node: ast.Return) -> None:
        """The opposite of a yes or no; an early return that does not happen."""
        if self._around and node.value is not None:
            said = self._around[-1].returns
            if isinstance(said, ast.Name) and said.id == "bool":
                self._replace("return", node, f"return not ({self._source.of(node.value)})")
            if node is not self._around[-1].body[-1]:
                self._replace("return", node, "pass")
        self.generic_visit(node)

    def visit_If(self, node: ast.If | ast.IfExp) -> None:
        """The other branch. Comparisons and their combinations are changed where they stand."""
        if not isinstance(node.test, ast.Compare | ast.BoolOp):
            self._replace("negate", node.test, f"not ({self._source.of(node.test)})")
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        """As a statement."""
        self.visit_If(node)

    def visit_Continue(self, node: ast.Continue) -> None:
        """Stop instead of going on."""
        self._replace("flow", node, "break")

    def visit_Break(self, node: ast.Break) -> None:
        """Go on instead of stopping."""
        self._replace("flow", node, "continue")

    def visit_With(self, node: ast.With) -> None:
        """Gradients where there should be none."""
        for item in node.items:
            if "no_grad()" in self._source.of(item.context_expr):
                self._replace("detach", item.context_expr, "torch.enable_grad()")
        self.generic_visit(node)
