"""What must be reached and what is aimed at, beside what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from gpu.models import CASES, IMAGES
from gpu.results import Result, Results, lead, over_floor, share_of_bound

DIT = CASES[0].name
NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Target:
    """A row of the table; `measured` gives every figure it speaks of, the worst of which counts."""

    text: str
    must: float
    aim: float
    unit: str
    low_is_good: bool
    measured: Callable[[Results], list[float]]

    def row(self, results: Results) -> str:
        figures = self.measured(results)
        sign = "at most " if self.low_is_good else "at least "
        must, aim = (f"{100 * f:g} %" if self.unit == "%" else f"{f:g}{self.unit}"
                     for f in (self.must, self.aim))  # fmt: skip
        limits = f"{sign}{must} | {sign}{aim}"
        return f"| {self.text} | {limits} | {self._cell(figures)} |"

    def _cell(self, figures: list[float]) -> str:
        if not figures:
            return NOT_MEASURED
        worst = max(figures) if self.low_is_good else min(figures)
        met = worst <= self.must if self.low_is_good else worst >= self.must
        of = f", worst of {len(figures)}" if len(figures) > 1 else ""
        return f"{self._spell(worst)}{of}, {'met' if met else 'NOT met'}"

    def _spell(self, figure: float) -> str:
        if self.unit == "%":
            return f"{100 * figure:.1f} %"
        return f"{figure:.2f}{self.unit}"


def _floor(images: Iterable[int]) -> Callable[[Results], list[float]]:
    return lambda results: [over_floor(r) for n in images if (r := results.run(DIT, n))]


def _lead(peer: str, images: Iterable[int]) -> Callable[[Results], list[float]]:
    return lambda results: [lead(r) for n in images if (r := results.peer(DIT, n, peer))]


def _bound(images: int) -> Callable[[Results], list[float]]:
    cases = [case.name for case in CASES if "512" not in case.name]
    return lambda results: [share_of_bound(r) for case in cases if (r := results.run(case, images))]


def _bandwidth(results: Results) -> list[float]:
    return [
        rate["bytes_per_second"] / result["ceilings"]["bytes_per_second"]
        for result in results.of("row-kernels")
        for rate in result["rates"]
        if rate["batch"] >= 16
    ]


def _idle(images: int) -> Callable[[Results], list[float]]:
    def measured(results: Results) -> list[float]:
        run = results.run(DIT, images)
        return [run["profile"]["idle_share"]] if run and "idle_share" in run["profile"] else []

    return measured


def _first_image(which: str) -> Callable[[Results], list[float]]:
    return lambda results: [r["first_image"][which]["seconds"] for r in results.of("start")]


def _graphs(results: Results) -> list[float]:
    runs = [run for n in IMAGES if (run := results.run(DIT, n))]
    return [graph_bytes(run) / 1e9 for run in runs]


def graph_bytes(run: Result) -> float:
    """What `summary()` counts for graphs, buffers of a run not among them."""
    return float(run["summary"]["graphs"]["graph_bytes"])


MORE = IMAGES[1:]

TARGETS = (
    Target("DiT-XL/2 256 DDIM-50, 1 image, time over the floor", 1.75, 1.35, "x", True,
           _floor([1])),
    Target("same, 8 and 32 images", 1.25, 1.12, "x", True, _floor([8, 32])),
    Target("times as fast as the strong peer, same schedule, 1 image", 1.25, 1.6, "x", False,
           _lead("strong", [1])),
    Target("same, 8 images and more", 1.08, 1.15, "x", False, _lead("strong", MORE)),
    Target("times as fast as the published program, eager, bf16, 1 image", 3, 5, "x", False,
           _lead("published-bf16", [1])),
    Target("cached against our own uncached, share of the bound, 8 images", 0.97, 0.99, "", False,
           _bound(8)),
    Target("same, 1 image", 0.93, 0.97, "", False, _bound(1)),
    Target("kernels (a), (b), 8 images and more, share of the copy bandwidth", 0.85, 0.92, "",
           False, _bandwidth),
    Target("GPU idle between kernels over a run, 8 images", 0.03, 0.01, "%", True, _idle(8)),
    Target("same, 1 image", 0.15, 0.08, "%", True, _idle(1)),
    Target("compile to first image, caches on disk empty", 30, 15, " s", True,
           _first_image("cold")),
    Target("same, caches warm", 5, 2, " s", True, _first_image("warm")),
    Target("memory of graphs", 1, 1, " GB", True, _graphs),
)  # fmt: skip


def target_table(results: Results) -> list[str]:
    lines = ["| | must | aim | measured |", "|---|---|---|---|"]
    return lines + [target.row(results) for target in TARGETS]
