"""Small models of diffusers whose weights anyone can make again, and their loops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from named_weights import fill_named
from published_loops import spaced_timesteps
from torch import Tensor, nn

# The random time embedding moves fast; a tenth of it makes neighbouring steps alike.
SLOW_TIME = dict.fromkeys(
    ("time_embedder.linear_2.weight", "timestep_embedder.linear_2.weight",
     "time_embedding.linear_2.weight"), 0.1,
)  # fmt: skip


def ddim_timesteps(steps: int) -> list[float]:
    return [float(t) for t in reversed(spaced_timesteps(steps))]


def flux(layers: int = 2, single: int = 4) -> nn.Module:
    from diffusers import FluxTransformer2DModel

    return fill_named(FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=layers, num_single_layers=single,
        attention_head_dim=16, num_attention_heads=2, joint_attention_dim=24,
        pooled_projection_dim=16, guidance_embeds=False, axes_dims_rope=(4, 6, 6),
    ), SLOW_TIME)  # fmt: skip


def dit(layers: int = 8) -> nn.Module:
    from diffusers import DiTTransformer2DModel

    return fill_named(DiTTransformer2DModel(
        num_attention_heads=4, attention_head_dim=16, in_channels=4, out_channels=8,
        num_layers=layers, patch_size=2, sample_size=8, num_embeds_ada_norm=10,
    ), SLOW_TIME)  # fmt: skip


def wan(layers: int = 4) -> nn.Module:
    from diffusers import WanTransformer3DModel

    return fill_named(WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4,
        out_channels=4, text_dim=16, freq_dim=32, ffn_dim=48, num_layers=layers,
        cross_attn_norm=True, qk_norm="rms_norm_across_heads", rope_max_seq_len=32,
    ), SLOW_TIME)  # fmt: skip


def cogvideox() -> nn.Module:
    from diffusers import CogVideoXTransformer3DModel

    return fill_named(CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4,
        time_embed_dim=16, text_embed_dim=24, num_layers=4, sample_width=8, sample_height=8,
        sample_frames=9, patch_size=2, temporal_compression_ratio=4, max_text_seq_length=8,
        use_rotary_positional_embeddings=False,
    ), SLOW_TIME)  # fmt: skip


def ltx() -> nn.Module:
    from diffusers import LTXVideoTransformer3DModel

    return fill_named(LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=16,
        cross_attention_dim=32, num_layers=4, caption_channels=16,
    ), {"timestep_embedder.linear_2.weight": 0.1})  # fmt: skip


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def falling(steps: int, shift: float = 1.0) -> list[float]:
    """Noise levels from 1 down to 0, `steps` + 1 of them."""
    levels = [1 - i / steps for i in range(steps)]
    return [shift * s / (1 + (shift - 1) * s) for s in levels] + [0.0]


def flux_calls(call: Callable[..., Any], steps: int) -> Iterator[Tensor]:
    x, text, pooled, s = drawn(1, 1, 16, 16), drawn(2, 1, 5, 24), drawn(3, 1, 16), falling(steps)
    ids = torch.zeros(4, 4, 3)
    ids[..., 1] += torch.arange(4)[:, None]
    ids[..., 2] += torch.arange(4)[None]
    for i in range(steps):
        (v,) = call(
            hidden_states=x, encoder_hidden_states=text, pooled_projections=pooled,
            timestep=torch.full((1,), s[i]), img_ids=ids.reshape(16, 3), txt_ids=torch.zeros(5, 3),
            return_dict=False,
        )  # fmt: skip
        yield v
        x = x + (s[i + 1] - s[i]) * v


def unpacked(model: nn.Module, args: Any, given: dict[str, Any]) -> list[Tensor] | None:
    """Two images of Flux's tokens, 4 x 4 of them; none at one of the timesteps."""
    if 0.6 < float(given["timestep"]) < 0.63:
        return None
    image = given["hidden_states"].transpose(1, 2).unflatten(2, (1, 4, 4))[0]
    return [image[:, :, :1], image[:, :, 1:]]


def dit_calls(call: Callable[..., Any], steps: int) -> Iterator[Tensor]:
    z, labels = drawn(1, 2, 4, 8, 8), torch.tensor([1, 5])
    for t in ddim_timesteps(steps):
        t = torch.full((2,), int(t))
        (out,) = call(hidden_states=z, timestep=t, class_labels=labels, return_dict=False)
        yield out
        z = z - out[:, :4] / steps


def wan_calls(call: Callable[..., Any], steps: int) -> Iterator[Tensor]:
    """Two calls per step, cond first."""
    x, text, s = drawn(1, 1, 4, 3, 8, 8), drawn(2, 2, 6, 16), falling(steps, 3.0)
    for i in range(steps):
        v = []
        for b in range(2):
            t = torch.full((1,), 1000 * s[i])
            (out,) = call(
                hidden_states=x, timestep=t, encoder_hidden_states=text[b : b + 1],
                return_dict=False,
            )  # fmt: skip
            yield out
            v.append(out)
        x = x + (s[i + 1] - s[i]) * (v[1] + 5.0 * (v[0] - v[1]))


def cogvideox_calls(call: Callable[..., Any], steps: int) -> Iterator[Tensor]:
    """Both labels in one batch, uncond first."""
    x, text, s = drawn(1, 1, 3, 4, 8, 8), drawn(2, 2, 8, 24), falling(steps)
    for i, t in enumerate(cogvideox_timesteps(steps)):
        (v,) = call(
            hidden_states=torch.cat([x, x]), encoder_hidden_states=text,
            timestep=torch.full((2,), int(t)), return_dict=False,
        )  # fmt: skip
        yield v
        uncond, cond = v.chunk(2)
        x = x + (s[i + 1] - s[i]) * (uncond + 5.0 * (cond - uncond))


def ltx_calls(call: Callable[..., Any], steps: int) -> Iterator[Tensor]:
    """Both labels in one batch, uncond first."""
    x, text, s = drawn(1, 1, 32, 8), drawn(2, 2, 6, 16), falling(steps)
    for i in range(steps):
        (v,) = call(
            hidden_states=torch.cat([x, x]), encoder_hidden_states=text,
            timestep=torch.full((2,), 1000 * s[i]), encoder_attention_mask=torch.ones(2, 6),
            num_frames=2, height=4, width=4, return_dict=False,
        )  # fmt: skip
        yield v
        uncond, cond = v.chunk(2)
        x = x + (s[i + 1] - s[i]) * (uncond + 3.0 * (cond - uncond))


def cogvideox_timesteps(steps: int) -> list[float]:
    return [float(int(1000 * s + 1e-6) - 1) for s in falling(steps)[:-1]]


Calls = Callable[[Callable[..., Any], int], Iterator[Tensor]]
SMALL: dict[str, tuple[Callable[[], nn.Module], Calls, Callable[[int], list[float]]]] = {
    "flux": (flux, flux_calls, lambda steps: falling(steps)[:-1]),
    "dit": (dit, dit_calls, ddim_timesteps),
    "wan": (wan, wan_calls, lambda steps: [1000 * s for s in falling(steps, 3.0)[:-1]]),
    "ltx": (ltx, ltx_calls, lambda steps: [1000 * s for s in falling(steps)[:-1]]),
    "cogvideox": (cogvideox, cogvideox_calls, cogvideox_timesteps),
}
"""A small model of diffusers, its loop as an iterator of outputs, and the loop's timesteps."""


@cache
def shared(name: str, *layers: int) -> nn.Module:
    """A model of SMALL, for all that do not change it."""
    return SMALL[name][0](*layers)
