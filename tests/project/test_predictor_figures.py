"""The table of docs/predictors.md is that of bench/results/digits-predictors.json."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
METHODS = {
    "the router, plain reuse": "L2C",
    "fitted, `history=3`": "L2C, fitted of 3",
    "fitted, `history=4`": "L2C, fitted of 4",
    "learned, not fitted again": "learned",
    "learned, then fitted, `history=3`": "learned, fitted of 3",
    "learned, then fitted, `history=4`": "learned, fitted of 4",
    "search of 15 seconds, fitted": "search, fitted",
    "search of 15 seconds, plain reuse": "search",
    "MagCache": "MagCache",
    "SmoothCache": "SmoothCache",
    "TaylorSeer, order 2": "TaylorSeer",
    "FORA": "FORA",
}


@pytest.mark.parametrize("steps", [20, 50])
def test_the_table_is_what_was_measured(steps: int) -> None:
    measured = json.loads((ROOT / "bench/results/digits-predictors.json").read_text())
    run = measured["runs"][f"ddim-{steps}"]
    psnr: dict[str, list[float]] = {}
    for row in run["rows"][1:]:
        psnr.setdefault(row["method"], []).append(row["mean_psnr"])
    best = [max(figures) for figures in zip(*(psnr[m] for m in psnr if "GOC" in m), strict=True)]
    wanted = {name: psnr[method] for name, method in METHODS.items()} | {"GOC, best eta": best}
    page = (ROOT / "docs/predictors.md").read_text()
    shown = {}
    for line in page.partition(f"### DDIM-{steps}\n")[2].partition("### ")[0].splitlines():
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        if name in wanted and len(cells) == 3:
            shown[name] = [float(re.sub(r"\*|\(.*\)", "", cell)) for cell in cells if cell]
    assert shown == {name: [round(p, 1) for p in figures] for name, figures in wanted.items()}


LANES = {
    "plain reuse": "plain",
    "fitted, shared": "shared",
    "fitted, `lanes=True`": "lanes",
    "each lane its own, not judged": "forced",
}


def test_the_table_of_lanes_is_what_was_measured() -> None:
    measured = json.loads((ROOT / "bench/results/digits-lanes.json").read_text())["runs"]
    psnr: dict[str, list[str]] = {}
    for steps in (20, 50):
        for schedule in ("L2C", "FORA"):
            for row in measured[f"ddim-{steps}"][schedule]["rows"][1:]:
                psnr.setdefault(row["method"], []).append(f"{row['mean_psnr']:.1f}")
    page = (ROOT / "docs/predictors.md").read_text().partition("### Cond and uncond")[2]
    for name, method in LANES.items():
        assert f"| {name} | {' | '.join(psnr[method])} |" in page


LEARNED = {
    "learned, shared": "shared, not fitted",
    "learned, `lanes=True`": "lanes, not fitted",
    "learned, then fitted, shared": "shared",
    "learned, then fitted, `lanes=True`": "lanes",
}


def test_the_table_of_learned_lanes_is_what_was_measured() -> None:
    measured = json.loads((ROOT / "bench/results/digits-lanes.json").read_text())["runs"]
    page = (ROOT / "docs/predictors.md").read_text().partition("### Cond and uncond")[2]
    for name, method in LEARNED.items():
        rows = [measured[f"ddim-{steps}"]["learned"]["rows"] for steps in (20, 50)]
        cells = [f"{r['mean_psnr']:.1f}" for of in rows for r in of if r["method"] == method]
        assert f"| {name} | {' | '.join(cells)} |" in page
