"""A comparison: its rows, as text, as JSON, and as a picture."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from l2c_rt.compare.fit_report import text_table
from l2c_rt.figures import method_colour, new_figure, require_png, save_figure

FORMAT = "l2c_rt.comparison"
VERSION = 1
MARKERS = "os^Dv"


@dataclass(frozen=True, slots=True)
class Row:
    """One method at one share of reuse, against the full run from the same noise.

    `computed` is the share of branch calls that are computed, `error` |cached - full| / |full| of
    the final latents, `psnr` in dB per image, empty without images and infinite for equal ones,
    `seconds` those of each timed run.
    """

    method: str
    computed: float
    speedup_limit: float
    error: float
    psnr: tuple[float, ...]
    seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The full run's row first.  `print` shows a table."""

    steps: int
    branches: int
    images: int
    seed: int
    cfg_scale: float
    rows: tuple[Row, ...]

    def __str__(self) -> str:
        title = (
            f"{self.steps} evaluations of {self.branches} branches; {self.images} images, guidance "
            f"{self.cfg_scale:g}, seed {self.seed}"
        )
        heads = ["method", "computed", "at most", "error", "PSNR dB", "seconds"]
        return "\n".join([title, "", *text_table([heads, *map(_cells, self.rows)])])

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON; None in the place of those that are not finite."""
        plain: dict[str, Any] = {"format": FORMAT, "version": VERSION, **asdict(self)}
        for row in plain["rows"]:
            row["psnr"] = [value if math.isfinite(value) else None for value in row["psnr"]]
            row["error"] = row["error"] if math.isfinite(row["error"]) else None
        return plain

    def plot(self, path: str | Path) -> None:
        """Draw the error over what is computed, a line per method, as a PNG (matplotlib)."""
        require_png(path, "comparison")
        figure = new_figure(7, 4.5)
        axis = figure.subplots()
        for k, method in enumerate(dict.fromkeys(row.method for row in self.rows[1:])):
            rows = sorted((row.computed, row.error) for row in self.rows if row.method == method)
            # A run that reuses nothing has no error, which a log axis cannot show.
            errors = [error if error > 0 else math.nan for _, error in rows]
            colour, marker = method_colour(method), MARKERS[k % len(MARKERS)]
            shares = [100 * computed for computed, _ in rows]
            axis.plot(shares, errors, label=method, color=colour, marker=marker)
        axis.set_yscale("log")
        axis.set_xlabel("branch calls computed, %")
        axis.set_ylabel("relative L2 error of the final latents")
        axis.set_title(f"{self.steps} evaluations of {self.branches} branches")
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
        save_figure(figure, path, dpi=130)


def _cells(row: Row) -> list[str]:
    psnr = f"{fmean(row.psnr):.2f}" if row.psnr and row.error else "-"
    return [
        row.method,
        f"{100 * row.computed:.1f} %",
        f"{row.speedup_limit:.2f}x",
        f"{row.error:.2e}" if row.error else "-",
        psnr,
        f"{median(row.seconds):.3f}",
    ]
