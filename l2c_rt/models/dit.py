"""DiT, the class-conditional diffusion transformer with adaLN-Zero (arXiv 2212.09748, section 3.2).

Parameter names and shapes are the published ones, so published weight files load strictly.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from l2c_rt.models.layers import (
    Attention,
    Mlp,
    PatchEmbed,
    sincos_pos_embed,
    timestep_embedding,
    unpatchify,
)


@dataclass(frozen=True, slots=True)
class DiTConfig:
    """What a published size fixes; everything else is an argument of `DiT`."""

    depth: int
    hidden_size: int
    num_heads: int
    patch_size: int


_SIZES = {"s": (12, 384, 6), "b": (12, 768, 12), "l": (24, 1024, 16), "xl": (28, 1152, 16)}
CONFIGS = {f"dit-{n}-{p}": DiTConfig(*size, p) for n, size in _SIZES.items() for p in (2, 4, 8)}


def config(name: str) -> DiTConfig:
    """A published size by its name, "dit-xl-2" or "DiT-XL/2"."""
    key = name.lower().replace("/", "-")
    if key not in CONFIGS:
        raise ValueError(f"dit: unknown size {name!r}; known sizes are {', '.join(CONFIGS)}")
    return CONFIGS[key]


def dit(name: str, **options: Any) -> DiT:
    """A model of a published size; options go to `DiT`."""
    return DiT(**asdict(config(name)), **options)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x * (1 + scale) + shift, broadcast over tokens.  Shapes: x [B, T, D]; shift, scale [B, D]."""
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class TimestepEmbedder(nn.Module):
    """Sinusoids through a two-layer MLP.  Shapes: t [B] -> [B, D]."""

    def __init__(self, width: int, frequencies: int = 256) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(nn.Linear(frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        weight = self.mlp[0].weight
        assert isinstance(weight, Tensor)
        c: Tensor = self.mlp(timestep_embedding(t, self.frequencies).to(weight.dtype))
        return c


class LabelEmbedder(nn.Module):
    """A row per class, and one more for "no class" where labels are dropped in training."""

    def __init__(self, num_classes: int, width: int, dropout_prob: float) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.dropout_prob = dropout_prob
        self.embedding_table = nn.Embedding(num_classes + (dropout_prob > 0), width)

    def forward(self, labels: Tensor, train: bool) -> Tensor:
        if train and self.dropout_prob > 0:
            dropped = torch.rand(len(labels), device=labels.device) < self.dropout_prob
            labels = torch.where(dropped, self.num_classes, labels)
        rows: Tensor = self.embedding_table(labels)
        return rows


class DiTBlock(nn.Module):
    """Two branches: x + gate * f(modulate(norm(x))), f attention and then MLP."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(width, int(width * mlp_ratio), gelu="tanh")
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=1)
        x = x + gate1.unsqueeze(1) * self.attn(modulate(self.norm1(x), shift1, scale1))
        x = x + gate2.unsqueeze(1) * self.mlp(modulate(self.norm2(x), shift2, scale2))
        return x


class FinalLayer(nn.Module):
    """Modulated norm and the projection to patches.  Shapes: [B, T, D] -> [B, T, P * P * C]."""

    def __init__(self, width: int, patch_size: int, out_channels: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(width, patch_size**2 * out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=1)
        out: Tensor = self.linear(modulate(self.norm_final(x), shift, scale))
        return out


class DiT(nn.Module):
    """Predicts noise, and with `learn_sigma` as many channels for the variance.

    Shapes: forward(x [B, C, H, W], t [B], y [B]) -> [B, C or 2 C, H, W].
    """

    def __init__(
        self,
        input_size: int = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        hidden_size: int = 1152,
        depth: int = 28,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        class_dropout_prob: float = 0.1,
        num_classes: int = 1000,
        learn_sigma: bool = True,
    ) -> None:
        super().__init__()
        _check_sizes(input_size, patch_size, hidden_size, num_heads)
        self.learn_sigma = learn_sigma
        self.in_channels = in_channels
        self.out_channels = 2 * in_channels if learn_sigma else in_channels
        self.patch_size = patch_size
        self.num_heads = num_heads
        self.x_embedder = PatchEmbed(input_size, patch_size, in_channels, hidden_size)
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size, class_dropout_prob)
        positions = sincos_pos_embed(hidden_size, self.x_embedder.grid)
        self.pos_embed = nn.Parameter(positions, requires_grad=False)
        self.blocks = nn.ModuleList(
            DiTBlock(hidden_size, num_heads, mlp_ratio) for _ in range(depth)
        )
        self.final_layer = FinalLayer(hidden_size, patch_size, self.out_channels)
        _initialize(self)

    def unpatchify(self, x: Tensor) -> Tensor:
        """Shapes: [B, T, P * P * C] -> [B, C, H, W]."""
        return unpatchify(x, self.patch_size, self.out_channels)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        x = self.x_embedder(x) + self.pos_embed
        c = self.t_embedder(t) + self.y_embedder(y, self.training)
        for block in self.blocks:
            x = block(x, c)
        return self.unpatchify(self.final_layer(x, c))

    def forward_with_cfg(self, x: Tensor, t: Tensor, y: Tensor, cfg_scale: float) -> Tensor:
        """Classifier-free guidance on the first three channels, as the published samples use it.

        Shapes: x, t, y hold the batch twice, with y the classes and then "no class"; of x only
        the first half is read.  Both halves of the result hold the guided noise.
        """
        first = x[: len(x) // 2]
        out = self.forward(torch.cat([first, first]), t, y)
        cond, uncond = out[:, :3].chunk(2)
        guided = uncond + cfg_scale * (cond - uncond)
        return torch.cat([torch.cat([guided, guided]), out[:, 3:]], dim=1)


def _check_sizes(input_size: int, patch_size: int, hidden_size: int, num_heads: int) -> None:
    if input_size % patch_size:
        raise ValueError(f"DiT: {input_size=} is not a multiple of {patch_size=}")
    if hidden_size % num_heads:
        raise ValueError(f"DiT: {hidden_size=} is not a multiple of {num_heads=}")
    if hidden_size % 4:
        raise ValueError(f"DiT: {hidden_size=} is not a multiple of 4, as the position table needs")


def _initialize(model: DiT) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            # adaLN-Zero: every block starts as the identity and the model predicts zero.
            if "adaLN_modulation" in name or name == "final_layer.linear":
                nn.init.zeros_(module.weight)
            elif name.startswith("t_embedder"):
                nn.init.normal_(module.weight, std=0.02)
            else:
                nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    patches = model.x_embedder.proj
    assert patches.bias is not None
    nn.init.xavier_uniform_(patches.weight.detach().flatten(1))
    nn.init.zeros_(patches.bias)
    nn.init.normal_(model.y_embedder.embedding_table.weight, std=0.02)
