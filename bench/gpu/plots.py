"""The suite's pictures, drawn from its files and nothing else."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from l2c_rt.figures import FULL_RUN, GRID, PALETTE, method_colour, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Result = dict[str, Any]

ATTENTION, MLP = PALETTE[:2]
OURS, FLOOR = method_colour("learned"), "#000000"
# Peers are told apart by marker first; none has the colour of ours.
PEER_COLOURS = ("#D55E00", "#CC79A7", "#E69F00", "#56B4E9", "#999999", "#8C564B", "#7F3C8D",
                "#4D4D4D")  # fmt: skip
MARKERS = "sDv^<>P*"


def draw_all(runs: list[Result], peers: list[Result], folder: Path) -> list[Path]:
    """Every picture that there are results for, as PNG: the steps of runs of 1 and 8 images, and
    time against images of every case."""
    figures = {
        f"steps-{run['id']}.png": steps_figure(run)
        for run in runs
        if run["images"] in (1, 8) and "step_seconds" in run["profile"]
    }
    for case in dict.fromkeys(run["case"] for run in runs):
        of_case = [[r for r in results if r["case"] == case] for results in (runs, peers)]
        if len(of_case[0]) > 1:
            figures[f"batches-{case}.png"] = batches_figure(*of_case)
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        save_figure(figure, folder / name, dpi=160)
    return [folder / name for name in figures]


def steps_figure(run: Result) -> Figure:
    """Time of every step as bars, with its floor, over the map of what is computed."""
    from matplotlib.colors import ListedColormap

    figure, (bars, attn, mlp) = _figure((7.2, 5), 3, sharex=True, height_ratios=[2.4, 1, 1])
    steps = np.median(np.array(run["profile"]["step_seconds"]), axis=0) * 1e3
    floor = np.array(run["floors"]["per_step"]) * 1e3
    bars.bar(np.arange(len(steps)), steps, 0.85, color=OURS, label="measured, median")
    bars.stairs(floor, np.arange(len(steps) + 1) - 0.5, color=FLOOR, label="floor", linewidth=1.2)
    bars.set_ylabel("ms per step")
    bars.legend(frameon=False, loc="upper right", ncols=2)
    # Room above the bars for the legend.
    bars.set_ylim(0, 1.2 * max(steps.max(), floor.max()))
    compute = np.array([[c == "#" for c in row] for row in run["compute"]])
    for axis, first, name, colour in ((attn, 0, "attention", ATTENTION), (mlp, 1, "MLP", MLP)):
        axis.imshow(
            compute[:, first::2].T, cmap=ListedColormap(["#F2F2F2", colour]), vmin=0, vmax=1,
            aspect="auto", interpolation="nearest",
        )  # fmt: skip
        axis.set_ylabel(f"{name},\nblock", color=colour)
    mlp.set_xlabel("step:  noisy  \N{RIGHTWARDS ARROW}  clean; coloured where computed")
    _title(figure, run, f", {run['images']} image{'s' * (run['images'] > 1)}")
    figure.align_ylabels()
    return figure


def batches_figure(runs: list[Result], peers: list[Result]) -> Figure:
    """Time of a whole run against images, both logarithmic: ours, uncached, floor, peers."""
    figure, (axis,) = _figure((7.2, 4.2), 1)
    for k, name in enumerate(dict.fromkeys(peer["peer"] for peer in peers)):
        of_name = [peer for peer in peers if peer["peer"] == name]
        colour, marker = PEER_COLOURS[k % len(PEER_COLOURS)], MARKERS[k % len(MARKERS)]
        _line(axis, of_name, name, ":", label=name, color=colour, marker=marker)
    for name, label, colour in (("full", "l2c_rt, uncached", FULL_RUN),
                                ("cached", "l2c_rt, cached", OURS)):  # fmt: skip
        _line(axis, runs, name, "-", label=label, color=colour, marker="o", linewidth=2)
    images = [run["images"] for run in runs]
    floor = [run["floors"]["kernelwise"] * 1e3 for run in runs]
    axis.plot(images, floor, "--", color=FLOOR, label="floor, cached")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(images, [str(n) for n in images])
    axis.yaxis.set_major_formatter("{x:g}")
    axis.set_xlabel("images")
    axis.set_ylabel("ms per run")
    axis.grid(which="both", color=GRID, linewidth=0.6)
    # In the order of the lines' right ends, so that a name stands where its line does.
    lines = sorted(axis.lines, key=lambda line: -line.get_ydata()[-1])
    figure.legend(handles=lines, loc="outside right center", frameon=False)
    _title(figure, runs[0])
    return figure


def _line(axis: Any, results: list[Result], name: str, line: str, **style: Any) -> None:
    times = [median(result["samples"][name]) * 1e3 for result in results]
    axis.plot([result["images"] for result in results], times, line, **style)


def _title(figure: Figure, run: Result, images: str = "") -> None:
    title = f"{run['case']}{images}, {run['dtype']}: {run['device']['name']}"
    figure.suptitle(title, fontsize=11)


def _figure(size: tuple[float, float], rows: int, **options: Any) -> tuple[Figure, list[Any]]:
    figure = new_figure(*size)
    axes = list(np.atleast_1d(figure.subplots(rows, 1, **options)))
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes
