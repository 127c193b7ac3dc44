"""One learning run, described: model, loop, rows, and where its pairs come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from l2c_rt.adapters.bound_model import BoundModel, PublishedLoop
from l2c_rt.adapters.model_fingerprint import model_fingerprint
from l2c_rt.families import Family, family_named
from l2c_rt.learning.batches import Batch
from l2c_rt.learning.options import LearnOptions
from l2c_rt.learning.pairs import Pair, data_pair, trajectory_pairs
from l2c_rt.learning.state import draw_seed
from l2c_rt.sampling.solvers import PublishedSolver, solver_for


@dataclass(frozen=True, slots=True)
class Task:
    """What is learned on what: fixed for the whole run.  `rows` is {evaluation: router row}."""

    bound_model: BoundModel
    loop: PublishedLoop
    family: Family
    options: LearnOptions
    rows: dict[int, int]
    solver: PublishedSolver
    device: torch.device
    fingerprint: str

    @staticmethod
    def of(bound_model: BoundModel, options: LearnOptions) -> Task:
        assert bound_model.sampling is not None
        family = family_named(bound_model.program.family)
        return Task(
            bound_model=bound_model,
            loop=bound_model.sampling,
            family=family,
            options=options,
            rows=family.valid_rows(options.steps),
            solver=solver_for(bound_model.sampling.sampler, options.steps),
            device=bound_model.device,
            fingerprint=model_fingerprint(bound_model.model),
        )

    def pairs(self, iteration: int, rank: int, batches: Iterator[Batch] | None) -> Iterator[Pair]:
        """The pairs of one iteration on one process."""
        seed = draw_seed(self.options.seed, iteration, rank)
        generator = torch.Generator().manual_seed(seed)
        if batches is not None:
            clean, labels = next(batches)
            clean = clean.to(self.device, torch.float32)
            labels = None if labels is None else labels.to(self.device)
            yield data_pair(self.bound_model, self.solver, self.rows, clean, labels, generator)
            return
        count = self.options.batch_size
        size = (count, self.loop.channels, self.loop.size, self.loop.size)
        noise = torch.randn(size, generator=generator).to(self.device)
        labels = None
        if self.loop.classes:
            labels = torch.randint(self.loop.classes, (count,), generator=generator)
            labels = labels.to(self.device)
        scale = self.options.cfg_scale
        yield from trajectory_pairs(self.bound_model, self.solver, self.rows, noise, labels, scale)
