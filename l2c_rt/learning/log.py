"""A learning run as it goes: log.csv and router.png in the output folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from l2c_rt.figures import new_figure
from l2c_rt.schedule.heatmap import kinds_of, label_of
from l2c_rt.untrusted.atomic_write import write_whole
from l2c_rt.untrusted.bounded_read import read_bounded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ("iteration", "loss", "error", "penalty", "lam", "reused_share", "seconds")
MOST_LINES = 1000
MAX_BYTES = 1 << 24
NUMBER = r"-?(?:\d+(?:\.\d+)?(?:e[+-]\d+)?|inf|nan)"
LINE = re.compile(rf"(\d{{1,18}})(?:,{NUMBER}){{{len(COLUMNS) - 1}}}", re.ASCII)


class CsvLog:
    """One line per iteration, thinned to about a thousand.  A resumed run cuts what it redoes."""

    def __init__(self, path: Path, iterations: int, resumed_at: int) -> None:
        self.every = -(-iterations // MOST_LINES)
        lines = _lines_until(path, resumed_at) if resumed_at else []
        write_whole(path, "".join(f"{line}\n" for line in [",".join(COLUMNS), *lines]))
        self._file = path.open("a", newline="", encoding="ascii")

    def add(self, iteration: int, **values: float) -> None:
        if iteration % self.every and iteration != 1:
            return
        cells = [str(iteration), *(f"{values[name]:.6g}" for name in COLUMNS[1:])]
        self._file.write(",".join(cells) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _lines_until(path: Path, iteration: int) -> list[str]:
    """The whole lines of an earlier run up to an iteration; whatever else it holds is left out.

    A killed run may have left half a line, and a log is not worth refusing to train.
    """
    if not path.exists() or not path.stat().st_size:
        return []
    content = read_bounded(path, MAX_BYTES, "log").decode("ascii", "replace")
    matches = [LINE.fullmatch(line) for line in content.splitlines()]
    return [m[0] for m in matches if m and int(m[1]) <= iteration]


def scores_figure(
    snapshots: list[tuple[int, Tensor]],
    evaluations: list[int],
    branches: tuple[str, ...],
) -> Figure:
    """The scores at several iterations, a column each, with a line per kind of branch.

    Needs matplotlib.  Shapes: each snapshot [rows, K], its rows in the order of `evaluations`.
    """
    kinds = kinds_of(branches)
    figure = new_figure(1.8 + 1.1 * len(snapshots), 0.9 + 1.7 * len(kinds))
    axes = figure.subplots(len(kinds), len(snapshots), sharex=True, sharey="row", squeeze=False)
    for column, (iteration, scores) in zip(axes.T, snapshots, strict=True):
        column[0].set_title(f"iteration {iteration}", fontsize="medium")
        for axis, members in zip(column, kinds.values(), strict=True):
            image = axis.imshow(np.asarray(scores).T[members], vmin=0, vmax=1, aspect="auto",
                                interpolation="nearest")  # fmt: skip
    for axis, kind in zip(axes[:, 0], kinds, strict=True):
        axis.set_ylabel(label_of(kind), parse_math=False)
        axis.locator_params(axis="y", integer=True, nbins=7, min_n_ticks=1)
    ticks = sorted({0, len(evaluations) // 2, len(evaluations) - 1})
    axes[0, 0].set_xticks(ticks, [str(evaluations[i]) for i in ticks])
    figure.supxlabel("evaluation: noisy \N{RIGHTWARDS ARROW} clean", fontsize="medium")
    figure.colorbar(image, ax=list(axes.flat), label="score (high: compute)")
    return figure
