"""The demo's pictures: the sample sheet, and time and PSNR of every schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from torch import Tensor

from l2c_rt.demo.digits import NUM_CLASSES
from l2c_rt.demo.report import Result
from l2c_rt.figures import FULL_RUN, GRID, METHOD_COLOURS, method_colour, new_figure, save_figure

COLUMNS = 4
OF_EACH_CLASS = 2
GAP = 2


def tile(images: Tensor, columns: int) -> npt.NDArray[np.float32]:
    """Lay out images row by row with a gap.  Shapes: [N, 1, H, W] -> [rows, columns]."""
    count, _, height, width = images.shape
    down, across = height + GAP, width + GAP
    sheet = np.full((-(-count // columns) * down - GAP, columns * across - GAP), np.nan, np.float32)
    for k, image in enumerate(images[:, 0].numpy()):
        top, left = k // columns * down, k % columns * across
        sheet[top : top + height, left : left + width] = image
    return sheet


def by_class(labels: Tensor, count: int = OF_EACH_CLASS) -> list[int]:
    """Indices of the first `count` images of each class, class after class."""
    return [int(k) for c in range(NUM_CLASSES) for k in (labels == c).nonzero().flatten()[:count]]


@dataclass(frozen=True, slots=True)
class Samples:
    """Images of one schedule and its mean PSNR in dB, None for the full run.

    Shapes: images [N, 1, 8, 8].
    """

    name: str
    images: Tensor
    psnr: float | None

    @property
    def decibels(self) -> str:
        return "" if self.psnr is None else f"PSNR {self.psnr:.1f} dB"


@dataclass(frozen=True, slots=True)
class Block:
    """The full run and the cached runs of one number of steps, from the same noise."""

    title: str
    full: Samples
    cached: tuple[Samples, ...]

    def __str__(self) -> str:
        title = self.title.replace("\n", ", ")
        return f"{title}: " + ", ".join(f"{s.name} {s.decibels}" for s in self.cached)


def draw_samples(path: Path, blocks: Sequence[Block], labels: Tensor) -> None:
    """Write `samples_figure` as a PNG whose description has the PSNRs as text."""
    figure = samples_figure(blocks, labels)
    save_figure(figure, path, dpi=150, description="; ".join(map(str, blocks)))


def samples_figure(blocks: Sequence[Block], labels: Tensor) -> Figure:
    """Per block a row of samples and a row of differences to the full run, on one colour scale.

    Shapes: labels [N], at least 2 of each class.
    """
    chosen = by_class(labels)
    limit = _limit([s.images - block.full.images for block in blocks for s in block.cached])
    columns = 1 + len(blocks[0].cached)
    figure = new_figure(1.55 * columns, 4.15 * len(blocks) + 0.75)
    axes = figure.subplots(2 * len(blocks), columns, squeeze=False)
    for block, above, below in zip(blocks, axes[::2], axes[1::2], strict=True):
        above[0].set_ylabel(block.title, fontsize=11)
        _show_samples(above[0], block.full, chosen, FULL_RUN)
        below[0].set_axis_off()
        below[0].text(1, 0.5, "difference\nto the\nfull run", transform=below[0].transAxes,
                      ha="right", va="center", fontsize=11)  # fmt: skip
        for top, bottom, samples in zip(above[1:], below[1:], block.cached, strict=True):
            _show_samples(top, samples, chosen, method_colour(samples.name))
            difference = (samples.images - block.full.images)[chosen]
            shown = _show(bottom, difference, "RdBu", limit, "N")
    bar = figure.colorbar(shown, ax=list(axes.flat), location="bottom", extend="both",
                          ticks=[-limit, -limit / 2, 0, limit / 2, limit], format="{x:g}",
                          aspect=50, shrink=0.7, pad=0.02, panchor=False)  # fmt: skip
    bar.set_label("difference of a pixel (pixels: -1 is white, 1 is black)")
    return figure


def _show_samples(axis: Any, samples: Samples, chosen: Sequence[int], colour: str) -> None:
    """The images under name and PSNR, and the colour of the method as a bar between them."""
    _show(axis, samples.images[chosen], "gray_r", 1.0, "S")
    name = "full run" if samples.psnr is None else samples.name
    for y, text in ((1.15, name), (1.05, samples.decibels)):
        axis.text(0.5, y, text, fontsize=11, ha="center", transform=axis.transAxes)
    axis.plot([0, 1], [1.02, 1.02], color=colour, linewidth=4, transform=axis.transAxes,
              clip_on=False, solid_capstyle="butt")  # fmt: skip


def _show(axis: Any, images: Tensor, colours: str, limit: float, anchor: str) -> Any:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    # Samples stand on the differences below them: the space is left between blocks.
    axis.set_anchor(anchor)
    sheet = tile(images, COLUMNS)
    return axis.imshow(sheet, cmap=colours, vmin=-limit, vmax=limit, interpolation="nearest")


def _limit(differences: Sequence[Tensor]) -> float:
    """The end of the colour scale: one significant digit near the 98th percentile."""
    largest = np.quantile(np.concatenate([d.abs().numpy().ravel() for d in differences]), 0.98)
    return float(f"{max(float(largest), 1e-9):.0e}")


def latency_figure(results: Sequence[Result], title: str) -> Figure:
    """A line per schedule: time over the full run's beside PSNR to the full run."""
    lines = _lines([result for result in results if result.psnr])
    figure = new_figure(9, 0.3 * len(lines) + 1.7)
    left, right = figure.subplots(1, 2, sharey=True)
    for y, line in enumerate(lines):
        if isinstance(line, str):
            left.text(-0.02, y, line, fontweight="bold", ha="right", va="center",
                      transform=left.get_yaxis_transform())  # fmt: skip
        else:
            _draw_line(left, right, y, line)
    names = ["" if isinstance(r, str) else f"{r.name}, {100 * r.reuse:.1f} % reused" for r in lines]
    left.set_yticks(range(len(lines)), names)
    left.set_ylim(len(lines) - 0.4, -0.6)
    left.axvline(1, color=FULL_RUN, linewidth=1)
    left.text(1, 0, " full run", va="center")
    left.set_xlabel("time over the full run's")
    right.set_xlabel("PSNR to the full run, dB")
    right.margins(x=0.22)
    for axis in (left, right):
        axis.grid(color=GRID, linewidth=0.6)
        axis.set_axisbelow(True)
        axis.tick_params(axis="y", length=0)
        axis.spines[["top", "right", "left"]].set_visible(False)
    _legend(figure)
    figure.suptitle(title)
    return figure


def _lines(cached: Sequence[Result]) -> list[Result | str]:
    """Each number of steps as a heading, then its runs, least reuse and best first."""
    lines: list[Result | str] = []
    for steps in sorted({result.steps for result in cached}):
        some = [result for result in cached if result.steps == steps]
        some.sort(key=lambda result: (result.ratio, -(result.mean_psnr or 0.0)))
        lines += [f"DDIM-{steps}", *some]
    return lines


MEDIAN: dict[str, Any] = {"marker": "o", "linestyle": "none", "markersize": 7}
LIMIT: dict[str, Any] = {
    "marker": "|",
    "linestyle": "none",
    "color": FULL_RUN,
    "markersize": 13,
    "markeredgewidth": 2,
}


def _draw_line(left: Any, right: Any, y: int, result: Result) -> None:
    """Median, range and limit of a schedule's time on the left, its PSNR on the right."""
    colour, timing = METHOD_COLOURS[result.name], result.timing
    left.plot([min(timing.relative), max(timing.relative)], [y, y], color=colour, linewidth=2)
    left.plot(timing.median_relative, y, color=colour, **MEDIAN)
    left.plot(result.cost_share, y, **LIMIT)
    right.plot(result.mean_psnr, y, color=colour, **MEDIAN)
    right.text(result.mean_psnr or 0.0, y, f"   {result.mean_psnr:.1f}", va="center")


def _legend(figure: Any) -> None:
    from matplotlib.lines import Line2D

    median = Line2D([], [], color="gray", **MEDIAN)
    spread = Line2D([], [], color="gray", linewidth=2)
    names = ["median of the rounds", "their range", "share of the arithmetic that is left"]
    figure.legend([median, spread, Line2D([], [], **LIMIT)], names, loc="outside lower center",
                  ncols=3, frameon=False)  # fmt: skip
