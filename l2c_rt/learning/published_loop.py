"""Pairs from the published loop of a model's family, on its own trajectories or on latents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.adapters.branch_forward import mixed_pass, recording_pass
from l2c_rt.adapters.model_fingerprint import model_fingerprint
from l2c_rt.families import family_named
from l2c_rt.learning.batches import Batch, endless
from l2c_rt.learning.coefficients import (
    FOLDS,
    Coefficients,
    StartSums,
    by_lane,
    full_before,
    of_batch,
    predicted,
)
from l2c_rt.learning.options import LearnOptions
from l2c_rt.learning.pairs import Pair, data_pair, trajectory_pairs
from l2c_rt.learning.state import Gathering, LearnState, Sums, draw_seed
from l2c_rt.learning.task import Task
from l2c_rt.sampling.solvers import solver_for


def published_task(
    bound_model: BoundModel, options: LearnOptions, data: Iterable[Any] | None = None
) -> Task:
    """The task of learning on batches of `data` as published, or on the model's trajectories."""
    family = family_named(bound_model.program.family)
    rows = family.valid_rows(options.steps)
    source = PublishedLoopPairs(bound_model, options, rows, data)
    fingerprint = model_fingerprint(bound_model.model)
    return Task(bound_model, family, options, rows, source, fingerprint)


class PublishedLoopPairs:
    """The pairs of `published_task`; every branch costs alike, as published."""

    timesteps: tuple[float, ...] | None = None

    def __init__(
        self,
        bound_model: BoundModel,
        options: LearnOptions,
        rows: Mapping[int, int],
        data: Iterable[Any] | None,
    ) -> None:
        assert bound_model.sampling is not None
        self._bound_model, self._options, self._rows = bound_model, options, rows
        self._loop = bound_model.sampling
        self._solver = solver_for(self._loop.sampler, options.steps)
        self._data = data
        self._batches: Iterator[Batch] | None = None
        self.kind = "trajectories" if data is None else "latents"
        self.sampler = self._loop.sampler
        self.costs = torch.ones(len(bound_model.program.branches), dtype=torch.float64)

    def gather(self, state: LearnState, rank: int) -> Sums:
        """Student passes over the pairs of the next iteration."""
        model, rules = self._bound_model, family_named(self._bound_model.program.family)
        gathering = Gathering(state, self._options, rules, model.device)
        for pair in self.pairs(state.iteration, rank):
            if state.coefficients is None:

                def student(scores: Tensor, pair: Pair = pair) -> Tensor:
                    return pair.student(partial(mixed_pass, model, pair.previous_outputs, scores))

                gathering.add(pair.row, pair.teacher, student)
                continue

            def predicting(scores: Tensor, coefficients: Tensor, pair: Pair = pair) -> Tensor:
                lanes = self._options.lanes
                before = [by_lane(outputs, lanes) for outputs in pair.before]
                kept = of_batch(predicted(coefficients, before), lanes)
                return pair.student(partial(mixed_pass, model, kept, scores))

            gathering.add_predicted(pair.row, pair.teacher, predicting)
        return gathering.sums()

    def start_coefficients(self) -> Coefficients:
        """Least squares on full trajectories that no iteration draws."""
        history, lanes = self._options.history, self._options.lanes
        sums = StartSums(list(self._rows.values()), lanes * len(self.costs), history)
        for fold in range(FOLDS):
            for pair in self.pairs(self._options.iterations + fold, 0):
                outputs: list[Tensor] = []

                def record(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
                    out, outputs[:] = recording_pass(self._bound_model, x, t, y)  # noqa: B023
                    return out

                pair.student(record)
                before = [by_lane(earlier, lanes) for earlier in pair.before]
                sums.see(pair.row, fold, before, by_lane(outputs, lanes))
        return sums.coefficients([len(full_before(e, self._rows, history)) for e in self._rows])

    def pairs(self, iteration: int, rank: int) -> Iterator[Pair]:
        """The pairs of one iteration on one process; of data, iterations follow each other."""
        generator = torch.Generator().manual_seed(draw_seed(self._options.seed, iteration, rank))
        if self._data is not None:
            yield self._data_pair(iteration, generator)
            return
        loop, device = self._loop, self._bound_model.device
        count = self._options.batch_size
        assert count is not None
        size = (count, loop.channels, loop.size, loop.size)
        noise = torch.randn(size, generator=generator).to(device)
        labels = None
        if loop.classes:
            labels = torch.randint(loop.classes, (count,), generator=generator)
            labels = labels.to(device)
        scale = self._options.cfg_scale
        yield from trajectory_pairs(
            self._bound_model,
            self._solver,
            self._rows,
            noise,
            labels,
            scale,
            max(1, self._options.history),
        )

    def _data_pair(self, iteration: int, generator: torch.Generator) -> Pair:
        if self._batches is None:
            # A resumed run goes on with the batch that comes next.
            assert self._data is not None
            self._batches = endless(self._data, self._loop.classes > 0, iteration)
        clean, labels = next(self._batches)
        clean = clean.to(self._bound_model.device, torch.float32)
        labels = None if labels is None else labels.to(clean.device)
        return data_pair(self._bound_model, self._solver, self._rows, clean, labels, generator)
