"""What accelerate and diffusers put around forwards, on a model that runs its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers_families import first_tensor
from diffusers_image_families import IMAGE_FAMILIES
from small_models import all_equal, run_loop, times, two_stream_model

import l2c_rt as rt
from l2c_rt.policies import EveryN, Full

STEPS = 4
FLUX = IMAGE_FAMILIES["Flux"]
FLUX_TIMES = [float(FLUX.at(step)["timestep"][0]) for step in range(STEPS)]


def flux_loop(model: Any) -> list[torch.Tensor]:
    with torch.no_grad():
        return [first_tensor(model(**FLUX.at(step))) for step in range(STEPS)]


@pytest.mark.parametrize("path", ["", "blocks.0", "blocks.0.attn"])
def test_hooks_of_accelerate_run_on_whatever_module_they_are(path: str) -> None:
    hooks = pytest.importorskip("accelerate.hooks", reason="accelerate is not installed")
    net, seen = two_stream_model(), []

    class Doubles(hooks.ModelHook):  # type: ignore[misc, name-defined]
        def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(module)
            return args, kwargs

        def post_forward(self, module: Any, output: Any) -> Any:
            return output * 2 if isinstance(output, torch.Tensor) else output

    hooks.add_hook_to_module(net.get_submodule(path), Doubles())
    fast = rt.compile(net, Full(), steps=STEPS, timesteps=times(STEPS))
    assert all_equal(run_loop(fast, STEPS), run_loop(net, STEPS))
    assert all(module is net.get_submodule(path) for module in seen)
    assert len(seen) == 2 * STEPS


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


def test_another_cache_on_the_model_is_refused() -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    model = FLUX.build()
    model.enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(ValueError, match=r"another cache\? Take it off"):
        rt.compile(model, Full(), steps=STEPS, timesteps=FLUX_TIMES)
    model.disable_cache()
    assert all_equal(
        flux_loop(rt.compile(model, Full(), steps=STEPS, timesteps=FLUX_TIMES)), flux_loop(model)
    )


def test_block_offloading_and_layerwise_casting_of_diffusers_run() -> None:
    model = FLUX.build()
    model.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    model.enable_group_offload(
        onload_device=torch.device("cpu"), offload_device=torch.device("cpu"),
        offload_type="block_level", num_blocks_per_group=1,
    )  # fmt: skip
    own = flux_loop(model)
    assert all_equal(flux_loop(rt.compile(model, Full(), steps=STEPS, timesteps=FLUX_TIMES)), own)
    cached = flux_loop(rt.compile(model, EveryN(2), steps=STEPS, timesteps=FLUX_TIMES))
    assert not all_equal(cached, own)
    assert all(bool(torch.isfinite(out).all()) for out in cached)
