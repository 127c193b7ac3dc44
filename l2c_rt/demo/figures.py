"""The demo's pictures: the sample grid, and time and PSNR against compute share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from torch import Tensor

from l2c_rt.demo.digits import NUM_CLASSES
from l2c_rt.demo.report import Result
from l2c_rt.figures import save_figure

COLUMNS = 4
COLORS = {
    "learned": "tab:blue",
    "every-N": "tab:orange",
    "random": "tab:green",
    "noisiest first": "tab:red",
}
MARKERS = ("o", "s", "^", "D")


def tile(images: Tensor, columns: int) -> npt.NDArray[np.float32]:
    """Lay out images row by row with a one-pixel gap.  Shapes: [N, 1, H, W] -> [rows, columns]."""
    count, _, height, width = images.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1), np.nan, np.float32)
    for k, image in enumerate(images[:, 0].numpy()):
        top, left = k // columns * (height + 1), k % columns * (width + 1)
        sheet[top : top + height, left : left + width] = image
    return sheet


def by_class(labels: Tensor, columns: int = COLUMNS) -> list[int]:
    """Indices of the first `columns` images of each class, class after class."""
    return [int(k) for c in range(NUM_CLASSES) for k in (labels == c).nonzero().flatten()[:columns]]


@dataclass(frozen=True, slots=True)
class Pair:
    """Images of the full and of the cached run from the same noise.  Shapes: [N, 1, 8, 8]."""

    title: str
    full: Tensor
    cached: Tensor


def draw_samples(path: Path, pairs: Sequence[Pair], labels: Tensor) -> None:
    """A block per pair, a line per class: full run, cached run, their difference amplified.

    Shapes: labels [N], at least 4 of each class.
    """
    figure = Figure(figsize=(10, 6.8 * len(pairs)), layout="constrained")
    for block, pair in zip(
        figure.subfigures(len(pairs), 1, squeeze=False).flat, pairs, strict=True
    ):
        chosen = by_class(labels)
        difference = (pair.cached - pair.full)[chosen]
        gain = _gain(difference)
        panels = (
            ("full run", pair.full[chosen], "gray_r"),
            ("with the learned cache", pair.cached[chosen], "gray_r"),
            (f"difference x {gain}", difference * gain, "RdBu"),
        )
        for axis, (name, images, colours) in zip(block.subplots(1, 3), panels, strict=True):
            picture = tile(images, COLUMNS)
            axis.imshow(picture, cmap=colours, vmin=-1, vmax=1, interpolation="nearest")
            axis.set_title(name)
            axis.set_xticks([])
            axis.set_yticks([4 + 9 * c for c in range(NUM_CLASSES)], range(NUM_CLASSES))
            axis.tick_params(length=0)
            axis.spines[:].set_visible(False)
        block.suptitle(pair.title)
    save_figure(figure, path, dpi=110)


def _gain(difference: Tensor) -> int:
    """The power of two that brings the 99th percentile near the end of the colour scale."""
    largest = float(np.quantile(difference.abs().numpy(), 0.99))
    return int(2 ** max(0, np.floor(np.log2(1.0 / max(largest, 1e-9)))))


def draw_latency(path: Path, results: Sequence[Result], title: str) -> None:
    """Time and PSNR, both relative to the full run, against the share of its arithmetic left."""
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    cached = [result for result in results if result.psnr]
    low = min(result.cost_share for result in cached)
    left.plot([low, 1], [low, 1], color="gray", linestyle="--", label="ideal: time follows cost")
    markers = dict(zip(sorted({result.steps for result in cached}), MARKERS, strict=False))
    for steps, name in dict.fromkeys((result.steps, result.name) for result in cached):
        line = [result for result in cached if (result.steps, result.name) == (steps, name)]
        line.sort(key=lambda result: result.cost_share)
        look = {
            "marker": markers[steps],
            "color": COLORS[name],
            "linestyle": "-" if len(line) > 1 else "none",
            "label": f"{name}, DDIM-{steps}",
        }
        shares = [result.cost_share for result in line]
        left.errorbar(shares, *_middle_and_spread(line), capsize=3, **look)
        right.plot(shares, [result.mean_psnr for result in line], **look)
    left.set_ylabel("time over the full run's (median and range)")
    right.set_ylabel("PSNR against the full run, dB")
    for axis in (left, right):
        axis.set_xlabel("share of the full run's arithmetic left")
        axis.grid(alpha=0.3)
    left.legend(fontsize="small")
    figure.suptitle(title)
    save_figure(figure, path, dpi=110)


def _middle_and_spread(line: Sequence[Result]) -> tuple[list[float], list[list[float]]]:
    middle = [result.timing.median_relative for result in line]
    lowest = [min(result.timing.relative) for result in line]
    highest = [max(result.timing.relative) for result in line]
    below = [m - low for m, low in zip(middle, lowest, strict=True)]
    above = [high - m for m, high in zip(middle, highest, strict=True)]
    return middle, [below, above]
