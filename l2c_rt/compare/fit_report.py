"""The fit report: its numbers, its tables as text, its curves as a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from l2c_rt.figures import PALETTE, new_figure, require_png, save_figure
from l2c_rt.untrusted.atomic_write import write_whole

FORMAT = "l2c_rt.fit_report"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Fit:
    """One schedule against the full run from the same noise.

    Per evaluation: share of branches reused, and |cached - full| / |full| of the latents after it.
    `psnr` has one value per image in dB, infinite for equal ones; `speedup_limit` is the
    speed-up that the arithmetic left out would give.
    """

    name: str
    reused: tuple[float, ...]
    error: tuple[float, ...]
    psnr: tuple[float, ...]
    speedup_limit: float

    @property
    def mean_psnr(self) -> float:
        return fmean(self.psnr)

    @property
    def final_error(self) -> float:
        return self.error[-1]


@dataclass(frozen=True, slots=True)
class FitReport:
    """A schedule's fit first, then those of its controls.  `print` shows it as tables."""

    steps: int
    branches: int
    computed: int
    images: int
    seed: int
    cfg_scale: float
    peak: float
    fits: tuple[Fit, ...]

    @property
    def lead(self) -> float:
        """Mean PSNR of the first over the best of the controls, in dB."""
        first, *others = (fit.mean_psnr for fit in self.fits)
        return 0.0 if first == max(others) else first - max(others)

    def __str__(self) -> str:
        return as_text(self)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON; None in the place of those that are not finite."""
        plain: dict[str, Any] = {"format": FORMAT, "version": VERSION, **asdict(self)}
        for fit in plain["fits"]:
            fit["psnr"] = [value if math.isfinite(value) else None for value in fit["psnr"]]
        return plain

    def save(self, path: str | Path) -> None:
        """Write the report as JSON, every image's PSNR included."""
        write_whole(path, json.dumps(self.as_dict(), indent=1, allow_nan=False) + "\n")

    def plot(self, path: str | Path) -> None:
        """Draw reuse and error per evaluation as a PNG (needs matplotlib)."""
        draw(self, Path(path))


def as_text(report: FitReport) -> str:
    """One line per schedule, then one per evaluation."""
    cells = report.steps * report.branches
    title = (
        f"{report.steps} evaluations of {report.branches} branches, "
        f"{cells - report.computed} of {cells} reused; {report.images} images, guidance "
        f"{report.cfg_scale:g}, seed {report.seed}, PSNR peak {report.peak:.3g}"
    )
    heads = ["schedule", "PSNR dB", "worst dB", "relative L2", "at most"]
    rows = [
        [f.name, f"{f.mean_psnr:.2f}", f"{min(f.psnr):.2f}", f"{f.final_error:.2e}",
         f"{f.speedup_limit:.2f}x"]
        for f in report.fits
    ]  # fmt: skip
    first = report.fits[0]
    steps = ["evaluation", "reused", *(f.name for f in report.fits)]
    errors = [
        [str(k), f"{100 * first.reused[k]:.0f} %", *(f"{f.error[k]:.2e}" for f in report.fits)]
        for k in range(report.steps)
    ]
    under = 'relative L2 of the latents after each evaluation ("reused": this schedule\'s share)'
    first_table, second_table = text_table([heads, *rows]), text_table([steps, *errors])
    return "\n".join([title, "", *first_table, "", under, *second_table])


def text_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines whose columns line up: the first to the left, all others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:],
                                                                          strict=True)])
        for row in rows
    ]  # fmt: skip


def draw(report: FitReport, path: Path) -> None:
    """Error above, share of reuse below, evaluations from noisy to clean."""
    require_png(path, "fit report")
    figure = new_figure(8, 5.5)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    for fit, colour in zip(report.fits, PALETTE, strict=True):
        # A run that has not reused yet has no error, which a log axis cannot show.
        error = [value if value > 0 else float("nan") for value in fit.error]
        label = f"{fit.name}: {fit.mean_psnr:.1f} dB"
        above.plot(error, color=colour, label=label, marker=".")
        below.step(range(report.steps), fit.reused, where="mid", color=colour)
    above.set_yscale("log")
    above.set_ylabel("relative L2 of the latents")
    above.legend(frameon=False)
    below.set_ylabel("branches reused")
    below.set_ylim(-0.03, 1.03)
    below.set_xlabel("evaluation: noisy \N{RIGHTWARDS ARROW} clean")
    for axis in (above, below):
        axis.grid(alpha=0.3)
    save_figure(figure, path, dpi=130)
