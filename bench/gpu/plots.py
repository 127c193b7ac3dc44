"""The suite's three pictures, drawn from its files and nothing else.

No pyplot, so no global state and no display.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from gpu.models import CASES, IMAGES
from gpu.results import Result, Results, over_floor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers can tell apart.
ATTENTION, MLP, OURS, FLOOR = "#0072B2", "#D55E00", "#009E73", "#000000"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
# Peers are told apart by marker first; none has the colour of ours.
PEER_COLOURS = ("#D55E00", "#CC79A7", "#E69F00", "#56B4E9", "#999999", "#8C564B", "#7F3C8D",
                "#4D4D4D")  # fmt: skip
MARKERS = "sDv^<>P*"


def draw_all(results: Results, folder: Path) -> list[Path]:
    """Every picture that there are results for, as PNG."""
    drawn = []
    for run in results.of("run"):
        if run["images"] in (1, 8) and "evaluations" in run["profile"]:
            drawn.append(_save(steps_figure(run), folder / f"steps-{run['part']}.png"))
    for case in CASES:
        runs = [run for n in IMAGES if (run := results.run(case.name, n))]
        if len(runs) > 1:
            figure = batches_figure(case.name, runs, results)
            drawn.append(_save(figure, folder / f"batches-{case.name}.png"))
    if results.of("run"):
        drawn.append(_save(roofline_figure(results), folder / "roofline.png"))
    return drawn


def steps_figure(run: Result) -> Figure:
    """Time of every evaluation as bars, with its floor, over the map of what is computed."""
    from matplotlib.colors import ListedColormap

    figure, (bars, attn, mlp) = _figure((9, 6), 3, sharex=True, height_ratios=[2.4, 1, 1])
    steps = np.median(np.array(run["profile"]["evaluations"]), axis=0) * 1e3
    floor = np.array(run["floors"]["per_evaluation"]) * 1e3
    at = np.arange(len(steps))
    bars.bar(at, steps, 0.85, color=OURS, label="measured, median")
    bars.stairs(floor, np.arange(len(steps) + 1) - 0.5, color=FLOOR, label="floor", linewidth=1.2)
    bars.set_ylabel("ms per evaluation")
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
    mlp.set_xlabel("evaluation:  noisy  \N{RIGHTWARDS ARROW}  clean; coloured where computed")
    images = f"{run['images']} image{'s' * (run['images'] > 1)}"
    figure.suptitle(f"{run['case']}, {images}, {run['dtype']}: {_gpu(run)}", fontsize=11)
    figure.align_ylabels()
    return figure


def batches_figure(case: str, runs: list[Result], results: Results) -> Figure:
    """Time of a whole run against images, both logarithmic: ours, uncached, floor, peers."""
    figure, (axis,) = _figure((8.5, 5), 1)
    images = [run["images"] for run in runs]
    for k, (name, points) in enumerate(_peers_by_time(case, results)):
        style = {"color": PEER_COLOURS[k % len(PEER_COLOURS)], "marker": MARKERS[k % len(MARKERS)]}
        axis.plot(*zip(*points, strict=True), ":", label=name, **style)
    for name, label, colour in (("full", "l2c_rt, uncached", ATTENTION),
                                ("cached", "l2c_rt, cached", OURS)):  # fmt: skip
        times = [median(run["samples"][name]) * 1e3 for run in runs]
        axis.plot(images, times, "-", marker="o", linewidth=2, color=colour, label=label)
    floor = [run["floors"]["kernelwise"] * 1e3 for run in runs]
    axis.plot(images, floor, "--", color=FLOOR, label="floor, cached")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(images, [str(n) for n in images])
    axis.yaxis.set_major_formatter("{x:g}")
    axis.set_xlabel("images")
    axis.set_ylabel("ms per run")
    axis.grid(which="both", color="#E5E5E5", linewidth=0.6)
    figure.legend(loc="outside right center", frameon=False)
    figure.suptitle(f"{case}, {runs[0]['dtype']}: {_gpu(runs[0])}", fontsize=11)
    return figure


def _peers_by_time(case: str, results: Results) -> list[tuple[str, list[tuple[int, float]]]]:
    """(name, (images, milliseconds) ...) of every peer, the slowest first."""
    peers: dict[str, list[tuple[int, float]]] = {}
    for result in results.of("peer"):
        if result["case"] == case:
            time = median(result["samples"][result["peer"]]) * 1e3
            peers.setdefault(result["peer"], []).append((result["images"], time))
    ordered = [(name, sorted(points)) for name, points in peers.items()]
    return sorted(ordered, key=lambda peer: -peer[1][0][1] / peer[1][0][0])


def roofline_figure(results: Results) -> Figure:
    """Share of the floor that whole cached runs reach, by case and images."""
    figure, (axis,) = _figure((9, 4.5), 1)
    width = 0.8 / len(IMAGES)
    for k, images in enumerate(IMAGES):
        runs = [(i, results.run(case.name, images)) for i, case in enumerate(CASES)]
        found = [(i, 1 / over_floor(run)) for i, run in runs if run]
        places = [i + (k - (len(IMAGES) - 1) / 2) * width for i, _ in found]
        shares = [100 * share for _, share in found]
        label = f"{images} image{'s' * (images > 1)}"
        drawn = axis.bar(places, shares, width * 0.92, color=PALETTE[k], label=label)
        axis.bar_label(drawn, fmt="%.0f", fontsize=8, padding=1)
    axis.axhline(100, color=FLOOR, linestyle="--", linewidth=1)
    axis.set_xticks(range(len(CASES)), [case.name.replace(".", "\n") for case in CASES])
    axis.set_ylim(0, 118)
    axis.set_ylabel("floor over measured time, %")
    axis.legend(frameon=False, ncols=len(IMAGES), loc="upper center")
    figure.suptitle(
        f"Share of the roofline, cached runs: {_gpu(results.of('run')[0])}", fontsize=11
    )
    return figure


def _figure(size: tuple[float, float], rows: int, **options: Any) -> tuple[Figure, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(np.atleast_1d(figure.subplots(rows, 1, **options)))
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path


def _gpu(result: Result) -> str:
    gpu = result["environment"]["gpu"]
    return str(gpu["name"]) if gpu else "not a GPU"
