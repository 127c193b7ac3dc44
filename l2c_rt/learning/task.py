"""One learning run, described: model, rules, rows, and where its pairs come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.families import RouterRules
from l2c_rt.learning.options import LearnOptions
from l2c_rt.learning.state import LearnState, Sums


class PairSource(Protocol):
    """What an iteration is trained on.

    `kind` is a word for the router's record, `sampler` the published one or ""; `timesteps` are
    those of a loop that is not published; `costs` [K] weigh the branches in the penalty.
    """

    kind: str
    sampler: str
    timesteps: tuple[float, ...] | None
    costs: Tensor

    def gather(self, state: LearnState, rank: int) -> Sums:
        """Student passes over the pairs of the next iteration on one process."""
        ...


@dataclass(frozen=True, slots=True)
class Task:
    """What is learned on what: fixed for the whole run.  `rows` is {evaluation: router row}."""

    bound_model: BoundModel
    rules: RouterRules
    options: LearnOptions
    rows: dict[int, int]
    source: PairSource
    fingerprint: str

    @property
    def device(self) -> torch.device:
        return self.bound_model.device
