"""Draws the peers of bench/results/cpu.json: `python bench/peers_plot.py [FILE [PICTURE]]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

from l2c_rt.figures import FULL_RUN, GRID, method_colour, new_figure, save_figure

ROOT = Path(__file__).parents[1]
CASE = "w384-float32-n1"


def draw(results: dict[str, Any], path: Path) -> None:
    """Seconds of every program of one case as bars, the fastest on top; its figures are in the
    file's description too."""
    (bench,) = (b for b in results["benchmarks"] if b["extra_info"].get("case") == CASE)
    samples = {"l2c_rt, fused": bench["stats"]["data"], **bench["extra_info"]["samples"]}
    seconds = {name: median(several) for name, several in samples.items()}
    names = sorted(seconds, key=lambda name: -seconds[name])
    figure = new_figure(7.2, 0.8 + 0.3 * len(names))
    axis = figure.subplots()
    colours = [method_colour("learned") if n.startswith("l2c_rt") else FULL_RUN for n in names]
    bars = axis.barh(names, [seconds[name] for name in names], color=colours)
    axis.bar_label(bars, fmt="%.2f", padding=3)
    axis.set_xlabel("seconds of a run of DDIM-20, one image, float32, width 384")
    axis.grid(axis="x", color=GRID, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    said = ", ".join(f"{name} {seconds[name]:.2f} s" for name in reversed(names))
    save_figure(figure, path, dpi=160, description=said)


def main() -> None:
    file, picture = [*sys.argv[1:], *[""] * 2][:2]
    results = json.loads(Path(file or ROOT / "bench" / "results" / "cpu.json").read_text())
    draw(results, Path(picture or ROOT / "docs" / "images" / "cpu-peers.png"))


if __name__ == "__main__":
    main()
