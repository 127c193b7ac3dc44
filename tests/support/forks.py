"""Models that keep the names of DiT or U-ViT and differ in their forward only, as forks do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from toys import toy_dit, toy_uvit

from l2c_rt.models import DiT, UViT


class HalfTheChannels(DiT):
    """SiT: the variance channels are dropped."""

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return super().forward(x, t, y).chunk(2, dim=1)[0]


class TimeInThousands(DiT):
    """Times of flow matching, 0 to 1, scaled inside."""

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return super().forward(x, t * 1000.0, y)


class Velocity(DiT):
    """Predicts x minus the output: another parametrisation."""

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        out = super().forward(x, t, y)
        return torch.cat([x - out[:, : x.shape[1]], out[:, x.shape[1] :]], dim=1)


class NoLabels(DiT):
    """Conditioned on the time alone."""

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        x = self.x_embedder(x) + self.pos_embed
        c = self.t_embedder(t)
        for block in self.blocks:
            x = block(x, c)
        return self.unpatchify(self.final_layer(x, c))


class ResidualOverDepth(DiT):
    """A skip from the embedding to the final layer."""

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        first = x = self.x_embedder(x) + self.pos_embed
        c = self.t_embedder(t) + self.y_embedder(y, self.training)
        for block in self.blocks:
            x = block(x, c)
        return self.unpatchify(self.final_layer(x + first, c))


class RegisterToken(DiT):
    """A token more among the others, dropped before the final layer."""

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        x = self.x_embedder(x) + self.pos_embed
        c = self.t_embedder(t) + self.y_embedder(y, self.training)
        x = torch.cat([c.unsqueeze(1), x], dim=1)
        for block in self.blocks:
            x = block(x, c)
        return self.unpatchify(self.final_layer(x[:, 1:], c))


class BoundedGates(nn.Module):
    """A block whose gates pass through tanh."""

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        a, b, g, d, e, h = self.adaLN_modulation(c).unsqueeze(1).chunk(6, dim=2)
        x = x + g.tanh() * self.attn(self.norm1(x) * (1 + b) + a)
        return x + h.tanh() * self.mlp(self.norm2(x) * (1 + e) + d)


class ParallelBranches(nn.Module):
    """A block whose MLP reads what its attention reads."""

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        a, b, g, d, e, h = self.adaLN_modulation(c).unsqueeze(1).chunk(6, dim=2)
        attention = g * self.attn(self.norm1(x) * (1 + b) + a)
        return x + attention + h * self.mlp(self.norm2(x) * (1 + e) + d)


class PostNorm(nn.Module):
    """A block that normalises what its MLP gives."""

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        a, b, g, d, e, h = self.adaLN_modulation(c).unsqueeze(1).chunk(6, dim=2)
        x = x + g * self.attn(self.norm1(x) * (1 + b) + a)
        return x + h * self.norm2(self.mlp(x * (1 + e) + d))


class NoLongSkips(UViT):
    """Long skips hand on zeros."""

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        x = self.embed(x, timesteps, y)
        for block in (*self.in_blocks, self.mid_block):
            x = block(x)
        for block in self.out_blocks:
            x = block(x, torch.zeros_like(x))
        return self.decode(x)


class ImageResidual(UViT):
    """Adds its input to the prediction."""

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        return x + super().forward(x, timesteps, y)


class SkipsInOrder(UViT):
    """Long skips first in, first out."""

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        x = self.embed(x, timesteps, y)
        skips = [x]
        for block in self.in_blocks:
            x = block(x)
            skips.append(x)
        x = self.mid_block(x)
        for block in self.out_blocks:
            x = block(x, skips.pop(0))
        return self.decode(x)


def _other_block(kind: type[nn.Module]) -> Any:
    """A DiT whose middle block has another forward; its layers stay."""

    def make() -> DiT:
        model = toy_dit()
        block = model.blocks[1]
        block.__class__ = type(kind.__name__, (kind, type(block)), {})
        return model

    return make


def _other_model(kind: type[nn.Module]) -> Any:
    def make() -> Any:
        model: Any = toy_dit() if issubclass(kind, DiT) else toy_uvit()
        model.__class__ = kind
        return model

    return make


MODELS = (HalfTheChannels, TimeInThousands, Velocity, NoLabels, ResidualOverDepth, RegisterToken,
          NoLongSkips, ImageResidual, SkipsInOrder)  # fmt: skip
BLOCKS = (BoundedGates, ParallelBranches, PostNorm)
FORKS = {kind.__name__: _other_model(kind) for kind in MODELS} | {
    kind.__name__: _other_block(kind) for kind in BLOCKS
}
"""Twelve models by name, each a function that makes one."""
