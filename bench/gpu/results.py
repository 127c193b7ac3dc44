"""Reading the suite's files: what tables and plots are made from.  Standard library only."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

from gpu.timing import ratios, spread

Result = dict[str, Any]


class Results:
    """Results by the name of their part; those skipped or failed are in `missing`, with why."""

    def __init__(self, files: Iterable[Path]) -> None:
        self.by_part: dict[str, Result] = {}
        self.missing: dict[str, str] = {}
        for file in files:
            result = json.loads(file.read_text())
            why = {k: result[k] for k in ("skipped", "failed") if k in result}
            if why:
                ((kind, text),) = why.items()
                self.missing[result["part"]] = f"{kind}: {text}"
            else:
                self.by_part[result["part"]] = result

    def of(self, kind: str) -> list[Result]:
        return [r for r in self.by_part.values() if r["kind"] == kind]

    def run(self, case: str, images: int) -> Result | None:
        return self.by_part.get(f"{case}.n{images}")

    def peer(self, case: str, images: int, name: str) -> Result | None:
        return self.by_part.get(f"{case}.n{images}.{name}")


def files_in(places: Iterable[str]) -> list[Path]:
    """JSON files: the given ones, and all of given folders."""
    found: list[Path] = []
    for place in map(Path, places):
        found += sorted(place.glob("*.json")) if place.is_dir() else [place]
    return found


def best(run: Result) -> str:
    """Which of our own programs is the faster: a graph per row, or one for the whole run."""
    names = [name for name in ("cached", "trajectory") if name in run["samples"]]
    return min(names, key=lambda name: median(run["samples"][name]))


def over_floor(run: Result) -> float:
    """Median time of the default program over the kernelwise floor of the same run."""
    return median(run["samples"]["cached"]) / float(run["floors"]["kernelwise"])


def share_of_bound(run: Result) -> float:
    """Cached against our own uncached, as a share of what the arithmetic left out can give."""
    return median(ratios(run["samples"]["full"], run["samples"]["cached"])) / float(run["bound"])


def lead(result: Result) -> float:
    """How many times as fast as the peer of this result."""
    return median(ratios(result["samples"][result["peer"]], result["samples"]["cached"]))


def milliseconds(samples: list[float]) -> str:
    """Median with quartiles."""
    found = spread(samples)
    return f"{found.median * 1e3:.2f} ({found.low * 1e3:.2f} to {found.high * 1e3:.2f})"
