"""The fit report: its numbers, its tables as text, its curves as a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from l2c_rt.figures import FULL_RUN, GRID, method_colour, new_figure, require_png, save_figure
from l2c_rt.untrusted.atomic_write import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT = "l2c_rt.fit_report"
VERSION = 1
MARKERS = "os^D"


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
    """A schedule's fit first, then those of its controls.  `print` shows it as tables.

    `cfg_scale` is None where guidance is a matter of the user's own loop.
    """

    steps: int
    branches: int
    computed: int
    images: int
    seed: int
    cfg_scale: float | None
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
    guidance = "" if report.cfg_scale is None else f"guidance {report.cfg_scale:g}, "
    title = (
        f"{report.steps} evaluations of {report.branches} branches, "
        f"{cells - report.computed} of {cells} reused; {report.images} images, "
        f"{guidance}seed {report.seed}, PSNR peak {report.peak:.3g}"
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
    """Write `figure_of` as a PNG."""
    require_png(path, "fit report")
    save_figure(figure_of(report), path, dpi=170)


def figure_of(report: FitReport) -> Figure:
    """Error above; below, a line of bars per schedule with its reuse, from noisy to clean."""
    figure = new_figure(7, 5)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[5, 1 + len(report.fits)])
    for y, fit in enumerate(report.fits):
        colour = method_colour(fit.name)
        # A run that has not reused yet has no error, which a log axis cannot show.
        error = [value if value > 0 else math.nan for value in fit.error]
        above.plot(error, color=colour, marker=MARKERS[y % len(MARKERS)], markersize=4)
        below.bar(range(report.steps), [-0.8 * share for share in fit.reused], 0.8, y, color=colour)
        below.axhline(y, color=FULL_RUN, linewidth=0.6)
    names = [f"{fit.name}\nPSNR {fit.mean_psnr:.1f} dB" for fit in report.fits]
    below.set_yticks([y - 0.4 for y in range(len(names))], names)
    below.set_ylim(len(names) - 1, -1)
    # Without any error there is nothing that a log axis could show, and matplotlib refuses.
    if any(value > 0 for fit in report.fits for value in fit.error):
        _make_logarithmic(above)
    _label_axes(above, below)
    return figure


def _make_logarithmic(axis: Any) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())


def _label_axes(above: Any, below: Any) -> None:
    above.set_title("relative L2 error of the latents", loc="left", fontsize="medium")
    below.locator_params(axis="x", integer=True, nbins=11, min_n_ticks=1)
    below.set_xlabel("evaluation: noisy \N{RIGHTWARDS ARROW} clean")
    below.set_title("branches reused (full height: all)", loc="left", fontsize="medium")
    below.tick_params(axis="y", length=0)
    above.grid(axis="y", color=GRID, linewidth=0.6)
    for axis in (above, below):
        axis.grid(axis="x", color=GRID, linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
