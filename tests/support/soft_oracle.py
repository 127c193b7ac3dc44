"""The naive soft walk of Learning-to-Cache's training: what the learning walk is compared with.

Every branch output is w f(x) + (1 - w) kept.  Shares no code with the package.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SoftOracle:
    """A DiT or U-ViT whose branches are mixed with what `record` kept."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.kept: list[Tensor] = []

    def record(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        self.weights, self.fresh = None, []
        out = self._run(x, t, y)
        self.kept = self.fresh
        return out

    def mixed(self, x: Tensor, t: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        self.weights, self.fresh = weights, []
        return self._run(x, t, y)

    def _run(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return self._dit(x, t, y) if hasattr(self.model, "blocks") else self._uvit(x, t, y)

    def _branch(self, k: int, f: nn.Module, x: Tensor) -> Tensor:
        out = f(x)
        self.fresh.append(out)
        if self.weights is None:
            return out
        return self.weights[k] * out + (1 - self.weights[k]) * self.kept[k]

    def _dit(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        m = self.model
        x = m.x_embedder(x) + m.pos_embed
        c = m.t_embedder(t) + m.y_embedder(y, False)
        for b, block in enumerate(m.blocks):
            s1, r1, g1, s2, r2, g2 = (v[:, None] for v in block.adaLN_modulation(c).chunk(6, dim=1))
            x = x + g1 * self._branch(2 * b, block.attn, block.norm1(x) * (1 + r1) + s1)
            x = x + g2 * self._branch(2 * b + 1, block.mlp, block.norm2(x) * (1 + r2) + s2)
        return m.unpatchify(m.final_layer(x, c))

    def _uvit(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        m, skips = self.model, []
        half = len(m.in_blocks)
        x = m.embed(x, t, y)
        for b, block in enumerate([*m.in_blocks, m.mid_block, *m.out_blocks]):
            if b > half and block.skip_linear is not None:
                x = block.skip_linear(torch.cat([x, skips.pop()], dim=-1))
            x = x + self._branch(2 * b, block.attn, block.norm1(x))
            x = x + self._branch(2 * b + 1, block.mlp, block.norm2(x))
            if b < half:
                skips.append(x)
        return m.decode(x)
