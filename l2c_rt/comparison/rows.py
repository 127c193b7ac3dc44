"""The rows of a comparison: for each method and share the nearest setting, run for every seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l2c_rt.comparison.arithmetic import Planned
from l2c_rt.comparison.image_metrics import frechet_distance
from l2c_rt.comparison.knobs import Knob, as_given, knob_of, nearest
from l2c_rt.comparison.measured_runs import MeasuredRuns
from l2c_rt.comparison.methods import Entry
from l2c_rt.comparison.result_folder import ResultFolder
from l2c_rt.comparison.results import FULL, Row, SeedResult
from l2c_rt.runtime.compiled import Compiled

HALVINGS = 14
"""Of a knob's range, at most, on the way to a share."""

Known = dict[float, float]
"""Values of a knob with the shares that they compute."""


class Choice(NamedTuple):
    """The value of a knob for a share, and all that were tried so far."""

    value: float
    known: Known

    def as_list(self) -> list[Any]:
        return [self.value, list(self.known.items())]

    @classmethod
    def from_list(cls, plain: Any) -> Choice:
        value, known = plain
        return cls(value, {tried: float(share) for tried, share in known})


class Rows:
    """Makes rows from results on disk, and from runs where there are none yet."""

    def __init__(
        self,
        runs: MeasuredRuns,
        results: ResultFolder,
        real: Tensor | None,
        advance: Callable[[int], object],
    ) -> None:
        self._runs, self._results, self._real, self._advance = runs, results, real, advance
        subject, first = runs.subject, runs.seeds[0]
        self._planned = Planned(subject.build, lambda models: subject.run(models, first))
        self._reference: Tensor | None = None

    def full(self) -> Row:
        """The full run, which all others are compared with."""
        results = self._measured(FULL, lambda: self._runs.full_models)
        self._reference = _features(results)
        if self._real is not None and self._runs.features is not None:
            with torch.no_grad():
                self._reference = self._runs.features(self._real).float().cpu()
        return Row(FULL, "", None, results, self._fid(results))

    def of(self, entry: Entry, shares: Sequence[float] | None) -> Iterator[Row]:
        """A row for each share, one for several where the nearest setting is the same; without
        shares one for every setting that was given."""
        if shares is None:
            knob = as_given(entry.method)
            yield from (self._row(entry, knob, value, None) for value in knob.start)
            return
        knob, known = knob_of(entry.method), Known()
        targets: dict[float, list[float]] = {}
        for share in shares:
            targets.setdefault(self._nearest(entry, knob, share, known), []).append(share)
        self._advance(len(self._runs.seeds) * (len(shares) - len(targets)))
        for value, of_value in targets.items():
            share = min(of_value, key=lambda share: abs(share - known[value]))
            yield self._row(entry, knob, value, share)

    def reasons(self) -> dict[str, str]:
        """Why a metric is not there."""
        return self._results.get("reasons", dict, lambda: self._runs.metrics.reasons, dict)

    def _nearest(self, entry: Entry, knob: Knob, share: float, known: Known) -> float:
        def choose() -> Choice:
            measure = self._planned.share
            value = nearest(
                knob, share, known, lambda v: measure(knob.at(v), entry.options), HALVINGS
            )
            return Choice(value, dict(known))

        name = f"{entry.name} at {share:g}"
        choice = self._results.get(name, Choice.from_list, choose, Choice.as_list)
        # What was tried on the way to this share decides where the search for the next one begins.
        known.update(choice.known)
        return choice.value

    def _row(self, entry: Entry, knob: Knob, value: float, share: float | None) -> Row:
        label = knob.label(value)
        at = "" if share is None else f" at {share:g}"
        build = lru_cache(lambda: self._runs.subject.build(knob.at(value), entry.options))
        results = self._measured(f"{entry.name} {label}{at}", build)
        if build.cache_info().currsize:
            # The memory of its caches, before the next one takes its own.
            for model in build():
                model.close()
        return Row(entry.name, label, share, results, self._fid(results))

    def _measured(
        self, name: str, build: Callable[[], Sequence[Compiled]]
    ) -> tuple[SeedResult, ...]:
        """The results of all seeds; nothing is built where all are on disk."""

        def one(seed: int) -> SeedResult:
            file, make = f"{name} seed {seed}", lambda: self._runs.of(build(), seed)
            result = self._results.get(file, SeedResult.from_dict, make, SeedResult.as_dict)
            self._advance(1)
            return result

        return tuple(map(one, self._runs.seeds))

    def _fid(self, results: Sequence[SeedResult]) -> float | None:
        own = _features(results)
        if own is None or self._reference is None or min(len(own), len(self._reference)) < 2:
            return None
        return frechet_distance(own, self._reference)


def _features(results: Sequence[SeedResult]) -> Tensor | None:
    parts = [result.features for result in results if result.features is not None]
    return torch.cat(parts) if parts else None
