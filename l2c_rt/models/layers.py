"""What DiT and U-ViT have in common: patches, sinusoids, attention, MLP."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10000.0) -> Tensor:
    """Cosines, then sines, of t at dim / 2 geometrically spaced frequencies, in float32.

    Shapes: t [B], whole or fractional; result [B, dim].
    """
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = t[:, None].float() * torch.exp(-math.log(max_period) * steps / half)[None]
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


def sincos_pos_embed(hidden_size: int, grid: int) -> Tensor:
    """Fixed position table: a quarter each of sin(column), cos(column), sin(row), cos(row).

    Shapes: [1, grid * grid, hidden_size], rows of the grid one after another.
    """
    quarter = hidden_size // 4
    omega = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(grid, dtype=torch.float64)[:, None] * omega
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    column = axis[None, :, :].expand(grid, grid, -1)
    row = axis[:, None, :].expand(grid, grid, -1)
    return torch.cat([column, row], dim=2).reshape(1, grid * grid, hidden_size).float()


def unpatchify(x: Tensor, patch_size: int, channels: int) -> Tensor:
    """Put a square grid of patches back together.  Shapes: [B, T, P * P * C] -> [B, C, H, W]."""
    grid = math.isqrt(x.shape[1])
    patches = x.reshape(len(x), grid, grid, patch_size, patch_size, channels)
    rows = patches.permute(0, 5, 1, 3, 2, 4)
    return rows.reshape(len(x), channels, grid * patch_size, grid * patch_size)


class PatchEmbed(nn.Module):
    """One token per patch, row by row.  Shapes: [B, C, H, W] -> [B, T, D]."""

    def __init__(self, input_size: int, patch_size: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.grid = input_size // patch_size
        self.num_patches = self.grid**2
        self.proj = nn.Conv2d(in_channels, width, patch_size, patch_size)

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.proj(x)
        return tokens.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention.  Shapes: [B, T, D] -> [B, T, D]."""

    def __init__(self, width: int, num_heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        qkv = self.qkv(x).reshape(b, t, 3, self.num_heads, d // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(b, t, d))
        return out


class Mlp(nn.Module):
    """Linear, GELU ("none": with erf; "tanh": its approximation), linear."""

    def __init__(self, width: int, hidden: int, gelu: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU(approximate=gelu)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out
