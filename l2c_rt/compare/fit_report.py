"""How a fit report is shown: tables as text, curves as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from l2c_rt.learning.log import matplotlib_parts

if TYPE_CHECKING:
    from l2c_rt.compare.fit import FitReport

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


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
    return "\n".join([title, "", *_table([heads, *rows]), "", under, *_table([steps, *errors])])


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:],
                                                                          strict=True)])
        for row in rows
    ]  # fmt: skip


def draw(report: FitReport, path: Path) -> None:
    """Error above, share of reuse below, evaluations from noisy to clean."""
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: the picture of a fit report is a PNG; name it .png")
    figure_class, canvas = matplotlib_parts()
    figure = figure_class(figsize=(8, 5.5), layout="constrained")
    canvas(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    for fit, colour in zip(report.fits, COLOURS, strict=True):
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
    figure.savefig(path, dpi=130)
