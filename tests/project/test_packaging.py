"""What is built, typed and pinned is what is in the tree."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import l2c_rt._C
from l2c_rt._version import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest brings it there
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
STUB = ast.parse((ROOT / "l2c_rt" / "_C.pyi").read_text())
SPECIAL = {"__init__", "__len__", "__dlpack__", "__dlpack_device__"}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
PINS = [
    Requirement(line)
    for line in (ROOT / "requirements-dev.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
PYTHONS = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"]))
MATRIX = re.findall(
    r'python: "([\d.]+)", torch: "([\d.]+)", triton: "([\d.]+)"',
    (ROOT / ".github" / "workflows" / "ci.yml").read_text(),
)
URL = "https://github.com/l2c-rt/l2c_rt"


def files_in(folder: Path) -> set[str]:
    """What is installed of a folder, with kernels/ where it is installed."""
    found = (path for path in folder.rglob("*") if path.is_file())
    kept = (path for path in found if path.suffix not in {".pyc", ".so"})
    return {str(path.relative_to(folder.parent)) for path in kept}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what a build reads, with one more package than the real one has."""
    folder = tmp_path / "checkout"
    unbuilt = shutil.ignore_patterns("*.so", "*.pyc", "__pycache__")
    for name in ("l2c_rt", "kernels"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=unbuilt)
    (folder / "l2c_rt" / "kernels").unlink(missing_ok=True)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    for package in ("l2c_rt/brand", "l2c_rt/brand/new", "kernels/brand"):
        (folder / package).mkdir()
        (folder / package / "__init__.py").touch()
    return folder


def build(checkout: Path, *command: str, **environment: str) -> None:
    subprocess.run(
        [sys.executable, "setup.py", "-q", *command],
        cwd=checkout,
        env={**os.environ, **environment},
        check=True,
    )


@pytest.mark.parametrize("linked", [False, True])
def test_every_file_is_installed_and_nothing_of_an_earlier_build(
    checkout: Path, linked: bool
) -> None:
    wanted = files_in(checkout / "l2c_rt")
    wanted |= {f"l2c_rt/{name}" for name in files_in(checkout / "kernels")}
    if linked:
        (checkout / "l2c_rt" / "kernels").symlink_to("../kernels")
    built = checkout / "build" / "lib"
    (built / "l2c_rt").mkdir(parents=True)
    (built / "l2c_rt" / "moved_away.py").touch()
    build(checkout, "build_py", "--build-lib", str(built))
    assert files_in(built / "l2c_rt") == wanted


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for top in ("l2c_rt", "kernels") for path in (ROOT / top).rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


CMAKE = """#!/bin/sh
[ "$1" = --build ] && exit 0
[ -e "$4/CMakeCache.txt" ] && exit 1
mkdir -p "$4" && echo "CMAKE_HOME_DIRECTORY:INTERNAL=/elsewhere" > "$4/CMakeCache.txt"
"""
"""Refuses the cache of another checkout, as CMake does, and leaves one."""


def test_a_build_after_the_checkout_moved_starts_afresh(checkout: Path, tmp_path: Path) -> None:
    cmake = tmp_path / "bin" / "cmake"
    cmake.parent.mkdir()
    cmake.write_text(CMAKE)
    cmake.chmod(0o755)
    path = f"{cmake.parent}{os.pathsep}{os.environ['PATH']}"
    for _ in range(2):
        build(checkout, "build_ext", PATH=path)
    assert list((checkout / "build").rglob("CMakeCache.txt"))


def test_the_version_stands_in_one_place() -> None:
    assigned = re.compile(r"^__version__\s*(:.*)?=", re.MULTILINE)
    sources = chain((ROOT / "l2c_rt").rglob("*.py"), [ROOT / "setup.py"])
    assert [p.name for p in sources if assigned.search(p.read_text())] == ["_version.py"]
    assert l2c_rt.__version__ == __version__
    dynamic = PYPROJECT["tool"]["setuptools"]["dynamic"]["version"]
    assert dynamic == {"attr": "l2c_rt._version.__version__"}


def test_the_pages_that_repeat_the_version_have_this_one() -> None:
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [__version__]
    assert f"\n## {__version__}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_the_metadata_names_where_the_project_lives() -> None:
    assert {"authors", "description"} <= set(PROJECT)
    assert PROJECT["license"] == "Apache-2.0"
    assert {"Homepage", "Documentation", "Source", "Issues", "Changelog"} <= set(PROJECT["urls"])
    pages = [ROOT / "SECURITY.md", ROOT / "CITATION.cff", *(ROOT / ".github").rglob("*.yml")]
    links = chain(PROJECT["urls"].values(), *(p.read_text().split() for p in pages))
    assert all(URL in link for link in links if "github.com/" in link)


def test_ci_runs_the_one_script_on_the_oldest_the_pinned_and_the_newest_set() -> None:
    assert "run: bash .ci/run\n" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    oldest, pinned, newest = MATRIX
    assert PROJECT["requires-python"] == f">={oldest[0]}"
    assert (oldest[0], newest[0]) == (PYTHONS[0], PYTHONS[-1])
    versions = pins_for(pinned[0])
    assert pinned[1:] == (versions["torch"], versions["triton"])
    bounds = map(Requirement, [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["gpu"]])
    bound = {requirement.name: requirement.specifier for requirement in bounds}
    assert str(bound["torch"]) == f">={oldest[1].removesuffix('.0')}"
    assert all(bound["triton"].contains(triton) for _, _, triton in MATRIX)


def test_wheels_are_built_for_every_python_of_the_classifiers() -> None:
    builds = PYPROJECT["tool"]["cibuildwheel"]["build"].split()
    assert builds == [f"cp{python.replace('.', '')}-*" for python in PYTHONS]


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


def pins_for(python: str) -> dict[str, str]:
    """The versions that requirements-dev.txt names for a Python on Linux."""
    where = {"python_version": python, "platform_system": "Linux"}
    pins = [pin for pin in PINS if pin.marker is None or pin.marker.evaluate(where)]
    names = [canonicalize_name(pin.name) for pin in pins]
    assert len(names) == len(set(names)), f"pinned twice for Python {python}"
    return {
        name: str(pin.specifier).removeprefix("==") for name, pin in zip(names, pins, strict=True)
    }


@pytest.mark.parametrize("python", PYTHONS)
def test_the_pinned_set_has_a_version_that_suits_for_every_requirement(python: str) -> None:
    versions, extras = pins_for(python), PROJECT["optional-dependencies"]
    # Of extras those that the development set has: Ray's slow tests are run where it is installed.
    own = next(r for r in map(Requirement, extras["dev"]) if r.name == PROJECT["name"])
    assert own.extras == {"demo", "diffusers", "gpu", "plot", "serving"}
    wanted = chain(PROJECT["dependencies"], *(extras[name] for name in ("dev", *own.extras)))
    for requirement in map(Requirement, wanted):
        if requirement.name == PROJECT["name"]:
            continue  # extras of our own
        version = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} is pinned to {version}"
