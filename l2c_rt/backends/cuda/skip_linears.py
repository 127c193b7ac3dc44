"""The linears of long skips, each by the implementation that was chosen for its shape."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from l2c_rt.backends.cuda.branch_tuning import Weights, agrees, settle
from l2c_rt.backends.cuda.buffers import Buffers
from l2c_rt.backends.cuda.linears import Linears, problem_of, weight_and_bias
from l2c_rt.backends.cuda.tuning.runs import run_skip_linear
from l2c_rt.backends.cuda.tuning.tuner import Tuner
from l2c_rt.backends.tuning.problems import LinearConfig, LinearProblem
from l2c_rt.kernels import reference
from l2c_rt.plan.lowering import Launch, SkipLinear


@dataclass(frozen=True)
class SkipTask:
    """A linear over two sources, with the weights of all long skips that have its shape."""

    problem: LinearProblem
    x: Tensor
    skip: Tensor
    weights: list[Weights]
    out: Tensor

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return self.x, self.skip

    def settle(self, tuner: Tuner, kernels: Any) -> LinearConfig:
        expected = reference.skip_linear(self.x, self.skip, *self.weights[0])
        return tuner.linear(
            self.problem,
            lambda choice: self.call(kernels, choice),
            lambda choice: agrees(self.call(kernels, choice), self.out, expected),
        )

    def call(self, kernels: Any, choice: LinearConfig) -> Callable[[], None]:
        """A call of the choice, each time with the next long skip's weight."""
        turn = itertools.cycle(self.weights)
        return lambda: run_skip_linear(choice, kernels, self.x, self.skip, *next(turn), self.out)


class SkipLinears:
    """Runs them from stream to stream; `named` are the linears by their nodes."""

    def __init__(
        self, named: Mapping[str, nn.Linear], buffers: Buffers, kernels: Any, linears: Linears
    ) -> None:
        self._named, self._buffers = named, buffers
        self._kernels, self._linears = kernels, linears

    def tune(self, tuner: Tuner) -> None:
        """Settle every choice, measured on the streams, which hold nothing yet."""
        tasks: dict[LinearProblem, SkipTask] = {}
        for linear in self._named.values():
            x, skip, *_ = self._buffers.streams.values()
            weights = weight_and_bias(linear)
            problem = self._problem(linear)
            new = SkipTask(problem, x, skip, [], torch.empty_like(x))
            tasks.setdefault(problem, new).weights.append(weights)
        if not tasks:
            return
        for problem, choice in settle(tasks.values(), tuner, self._kernels).items():
            self._linears.choose(problem, choice, self._buffers.h.device)

    def run(self, launch: SkipLinear) -> None:
        """Launch one."""
        linear, stream = self._named[launch.node], self._buffers.stream
        run_skip_linear(
            self._choice(launch), self._kernels, stream(launch.source), stream(launch.skip),
            *weight_and_bias(linear), stream(launch.target),
        )  # fmt: skip

    def more_kernels(self, launch: Launch) -> int:
        """Kernels of a launch beside the one that its plan counts."""
        return int(isinstance(launch, SkipLinear) and self._choice(launch).kind == "halves")

    def _choice(self, launch: SkipLinear) -> LinearConfig:
        return self._linears.choices[self._problem(self._named[launch.node])]

    def _problem(self, linear: nn.Linear) -> LinearProblem:
        x = next(iter(self._buffers.streams.values()))
        return problem_of(x, *weight_and_bias(linear), None, sources=2)
