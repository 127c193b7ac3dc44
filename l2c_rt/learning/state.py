"""What a learning run knows: scores, optimiser, lambda, and one step of L2C's objective."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.adapters.branch_forward import mixed_pass
from l2c_rt.families import Family, family_named
from l2c_rt.learning.options import LearnOptions
from l2c_rt.learning.pairs import Pair
from l2c_rt.learning.penalty import Prices
from l2c_rt.learning.workers import Workers

PATH_CLAMP = 5.0
"""The bound on the logits on a path of lambda, where every family needs one."""

PATH_START = 3.0
PATH_SPREAD = 0.1
PATH_EPS = 1e-15
"""AdamW's, on a path: slopes there start far below the usual 1e-8, which would hold them back."""


@dataclass(slots=True)
class LearnState:
    """`rows` are the rows of the router that are trained, `theta` their logits, one leaf [K] each.

    On a path of lambda, `prices` leads it and `sum_of_scores` [len(rows), K] is over iterations.
    `error` is the last iteration's, `error_at_cut` the last one before the wanted share of reuse.
    `snapshots` are (iteration, scores) for the picture.
    """

    rows: tuple[int, ...]
    theta: list[Tensor]
    optimizer: torch.optim.AdamW
    prices: Prices
    sum_of_scores: Tensor
    lam: float = 0.0
    error: float = 0.0
    error_at_cut: float = 0.0
    iteration: int = 0
    seconds: float = 0.0
    snapshots: list[tuple[int, Tensor]] = field(default_factory=list)

    @property
    def logits(self) -> Tensor:
        """[len(rows), K], a copy."""
        return torch.stack([row.detach() for row in self.theta])

    @property
    def penalty(self) -> float:
        """lambda times the sum of a row's scores, mean over rows."""
        return self.lam * float(self.logits.sigmoid().sum(dim=1).mean())

    @property
    def reused_share(self) -> float:
        """Share of the scores below one half."""
        return float((self.logits < 0).float().mean())

    def learned(self, options: LearnOptions) -> Tensor:
        """The router's logits as far as they are known: on a path, of the mean scores."""
        if not options.path or self.iteration == 0:
            return self.logits
        return torch.logit(self.sum_of_scores / self.iteration).float()


def start(rows: Iterable[int], branches: int, options: LearnOptions) -> LearnState:
    """Logits from N(0, 1) by the seed, as published; on a path, near where all is computed."""
    rows = tuple(rows)
    generator = torch.Generator().manual_seed(draw_seed(options.seed))
    drawn = [torch.randn(branches, generator=generator) for _ in rows]
    if options.path:
        drawn = [PATH_START + PATH_SPREAD * row for row in drawn]
    theta = [row.requires_grad_() for row in drawn]
    eps = PATH_EPS if options.path else 1e-8
    optimizer = torch.optim.AdamW(theta, lr=options.lr, weight_decay=0.0, eps=eps)
    prices = Prices.unknown(len(rows), branches)
    total = torch.zeros(len(rows), branches, dtype=torch.float64)
    return LearnState(rows, theta, optimizer, prices, total, lam=options.lam or 0.0)


def draw_seed(seed: int, iteration: int = -1, rank: int = 0) -> int:
    """The generator's seed of one iteration on one process; -1 is for the start.

    Every iteration draws from a generator of its own, so that a resumed run needs no saved
    generator state to draw what the uninterrupted one would have.
    """
    words = np.random.SeedSequence([seed, iteration + 1, rank]).generate_state(2)
    return int(words[0]) << 31 ^ int(words[1])


@dataclass(slots=True)
class Sums:
    """Over the pairs of one iteration: d error / d score [rows, K], pairs per row, error."""

    slope: Tensor
    pairs: Tensor
    error: Tensor

    def over(self, workers: Workers) -> Sums:
        """Added up over all processes."""
        count = self.slope.numel()
        packed = torch.cat([self.slope.flatten(), self.pairs, self.error.reshape(1)])
        packed = workers.add(packed)
        return Sums(packed[:count].view_as(self.slope), packed[count:-1], packed[-1])


def gather(
    bound_model: BoundModel, pairs: Iterable[Pair], state: LearnState, options: LearnOptions
) -> Sums:
    """Student passes over the pairs, with the error's slope in every score."""
    family = family_named(bound_model.program.family)
    device = next(bound_model.model.parameters()).device
    scores = state.logits.sigmoid()
    if options.straight_through is not None:
        scores = (scores > options.straight_through).float()
    scores = scores.to(device)
    slope, error = torch.zeros_like(scores), torch.zeros((), device=device)
    pairs_of_row = torch.zeros(len(state.rows))
    for pair in pairs:
        i = state.rows.index(pair.row)
        with torch.enable_grad():
            weights = scores[i].clone().requires_grad_()
            student = pair.student(partial(mixed_pass, bound_model, pair.previous_outputs, weights))
            loss = error_of(family, student, pair.teacher)
            slope[i] += torch.autograd.grad(loss, weights)[0]
        error += loss.detach()
        pairs_of_row[i] += 1
    return Sums(slope.cpu().double(), pairs_of_row.double(), error.cpu().double())


def error_of(family: Family, student: Tensor, teacher: Tensor) -> Tensor:
    """The family's published loss: what `Family.loss` names, of the squared differences."""
    squares = (student.float() - teacher.float()).square()
    return squares.mean() if family.loss == "mean" else squares.sum() / len(squares)


def update(
    state: LearnState, sums: Sums, options: LearnOptions, family: Family, workers: Workers
) -> None:
    """One AdamW step on the rows that were met, clamped where the family or a path asks for it.

    The slope of error + lambda * sum of scores in a logit is (slope + lambda) s (1 - s): soft, and
    straight through the binarised scores alike.  Averaged over processes as data-parallel training
    does, a process without a pair of that row counting as zero.
    """
    _take_error(state, sums, options)
    scores = state.logits.double().sigmoid()
    if options.path:
        _follow(state, sums, options, scores)
    for i, theta in enumerate(state.theta):
        theta.grad = None
        if sums.pairs[i] > 0:
            slope = (sums.slope[i] + state.lam * sums.pairs[i]) / workers.size
            theta.grad = (slope * scores[i] * (1.0 - scores[i])).float()
    state.optimizer.step()
    clamp = PATH_CLAMP if options.path else family.clamp
    if clamp is not None:
        for theta in state.theta:
            theta.detach().clamp_(-clamp, clamp)
    state.iteration += 1


def _take_error(state: LearnState, sums: Sums, options: LearnOptions) -> None:
    if not bool(torch.isfinite(sums.error)):
        raise ValueError(
            f"learn: the error is {float(sums.error)} at iteration {state.iteration}; the model "
            "gives numbers that are not finite, check its weights and dtype"
        )
    state.error = float(sums.error) / float(sums.pairs.sum())
    if not options.path or options.share_at(state.iteration) <= (options.reuse or 0.0):
        state.error_at_cut = state.error


def _follow(state: LearnState, sums: Sums, options: LearnOptions, scores: Tensor) -> None:
    """Move lambda along its path by what this iteration has shown."""
    met = sums.pairs > 0
    fall = -sums.slope / sums.pairs.clamp(min=1.0)[:, None]
    state.prices.see(met, fall, scores)
    state.lam = state.prices.penalty(options.share_at(state.iteration))
    state.sum_of_scores += scores
