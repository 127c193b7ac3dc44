"""Settles how every branch's products and attention are computed, on the branches' own buffers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from l2c_rt.backends.cuda.cublas_lt import workspace_on
from l2c_rt.backends.cuda.tuning.runs import run_attention, run_linear, run_split
from l2c_rt.backends.cuda.tuning.tuner import Tuner
from l2c_rt.backends.tuning.cache_file import Choice, Problem
from l2c_rt.backends.tuning.problems import (
    AttentionConfig,
    AttentionProblem,
    LinearConfig,
    LinearProblem,
)
from l2c_rt.kernels import reference

Weights = tuple[Tensor, Tensor | None]
"""A linear's weight and bias."""


@dataclass(frozen=True)
class LinearTask:
    """A linear problem with the weights of all branches that have it."""

    problem: LinearProblem
    x: Tensor
    weights: list[Weights]
    out: Tensor

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What is filled with numbers before the task is settled."""
        return (self.x,)

    def settle(self, tuner: Tuner, kernels: Any) -> LinearConfig:
        expected = reference.linear(self.x, *self.weights[0], self.problem.gelu)
        return tuner.linear(
            self.problem,
            lambda choice: self.timed(kernels, choice),
            lambda choice: agrees(self.call(kernels, choice), self.out, expected),
        )

    def timed(self, kernels: Any, choice: LinearConfig) -> Callable[[], None]:
        """A call with what reads its result: partial sums cost that kernel more reads, but no
        launch that the others are spared."""
        call = self.call(kernels, choice)
        if not self.problem.splittable or choice.kind == "split":
            return call
        read = torch.empty_like(self.out)

        def with_reader() -> None:
            call()
            torch.neg(self.out, out=read)

        return with_reader

    def call(self, kernels: Any, choice: LinearConfig) -> Callable[[], None]:
        """A call of the choice; each time with the next branch's weight, since in a run no weight
        is found in the L2 cache either."""
        x, out, gelu = self.x, self.out, self.problem.gelu
        turn = itertools.cycle(self.weights)
        if choice.kind != "split":
            room = workspace_on(x.device) if choice.kind == "lt" else None
            return lambda: run_linear(choice, kernels, x, *next(turn), gelu, out, workspace=room)
        sizes = (choice.splits, self.problem.rows, self.problem.columns)
        partial_sums = x.new_empty(sizes, dtype=torch.float32)

        def split() -> None:
            # The sum stands for the kernel that adds the parts as it reads them.
            run_split(choice, kernels, x, *next(turn), partial_sums)
            kernels.split_sum(partial_sums, out=out)

        return split


@dataclass(frozen=True)
class AttentionTask:
    """An attention problem; what it reads was just written, also in a run."""

    problem: AttentionProblem
    x: Tensor
    scale: float | None
    out: Tensor

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (self.x,)

    def settle(self, tuner: Tuner, kernels: Any) -> AttentionConfig:
        expected = reference.attention(self.x, self.problem.heads, self.scale)
        return tuner.attention(
            self.problem,
            lambda choice: self.call(kernels, choice),
            lambda choice: self._agrees(kernels, choice, expected),
        )

    def call(self, kernels: Any, choice: AttentionConfig) -> Callable[[], None]:
        heads, scale = self.problem.heads, self.scale

        def mix() -> None:
            run_attention(choice, kernels, self.x, heads, scale, self.out)

        return mix

    def _agrees(self, kernels: Any, choice: AttentionConfig, expected: Tensor) -> bool:
        self.out.fill_(float("nan"))
        heads, scale = self.problem.heads, self.scale
        return _close(run_attention(choice, kernels, self.x, heads, scale, self.out), expected)


class Task(Protocol):
    """A problem, and what a choice for it is measured on."""

    @property
    def problem(self) -> Problem: ...
    @property
    def inputs(self) -> tuple[Tensor, ...]: ...
    def settle(self, tuner: Tuner, kernels: Any) -> Choice: ...
    def call(self, kernels: Any, choice: Any) -> Callable[[], None]: ...


def settle(tasks: Iterable[Task], tuner: Tuner, kernels: Any) -> dict[Any, Any]:
    """The choice of every task's problem.

    All candidates of ours that are to be measured are compiled first, side by side.
    """
    tasks = list(tasks)
    tuner.compile_ahead([
        task.call(kernels, choice)
        for task in tasks
        for choice in tuner.to_measure(task.problem)
        if choice.kind != "lt"  # Nothing to compile, and a workspace for each would be gigabytes.
    ])  # fmt: skip
    settled: dict[Any, Any] = {}
    for task in tasks:
        # Zeros would make every candidate agree, and arithmetic cheaper than it is; and what is in
        # the buffer may be the NaN of a candidate that has failed.
        for number, tensor in enumerate(task.inputs):
            tensor.normal_(generator=torch.Generator(tensor.device).manual_seed(number))
        settled[task.problem] = task.settle(tuner, kernels)
    return settled


def agrees(call: Callable[[], None], out: Tensor, expected: Tensor) -> bool:
    """Whether a choice computes what PyTorch does, up to rounding."""
    out.fill_(float("nan"))
    call()
    return _close(out, expected)


def _close(out: Tensor, expected: Tensor) -> bool:
    error = (out.float() - expected.float()).norm() / expected.float().norm().clamp_min(1e-20)
    return bool(error < 2e-2)
