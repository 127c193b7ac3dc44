"""What stands for a reused branch, learned together with the gates.

The value in the mixture is a sum of outputs at the evaluations that compute everything, the newest
first, so that it holds at whatever share the router is cut, and no error feeds on itself.
Coefficients start at least squares on full trajectories; steps are in units of what plain reuse
misses, for each difference of the outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from l2c_rt.regression.grams import gram_of
from l2c_rt.regression.least_squares import Array, differences, fitted

FOLDS = 4
"""Full runs that the start is fitted on, each held out of a fit of the others."""

RATE = 0.02

Outputs = Sequence[Tensor]
"""Of every branch at one evaluation."""


class StartSums:
    """The sums of full trajectories from which coefficients start; H is the history."""

    def __init__(self, rows: Sequence[int], branches: int, history: int) -> None:
        self._rows, self._history = list(rows), history
        self.grams = np.zeros((len(rows), branches, FOLDS, history + 1, history + 1))

    def see(self, row: int, fold: int, before: Sequence[Outputs], now: Outputs) -> None:
        """What a row's evaluation computes, and what was computed before, newest first."""
        index = np.ix_(*[[*range(len(before)), self._history]] * 2)
        for k, value in enumerate(now):
            gram = gram_of([[outputs[k]] for outputs in before], [value])
            self.grams[self._rows.index(row), k, fold][index] += gram

    def coefficients(self, counts: Sequence[int]) -> Coefficients:
        """Where learning starts; `counts` are the outputs that each row is predicted from."""
        rows, branches = self.grams.shape[:2]
        start = np.zeros((rows, branches, self._history))
        scale = np.zeros_like(start)
        for i, n in enumerate(counts):
            index = [*range(n), self._history]
            for k in range(branches):
                grams = self.grams[i, k][:, index][:, :, index]
                start[i, k, :n] = _weights(fitted(grams), n)
                squares = np.diag(grams.sum(axis=0))
                scale[i, k, :n] = np.sqrt(squares[-1] / np.maximum(squares[:-1], 1e-30))
        return Coefficients.begun(torch.from_numpy(start), torch.from_numpy(scale), counts)


@dataclass(slots=True)
class Coefficients:
    """Weights of the differences: start + scale * theta.

    Shapes: start, scale [rows, K, H] float64; theta, one leaf [K, H] float32 per row; counts, how
    many of H each row has.
    """

    start: Tensor
    scale: Tensor
    theta: list[Tensor]
    counts: tuple[int, ...]
    optimizer: torch.optim.Adam

    @staticmethod
    def begun(start: Tensor, scale: Tensor, counts: Sequence[int]) -> Coefficients:
        """Nothing learned yet."""
        theta = [torch.zeros(start.shape[1:]).requires_grad_() for _ in counts]
        optimizer = torch.optim.Adam(theta, lr=RATE, eps=1e-15)
        return Coefficients(start, scale, theta, tuple(counts), optimizer)

    def row(self, i: int, theta: Tensor) -> Tensor:
        """[K, n] coefficients of the outputs of a row, newest first, for these thetas [K, H]."""
        n = self.counts[i]
        weights = self.start[i].to(theta) + self.scale[i].to(theta) * theta
        sums = weights[:, :n] @ torch.from_numpy(differences(n)).to(theta)
        return sums + torch.eye(n)[:1].to(theta)

    def table(self) -> Tensor:
        """[rows, K, H] float32, zeros where a row has fewer."""
        table = torch.zeros(self.start.shape)
        for i, theta in enumerate(self.theta):
            table[i, :, : self.counts[i]] = self.row(i, theta.detach())
        return table

    def step(self, slope: Tensor, met: Tensor) -> None:
        """One step of Adam on the rows that were met.  Shapes: slope [rows, K, H], met [rows]."""
        for i, theta in enumerate(self.theta):
            theta.grad = slope[i].float() if met[i] else None
        self.optimizer.step()


def predicted(coefficients: Tensor, before: Sequence[Outputs]) -> list[Tensor]:
    """What stands for every branch, differentiable in the coefficients [K, n]."""
    return [
        sum((c * outputs[k] for c, outputs in zip(row[1:], before[1:], strict=True)),
            row[0] * before[0][k])
        for k, row in enumerate(coefficients.to(before[0][0].dtype).unbind())
    ]  # fmt: skip


def by_lane(outputs: Outputs, lanes: int) -> list[Tensor]:
    """Every lane of a branch as a branch of its own, one after the other; the lanes of a batch are
    its equal parts.  Shapes: [K] of [B, ...] -> [K * lanes] of [B / lanes, ...]."""
    return [part for output in outputs for part in output.chunk(lanes)]


def of_batch(parts: Outputs, lanes: int) -> list[Tensor]:
    """What `by_lane` takes apart."""
    return [torch.cat(list(parts[i : i + lanes])) for i in range(0, len(parts), lanes)]


def of_router(
    table: Tensor, rows: Sequence[int], count: int, lanes: int
) -> npt.NDArray[np.float32]:
    """Learned coefficients as a router of `count` rows has them, zeros where none is learned.

    Shapes: table [rows, K * lanes, H] -> [count, K, H], or [lanes, count, K, H] of several.
    """
    split = table.view(len(table), -1, lanes, table.shape[2]).permute(2, 0, 1, 3).numpy()
    whole = np.zeros((lanes, count, *split.shape[2:]), np.float32)
    whole[:, list(rows)] = split
    return whole if lanes > 1 else whole[0]


def full_before(evaluation: int, rows: Mapping[int, int], history: int) -> list[int]:
    """The last evaluations before this one that compute everything, newest first."""
    return [e for e in range(evaluation - 1, -1, -1) if e not in rows][:history]


def _weights(coefficients: Array | None, count: int) -> Array:
    """Of the differences, less plain reuse."""
    if coefficients is None:
        return np.zeros(count)
    change = coefficients - np.eye(count)[0]
    return np.asarray(np.linalg.solve(differences(count).T, change))
