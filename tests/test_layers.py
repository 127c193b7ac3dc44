"""Who may import whom.  The table is the architecture."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PURE = {"numpy", "safetensors"}
"""Third parties that the half without torch may import."""

ALLOWED = {
    # what to compute: numpy only
    "schedule": {"schedule_checks", "schedule_io", "schedule_map", "plotting"},
    "schedule_checks": set(),
    "schedule_map": {"schedule"},
    "schedule_io": {"schedule", "schedule_checks", "bounded_read"},
    "bounded_read": set(),
    "stored_zip": set(),
    "torch_pickle": set(),
    "router_io": {"router", "bounded_read", "stored_zip", "torch_pickle", "schedule",
                  "schedule_checks"},
    "router": {"schedule", "schedule_checks", "router_io", "bounded_read"},
    "policies": {"schedule", "schedule_checks"},
    "presets": {"schedule", "schedule_io"},
    "resolve": {"schedule", "router", "policies", "presets", "bounded_read"},
    "plotting": {"schedule"},
    # how to run it: pure data
    "program": set(),
    "plan": set(),
    "build": {"plan", "program", "schedule", "verify"},
    "verify": {"plan", "program", "schedule"},
    "passes": {"plan", "program"},
    "lowering": {"plan", "program"},
    "cost": {"lowering", "passes", "plan", "program"},
    "samplers": set(),
    "steps": {"summary"},
    "summary": set(),
    "_version": set(),
    # models
    "models": {"bounded_read", "stored_zip", "torch_pickle"},
    "adapters": {"program", "models"},
    "watch": set(),
    "guided": set(),
    # kernels import nothing of ours but each other
    "kernels": set(),
    # running
    "arena": {"_C", "replay"},
    "slots": {"arena"},
    "replay": {"_C"},
    "streams": set(),
    "event_times": set(),
    "backends": {"adapters", "arena", "bounded_read", "cost", "event_times", "executor", "kernels",
                 "lowering", "passes", "plan", "program", "replay", "samplers", "slots",
                 "streams", "summary"},
    "executor": {"backends", "plan"},
    "sampling": {"adapters", "samplers", "slots", "steps", "compiled", "session"},
    "timesteps": {"announced", "kernels", "steps", "streams"},
    "announced": {"steps"},
    "lanes": {"adapters", "slots"},
    "session": {"adapters", "announced", "backends", "compiled", "guided", "lanes", "slots",
                "steps", "timesteps", "watch"},
    "compiled": {"adapters", "backends", "cost", "plan", "sampling", "schedule", "session",
                 "summary", "watch"},
    "api": {"adapters", "backends", "build", "compiled", "cost", "policies", "resolve", "router",
            "schedule", "verify", "watch"},
}  # fmt: skip
"""Module or package of l2c_rt -> those it may import.  What is above the table imports all."""

TOP = {"__init__", "cli", "demo", "learning"}
TORCH_FREE = {"schedule", "schedule_checks", "schedule_map", "schedule_io", "bounded_read",
              "stored_zip", "torch_pickle", "router_io", "router", "policies", "presets", "resolve",
              "plotting", "program", "plan", "build", "verify", "passes", "lowering", "cost",
              "samplers", "steps", "summary"}  # fmt: skip


def sources() -> dict[str, list[Path]]:
    """Top-level names under l2c_rt, with their files; kernels/ counts as l2c_rt.kernels."""
    found: dict[str, list[Path]] = {}
    for path in (ROOT / "l2c_rt").rglob("*.py"):
        found.setdefault(path.relative_to(ROOT / "l2c_rt").parts[0].removesuffix(".py"), [])
        found[path.relative_to(ROOT / "l2c_rt").parts[0].removesuffix(".py")].append(path)
    found["kernels"] = list((ROOT / "kernels").rglob("*.py"))
    return found


def imports(path: Path) -> set[str]:
    """Dotted names imported anywhere in a file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def ours(path: Path) -> set[str]:
    """The top-level parts of l2c_rt that a file imports."""
    known = set(sources()) | {"_C"}
    parts = {name.split(".")[1] for name in imports(path) if name.startswith("l2c_rt.")}
    return parts & known


@pytest.mark.parametrize("name", sorted(set(sources()) - TOP))
def test_imports_follow_the_table(name: str) -> None:
    assert name in ALLOWED, f"l2c_rt/{name} is not in the table: decide what it may import"
    for path in sources()[name]:
        assert ours(path) - {name} <= ALLOWED[name], path


def test_the_table_names_nothing_that_is_gone() -> None:
    assert set(ALLOWED) <= set(sources())


@pytest.mark.parametrize("name", sorted(TORCH_FREE))
def test_the_pure_half_names_no_third_party_but_numpy_at_module_level(name: str) -> None:
    allowed = PURE | {"l2c_rt", *sys.stdlib_module_names}
    for path in sources()[name]:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else [
                    node.module or ""
                ]  # fmt: skip
                assert {n.partition(".")[0] for n in names} <= allowed, path


def test_nobody_imports_the_top_level_name_kernels() -> None:
    for paths in sources().values():
        for path in paths:
            assert not any(n == "kernels" or n.startswith("kernels.") for n in imports(path)), path


BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "triton", "matplotlib"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
import importlib
for name in %r:
    importlib.import_module(f"l2c_rt.{name}")
import l2c_rt
schedule = l2c_rt.presets.load("l2c/dit-xl-2-256/ddim-20")
assert l2c_rt.CacheSchedule is type(schedule)
print(schedule.steps)
"""


def test_the_pure_half_imports_and_works_with_torch_absent() -> None:
    code = BLOCKED % sorted(TORCH_FREE)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "20", done.stderr


def test_importing_the_package_alone_imports_neither_torch_nor_numpy() -> None:
    code = "import sys, l2c_rt; print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


LONGER = {"reference.py": 400, "final_update.py": 300}
"""The meaning of every kernel beside each other, and the one kernel that ends an evaluation."""


def test_every_file_and_function_keeps_to_its_size() -> None:
    too_long = []
    for name, paths in sources().items():
        for path in paths:
            text = path.read_text()
            if text.count("\n") > LONGER.get(path.name, 250):
                too_long.append(f"{path.name}: {text.count(chr(10))} lines")
            limit = 60 if name == "kernels" else 32
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
                    body = node.end_lineno - node.body[0].lineno + 1
                    if body > limit:
                        too_long.append(f"{path.name}:{node.name}: {body} lines")
    assert not too_long
