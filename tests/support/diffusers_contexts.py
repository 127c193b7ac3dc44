"""The names and keywords that diffusers' pipelines pass to `cache_context`, read from its source.

Nothing of it is imported: a pipeline's module takes seconds, and its optional packages.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

FOLDERS = ("pipelines", "modular_pipelines")


@dataclass
class PassedOn:
    """What was found; `unknown` are expressions that this reader cannot follow."""

    names: set[str] = field(default_factory=set)
    keywords: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    calls: int = 0


def passed_by_pipelines(package: Path) -> PassedOn:
    """Of every call in the pipelines of diffusers, installed at `package`."""
    passed = PassedOn()
    guider_names = set(_guider_names(package))
    for path in sorted(file for folder in FOLDERS for file in (package / folder).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "cache_context(" not in text:
            continue
        module = ast.parse(text)
        for call in _calls(module, "cache_context"):
            passed.calls += 1
            _add_name(passed, module, call.args[0], guider_names)
            for keyword in call.keywords:
                _add_keyword(passed, module, keyword)
    return passed


def context_fields(package: Path) -> set[str]:
    """The fields of diffusers' own `CacheContext`, which its `cache_context` takes as keywords."""
    module = ast.parse((package / "hooks" / "hooks.py").read_text(encoding="utf-8"))
    classes = [node for node in ast.walk(module) if isinstance(node, ast.ClassDef)]
    fields = next(node.body for node in classes if node.name == "CacheContext")
    named = [node.target for node in fields if isinstance(node, ast.AnnAssign)]
    return {target.id for target in named if isinstance(target, ast.Name)} - {"name"}


def _calls(module: ast.AST, function: str) -> Iterator[ast.Call]:
    for node in ast.walk(module):
        is_method = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if is_method and node.func.attr == function:
            yield node


def _guider_names(package: Path) -> Iterator[str]:
    """`_input_predictions` of every guider: a batch of a guider has one of them as its name."""
    for path in (package / "guiders").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == (
                "_input_predictions"
            ):
                yield from _texts(node.value)


def _texts(node: ast.AST) -> Iterator[str]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            yield inner.value


def _add_name(passed: PassedOn, module: ast.Module, name: ast.expr, guiders: set[str]) -> None:
    if isinstance(name, ast.Constant):
        passed.names.add(name.value)
    elif "identifier_key" in ast.unparse(name):
        passed.names |= guiders
    elif isinstance(name, ast.Name):
        values = list(_values(module, name.id))
        for value in values:
            _add_name(passed, module, value, guiders)
        if not values:
            passed.unknown.add(name.id)
    else:
        passed.unknown.add(ast.unparse(name))


def _values(module: ast.Module, variable: str) -> Iterator[ast.expr]:
    """What a variable may be: assigned, an item of a loop's list, or a parameter's arguments."""
    for node in ast.walk(module):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == variable:
            yield node.value
        elif isinstance(node, ast.For) and ast.unparse(node.target) == variable:
            yield from _items(module, ast.unparse(node.iter))
        elif isinstance(node, ast.FunctionDef):
            parameters = [each.arg for each in node.args.args if each.arg != "self"]
            if variable in parameters:
                at = parameters.index(variable)
                yield from (call.args[at] for call in _calls(module, node.name))


def _items(module: ast.Module, variable: str) -> Iterator[ast.expr]:
    for value in _values(module, variable):
        if isinstance(value, ast.List):
            yield from value.elts
    for call in _calls(module, "append"):
        if ast.unparse(call.func) == f"{variable}.append":
            yield call.args[0]


def _add_keyword(passed: PassedOn, module: ast.Module, keyword: ast.keyword) -> None:
    if keyword.arg is not None:
        passed.keywords.add(keyword.arg)
        return
    for value in list(_values(module, ast.unparse(keyword.value))) or [keyword.value]:
        if isinstance(value, ast.Dict) and all(isinstance(key, ast.Constant) for key in value.keys):
            passed.keywords |= {key.value for key in value.keys if isinstance(key, ast.Constant)}
        else:
            passed.unknown.add(ast.unparse(value))
