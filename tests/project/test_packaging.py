"""What is built, typed and pinned is what is in the tree."""

from __future__ import annotations

import ast
import re
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import l2c_rt._C

ROOT = Path(__file__).parents[2]
STUB = ast.parse((ROOT / "l2c_rt" / "_C.pyi").read_text())
SPECIAL = {"__init__", "__len__", "__dlpack__", "__dlpack_device__"}


def setup_value(name: str) -> Any:
    """A literal of setup.py: an assigned name, or a keyword of its call of setup()."""
    for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
        if isinstance(node, ast.keyword) and node.arg == name:
            return ast.literal_eval(node.value)
    raise AssertionError(f"setup.py has no {name}")


def folder_of(package: str) -> Path:
    folders = setup_value("package_dir")
    return ROOT / folders.get(package, package.replace(".", "/"))


def test_setup_lists_every_package_once() -> None:
    folders = {path.parent for top in ("l2c_rt", "kernels") for path in (ROOT / top).rglob("*.py")}
    listed = [folder_of(package) for package in setup_value("PACKAGES")]
    assert sorted(listed) == sorted(folders)
    assert all((folder / "__init__.py").is_file() for folder in folders)


def test_every_file_that_is_not_a_module_is_package_data() -> None:
    built = {".py", ".pyc", ".so"}
    for top in ("l2c_rt", "kernels"):
        found = {p for p in (ROOT / top).rglob("*") if p.is_file() and p.suffix not in built}
        for package, patterns in setup_value("package_data").items():
            found -= {p for pattern in patterns for p in folder_of(package).glob(pattern)}
        assert not found, "not installed: add them to package_data in setup.py"


def signature_in_stub(function: ast.FunctionDef) -> list[str]:
    given = function.args
    return [argument.arg for argument in given.posonlyargs + given.args + given.kwonlyargs]


def signature_in_extension(function: Any) -> list[str]:
    first_line = function.__doc__.strip().splitlines()[0]
    return re.findall(r"(\w+): ", first_line)


def public(names: Any) -> set[str]:
    return {name for name in names if not name.startswith("_") or name in SPECIAL}


def functions(body: list[ast.stmt]) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in body if isinstance(node, ast.FunctionDef)}


def test_the_stub_names_what_the_extension_has() -> None:
    classes = {node.name for node in STUB.body if isinstance(node, ast.ClassDef)}
    assert classes | set(functions(STUB.body)) == public(dir(l2c_rt._C))
    for name, function in functions(STUB.body).items():
        assert signature_in_stub(function) == signature_in_extension(getattr(l2c_rt._C, name))


@pytest.mark.parametrize("name", [n.name for n in STUB.body if isinstance(n, ast.ClassDef)])
def test_the_stub_of_a_class_has_its_methods_and_their_arguments(name: str) -> None:
    cls = getattr(l2c_rt._C, name)
    (body,) = (n.body for n in STUB.body if isinstance(n, ast.ClassDef) and n.name == name)
    # pybind11 gives a class that Python cannot make an __init__ that refuses.
    assert set(functions(body)) | {"__init__"} == public(vars(cls))
    for method, function in functions(body).items():
        actual = vars(cls)[method]
        is_property = any(ast.unparse(d) == "property" for d in function.decorator_list)
        assert isinstance(actual, property) == is_property, method
        if not is_property:
            assert signature_in_stub(function) == signature_in_extension(actual), method


def test_the_pinned_set_has_a_version_that_suits_for_every_requirement() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads pyproject.toml")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "requirements-dev.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    versions = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}
    wanted = chain(project["dependencies"], *project["optional-dependencies"].values())
    for requirement in map(Requirement, wanted):
        version = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} is pinned to {version}"
