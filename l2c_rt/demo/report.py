"""The demo's results and how they are shown: a Markdown table, a JSON file with every sample."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from l2c_rt.untrusted.atomic_write import write_whole


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one schedule and of the full run beside it, round by round."""

    seconds: tuple[float, ...]
    full_seconds: tuple[float, ...]

    @property
    def median_seconds(self) -> float:
        return median(self.seconds)

    @property
    def relative(self) -> tuple[float, ...]:
        """Time over the full run's, both of the same round."""
        return tuple(s / f for s, f in zip(self.seconds, self.full_seconds, strict=True))

    @property
    def median_relative(self) -> float:
        return median(self.relative)

    @property
    def speedup(self) -> float:
        """Median over rounds of the full run's time over this one's."""
        return 1.0 / self.median_relative


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured for one schedule at one number of steps.

    `ratio` is the share of the cached evaluations' branches that it was asked to reuse, `reuse`
    the share of all branch evaluations that it does; `cost_share` is what is left of the full
    run's arithmetic, by l2c_rt.plan.cost; `psnr` has one value per image, none for the full run.
    """

    steps: int
    name: str
    ratio: float
    reuse: float
    cost_share: float
    timing: Timing
    psnr: tuple[float, ...]
    frechet: float
    accuracy: float

    @property
    def mean_psnr(self) -> float | None:
        return fmean(self.psnr) if self.psnr else None


HEADINGS = (
    "DDIM steps",
    "schedule",
    "reused",
    "time s",
    "speed-up",
    "at most",
    "PSNR dB",
    "Frechet",
    "accuracy",
)


def cells(result: Result) -> tuple[str, ...]:
    """One row of the table, as text."""
    psnr = result.mean_psnr
    return (
        str(result.steps),
        result.name,
        f"{100 * result.reuse:.1f} %",
        f"{result.timing.median_seconds:.2f}",
        f"{result.timing.speedup:.2f}x",
        f"{1 / result.cost_share:.2f}x",
        "-" if psnr is None else f"{psnr:.1f}",
        f"{result.frechet:.2f}",
        f"{100 * result.accuracy:.1f} %",
    )


def table(results: Sequence[Result]) -> str:
    """The results as a Markdown table whose columns also line up as plain text."""
    rows = [HEADINGS, *(cells(result) for result in results)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(HEADINGS))]
    lines = [
        "| " + " | ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def markdown(results: Sequence[Result], about: dict[str, Any], pictures: Sequence[Path]) -> str:
    """The page that the demo leaves behind."""
    images = "\n\n".join(f"![{picture.stem}]({picture.name})" for picture in pictures)
    return f"""# Digits: a diffusion transformer with a learned cache

{table(results)}

- reused: share of all branch evaluations of the run that took the output of the call before.
  Every schedule at a number of steps, except full, reuses the same number of branches.
- time: median over {about["rounds"]} rounds of sampling {about["images"]} images with guidance
  {about["guidance"]}, on {about["threads"]} threads. In each round every schedule runs once, in an
  order that is reversed every second round; speed-up is the median, over rounds, of the full
  run's time over its own.
- at most: the speed-up that the arithmetic left out would give (l2c_rt.plan.cost).
- PSNR: against the full run from the same noise, mean over {about["total"]} images, peak 2.0
  (pixels lie in [-1, 1]), nothing clipped. That of "learned, bf16", whose products are bfloat16,
  is against the learned schedule in float32.
- Frechet: distance of the {about["total"]} images to the {about["real"]} real digits in the last
  hidden layer of a classifier of real digits. {about["total"]} real digits drawn at random are
  {about["frechet_real"]:.2f} away from all of them.
- accuracy: share of the images that this classifier reads as their label. Of {about["held_out"]}
  real digits that it was not trained on it reads {100 * about["held_out_accuracy"]:.1f} % right.

{images}
"""


def write_report(
    out: Path,
    results: Sequence[Result],
    shown: Sequence[Result],
    about: dict[str, Any],
    pictures: Sequence[Path],
) -> None:
    """report.md with a table of `shown`, and report.json with the raw samples of all results."""
    write_whole(out / "report.md", markdown(shown, about, pictures))
    raw = {"about": about, "results": [asdict(result) for result in results]}
    write_whole(out / "report.json", json.dumps(raw, indent=1) + "\n")
