"""The strongest peer on a CPU: one block function under torch.compile, once for each variant of
which branches are computed, with the same schedule and, on request, oneDNN's packed weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from gpu.strong_peer import modulation
from torch import Tensor, nn
from torch.nn import functional as F

from cpu.loop import ddim_tables
from l2c_rt.models import DiT
from l2c_rt.models.dit import modulate
from l2c_rt.schedule.cache_schedule import CacheSchedule

Compile = Callable[[Callable[..., Any]], Callable[..., Any]]


@cache
def packed_operator() -> Callable[..., Tensor]:
    """oneDNN's product as an operator that torch.compile takes as it is: its own lowering wants
    the weight as a constant of the graph, one graph for each block."""
    product = torch.ops.mkldnn._linear_pointwise

    def run(x: Tensor, packed: Tensor, bias: Tensor, columns: int, act: str) -> Tensor:
        out: Tensor = product(x, packed, bias, act, [], "tanh" if act == "gelu" else "")
        return out

    def shape(x: Tensor, packed: Tensor, bias: Tensor, columns: int, act: str) -> Tensor:
        return x.new_empty(*x.shape[:-1], columns)

    # Kept alive by the operator's own functions.
    library = run.library = torch.library.Library("l2c_bench", "FRAGMENT")  # type: ignore[attr-defined]
    library.define("packed(Tensor x, Tensor w, Tensor b, int columns, str act) -> Tensor")
    for key in ("CPU", "MkldnnCPU"):
        library.impl("packed", run, key)
    torch.library.register_fake("l2c_bench::packed", shape, lib=library)
    operator: Callable[..., Tensor] = torch.ops.l2c_bench.packed
    return operator


class PackedLinear(nn.Module):
    """A linear, and the tanh GELU behind it, on a packed copy of its weight."""

    def __init__(self, linear: nn.Linear, act: str) -> None:
        super().__init__()
        self.columns, self.act, self.operator = linear.out_features, act, packed_operator()
        packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.register_buffer("packed", packed)
        self.register_buffer("bias", linear.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        return self.operator(x, self.packed, self.bias, self.columns, self.act)


def packed_model(model: DiT) -> DiT:
    """A copy whose branches take packed products, GELU included."""
    packed = copy.deepcopy(model)
    for block in packed.blocks:
        attn, mlp = block.attn, block.mlp
        attn.qkv, attn.proj = PackedLinear(attn.qkv, "none"), PackedLinear(attn.proj, "none")
        mlp.fc1, mlp.fc2 = PackedLinear(mlp.fc1, "gelu"), PackedLinear(mlp.fc2, "none")
        mlp.act = nn.Identity()
    return packed


def block_variant(
    block: nn.Module, x: Tensor, c: Tensor, attn: Tensor | None, mlp: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """A DiT block, computed where no output is given; its output and those of its branches.

    Shapes: x, attn, mlp [B, T, D]; c [B, D].
    """
    first, second = modulation(block.adaLN_modulation[1], F.silu(c), attn is None, mlp is None)
    if attn is None:
        attn = block.attn(modulate(block.norm1(x), first[0], first[1]))
    x = x + first[2].unsqueeze(1) * attn
    if mlp is None:
        mlp = block.mlp(modulate(block.norm2(x), second[0], second[1]))
    return x + second[2].unsqueeze(1) * mlp, attn, mlp


class BlockVariants:
    """Call it with (noise, y) for a whole run.  Shapes: noise and result [n, C, H, W]; y [n]."""

    def __init__(
        self, model: DiT, schedule: CacheSchedule, compile: Compile, *, packed: bool
    ) -> None:
        self.model = packed_model(model) if packed else model
        self.rows = [tuple(map(bool, row)) for row in schedule.compute.tolist()]
        self.timesteps, self.updates = ddim_tables(schedule.steps, model)
        self._head, self._block, self._tail = map(
            compile, (self._embed, block_variant, self._finish)
        )

    @torch.no_grad()
    def __call__(self, noise: Tensor, y: Tensor) -> Tensor:
        x, outputs = noise, [[None, None] for _ in self.model.blocks]
        for row, t, update in zip(self.rows, self.timesteps, self.updates, strict=True):
            h, c = self._head(x, t, y)
            for i, block in enumerate(self.model.blocks):
                reused = (None if row[2 * i + k] else outputs[i][k] for k in (0, 1))
                h, *outputs[i] = self._block(block, h, c, *reused)
            x = self._tail(x, h, c, update)
        return x

    def _embed(self, x: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        model = self.model
        c = model.t_embedder(t.expand(len(y))) + model.y_embedder(y, False)
        return model.x_embedder(x) + model.pos_embed, c

    def _finish(self, x: Tensor, h: Tensor, c: Tensor, update: Tensor) -> Tensor:
        out = self.model.unpatchify(self.model.final_layer(h, c))
        return update[0] * x + update[1] * out[:, : x.shape[1]]
