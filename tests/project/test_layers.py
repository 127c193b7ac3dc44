"""Who may import whom, folder by folder.  The table is the architecture.

Imports inside functions and under TYPE_CHECKING count like any other.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PURE = {"numpy", "safetensors"}
"""Third parties that the half without torch may import."""

ALLOWED: dict[str, set[str]] = {
    "_version": set(),
    "_deprecated": set(),
    "notices": set(),
    # what is computed when: numpy only
    "untrusted": set(),
    "figures": {"untrusted"},
    "families": set(),
    "schedule": {"_deprecated", "families", "figures", "untrusted"},
    "policies": {"families", "schedule", "untrusted"},
    "presets": {"schedule"},
    "correctors": {"schedule", "untrusted"},
    # how it is done: pure data
    "plan": {"families", "schedule"},
    # published methods
    "methods": {"correctors", "plan", "policies", "schedule"},
    "resolve": {"methods", "plan", "policies", "presets", "schedule"},
    "arguments": {"methods", "schedule"},
    # models and what is known of them
    "models": {"untrusted"},
    "adapters": {"families", "models", "plan"},
    "sampling": {"adapters"},
    # the machine
    "kernels": set(),
    "device": {"_C"},
    "memory": {"_C", "device"},
    "measure": {"untrusted"},
    # running
    "backends": {"_C", "adapters", "device", "kernels", "measure", "memory", "plan", "sampling",
                 "schedule", "untrusted"},
    "runtime": {"adapters", "backends", "device", "memory", "notices", "plan", "sampling",
                "schedule"},
    "serving": {"adapters", "backends", "device", "memory", "plan", "runtime", "sampling",
                "schedule", "untrusted"},
    "integrations": {"runtime", "serving"},
    "fitting": {"adapters", "notices", "plan", "runtime", "schedule"},
    "api": {"_deprecated", "adapters", "arguments", "backends", "correctors", "fitting", "plan",
            "policies", "resolve", "runtime", "schedule"},
    "pipelines": {"api", "correctors", "resolve", "runtime", "schedule"},
    # what is made with it
    "comparison": {"adapters", "api", "arguments", "backends", "families", "figures", "measure",
                   "methods", "pipelines", "plan", "policies", "resolve", "runtime", "schedule",
                   "untrusted"},
    "calibration": {"adapters", "arguments", "comparison", "correctors", "methods", "resolve",
                    "runtime", "sampling", "schedule", "untrusted"},
    "regression": {"adapters", "arguments", "calibration", "comparison", "correctors", "memory",
                   "resolve", "runtime", "schedule", "untrusted"},
    "learning": {"_version", "adapters", "arguments", "comparison", "families", "figures",
                 "policies", "regression", "runtime", "sampling", "schedule", "untrusted"},
    "searching": {"adapters", "arguments", "calibration", "comparison", "learning", "regression",
                  "runtime", "schedule", "untrusted"},
    "demo": {"api", "comparison", "figures", "learning", "measure", "models", "policies", "runtime",
             "sampling", "schedule", "untrusted"},
    "doctor": {"_C", "api", "backends", "kernels", "measure", "memory", "models", "policies",
               "untrusted"},
    "cli": {"_version", "adapters", "api", "backends", "calibration", "comparison", "correctors",
            "demo", "doctor", "families", "figures", "learning", "measure", "methods", "models",
            "notices", "plan", "policies", "presets", "regression", "runtime",
            "schedule", "searching", "serving", "untrusted"},
}  # fmt: skip
"""Folder or module of l2c_rt -> those it may import; only l2c_rt itself imports all."""

TORCH_FREE = ("_deprecated", "_version", "notices", "untrusted", "figures", "families", "schedule",
              "policies", "presets", "correctors", "methods", "resolve", "arguments",
              "plan")  # fmt: skip
"""Rooms that import neither torch nor any other third party but PURE at module level."""


def files() -> dict[str, Path]:
    """Every module by its dotted name; kernels/ counts as l2c_rt.kernels."""
    found = {}
    for base, name in ((ROOT / "l2c_rt", "l2c_rt"), (ROOT / "kernels", "l2c_rt.kernels")):
        for path in base.rglob("*.py"):
            if path.is_relative_to(ROOT / "l2c_rt" / "kernels"):
                continue  # A link that a checkout may have.
            parts = (name, *path.relative_to(base).with_suffix("").parts)
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


FILES = files()
ROOMS = sorted({name.split(".")[1] for name in FILES if "." in name})


def imports(path: Path) -> set[str]:
    """Dotted names imported anywhere in a file: modules, and names of modules."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            names.update(name if name in FILES else str(node.module) for name in full)
    return names


def arrows() -> dict[str, set[str]]:
    """Module -> the modules of ours that it imports, itself left out."""
    return {name: (imports(path) & set(FILES)) - {name} for name, path in FILES.items()}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Some circle in a graph, or nothing: what is left after taking away all that ends."""
    left = dict(graph)
    while ends := [name for name, to in left.items() if not to & left.keys()]:
        for name in ends:
            del left[name]
    path = [next(iter(left))] if left else []
    while left and len(set(path)) == len(path):
        path.append(next(iter(left[path[-1]] & left.keys())))
    return path


@pytest.mark.parametrize("room", ROOMS)
def test_imports_follow_the_table(room: str) -> None:
    assert room in ALLOWED, f"l2c_rt/{room} is not in the table: decide what it may import"
    for name, path in FILES.items():
        if name.split(".")[1:2] == [room]:
            ours = {n.split(".")[1] for n in imports(path) if n.startswith("l2c_rt.")}
            assert ours - {room} <= ALLOWED[room], path
            assert "l2c_rt" not in imports(path), f"{path} imports the package as a whole"


def test_the_table_names_only_what_is_there() -> None:
    assert set(ALLOWED) <= set(ROOMS)


def test_the_table_has_no_circle() -> None:
    assert not circle({room: ALLOWED[room] - {"_C"} for room in ALLOWED})


def test_the_modules_import_each_other_without_a_circle() -> None:
    assert not circle(arrows())


def test_a_circle_is_found_where_there_is_one() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}})
    assert not circle({"a": {"b", "c"}, "b": {"c"}, "c": set()})


@pytest.mark.parametrize("room", TORCH_FREE)
def test_the_pure_half_names_no_third_party_but_numpy_at_module_level(room: str) -> None:
    allowed = PURE | {"l2c_rt", *sys.stdlib_module_names}
    for name, path in FILES.items():
        if name.split(".")[1:2] != [room]:
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                roots = {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                roots = {str(node.module).partition(".")[0]}
            else:
                continue
            assert roots <= allowed, path


def test_nobody_imports_the_top_level_name_kernels() -> None:
    for path in FILES.values():
        assert not any(name.partition(".")[0] == "kernels" for name in imports(path)), path


BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "triton", "matplotlib"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
import importlib
for name in %r:
    importlib.import_module(name)
import l2c_rt
schedule = l2c_rt.presets.load("l2c/dit-xl-2-256/ddim-20")
assert l2c_rt.CacheSchedule is type(schedule)
print(schedule.steps)
"""


def test_the_pure_half_imports_and_works_with_torch_absent() -> None:
    code = BLOCKED % sorted(name for name in FILES if {*name.split(".")[1:2]} & {*TORCH_FREE})
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "20", done.stderr


def test_importing_the_package_alone_imports_neither_torch_nor_numpy() -> None:
    code = "import sys, l2c_rt; print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def code_lines(function: ast.FunctionDef) -> int:
    """Lines from the first statement to the last; signature and docstring do not count."""
    body = function.body
    is_doc = isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
    first = body[1] if is_doc and len(body) > 1 else body[0]
    return (function.end_lineno or 0) - first.lineno + 1


@pytest.mark.parametrize("folder", ["l2c_rt", "kernels", "bench", "tests"])
def test_every_file_and_function_keeps_to_its_size(folder: str) -> None:
    too_long = []
    link = ROOT / "l2c_rt" / "kernels"
    for path in (ROOT / folder).rglob("*.py"):
        text = path.read_text()
        if link in path.parents:
            continue
        if text.count("\n") > 250:
            too_long.append(f"{path}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            limit = 60 if folder == "kernels" else 30
            if isinstance(node, ast.FunctionDef) and code_lines(node) > limit:
                too_long.append(f"{path}: {node.name} has {code_lines(node)} lines of code")
    assert not too_long
