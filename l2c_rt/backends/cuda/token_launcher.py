"""Tokens of a branch: scored, chosen, computed and put in their places, on static buffers.

What a choice reads (scores, stamps, how often was chosen before) stays on the device, and how many
are chosen is the plan's, so that every launch has one shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import FusableAttention, FusableMlp, FusableModel
from l2c_rt.backends.cuda.buffers import Buffers
from l2c_rt.backends.cuda.linears import Linears, narrowed, problem_of, weight_and_bias
from l2c_rt.backends.cuda.modulation_table import Tables, chunk_of
from l2c_rt.backends.token_choice import grid_side
from l2c_rt.kernels._launch import power_of_2
from l2c_rt.kernels.operands import Refreshes
from l2c_rt.plan.lowering import LoweredStep, RunTokens, Score
from l2c_rt.plan.ops import Plan, reuses
from l2c_rt.plan.stream_ops import TokenStates
from l2c_rt.plan.tokens import Refresh


class TokenLauncher:
    """Scores, stamps and the rows of chosen tokens; see `kernels.token_choice` for what they are.

    Shapes: scores float32, stamps int32 [B, T], one of each per state; parts, logs float32
    [B, H, T]; chosen int64 [B, k]; rows, fresh [B, k, D], in the stream's and the model's dtype.
    """

    def __init__(
        self, fusable: FusableModel, buffers: Buffers, tables: Tables, plan: Plan,
        variants: tuple[LoweredStep, ...], kernels: Any, linears: Linears,
    ) -> None:  # fmt: skip
        assert plan.tokens is not None
        self._fusable, self._buffers, self._tables = fusable, buffers, tables
        self._kernels, self._linears = kernels, linears
        self._rule, states = plan.tokens.rule, len(plan.tokens.branches)
        launches = [launch for step in variants for launch in step]
        self._choices = [launch for launch in launches if isinstance(launch, RunTokens)]
        b, t, d = buffers.h.shape
        device, stream = buffers.h.device, next(iter(buffers.streams.values()))
        most = max((_bucket(launch.tokens, t) for launch in self._choices), default=0)
        inners = [part.inner for part in fusable.branches.values()]
        heads = max(inner.heads for inner in inners if isinstance(inner, FusableAttention))
        self._scores = [torch.zeros(b, t, device=device) for _ in range(states)]
        self._stamps = [torch.zeros(b, t, dtype=torch.int32, device=device) for _ in range(states)]
        self._parts, self._logs = (torch.zeros(b, heads, t, device=device) for _ in range(2))
        self._chosen = torch.zeros(b, most, 1, dtype=torch.int64, device=device)
        self._rows, self._fresh = (like.new_zeros(b, most, d) for like in (stream, buffers.h))
        self._counts = torch.from_numpy(_refreshes_before(plan, plan.tokens)).to(device)
        self._table = self._counts[: tables.steps].clone()

    @property
    def passing(self) -> list[Tensor]:
        """What one launch leaves for the next."""
        return [self._parts, self._logs, self._chosen, self._rows, self._fresh]

    @property
    def kept(self) -> list[Tensor]:
        """What one evaluation leaves for the next."""
        return [*self._scores, *self._stamps]

    @property
    def nbytes(self) -> int:
        tensors = (*self.kept, *self.passing, self._counts, self._table)
        return sum(tensor.nbytes for tensor in tensors)

    def fill(self, first: int, count: int) -> None:
        """Take the window of `count` evaluations from `first` on."""
        self._table[:count].copy_(self._counts[first : first + count])

    def tune(self) -> None:
        """Settle the products of every number of tokens, rounded up to a power of two."""
        for launch in self._choices:
            for x, weight, bias, gelu, out in self._products(launch, rounded=True):
                self._linears.tune(x, weight, bias, gelu, out)

    def run(self, launch: Score | RunTokens) -> None:
        """Score a branch's tokens, or run it on the chosen ones."""
        if isinstance(launch, Score):
            self._score(launch)
        else:
            self._run(launch)

    def _score(self, launch: Score) -> None:
        """From the q, k and v that the branch's run has left."""
        inner = self._fusable.branches[launch.branch].inner
        assert isinstance(inner, FusableAttention)
        kernels, width = self._kernels, inner.proj.in_features
        qkv = narrowed(self._buffers.qkv, 3 * width)
        b, t, _ = qkv.shape
        parts, logs = (
            buffer.view(-1)[: b * inner.heads * t].view(b, inner.heads, t)
            for buffer in (self._parts, self._logs)
        )
        if launch.score == "attention":
            kernels.attention_logs(qkv, inner.heads, inner.scale, out=logs)
            kernels.attention_received(qkv, logs, inner.scale, out=parts)
        else:
            v = qkv.view(b, t, 3, inner.heads, -1)[:, :, 2].transpose(1, 2)
            torch.linalg.vector_norm(v, dim=-1, dtype=torch.float32, out=parts)
        kernels.unit_scores(
            parts, self._refreshes(launch.state), launch.score != "attention",
            out=(self._scores[launch.state], self._stamps[launch.state]),
        )  # fmt: skip

    def _run(self, launch: RunTokens) -> None:
        buffers, rule, state = self._buffers, self._rule, launch.state
        t, d = buffers.h.shape[1:]
        chosen = narrowed(self._chosen, 1, launch.tokens)
        self._kernels.choose_tokens(
            self._scores[state], self._stamps[state], self._refreshes(state), launch.tokens,
            rule.age_weight / rule.age_unit, rule.bonus, grid_side(t) if rule.bonus else 0,
            out=chosen.squeeze(-1),
        )  # fmt: skip
        places, rows = chosen.expand(-1, -1, d), narrowed(self._rows, d, launch.tokens)
        torch.gather(buffers.streams[launch.source], 1, places, out=rows)
        self._norm(launch.branch, rows, narrowed(buffers.h, d, launch.tokens))
        rounded = self._products(launch, rounded=True)
        for product, at in zip(self._products(launch), rounded, strict=True):
            self._linears.run(*product, self._linears.choices[problem_of(*at[:4])])
        buffers.memory.slots[launch.slot].scatter_(1, places, product[-1])

    def _norm(self, branch: str, rows: Tensor, out: Tensor) -> None:
        part = self._fusable.branches[branch]
        if part.first is None:
            weight, bias = part.norm.weight.detach(), part.norm.bias.detach()
            self._kernels.norm(rows, weight, bias, part.norm.eps, out=out)
            return
        chunks = chunk_of(part, 0), chunk_of(part, 1)
        self._kernels.norm_modulate(
            rows, self._tables.modulation, *chunks, part.norm.eps, out=out
        )  # fmt: skip

    def _products(
        self, launch: RunTokens, *, rounded: bool = False
    ) -> Iterator[tuple[Tensor, Tensor, Tensor | None, str | None, Tensor]]:
        """x, weight, bias, GELU and output of both linears, on the chosen tokens or on as many as
        they are tuned for."""
        inner = self._fusable.branches[launch.branch].inner
        assert isinstance(inner, FusableMlp)
        buffers, tokens = self._buffers, launch.tokens
        if rounded:
            tokens = _bucket(tokens, buffers.h.shape[1])
        hidden = narrowed(buffers.hidden, inner.fc1.out_features, tokens)
        x = narrowed(buffers.h, inner.fc1.in_features, tokens)
        yield x, *weight_and_bias(inner.fc1), inner.gelu, hidden
        fresh = narrowed(self._fresh, inner.fc2.out_features, tokens)
        yield hidden, *weight_and_bias(inner.fc2), None, fresh

    def _refreshes(self, state: int) -> Refreshes:
        return Refreshes(self._table, self._buffers.counter, state)


def _bucket(tokens: int, most: int) -> int:
    """A schedule has some forty numbers of tokens: too many to measure each."""
    return min(power_of_2(tokens), most)


def _refreshes_before(plan: Plan, states: TokenStates) -> np.ndarray[Any, np.dtype[np.int32]]:
    """How often tokens of each state were chosen before each evaluation.  Shapes: [S, states]."""
    chosen = np.zeros((plan.num_evaluations, len(states.branches)), np.int32)
    for s in range(plan.num_evaluations):
        for op in reuses(plan.at(s)):
            if isinstance(op, Refresh):
                chosen[s, op.state] = 1
    return (chosen.cumsum(axis=0) - chosen).astype(np.int32)
