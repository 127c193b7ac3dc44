"""Tiny U-Nets of diffusers that have transformer blocks."""

from __future__ import annotations

from diffusers_families import Family, latents, normal, time

# fmt: off
UNET_FAMILIES: dict[str, Family] = {
    "StableCascade": Family(
        "StableCascadeUNet",
        dict(in_channels=4, out_channels=4, conditioning_dim=16, block_out_channels=(16, 32),
             num_attention_heads=(2, 4), down_num_layers_per_block=(1, 1),
             up_num_layers_per_block=(1, 1), down_blocks_repeat_mappers=(1, 1),
             up_blocks_repeat_mappers=(1, 1), timestep_ratio_embedding_dim=16,
             block_types_per_layer=(
                 ("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),) * 2,
             clip_text_in_channels=16, clip_text_pooled_in_channels=16, clip_image_in_channels=16,
             timestep_conditioning_type=("sca",)),
        dict(sample=latents(2, 4, 8, 8), timestep_ratio=time(2, first=0.9),
             clip_text_pooled=normal(2, 1, 16), clip_text=normal(2, 5, 16),
             clip_img=normal(2, 1, 16))),
    "UNet2DCondition": Family(
        "UNet2DConditionModel",
        dict(sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 32),
             layers_per_block=1, cross_attention_dim=16, attention_head_dim=4, norm_num_groups=8,
             down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
             up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")),
        dict(sample=latents(2, 4, 8, 8), timestep=time(2), encoder_hidden_states=normal(2, 7, 16))),
}
# fmt: on
