"""docs/structure.md has every module and every package in exactly one line, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "structure.md").read_text(encoding="utf-8")
PAGE = re.sub(r"<!--.*?-->", "", TEXT, flags=re.DOTALL)
MODULES = re.findall(r"^- `((?:l2c_rt|kernels)/[\w/]+\.py)`: \S", PAGE, re.MULTILINE)
PACKAGES = re.findall(r"^### `([\w/]+)/`: \S", PAGE, re.MULTILINE)
FIVE = re.findall(r"^\d\. `([\w/]+\.py)`: \S", PAGE, re.MULTILINE)


def sources() -> list[Path]:
    """Every Python file of the package; a checkout may have l2c_rt/kernels as a link."""
    link = ROOT / "l2c_rt" / "kernels"
    files = [path for top in ("l2c_rt", "kernels") for path in (ROOT / top).rglob("*.py")]
    return [path.relative_to(ROOT) for path in files if link not in path.parents]


def test_every_module_has_one_line_and_every_line_names_a_module() -> None:
    modules = [path.as_posix() for path in sources() if path.name != "__init__.py"]
    assert sorted(MODULES) == sorted(modules)


def test_every_package_has_one_heading_and_every_heading_names_a_package() -> None:
    packages = [path.parent.as_posix() for path in sources() if path.name == "__init__.py"]
    assert sorted(PACKAGES) == sorted(packages)


def test_a_module_stands_under_its_package() -> None:
    headings = re.split(r"^### `([\w/]+)/`", PAGE, flags=re.MULTILINE)[1:]
    for package, text in zip(headings[::2], headings[1::2], strict=True):
        for module in re.findall(r"^- `((?:l2c_rt|kernels)/[\w/]+\.py)`", text, re.MULTILINE):
            assert Path(module).parent.as_posix() == package


def test_five_short_files_lead_from_compile_to_a_kernel_launch() -> None:
    assert len(FIVE) == 5
    assert set(FIVE) <= set(MODULES)
    for name in FIVE:
        assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) < 200, name
