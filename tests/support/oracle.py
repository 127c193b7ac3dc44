"""The naive Learning-to-Cache forward: what everything else is compared with.

Plain loops and a dictionary of kept outputs.  Shares no code with the package.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class Oracle:
    """A DiT or U-ViT that reuses branch outputs where `compute` [S, K] is False.

    Calls are counted from 0: call k is evaluation k // lanes of lane k % lanes.
    """

    def __init__(self, model: nn.Module, compute: np.ndarray, lanes: int = 1) -> None:
        self.model, self.compute, self.lanes = model, compute, lanes
        self.reset()

    def reset(self) -> None:
        self.calls = 0
        self.kept: dict[tuple[int, int], Tensor] = {}

    def __call__(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        self.row = self.compute[self.calls // self.lanes]
        self.lane = self.calls % self.lanes
        out = self._dit(x, t, y) if hasattr(self.model, "blocks") else self._uvit(x, t, y)
        self.calls += 1
        return out

    def forward_with_cfg(self, x: Tensor, t: Tensor, y: Tensor, cfg_scale: float) -> Tensor:
        n = len(x) // 2
        out = self(torch.cat([x[:n], x[:n]]), t, y)
        eps = out[n:, :3] + cfg_scale * (out[:n, :3] - out[n:, :3])
        return torch.cat([torch.cat([eps, eps]), out[:, 3:]], dim=1)

    def _branch(self, k: int, f: nn.Module, x: Tensor) -> Tensor:
        if self.row[k]:
            self.kept[self.lane, k] = f(x)
        return self.kept[self.lane, k]

    def _dit(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        m = self.model
        x = m.x_embedder(x) + m.pos_embed
        c = m.t_embedder(t) + m.y_embedder(y, False)
        for b, block in enumerate(m.blocks):
            s1, r1, g1, s2, r2, g2 = (v[:, None] for v in block.adaLN_modulation(c).chunk(6, dim=1))
            x = x + g1 * self._branch(2 * b, block.attn, block.norm1(x) * (1 + r1) + s1)
            x = x + g2 * self._branch(2 * b + 1, block.mlp, block.norm2(x) * (1 + r2) + s2)
        return m.unpatchify(m.final_layer(x, c))

    def _uvit(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
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
