"""What is refused because it acts on calls that a compiled model leaves out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from composed_flux import FLUX, STEPS, compiled, flux_loop
from diffusers_families import first_tensor
from diffusers_image_families import IMAGE_FAMILIES
from small_models import all_equal, run_loop, times, two_stream_model
from torch import nn

import l2c_rt as rt
from l2c_rt.adapters.own.describe import KEY_VALUE_CACHES
from l2c_rt.policies import EveryN, Full


def test_a_forward_replaced_by_unknown_code_is_refused_at_compile() -> None:
    net = two_stream_model()
    net.blocks[1].forward = lambda x, text, gate: (x, text)
    with pytest.raises(ValueError, match=r"Block.forward was replaced.*del module.forward"):
        rt.compile(net, Full(), steps=STEPS, timesteps=times(STEPS))
    net = two_stream_model()
    net.blocks[1].ff.forward = lambda x: x
    assert all_equal(
        run_loop(rt.compile(net, Full(), steps=STEPS, timesteps=times(STEPS)), STEPS),
        run_loop(net, STEPS),
    )


def first_block(diffusers: Any) -> Any:
    return diffusers.FirstBlockCacheConfig(threshold=0.1)


def broadcast(diffusers: Any) -> Any:
    return diffusers.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
    )


@pytest.mark.parametrize("hooked", [False, True], ids=["no other hooks", "hooks of accelerate"])
@pytest.mark.parametrize("config", [first_block, broadcast])
def test_another_cache_on_the_model_is_refused_now_and_at_the_next_run(
    config: Any, hooked: bool
) -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    model = FLUX.build()
    if hooked:  # The forwards are replaced already when the cache's hooks come.
        hooks = pytest.importorskip("accelerate.hooks", reason="accelerate is not installed")
        for block in (*model.transformer_blocks, *model.single_transformer_blocks):
            hooks.add_hook_to_module(block, hooks.ModelHook())
            hooks.add_hook_to_module(block.attn, hooks.ModelHook())
    fast = compiled(model, EveryN(2))
    plain = flux_loop(fast)
    model.enable_cache(config(diffusers))
    message = r"replaces the forward of .*Flux.*another cache\? Take it off|cache .* enabled"
    with pytest.raises(ValueError, match=message):
        compiled(model, EveryN(2))
    with pytest.raises(ValueError, match=message):
        flux_loop(fast)
    model.disable_cache()
    assert all_equal(flux_loop(fast), plain)


def test_a_cache_that_was_put_on_attention_by_hand_is_refused() -> None:
    hooks = pytest.importorskip("diffusers.hooks", reason="diffusers is not installed")
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    model = FLUX.build()
    hooks.apply_pyramid_attention_broadcast(model, broadcast(diffusers))
    with pytest.raises(ValueError, match="PyramidAttentionBroadcastHook .* of FluxAttention"):
        compiled(model, EveryN(2))


@pytest.mark.parametrize(
    ("name", "argument"),
    [("Flux2", {"kv_cache_mode": "extract"}), ("Flux2", {"kv_cache": object()})],
)
def test_a_call_with_a_cache_of_keys_and_values_is_refused(
    name: str, argument: dict[str, Any]
) -> None:
    family = IMAGE_FAMILIES[name]
    fast = rt.compile(family.build(), Full(), steps=1)
    message = rf"{next(iter(argument))}: a cache of keys and values.*call the model itself"
    with torch.no_grad(), pytest.raises(ValueError, match=message):
        fast(**family.at(0), **argument)
    with torch.no_grad():
        assert fast(**family.at(0), kv_cache=None)


def test_caches_of_keys_and_values_that_are_not_in_use_are_no_obstacle() -> None:
    module = pytest.importorskip("diffusers.models.transformers.transformer_glm_image")
    family = IMAGE_FAMILIES["GlmImage"]
    model = family.build()
    fast = rt.compile(model, Full(), steps=1)
    caches = module.GlmImageKVCache(num_layers=len(model.transformer_blocks))
    with torch.no_grad():
        out, own = (first_tensor(each(**family.at(0), kv_caches=caches)) for each in (fast, model))
    assert torch.equal(out, own)
    caches.set_mode("write")
    with torch.no_grad(), pytest.raises(ValueError, match="kv_caches: a cache of keys"):
        fast(**family.at(0), kv_caches=caches)


def test_no_argument_of_a_transformer_leads_a_cache_of_keys_past_the_check() -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    folder = Path(diffusers.__file__).parent / "models" / "transformers"
    text = "\n".join(path.read_text(encoding="utf-8") for path in folder.glob("transformer_*.py"))
    arguments = set(
        re.findall(r"^ {8}(\w*(?:kv_cache|past_key)\w*)\b.*?[:=].*,$", text, re.MULTILINE)
    )
    assert {"kv_cache", "kv_caches", "kv_cache_mode"} <= arguments <= set(KEY_VALUE_CACHES)


def unet_1d() -> nn.Module:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    model: nn.Module = diffusers.UNet1DModel(
        block_out_channels=(32, 64), sample_size=16, mid_block_type="UNetMidBlock1D",
        down_block_types=("DownBlock1D", "AttnDownBlock1D"),
        up_block_types=("AttnUpBlock1D", "UpBlock1D"),
    )  # fmt: skip
    return model.eval()


def test_a_one_dimensional_unet_has_no_rule_and_runs_with_named_sites() -> None:
    model = unet_1d()
    message = r'UNet1DModel has no list of blocks .* up_blocks of 2 AttnUpBlock1D.*sites=\["'
    with pytest.raises(TypeError, match=message):
        compiled(model, EveryN(2))
    fast = rt.compile(model, EveryN(2), steps=STEPS, sites=["*_blocks.*.attentions.*"])
    x = torch.randn(1, 2, 64)
    with torch.no_grad():
        outputs, own = (
            [first_tensor(each((1 + step / 8) * x, 900 - step)) for step in range(STEPS)]
            for each in (fast, model)
        )
    assert [torch.equal(a, b) for a, b in zip(outputs, own, strict=True)] == [
        True, True, False, True
    ]  # fmt: skip
