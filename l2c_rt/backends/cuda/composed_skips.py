"""Neighbouring long skips of evaluations in the delta form, as sums of products of static weights.

The first two products of a sum are one kernel, by the implementation that was chosen for its shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from l2c_rt.backends.backend import WrongResultError
from l2c_rt.backends.composed_linears import Weight, products
from l2c_rt.backends.cuda.branch_tuning import LinearTask, Task, settle
from l2c_rt.backends.cuda.buffers import Buffers
from l2c_rt.backends.cuda.checking.compared_kernels import TOLERANCES, difference
from l2c_rt.backends.cuda.composed_weights import ComposedWeights, Group
from l2c_rt.backends.cuda.linears import Linears, problem_of
from l2c_rt.backends.cuda.skip_linears import SkipTask
from l2c_rt.backends.cuda.tuning.runs import run_skip_linear
from l2c_rt.backends.cuda.tuning.tuner import Tuner
from l2c_rt.backends.tuning.problems import LinearProblem
from l2c_rt.plan.delta_ops import LinearParts
from l2c_rt.plan.lowering import Composed, Launch, LoweredStep


class ComposedSkips:
    """Runs them from stream to stream; `named` are the long skips' linears by their nodes."""

    def __init__(
        self,
        named: Mapping[str, nn.Linear],
        steps: Sequence[LoweredStep],
        buffers: Buffers,
        kernels: Any,
        linears: Linears,
    ) -> None:
        self._named, self._buffers = named, buffers
        self._kernels, self._linears = kernels, linears
        launches = (launch for step in steps for launch in step)
        ops = {launch.op: None for launch in launches if isinstance(launch, Composed)}
        self._groups = {op: _grouped(products(op)) for op in ops}
        groups = (group for groups in self._groups.values() for group in groups)
        self.weights = ComposedWeights(groups, named, kernels)

    def tune(self, tuner: Tuner) -> None:
        """Settle every choice, measured on the streams, which hold nothing yet."""
        if not self._groups:
            return
        self.weights.refresh()
        tasks: dict[LinearProblem, Task] = {}
        for group, *_ in self._groups.values():
            x, skip, *_ = self._buffers.streams.values()
            problem, out = self._problem(group), torch.empty_like(x)
            new = (
                LinearTask(problem, x, [], out) if len(group) == 1
                else SkipTask(problem, x, skip, [], out)
            )  # fmt: skip
            task = tasks.setdefault(problem, new)
            assert isinstance(task, LinearTask | SkipTask)
            task.weights.append((self.weights.of(group), None))
        for problem, choice in settle(tasks.values(), tuner, self._kernels).items():
            self._linears.choose(problem, choice, self._buffers.h.device)

    def run(self, launch: Composed) -> None:
        """Launch one sum."""
        stream = self._buffers.stream
        deltas = [stream(source) for source in launch.sources]
        self._sum(launch.op, deltas, stream(launch.target))

    def more_kernels(self, launch: Launch) -> int:
        """Kernels of a launch beside those that its plan counts."""
        if not isinstance(launch, Composed):
            return 0
        problem = self._problem(self._groups[launch.op][0])
        return int(self._linears.choices[problem].kind == "halves")

    def check(self) -> None:
        """Compare every sum with the long skips one by one, on deltas that tell them apart.

        Raises WrongResultError with the long skips and the difference.
        """
        like = self._buffers.h
        generator = torch.Generator(like.device).manual_seed(1)
        for op in self._groups:
            deltas = [torch.empty_like(like).normal_(generator=generator) for _ in op.deltas]
            out = torch.empty_like(like)
            self._sum(op, deltas, out)
            share = difference(out, self._one_by_one(op, deltas)) / TOLERANCES[like.dtype]
            if not share <= 1.0:
                raise WrongResultError(
                    f"{op.nodes[0]} .. {op.nodes[-1]} as one sum of products compute something "
                    f"else than one by one on this machine: a {list(like.shape)} "
                    f"{str(like.dtype)[6:]} tensor differs by {share:.3g} times what rounding may "
                    "do"
                )

    def _sum(self, op: LinearParts, deltas: Sequence[Tensor], out: Tensor) -> None:
        first, *others = self._groups[op]
        weight = self.weights.of(first)
        if len(first) == 1:
            self._linears.run(deltas[0], weight, None, None, out)
        else:
            choice = self._linears.choices[self._problem(first)]
            run_skip_linear(choice, self._kernels, deltas[0], deltas[1], weight, None, out)
        for delta, group in zip(deltas[len(first) :], others, strict=True):
            out.view(-1, out.shape[-1]).addmm_(
                delta.view(-1, delta.shape[-1]), self.weights.of(group).t()
            )

    def _one_by_one(self, op: LinearParts, deltas: Sequence[Tensor]) -> Tensor:
        kept = {delta: x.double() for delta, x in zip(op.deltas, deltas, strict=True)}
        x = kept[op.source]
        for node, skip in zip(op.nodes, op.skips, strict=True):
            weight = self._named[node].weight.detach().double()
            x = torch.cat([x, kept[skip]], -1) @ weight.t()
        return x

    def _problem(self, group: Group) -> LinearProblem:
        x = next(iter(self._buffers.streams.values()))
        return problem_of(x, self.weights.of(group), None, None, sources=len(group))


def _grouped(weights: Sequence[Weight]) -> tuple[Group, ...]:
    """The first two together, every other alone."""
    return (tuple(weights[:2]), *((weight,) for weight in weights[2:]))
