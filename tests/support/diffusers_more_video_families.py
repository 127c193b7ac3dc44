"""Tiny video and audio models of diffusers, second half of the alphabet."""

from __future__ import annotations

import torch
from diffusers_families import Family, latents, normal, ones, time
from diffusers_video_families import WAN

BOOL = torch.bool

# fmt: off
MORE_VIDEO_FAMILIES: dict[str, Family] = {
    "Latte": Family(
        "LatteTransformer3DModel",
        dict(sample_size=8, num_layers=2, patch_size=2, attention_head_dim=8,
             num_attention_heads=3, caption_channels=32, in_channels=4, cross_attention_dim=24,
             out_channels=8, attention_bias=True, activation_fn="gelu-approximate",
             num_embeds_ada_norm=1000, norm_type="ada_norm_single",
             norm_elementwise_affine=False, norm_eps=1e-6, video_length=2),
        dict(hidden_states=latents(1, 4, 2, 8, 8), timestep=time(1),
             encoder_hidden_states=normal(1, 7, 32))),
    "LongCatAudio": Family(
        "LongCatAudioDiTTransformer",
        dict(dit_dim=64, dit_depth=2, dit_heads=4, dit_text_dim=32, latent_dim=8,
             text_conv=False),
        dict(hidden_states=latents(1, 16, 8), encoder_hidden_states=normal(1, 10, 32),
             encoder_attention_mask=ones(1, 10, dtype=BOOL),
             attention_mask=ones(1, 16, dtype=BOOL), timestep=time(1, first=0.5))),
    "LTX": Family(
        "LTXVideoTransformer3DModel",
        dict(in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8,
             cross_attention_dim=16, num_layers=2, caption_channels=16),
        dict(hidden_states=latents(2, 32, 4), encoder_hidden_states=normal(2, 7, 16),
             timestep=time(2), encoder_attention_mask=ones(2, 7, dtype=BOOL), num_frames=2,
             height=4, width=4)),
    "LTX2": Family(
        "LTX2VideoTransformer3DModel",
        dict(in_channels=4, out_channels=4, patch_size=1, patch_size_t=1, num_attention_heads=2,
             attention_head_dim=8, cross_attention_dim=16, audio_in_channels=4,
             audio_out_channels=4, audio_num_attention_heads=2, audio_attention_head_dim=4,
             audio_cross_attention_dim=8, num_layers=2, qk_norm="rms_norm_across_heads",
             caption_channels=16, rope_double_precision=False),
        dict(hidden_states=latents(2, 32, 4), audio_hidden_states=normal(2, 9, 4),
             encoder_hidden_states=normal(2, 7, 16), audio_encoder_hidden_states=normal(2, 7, 16),
             timestep=time(2), encoder_attention_mask=ones(2, 7, dtype=BOOL), num_frames=2,
             height=4, width=4, audio_num_frames=9, fps=25.0)),
    "MiniMaxMusic3": Family(
        "MiniMaxMusic3Transformer1DModel",
        dict(in_channels=8, condition_dim=16, num_layers=2, num_attention_heads=2,
             attention_head_dim=8, ff_inner_dim=32, rotary_dim=4, fourier_embedding_dim=8),
        dict(hidden_states=latents(1, 8, 24), encoder_hidden_states=normal(1, 24, 16),
             timestep=time(1, first=0.5))),
    "Mochi": Family(
        "MochiTransformer3DModel",
        dict(patch_size=2, num_attention_heads=2, attention_head_dim=8, num_layers=2,
             pooled_projection_dim=16, in_channels=4, out_channels=None, qk_norm="rms_norm",
             text_embed_dim=16, time_embed_dim=4, activation_fn="swiglu",
             max_sequence_length=16),
        dict(hidden_states=latents(2, 4, 2, 8, 8), encoder_hidden_states=normal(2, 7, 16),
             timestep=time(2), encoder_attention_mask=ones(2, 7, dtype=BOOL))),
    "MotifVideo": Family(
        "MotifVideoTransformer3DModel",
        dict(in_channels=33, out_channels=16, num_attention_heads=2, attention_head_dim=12,
             num_layers=1, num_single_layers=2, num_decoder_layers=0, mlp_ratio=4.0,
             patch_size=1, patch_size_t=1, qk_norm="rms_norm", norm_type="layer_norm",
             text_embed_dim=32, image_embed_dim=4, rope_theta=256.0, rope_axes_dim=(4, 4, 4),
             enable_text_cross_attention_dual=False, enable_text_cross_attention_single=False),
        dict(hidden_states=latents(1, 33, 2, 4, 4), encoder_hidden_states=normal(1, 12, 32),
             timestep=time(1))),
    "SanaVideo": Family(
        "SanaVideoTransformer3DModel",
        dict(in_channels=16, out_channels=16, num_attention_heads=2, attention_head_dim=12,
             num_layers=2, num_cross_attention_heads=2, cross_attention_head_dim=12,
             cross_attention_dim=24, caption_channels=16, mlp_ratio=2.5, dropout=0.0,
             attention_bias=False, sample_size=8, patch_size=(1, 2, 2),
             norm_elementwise_affine=False, norm_eps=1e-6, qk_norm="rms_norm_across_heads",
             rope_max_seq_len=32),
        dict(hidden_states=latents(1, 16, 2, 8, 8), encoder_hidden_states=normal(1, 12, 16),
             timestep=time(1))),
    "SkyReelsV2": Family(
        "SkyReelsV2Transformer3DModel", WAN,
        dict(hidden_states=latents(2, 4, 2, 8, 8), timestep=time(2),
             encoder_hidden_states=normal(2, 12, 16))),
    "StableAudio": Family(
        "StableAudioDiTModel",
        dict(sample_size=4, in_channels=3, out_channels=3, num_layers=2, attention_head_dim=4,
             num_key_value_attention_heads=2, num_attention_heads=2, cross_attention_dim=8,
             time_proj_dim=8, cross_attention_input_dim=6, global_states_input_dim=8),
        dict(hidden_states=latents(2, 3, 4), timestep=time(2, first=0.5),
             encoder_hidden_states=normal(2, 5, 6), global_hidden_states=normal(2, 1, 8),
             rotary_embedding=None)),
    "StableAudio3": Family(
        "StableAudio3DiTModel",
        dict(io_channels=8, patch_size=1, embed_dim=32, depth=2, num_heads=4, cond_token_dim=16,
             global_cond_dim=12, local_add_cond_dim=5, timestep_features_dim=16, ff_mult=2,
             num_memory_tokens=3, use_differential_attention=False),
        dict(hidden_states=latents(2, 8, 16), timestep=time(2, first=0.5),
             encoder_hidden_states=normal(2, 4, 16), global_hidden_states=normal(2, 12))),
    "TransformerTemporal": Family(
        "TransformerTemporalModel",
        dict(num_attention_heads=2, attention_head_dim=4, in_channels=4, num_layers=2,
             norm_num_groups=1),
        dict(hidden_states=latents(2, 4, 8, 8), timestep=time(2))),
    "Wan": Family(
        "WanTransformer3DModel", WAN,
        dict(hidden_states=latents(2, 4, 2, 8, 8), timestep=time(2),
             encoder_hidden_states=normal(2, 12, 16))),
    "WanAnimate": Family(
        "WanAnimateTransformer3DModel",
        WAN | dict(in_channels=12, latent_channels=4, image_dim=16,
                   motion_encoder_channel_sizes={"4": 16, "8": 16, "16": 16},
                   motion_encoder_size=16, motion_style_dim=8, motion_dim=4,
                   motion_encoder_dim=16, face_encoder_hidden_dim=16, face_encoder_num_heads=2,
                   inject_face_latents_blocks=2),
        dict(hidden_states=latents(1, 12, 21, 4, 4), timestep=time(1),
             encoder_hidden_states=normal(1, 12, 16),
             encoder_hidden_states_image=normal(1, 12, 16),
             pose_hidden_states=normal(1, 4, 20, 4, 4),
             face_pixel_values=normal(1, 3, 77, 16, 16))),
    "WanVACE": Family(
        "WanVACETransformer3DModel", WAN | dict(vace_layers=[0, 1], vace_in_channels=8),
        dict(hidden_states=latents(1, 4, 2, 8, 8), timestep=time(1),
             encoder_hidden_states=normal(1, 12, 16),
             control_hidden_states=normal(1, 8, 2, 8, 8), control_hidden_states_scale=ones(2))),
}
