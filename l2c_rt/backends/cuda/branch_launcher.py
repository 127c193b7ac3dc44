"""The linears and attention of a branch, each by the implementation that was chosen for its shape.

A branch's last product goes straight into its slot, or, where it is cut along its inner dimension,
into float32 partial sums that the next sum adds up on its way.  So it is, as one sum in its own
dtype, where every sample has its slots elsewhere.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from l2c_rt.adapters.bound_model import FusableAttention, FusableBranch, FusableMlp, FusableModel
from l2c_rt.backends.cuda.branch_tuning import AttentionTask, LinearTask, Task, Weights, settle
from l2c_rt.backends.cuda.buffers import Buffers
from l2c_rt.backends.cuda.linears import (
    Linears,
    dtype_name,
    narrowed,
    problem_of,
    weight_and_bias,
)
from l2c_rt.backends.cuda.tuning.runs import run_attention, run_split
from l2c_rt.backends.cuda.tuning.tuner import Tuner
from l2c_rt.backends.cuda.weight_copies import WeightCopies
from l2c_rt.backends.tuning.problems import AttentionConfig, AttentionProblem, LinearProblem
from l2c_rt.kernels.operands import Rows
from l2c_rt.plan.lowering import Launch, Terms

Tasks = dict[LinearProblem | AttentionProblem, Task]


class BranchOperands(NamedTuple):
    """What launching the branches of a model takes."""

    fusable: FusableModel
    buffers: Buffers
    weights: WeightCopies
    kernels: Any
    tuner: Tuner
    linears: Linears


class BranchLauncher:
    """Runs branches from `buffers.h` to slots."""

    def __init__(self, operands: BranchOperands) -> None:
        self._fusable, self._buffers, self._weights = operands[:3]
        self._kernels, self._tuner, self._linears = operands[3:]
        self._attentions: dict[AttentionProblem, AttentionConfig] = {}
        self._splits: dict[int, Tensor] = {}
        self._pending: dict[int, Tensor] = {}
        # Where the samples of a slot do not lie together, no product can write there.
        buffers = self._buffers
        b, t, d = buffers.h.shape
        self._whole = None if buffers.places is None else buffers.h.new_empty(1, b * t, d)

    def tune(self) -> None:
        """Settle every choice; measures on the branches' own buffers where it is not known yet."""
        tasks: Tasks = {}
        for name, part in self._fusable.branches.items():
            if isinstance(part.inner, FusableAttention):
                self._add_attention(tasks, name, part.inner)
            else:
                self._add_mlp(tasks, part.inner)
        settled = settle(tasks.values(), self._tuner, self._kernels)
        for problem, choice in settled.items():
            if isinstance(problem, AttentionProblem):
                self._attentions[problem] = choice
            else:
                self._linears.choose(problem, choice, self._buffers.h.device)
                if choice.kind == "split":
                    # Taken now: a buffer allocated in a capture would belong to one graph.
                    self._partial_sums(choice.splits)

    def begin(self) -> None:
        """Forget partial sums that a step which failed midway has left."""
        self._pending.clear()

    @property
    def input(self) -> Rows:
        """Where a sum leaves the input of the branch that runs next."""
        return self._buffers.h

    def more_kernels(self, launch: Launch) -> int:
        """Kernels of a launch beside those that its plan counts."""
        return 0

    def take_embedded(self) -> None:
        """The input of the first branch is in `buffers.h`: take it from there."""

    def run(self, branch: str, slot: int) -> None:
        """Launch a branch."""
        part: FusableBranch = self._fusable.branches[branch]
        if isinstance(part.inner, FusableAttention):
            self._attention(branch, part.inner, slot)
        else:
            self._mlp(branch, part.inner, slot)

    def partial_sums_of(self, terms: Terms) -> Tensor | None:
        """The partial sums of a lone term, for a kernel that sums them itself."""
        if len(terms) != 1 or set(self._pending) != {terms[0].slot}:
            return None
        return self._pending.pop(terms[0].slot)

    def output_of(
        self, slot: int, partial_sums: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The output of a lone term, its partial sums and its places, as a kernel takes them."""
        buffers = self._buffers
        if partial_sums is not None and partial_sums is self._whole and slot == buffers.scratch:
            # Nobody reads it later: it need not be put in its place.
            return partial_sums.view_as(buffers.h), None, None
        return buffers.memory.slots[slot], partial_sums, buffers.places

    def settle(self) -> None:
        """Sum what no other kernel will."""
        for slot, partial_sums in self._pending.items():
            out, places = self._buffers.memory.slots[slot], self._buffers.places
            self._kernels.split_sum(partial_sums, out=out, places=places)
        self._pending.clear()

    @property
    def choices(self) -> dict[Any, Any]:
        """Every problem with what was chosen for it."""
        return {**self._linears.choices, **self._attentions}

    def _attention(self, branch: str, inner: FusableAttention, slot: int) -> None:
        b = self._buffers
        weight, bias = self._weights.qkv(branch, inner)
        qkv, mixed = self._attention_buffers(inner)
        self._linears.run(b.h, weight, bias, None, qkv)
        self._into_slot(self._attend(inner, qkv, mixed), inner.proj, slot)

    def _attend(self, inner: FusableAttention, qkv: Tensor, mixed: Tensor) -> Tensor:
        choice = self._attentions[self._attention_problem(inner)]
        return run_attention(choice, self._kernels, qkv, inner.heads, inner.scale, mixed)

    def _mlp(self, branch: str, inner: FusableMlp, slot: int) -> None:
        hidden = self._hidden(inner)
        weight, bias = weight_and_bias(inner.fc1)
        self._linears.run(self._buffers.h, weight, bias, inner.gelu, hidden)
        self._into_slot(hidden, inner.fc2, slot)

    def _attention_buffers(self, inner: FusableAttention) -> tuple[Tensor, Tensor]:
        b, width = self._buffers, inner.proj.in_features
        return narrowed(b.qkv, 3 * width), narrowed(b.mixed, width)

    def _hidden(self, inner: FusableMlp) -> Tensor:
        return narrowed(self._buffers.hidden, inner.fc1.out_features)

    def _into_slot(self, x: Tensor, linear: nn.Linear, slot: int) -> None:
        weight, bias = weight_and_bias(linear)
        choice = self._linears.choices[problem_of(x, weight, bias, None, splittable=True)]
        if choice.kind != "split":
            self._linears.run(x, weight, bias, None, self._output(slot), choice)
            return
        self.settle()
        partial_sums = self._partial_sums(choice.splits)
        run_split(choice, self._kernels, x, weight, bias, partial_sums)
        self._pending[slot] = partial_sums

    def _output(self, slot: int) -> Tensor:
        """Where a branch's last product is to write: its slot, or what is put there later."""
        if self._whole is None:
            return self._buffers.memory.slots[slot]
        self.settle()
        self._pending[slot] = self._whole
        return self._whole.view_as(self._buffers.h)

    def _partial_sums(self, splits: int) -> Tensor:
        if splits not in self._splits:
            b, t, d = self._buffers.h.shape
            like = self._buffers.h
            self._splits[splits] = like.new_empty(splits, b * t, d, dtype=torch.float32)
        return self._splits[splits]

    def _add_attention(self, tasks: Tasks, name: str, inner: FusableAttention) -> None:
        qkv, mixed = self._attention_buffers(inner)
        self._add_linear(tasks, self._buffers.h, self._weights.qkv(name, inner), None, qkv)
        problem = self._attention_problem(inner)
        tasks.setdefault(problem, AttentionTask(problem, qkv, inner.scale, mixed))
        self._add_into_slot(tasks, mixed, inner.proj)

    def _add_mlp(self, tasks: Tasks, inner: FusableMlp) -> None:
        hidden = self._hidden(inner)
        weights = weight_and_bias(inner.fc1)
        self._add_linear(tasks, self._buffers.h, weights, inner.gelu, hidden)
        self._add_into_slot(tasks, hidden, inner.fc2)

    def _add_into_slot(self, tasks: Tasks, x: Tensor, linear: nn.Linear) -> None:
        scratch = self._buffers.memory.slots[-1]
        out = scratch if self._whole is None else self._whole.view_as(self._buffers.h)
        self._add_linear(tasks, x, weight_and_bias(linear), None, out, splittable=True)

    def _add_linear(
        self,
        tasks: Tasks,
        x: Tensor,
        weights: Weights,
        gelu: str | None,
        out: Tensor,
        *,
        splittable: bool = False,
    ) -> None:
        problem = problem_of(x, *weights, gelu, splittable=splittable)
        task = tasks.setdefault(problem, LinearTask(problem, x, [], out))
        assert isinstance(task, LinearTask)
        task.weights.append(weights)

    def _attention_problem(self, inner: FusableAttention) -> AttentionProblem:
        b, t, _ = self._buffers.h.shape
        head = inner.proj.in_features // inner.heads
        return AttentionProblem(b, t, inner.heads, head, dtype_name(self._buffers.h))
