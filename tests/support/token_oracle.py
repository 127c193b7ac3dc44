"""Token caching written out for DiT, block by block, as a program would do it with dictionaries.

From the description of what the published programs do; shares nothing with the product.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from l2c_rt.models import DiT


@dataclass
class NaiveTokens:
    """Call it like the model's forward.  Three fields make variants that are known to be wrong.

    `chosen` [evaluation, block] are the tokens of each partial block, bool [B, T].
    """

    model: DiT
    steps: int
    threshold: int = 3
    ratio: float = 0.05
    soft: float = 0.25
    bonus: float = 0.8
    score: str = "attention"
    schedule: str = "ToCa"
    aggressive: bool = True
    once_per_evaluation: bool = False
    chosen: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    kept: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    n: int = 0
    interval: int = 0
    trunk: Tensor | None = None

    def __post_init__(self) -> None:
        self.interval = self.threshold

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        m, left = self.model, self.steps - 1 - self.n
        x = m.x_embedder(x) + m.pos_embed
        c = m.t_embedder(t) + m.y_embedder(y, False)
        at_first = self.interval
        for b in range(len(m.blocks)):
            interval = at_first if self.once_per_evaluation else self.interval
            rest = 0 if self.n == 0 else left % interval
            if rest == 0:
                if b == 0:
                    self._set_interval(left)
                x = self._full(b, x, c)
            elif self.aggressive and rest % 2 == 0:
                x = self.trunk if b == len(m.blocks) - 1 else x
            else:
                x = self._partial(b, x, c, left)
        self.trunk = x
        self.n += 1
        return m.unpatchify(m.final_layer(x, c))

    def _set_interval(self, left: int) -> None:
        steps = self.steps
        if self.ratio == 0:
            return
        divisor = torch.tensor(1 + 0.4 - 0.8 * left / steps, dtype=torch.float32)
        self.interval = int(torch.round(torch.tensor(float(self.threshold)) / divisor))
        if int(0.2 * steps) <= left < int(0.4 * steps):
            self.interval = 2

    def _full(self, b: int, x: Tensor, c: Tensor) -> Tensor:
        block = self.model.blocks[b]
        sh1, sc1, g1, sh2, sc2, g2 = block.adaLN_modulation(c).chunk(6, dim=1)
        h = block.norm1(x) * (1 + sc1.unsqueeze(1)) + sh1.unsqueeze(1)
        attn = block.attn
        q, k, v = attn.qkv(h).view(*h.shape[:2], 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        if self.score == "attention":
            probabilities = ((q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5).softmax(-1)
            s = probabilities.mean(1).sum(-2)
        else:
            s = (1 - v.norm(dim=-1)).sum(1)
        self.kept[b, "score"] = s / s.norm(dim=-1, keepdim=True)
        self.kept[b, "age"] = torch.zeros_like(s, dtype=torch.int32)
        self.kept[b, "attn"] = attn(h)
        x = x + g1.unsqueeze(1) * self.kept[b, "attn"]
        h = block.norm2(x) * (1 + sc2.unsqueeze(1)) + sh2.unsqueeze(1)
        self.kept[b, "mlp"] = block.mlp(h)
        return x + g2.unsqueeze(1) * self.kept[b, "mlp"]

    def _partial(self, b: int, x: Tensor, c: Tensor, left: int) -> Tensor:
        block = self.model.blocks[b]
        _, _, g1, sh2, sc2, g2 = block.adaLN_modulation(c).chunk(6, dim=1)
        x = x + g1.unsqueeze(1) * self.kept[b, "attn"]
        if self.score in ("similarity", "norm"):
            s = x.norm(dim=-1)
            if self.score == "similarity":
                kept = self.kept[b, "mlp"]
                s = 1 - (x * kept).sum(-1) / (s * kept.norm(dim=-1))
            self.kept[b, "score"] = s / s.norm(dim=-1, keepdim=True)
        tokens = self._tokens(b, left, x.shape[1])
        rows = torch.arange(len(x))[:, None]
        h = block.norm2(x[rows, tokens]) * (1 + sc2.unsqueeze(1)) + sh2.unsqueeze(1)
        self.kept[b, "mlp"] = self.kept[b, "mlp"].index_put((rows, tokens), block.mlp(h))
        self.kept[b, "age"] = (self.kept[b, "age"] + 1).index_put(
            (rows, tokens), torch.tensor(0, dtype=torch.int32)
        )
        mask = torch.zeros(x.shape[:2], dtype=torch.bool)
        self.chosen[self.n, b] = mask.index_put((rows, tokens), torch.tensor(True))
        return x + g2.unsqueeze(1) * self.kept[b, "mlp"]

    def _tokens(self, b: int, left: int, tokens: int) -> Tensor:
        depth, rest = b / max(len(self.model.blocks) - 1, 1), left / self.steps
        line = 1 + 0.9 - 2 * 0.9 * rest
        factor = {
            "ToCa": (0.8 + 0.4 * depth) * (3 - 4 * rest) * 2.5,
            "ToCa-ddpm250": (1.8 - 1.6 * depth) * (1.4 - 0.8 * rest) * 2.5,
            "constant": 1,
            "linear": line,
            "linear-mode": line + 0.1 * ((left % self.threshold) / self.threshold - 0.5),
            "exp": 0.9**rest,
            "layerwise": 1 + 0.9 - 2 * 0.9 * depth,
        }[self.schedule]
        share = np.float32(min(max(self.ratio * factor, 0), 1))
        total = self.kept[b, "score"] + self.soft * self.kept[b, "age"].float() / self.threshold
        side = int(tokens**0.5)
        for row in total:
            for i in range(0, side, 2):
                for j in range(0, side, 2):
                    cell = [i * side + j, i * side + j + 1, (i + 1) * side + j,
                            (i + 1) * side + j + 1]  # fmt: skip
                    row[max(cell, key=lambda token: float(row[token]))] *= 1 + self.bonus
        order = total.argsort(dim=-1, descending=True)
        return order[:, : int(share * np.float32(tokens))]
