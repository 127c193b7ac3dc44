"""A small Fixed Point Diffusion Model with the published names, and its arithmetic written out."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor, nn

from l2c_rt.models.dit import DiT, DiTBlock


class FixedPointDiT(DiT):
    """Blocks before, one that is iterated, blocks after."""

    def __init__(self, pre: int = 1, post: int = 1, width: int = 64, heads: int = 4) -> None:
        super().__init__(8, 2, 4, width, 0, heads, num_classes=10)
        del self.blocks

        def blocks(count: int) -> nn.ModuleList:
            return nn.ModuleList(DiTBlock(width, heads, 4.0) for _ in range(count))

        self.blocks_pre, self.blocks_post = blocks(pre), blocks(post)
        self.block_pre_projection = nn.Linear(width, width)
        self.block_fixed_point_projection_fc1 = nn.Linear(2 * width, 2 * width)
        self.block_fixed_point_projection_act = nn.GELU(approximate="tanh")
        self.block_fixed_point_projection_fc2 = nn.Linear(2 * width, width)
        self.block_fixed_point = DiTBlock(width, heads, 4.0)


@torch.no_grad()
def fixed_point_model(pre: int = 1, post: int = 1) -> FixedPointDiT:
    """With the weights of the published outputs: a function of each one's name and shape."""
    model = FixedPointDiT(pre, post)
    for key, value in model.state_dict().items():
        if not key.endswith("pos_embed"):
            generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
            fan = value.numel() // value.shape[0] if value.dim() > 1 else 50
            gain = 0.5 if "adaLN" in key else 1.0
            value.copy_(torch.randn(value.shape, generator=generator) * gain / fan**0.5)
    return model.eval()


def written_out(
    model: FixedPointDiT, x: Tensor, t: Tensor, y: Tensor, iterations: int, start: Tensor | None
) -> tuple[Tensor, Tensor]:
    """One evaluation and its solution."""
    x = model.x_embedder(x) + model.pos_embed
    c = model.t_embedder(t) + model.y_embedder(y, False)
    for block in model.blocks_pre:
        x = block(x, c)
    injection = model.block_pre_projection(x)
    solution = x if start is None else start
    for _ in range(iterations):
        hidden = model.block_fixed_point_projection_fc1(torch.cat([solution, injection], dim=-1))
        hidden = model.block_fixed_point_projection_act(hidden)
        solution = model.block_fixed_point(model.block_fixed_point_projection_fc2(hidden), c)
    x = solution
    for block in model.blocks_post:
        x = block(x, c)
    return model.unpatchify(model.final_layer(x, c)), solution
