"""The strong peer: torch.compile and a hand-captured graph per distinct step, same schedule.

One block function, compiled once for each of its variants (attention computed or reused, MLP
computed or reused, and whether what is computed is read later), caches in static tensors, guidance
and the solver's update inside the graph, the step on the device.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpu.loop import Capture, GuidedLoop
from l2c_rt.adapters import bind
from l2c_rt.models import DiT
from l2c_rt.models.dit import modulate
from l2c_rt.plan.build import liveness
from l2c_rt.schedule.cache_schedule import CacheSchedule

Row = tuple[bool, ...]


def block_variant(
    block: nn.Module, x: Tensor, c: Tensor, cache: Tensor, attn: bool, mlp: bool, keep: bool
) -> Tensor:
    """A DiT block with either branch reused, what it computes kept where a later step reads it.

    Shapes: x [B, T, D]; c [B, D]; cache [2, B, T, D].
    """
    first, second = modulation(block.adaLN_modulation[1], F.silu(c), attn, mlp)
    branches = ((block.norm1, block.attn, first, attn), (block.norm2, block.mlp, second, mlp))
    for k, (norm, branch, (shift, scale, gate), computed) in enumerate(branches):
        if computed:
            out = branch(modulate(norm(x), shift, scale))
            if keep:
                cache[k].copy_(out)
        else:
            out = cache[k]
        x = x + gate.unsqueeze(1) * out
    return x


def modulation(
    linear: nn.Linear, c: Tensor, attn: bool, mlp: bool
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """(shift, scale, gate) of both branches; of a reused branch only the gate's rows are read."""
    if attn and mlp:
        rows = linear(c).chunk(6, dim=1)
        return rows[:3], rows[3:]
    d = linear.in_features
    per_branch = []
    for first, computed in ((0, attn), (3, mlp)):
        span = slice((first if computed else first + 2) * d, (first + 3) * d)
        rows = F.linear(c, linear.weight[span], linear.bias[span]).chunk(3 if computed else 1, 1)
        per_branch.append(rows if computed else (None, None, *rows))
    return per_branch[0], per_branch[1]


class StrongPeer:
    """Call it with (noise, y) for a whole run.  Shapes: noise and result [n, C, H, W]; y [n]."""

    def __init__(
        self,
        model: DiT,
        schedule: CacheSchedule,
        images: int,
        compile: Callable[[Callable[..., Any]], Callable[..., Any]],
        capture: Capture,
    ) -> None:
        weight = model.x_embedder.proj.weight
        published_loop = bind(model).sampling
        assert published_loop is not None
        self.model, self.dtype = model, weight.dtype
        self.loop = GuidedLoop(published_loop, schedule.steps, images, weight.device)
        self.rows: list[Row] = [tuple(map(bool, row)) for row in schedule.compute.tolist()]
        shape = (len(model.blocks), 2, 2 * images, *model.pos_embed.shape[1:])
        self.cache = torch.zeros(shape, dtype=self.dtype, device=weight.device)
        self._block = compile(block_variant)
        self._head, self._tail = compile(self._embed), compile(self._finish)
        self.graphs: dict[Row, Callable[[], object]] = {}
        # More variants than torch.compile's limit of 8 must not be an error of the last.
        with torch._dynamo.config.patch(recompile_limit=64):
            for row, keep in self._read_later().items():
                self.loop.step.zero_()
                self.graphs[row] = capture(partial(self._evaluate, row, keep))

    def __call__(self, noise: Tensor, y: Tensor) -> Tensor:
        self.loop.start(noise, y)
        for row in self.rows:
            self.graphs[row]()
        return self.loop.x.clone()

    def _read_later(self) -> dict[Row, list[bool]]:
        """For every distinct row and every block: does a later evaluation read what it computes?"""
        read_later: dict[Row, list[bool]] = {}
        for row, live in zip(self.rows, liveness(self.rows), strict=True):
            keep = read_later.setdefault(row, [False] * len(self.model.blocks))
            for i in range(len(keep)):
                keep[i] |= any(live[2 * i : 2 * i + 2])
        return read_later

    def _embed(self) -> tuple[Tensor, Tensor]:
        x, t, y = self.loop.inputs(self.dtype)
        model = self.model
        c = model.t_embedder(t) + model.y_embedder(y, False)
        return model.x_embedder(x) + model.pos_embed, c

    def _evaluate(self, row: Row, keep: list[bool]) -> None:
        x, c = self._head()
        for i, block in enumerate(self.model.blocks):
            x = self._block(block, x, c, self.cache[i], row[2 * i], row[2 * i + 1], keep[i])
        self._tail(x, c)

    def _finish(self, x: Tensor, c: Tensor) -> None:
        self.loop.advance(self.model.unpatchify(self.model.final_layer(x, c)))
