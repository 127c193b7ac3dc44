"""Tiny image models of diffusers, second half of the alphabet."""

from __future__ import annotations

import torch
from diffusers_families import Family, latents, normal, ones, time, zeros

LONG = torch.long

# fmt: off
MORE_IMAGE_FAMILIES: dict[str, Family] = {
    "OvisImage": Family(
        "OvisImageTransformer2DModel",
        dict(patch_size=1, in_channels=4, out_channels=4, num_layers=1, num_single_layers=2,
             attention_head_dim=16, num_attention_heads=2, joint_attention_dim=32,
             axes_dims_rope=(4, 4, 8)),
        dict(hidden_states=latents(1, 16, 4), encoder_hidden_states=normal(1, 7, 32),
             img_ids=zeros(16, 3), txt_ids=zeros(7, 3), timestep=time(1, first=0.5))),
    "PixArt": Family(
        "PixArtTransformer2DModel",
        dict(sample_size=8, num_layers=2, patch_size=2, attention_head_dim=8,
             num_attention_heads=3, caption_channels=32, in_channels=4, cross_attention_dim=24,
             out_channels=8, attention_bias=True, activation_fn="gelu-approximate",
             num_embeds_ada_norm=1000, norm_type="ada_norm_single",
             norm_elementwise_affine=False, norm_eps=1e-6, use_additional_conditions=False),
        dict(hidden_states=latents(2, 4, 8, 8), timestep=time(2),
             encoder_hidden_states=normal(2, 7, 32),
             added_cond_kwargs={"aspect_ratio": None, "resolution": None})),
    "PRX": Family(
        "PRXTransformer2DModel",
        dict(in_channels=4, patch_size=2, context_in_dim=32, hidden_size=32, mlp_ratio=2.0,
             num_heads=2, depth=2, axes_dim=[8, 8], theta=10_000),
        dict(hidden_states=latents(1, 4, 8, 8), encoder_hidden_states=normal(1, 7, 32),
             timestep=time(1, first=0.5))),
    "Prior": Family(
        "PriorTransformer",
        dict(num_attention_heads=2, attention_head_dim=4, num_layers=2, embedding_dim=8,
             num_embeddings=7, additional_embeddings=4),
        dict(hidden_states=latents(4, 8), timestep=time(1), proj_embedding=normal(4, 8),
             encoder_hidden_states=normal(4, 7, 8))),
    "QwenImage": Family(
        "QwenImageTransformer2DModel",
        dict(patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16,
             num_attention_heads=2, joint_attention_dim=16, axes_dims_rope=(4, 6, 6)),
        dict(hidden_states=latents(2, 16, 16), encoder_hidden_states=normal(2, 7, 16),
             encoder_hidden_states_mask=ones(2, 7, dtype=LONG), timestep=time(2, first=0.5),
             img_shapes=[[(1, 4, 4)]] * 2)),
    "Sana": Family(
        "SanaTransformer2DModel",
        dict(patch_size=1, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=4,
             num_attention_heads=2, num_cross_attention_heads=2, cross_attention_head_dim=4,
             cross_attention_dim=8, caption_channels=8, sample_size=8),
        dict(hidden_states=latents(2, 4, 8, 8), encoder_hidden_states=normal(2, 7, 8),
             timestep=time(2))),
    "SD3": Family(
        "SD3Transformer2DModel",
        dict(sample_size=8, patch_size=2, in_channels=4, num_layers=3, attention_head_dim=8,
             num_attention_heads=4, caption_projection_dim=32, joint_attention_dim=32,
             pooled_projection_dim=64, out_channels=4, pos_embed_max_size=8,
             dual_attention_layers=(0, 1), qk_norm="rms_norm"),
        dict(hidden_states=latents(2, 4, 8, 8), encoder_hidden_states=normal(2, 7, 32),
             pooled_projections=normal(2, 64), timestep=time(2))),
    "Transformer2D": Family(
        "Transformer2DModel",
        dict(num_attention_heads=2, attention_head_dim=8, in_channels=16, num_layers=2,
             norm_num_groups=4, cross_attention_dim=12),
        dict(hidden_states=latents(2, 16, 8, 8), encoder_hidden_states=normal(2, 7, 12),
             timestep=time(2))),
    "ZImage": Family(
        "ZImageTransformer2DModel",
        dict(all_patch_size=(2,), all_f_patch_size=(1,), in_channels=16, dim=32, n_layers=2,
             n_refiner_layers=1, n_heads=2, n_kv_heads=2, norm_eps=1e-5, qk_norm=True,
             cap_feat_dim=16, rope_theta=256.0, t_scale=1000.0, axes_dims=[8, 4, 4],
             axes_lens=[256, 32, 32]),
        dict(x=[latents(16, 1, 8, 8), latents(16, 1, 8, 8)], t=time(2, first=0.5),
             cap_feats=[normal(8, 16), normal(8, 16)])),
}
