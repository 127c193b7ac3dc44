"""The tables of docs/comparison.md are those of bench/results/digits-pareto.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUNS = json.loads((ROOT / "bench/results/digits-pareto.json").read_text())["runs"]


@pytest.mark.parametrize("run", RUNS)
def test_the_table_is_what_was_measured(run: str) -> None:
    wanted: dict[str, list[str]] = {}
    for row in RUNS[run]["rows"][1:]:
        cell = f"{row['mean_psnr']:.1f} ({100 * row['computed']:.0f} %)"
        wanted.setdefault(row["method"], []).append(cell)
    page = (ROOT / "docs/comparison.md").read_text()
    shown = {}
    section = page.partition(f"### {run.upper()}\n")[2].partition("\n#")[0]
    for line in section.splitlines():
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        if name in wanted:
            shown[name] = [cell for cell in cells if cell]
    assert shown == wanted


def test_nothing_was_timed_beside_other_work() -> None:
    rows = [row for run in RUNS.values() for row in run["rows"]]
    assert {row["seconds"] for row in rows} == {row["speedup"] for row in rows} == {None}
