"""In which order a model's forward names the model's own children, read off its source.

A forward can be run only once there are inputs; where a module stands in it is asked before.
"""

from __future__ import annotations

import ast
import inspect
import textwrap

from torch import nn

INDIRECT = ("getattr", "children", "named_children", "modules", "named_modules", "_modules",
            "get_submodule")  # fmt: skip
"""Names by which code comes to children without naming them."""


def forward_order(model: nn.Module) -> dict[str, frozenset[str]] | None:
    """For each of the root's children that a method of the model names: the lists of modules that
    its forward has surely gone through before.

    A child that another method names may be called before all.  None where the source is not
    there, or comes to children by other ways.
    """
    kinds = [kind for kind in type(model).__mro__ if _is_own(kind)]
    if "forward" in model.__dict__ or not kinds:
        return None
    try:
        methods = [method for kind in kinds for method in _methods(kind)]
    except (OSError, TypeError, SyntaxError):
        return None
    if any(name in INDIRECT for method in methods for name in _names(method)):
        return None
    children = dict(model.named_children())
    loops = {
        name: max(lines)
        for name, child in children.items()
        if isinstance(child, nn.ModuleList) and (lines := _loops(methods, name))
    }
    places = {name: _first_named(methods, name) for name in children}
    return {
        name: frozenset(other for other, line in loops.items() if line < place and other != name)
        for name, place in places.items() if place is not None
    }  # fmt: skip


def _is_own(kind: type) -> bool:
    """Whether a class is a model's with a forward, and not torch's."""
    own = issubclass(kind, nn.Module) and not kind.__module__.startswith("torch.")
    return own and "forward" in kind.__dict__


def _methods(kind: type) -> list[ast.FunctionDef]:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    methods = [node for node in definition.body if isinstance(node, ast.FunctionDef)]
    return [method for method in methods if method.name != "__init__"]


def _names(tree: ast.AST) -> dict[str, int]:
    """What is read in a piece of code, with the first line of it."""
    lines: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            name = node.attr if isinstance(node, ast.Attribute) else node.id
            lines[name] = min(node.lineno, lines.get(name, node.lineno))
    return lines


def _first_named(methods: list[ast.FunctionDef], child: str) -> int | None:
    """The line at which a forward first names a child; 0 where another method does."""
    lines = [
        names[child] if method.name == "forward" else 0
        for method in methods
        if child in (names := _names(method))
    ]
    return min(lines, default=None)


def _loops(methods: list[ast.FunctionDef], child: str) -> list[int]:
    """The lines at which the loops of a forward over a list are done."""
    return [
        loop.end_lineno or loop.lineno
        for method in methods if method.name == "forward"
        for loop in ast.walk(method)
        if isinstance(loop, ast.For) and child in _names(loop.iter)
    ]  # fmt: skip
