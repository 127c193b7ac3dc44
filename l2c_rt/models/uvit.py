"""U-ViT, a transformer with long skip connections whose tokens include time and class
(arXiv 2209.12152).  Parameter names and shapes are the published ones.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from l2c_rt.models.layers import Attention, Mlp, PatchEmbed, timestep_embedding, unpatchify


@dataclass(frozen=True, slots=True)
class UViTConfig:
    """What a published size fixes; everything else is an argument of `UViT`."""

    depth: int
    embed_dim: int
    num_heads: int
    patch_size: int
    conv: bool


_SIZES = {
    "s": (12, 512, 8, True),
    "m": (16, 768, 12, True),
    "l": (20, 1024, 16, True),
    "h": (28, 1152, 16, False),
}
CONFIGS = {
    f"uvit-{name}-{patch}": UViTConfig(depth, width, heads, patch, conv)
    for name, (depth, width, heads, conv) in _SIZES.items()
    for patch in (2, 4)
}


def config(name: str) -> UViTConfig:
    """A published size by its name, "uvit-h-2" or "U-ViT-H/2"."""
    key = name.lower().replace("u-vit", "uvit").replace("/", "-")
    if key not in CONFIGS:
        raise ValueError(f"uvit: unknown size {name!r}; known sizes are {', '.join(CONFIGS)}")
    return CONFIGS[key]


def uvit(name: str, **options: Any) -> UViT:
    """A model of a published size; options go to `UViT`.

    Without options it is the latent model of ImageNet: 16 x 16 patches of 4 channels, 1000
    classes and, last, "no class".
    """
    size = config(name)
    latent = {"img_size": 16 * size.patch_size, "in_chans": 4, "num_classes": 1001}
    return UViT(**{**latent, **asdict(size), **options})


class Block(nn.Module):
    """Merges the long skip where there is one, then two branches: x + f(norm(x))."""

    def __init__(
        self, width: int, num_heads: int, mlp_ratio: float, qkv_bias: bool, skip: bool = False
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, num_heads, qkv_bias)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, int(width * mlp_ratio), gelu="none")
        self.skip_linear = nn.Linear(2 * width, width) if skip else None

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        if self.skip_linear is not None:
            assert skip is not None
            x = self.skip_linear(torch.cat([x, skip], dim=-1))
        x = x + self.attn(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x


class UViT(nn.Module):
    """Predicts noise.  Tokens are the class (if any), the time, and then the patches.

    Attention runs in the dtype of its input; the published code casts it to float32.

    Shapes: forward(x [B, C, H, W], timesteps [B], y [B] or None) -> [B, C, H, W].
    """

    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        mlp_time_embed: bool = False,
        num_classes: int = -1,
        conv: bool = True,
        skip: bool = True,
    ) -> None:
        super().__init__()
        _check_sizes(img_size, patch_size, embed_dim, num_heads, depth)
        self.embed_dim = embed_dim
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.patch_size = patch_size
        self.extras = 2 if num_classes > 0 else 1
        self.patch_embed = PatchEmbed(img_size, patch_size, in_chans, embed_dim)
        self.time_embed = _time_mlp(embed_dim) if mlp_time_embed else nn.Identity()
        if num_classes > 0:
            self.label_emb = nn.Embedding(num_classes, embed_dim)
        tokens = self.extras + self.patch_embed.num_patches
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, embed_dim))
        shape = (embed_dim, num_heads, mlp_ratio, qkv_bias)
        self.in_blocks = nn.ModuleList(Block(*shape) for _ in range(depth // 2))
        self.mid_block = Block(*shape)
        self.out_blocks = nn.ModuleList(Block(*shape, skip=skip) for _ in range(depth // 2))
        self.norm = nn.LayerNorm(embed_dim)
        self.decoder_pred = nn.Linear(embed_dim, patch_size**2 * in_chans)
        self.final_layer = nn.Conv2d(in_chans, in_chans, 3, padding=1) if conv else nn.Identity()
        _initialize(self)

    def embed(self, x: Tensor, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        """The tokens before the first block.  Shapes: -> [B, extras + T, D]."""
        if (y is None) == (self.num_classes > 0):
            has, got = self.num_classes, None if y is None else tuple(y.shape)
            raise ValueError(f"UViT: the model has num_classes={has}, but y is {got}")
        patches = self.patch_embed(x)
        time = timestep_embedding(timesteps, self.embed_dim).to(self.pos_embed.dtype)
        tokens = [self.time_embed(time).unsqueeze(1), patches]
        if y is not None:
            tokens.insert(0, self.label_emb(y).unsqueeze(1))
        return torch.cat(tokens, dim=1) + self.pos_embed

    def decode(self, x: Tensor) -> Tensor:
        """The image from the tokens after the last block."""
        patches = self.decoder_pred(self.norm(x))[:, self.extras :]
        image: Tensor = self.final_layer(unpatchify(patches, self.patch_size, self.in_chans))
        return image

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        x = self.embed(x, timesteps, y)
        skips = []
        for block in self.in_blocks:
            x = block(x)
            skips.append(x)
        x = self.mid_block(x)
        for block in self.out_blocks:
            x = block(x, skips.pop())
        return self.decode(x)


def _time_mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))


def _check_sizes(
    img_size: int, patch_size: int, embed_dim: int, num_heads: int, depth: int
) -> None:
    if img_size % patch_size:
        raise ValueError(f"UViT: {img_size=} is not a multiple of {patch_size=}")
    if embed_dim % num_heads or embed_dim % 2:
        raise ValueError(f"UViT: {embed_dim=} is not even or not a multiple of {num_heads=}")
    if depth % 2:
        raise ValueError(f"UViT: {depth=} is odd; it counts the blocks around the middle one")


def _initialize(model: UViT) -> None:
    nn.init.trunc_normal_(model.pos_embed, std=0.02)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
