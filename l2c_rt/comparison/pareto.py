"""The picture of a comparison: error over what is computed, and over measured time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from l2c_rt.comparison.results import FULL, Row
from l2c_rt.figures import GRID, Series, method_series, new_figure, save_figure

LEGEND_COLUMNS, UNTIMED_COLUMNS = 5, 3


def draw_pareto(path: str | Path, rows: Sequence[Row], title: str) -> None:
    """Write a PNG with a line per method; without times, the left half alone.

    Lower and further left is better.  What has no error is the full run, which no log axis shows.
    """
    timed = [row for row in rows if row.speedup is not None]
    names = list(dict.fromkeys(row.method for row in rows if row.method != FULL))
    columns = LEGEND_COLUMNS if timed else UNTIMED_COLUMNS
    height = 3.9 + 0.22 * -(-len(names) // columns)
    figure = new_figure(8.6 if timed else 5.6, height)
    axes = figure.subplots(1, 2 if timed else 1, sharey=True, squeeze=False)[0]
    series = dict(zip(names, method_series(names), strict=True))
    _panel(axes[0], rows, series, lambda row: 100 * row.computed)
    axes[0].set_xlabel("multiply-accumulates, % of the full run")
    axes[0].set_ylabel("relative L2 error of the final latents")
    if timed:
        _panel(axes[1], timed, series, lambda row: 100 / (row.speedup or math.nan))
        axes[1].set_xlabel("measured time, % of the full run")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.suptitle(title, fontsize="medium")
    figure.legend(
        handles, labels, loc="outside lower center", frameon=False, fontsize="small",
        ncols=min(columns, max(1, len(names))),
    )  # fmt: skip
    save_figure(figure, path, dpi=170)


def _panel(
    axis: Any, rows: Sequence[Row], series: dict[str, Series], x_of: Callable[[Row], float]
) -> None:
    for name, look in series.items():
        points = sorted((x_of(row), row.error) for row in rows if row.method == name)
        errors = [error if error > 0 else math.nan for _, error in points]
        axis.plot(
            [x for x, _ in points], errors, label=name, color=look.colour, marker=look.marker,
            linestyle=look.line, markersize=5, linewidth=1.3,
        )  # fmt: skip
    if any(row.error > 0 for row in rows):
        axis.set_yscale("log")
    axis.grid(color=GRID, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
