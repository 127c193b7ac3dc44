"""What a learning run knows: scores, optimiser, lambda, and one step of L2C's objective."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from l2c_rt.families import RouterRules
from l2c_rt.learning.coefficients import Coefficients
from l2c_rt.learning.options import LearnOptions
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
    `snapshots` are (iteration, scores) for the picture; `coefficients` where they are learned.
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
    coefficients: Coefficients | None = None

    @property
    def logits(self) -> Tensor:
        """[len(rows), K], a copy."""
        return torch.stack([row.detach() for row in self.theta])

    @property
    def penalty(self) -> float:
        """lambda times the sum of a row's scores by their branches' costs, mean over rows."""
        scores, costs = self.logits.sigmoid(), self.prices.costs.float()
        return self.lam * float((scores * costs).sum(dim=1).mean())

    @property
    def reused_share(self) -> float:
        """Share of the scores below one half."""
        return float((self.logits < 0).float().mean())

    def learned(self, options: LearnOptions) -> Tensor:
        """The router's logits as far as they are known: on a path, of the mean scores."""
        if not options.path or self.iteration == 0:
            return self.logits
        return torch.logit(self.sum_of_scores / self.iteration).float()


def start(rows: Iterable[int], costs: Tensor, options: LearnOptions) -> LearnState:
    """Logits from N(0, 1) by the seed, as published; on a path, near where all is computed.

    Shapes: costs [K] float64, one per branch, as `Prices` has them.
    """
    branches = len(costs)
    rows = tuple(rows)
    generator = torch.Generator().manual_seed(draw_seed(options.seed))
    drawn = [torch.randn(branches, generator=generator) for _ in rows]
    if options.path:
        drawn = [PATH_START + PATH_SPREAD * row for row in drawn]
    theta = [row.requires_grad_() for row in drawn]
    eps = PATH_EPS if options.path else 1e-8
    optimizer = torch.optim.AdamW(theta, lr=options.lr, weight_decay=0.0, eps=eps)
    prices = Prices.unknown(len(rows), costs)
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
    """Over the pairs of one iteration: d error / d score [rows, K], pairs per row, error, and
    d error / d theta of the coefficients [rows, K, H], H = 0 where there are none."""

    slope: Tensor
    pairs: Tensor
    error: Tensor
    of_coefficients: Tensor = field(default_factory=lambda: torch.zeros(0))

    def over(self, workers: Workers) -> Sums:
        """Added up over all processes."""
        parts = (self.slope, self.pairs, self.error, self.of_coefficients)
        packed = workers.add(torch.cat([part.flatten() for part in parts]))
        sizes = [part.numel() for part in parts]
        split = zip(torch.split(packed, sizes), parts, strict=True)
        return Sums(*(values.view_as(part) for values, part in split))


class Gathering:
    """The student passes of one iteration, and the error's slope in every score."""

    def __init__(
        self, state: LearnState, options: LearnOptions, rules: RouterRules, device: torch.device
    ) -> None:
        scores = state.logits.sigmoid()
        if options.straight_through is not None:
            scores = (scores > options.straight_through).float()
        self._rows, self._rules = state.rows, rules
        self._scores = scores.to(device)
        self._slope = torch.zeros_like(self._scores)
        self._error = torch.zeros((), device=device)
        self._pairs = torch.zeros(len(state.rows))
        self._coefficients = state.coefficients
        empty = torch.zeros(0) if self._coefficients is None else self._coefficients.scale
        self._of_coefficients = torch.zeros(empty.shape, device=device)

    def add(
        self, row: int, teacher: Any, student: Callable[[Tensor], Any], theta: Tensor | None = None
    ) -> None:
        """One pair: what a row's evaluation predicts in full, and by `student(scores [K])`, which
        may depend on `theta`."""
        i = self._rows.index(row)
        with torch.enable_grad():
            weights = self._scores[i].clone().requires_grad_()
            loss = error_of(self._rules, student(weights), teacher)
            leaves = [weights] if theta is None else [weights, theta]
            slopes = torch.autograd.grad(loss, leaves)
            self._slope[i] += slopes[0]
            if theta is not None:
                self._of_coefficients[i] += slopes[1]
        self._error += loss.detach()
        self._pairs[i] += 1

    def add_predicted(
        self, row: int, teacher: Any, student: Callable[[Tensor, Tensor], Any]
    ) -> None:
        """`add`, of `student(scores [K], coefficients [K, n])`."""
        i, known = self._rows.index(row), self._coefficients
        assert known is not None
        theta = known.theta[i].detach().to(self._scores.device).requires_grad_()

        def with_coefficients(scores: Tensor) -> Any:
            return student(scores, known.row(i, theta))

        self.add(row, teacher, with_coefficients, theta)

    def sums(self) -> Sums:
        """Over all pairs so far."""
        totals = (self._slope, self._pairs, self._error, self._of_coefficients)
        return Sums(*(total.cpu().double() for total in totals))


def error_of(rules: RouterRules, student: Any, teacher: Any) -> Tensor:
    """The loss that `RouterRules.loss` names, of the squared differences of a prediction.

    Predictions may be of several tensors, in any containers.
    """
    pairs = zip(tensors_of(student), tensors_of(teacher), strict=True)
    parts = [(a.float() - b.float()).square() for a, b in pairs]
    squares = parts[0] if len(parts) == 1 else torch.cat([part.flatten() for part in parts])
    return squares.mean() if rules.loss == "mean" else squares.sum() / len(parts[0])


def tensors_of(prediction: Any) -> list[Tensor]:
    """The floating-point tensors of a prediction, in order."""
    leaves = tree_leaves(prediction)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def update(
    state: LearnState, sums: Sums, options: LearnOptions, rules: RouterRules, workers: Workers
) -> None:
    """One AdamW step on the rows that were met, clamped where the rules or a path ask for it.

    The slope of error + lambda * sum of cost * score in a logit is (slope + lambda cost) s (1 - s):
    soft, and straight through the binarised scores alike.  Averaged over processes as data-parallel
    training does, a process without a pair of that row counting as zero.
    """
    _take_error(state, sums, options)
    scores = state.logits.double().sigmoid()
    if options.path:
        _follow(state, sums, options, scores)
    for i, theta in enumerate(state.theta):
        theta.grad = None
        if sums.pairs[i] > 0:
            penalty = state.lam * state.prices.costs * sums.pairs[i]
            slope = (sums.slope[i] + penalty) / workers.size
            theta.grad = (slope * scores[i] * (1.0 - scores[i])).float()
    state.optimizer.step()
    # Past the wanted share, mixtures are no longer those that the router is cut for.
    at_cut = not options.path or options.share_at(state.iteration) <= (options.reuse or 0.0)
    if state.coefficients is not None and at_cut:
        state.coefficients.step(sums.of_coefficients / workers.size, sums.pairs > 0)
    clamp = PATH_CLAMP if options.path else rules.clamp
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
