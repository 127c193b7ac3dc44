"""The published coefficients of TeaCache, and where its adapters look in each family.

Source: github ali-vilab/TeaCache, one adapter per family.  Highest power first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

COEFFICIENTS: Mapping[str, tuple[float, ...]] = MappingProxyType({
    "flux": (498.651651, -283.781631, 55.8554382, -3.82021401, 0.264230861),
    "hunyuan-video": (733.226126, -401.131952, 67.5869174, -3.149878, 0.0961237896),
    "mochi": (-3512.41319, 811.675948, -60.940021, 2.42429681, 0.00305291719),
    "ltx-video": (21.4700694, -12.8016453, 2.31279151, 0.792487521, 0.00969274326),
    "lumina-t2x": (393.76566581, -603.50993606, 209.10239044, -23.00726601, 0.86377344),
    "lumina2": (393.76566581, -603.50993606, 209.10239044, -23.00726601, 0.86377344),
    "lumina2-v2": (225.70420198, -608.84537166, 304.18699423, 124.21267720, -1.40890669),
    "hidream": (-31360.5009, -712.425503, 49.1363285, 8.2651649, 0.108053901),
    "cosmos": (271.156237, -91.9775607, 2.2443725, 2.08355751, 0.14177633),
    "cogvideox-2b": (-31.0658903, 25.4732368, -5.92380459, 1.75769064, -0.00361568434),
    "cogvideox-5b": (-1538.80483, 843.202495, -134.363087, 7.97131516, -0.0523162339),
    "consisid": (-1538.80483, 843.202495, -134.363087, 7.97131516, -0.0523162339),
    "cogvideox1.5-5b": (250.210439, -165.061612, 35.7804877, -0.781551492, 0.0358559703),
    "cogvideox1.5-5b-i2v": (122.842302, -104.088754, 26.2981677, -0.306009921, 0.037121322),
    "open-sora": (217.546007, -118.329252, 26.8662585, -0.0459364272, 0.048442624),
    "open-sora-plan": (205943.668, -14875.9286, 306.085986, 1.3141808, 0.00239658469),
    "latte": (-2464.34137, 308.044764, 80.7447667, -4.11385132, 0.111001402),
    "wan2.1-t2v-1.3b": (2396.76752, -1311.10545, 201.331979, -8.29855975, 0.137887774),
    "wan2.1-t2v-14b": (
        -5784.54975374, 5449.50911966, -1811.16591783, 256.27178429, -13.02252404,
    ),
    "wan2.1-i2v-480p": (-302.33167, 223.948934, -52.546397, 5.8734844, -0.201973289),
    "wan2.1-i2v-720p": (-114.36346466, 65.26524496, -18.82220707, 4.91518089, -0.23412683),
})  # fmt: skip
"""By the name of a model; those of Wan for `use_ret_steps=False`."""

RETENTION_COEFFICIENTS: Mapping[str, tuple[float, ...]] = MappingProxyType({
    "wan2.1-t2v-1.3b": (-52186.2437, 9230.41404, -528.275948, 13.6987616, -0.0499875664),
    "wan2.1-t2v-14b": (-303318.725, 49053.7029, -2655.30556, 58.7365115, -0.315583525),
    "wan2.1-i2v-480p": (257151.496, -35422.9917, 1402.86849, -13.5890334, 0.132517977),
    "wan2.1-i2v-720p": (8107.0546, 2133.93892, -372.934672, 16.6203073, -0.0417769401),
})  # fmt: skip
"""For `use_ret_steps=True`."""


@dataclass(frozen=True, slots=True)
class Family:
    """What the adapter of a class of models does.

    `names` are those of its coefficients; it looks at the `side` of the module at `path`, "" being
    the attention of the first block; `exit` is the module before which it adds what it kept, in
    place of after the last block; `sites` are the blocks, where not all of the model's are.
    """

    names: tuple[str, ...] = ()
    side: Literal["input", "output"] = "input"
    path: str = ""
    exit: str = ""
    sites: tuple[str, ...] = ()


FAMILIES: Mapping[str, Family] = MappingProxyType({
    "FluxTransformer2DModel": Family(("flux",), "output", "transformer_blocks.0.norm1"),
    "HunyuanVideoTransformer3DModel": Family(
        ("hunyuan-video",), "output", "transformer_blocks.0.norm1"
    ),
    "MochiTransformer3DModel": Family(("mochi",), "output", "transformer_blocks.0.norm1"),
    "LTXVideoTransformer3DModel": Family(("ltx-video",), exit="proj_out"),
    "Lumina2Transformer2DModel": Family(
        ("lumina2", "lumina2-v2"), "output", "layers.0.norm1", sites=("layers.*",)
    ),
    "LuminaNextDiT2DModel": Family(("lumina-t2x",)),
    "HiDreamImageTransformer2DModel": Family(("hidream",), "input", "t_embedder"),
    "CosmosTransformer3DModel": Family(("cosmos",)),
    "CogVideoXTransformer3DModel": Family(
        ("cogvideox-2b", "cogvideox-5b", "cogvideox1.5-5b", "cogvideox1.5-5b-i2v"),
        "output", "time_embedding",
    ),
    "ConsisIDTransformer3DModel": Family(("consisid",), "output", "time_embedding"),
    "LatteTransformer3DModel": Family(("latte",)),
    "WanTransformer3DModel": Family(
        ("wan2.1-t2v-1.3b", "wan2.1-t2v-14b", "wan2.1-i2v-480p", "wan2.1-i2v-720p"),
        "output", "condition_embedder.time_embedder",
    ),
})  # fmt: skip
"""By the class of the model in diffusers."""

RETENTION_PATHS: Mapping[str, str] = MappingProxyType(
    {
        "WanTransformer3DModel": "condition_embedder.time_proj",
    }
)
"""Where they look with `use_ret_steps=True`."""
