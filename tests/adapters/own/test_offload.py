"""Weights that come to a module when it is called: accelerate's and diffusers' offloading."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from composed_flux import FLUX, STEPS, check_composes, compiled, flux_loop
from diffusers_families import first_tensor
from diffusers_image_families import IMAGE_FAMILIES
from small_models import all_equal, run_loop, times, two_stream_model

import l2c_rt as rt
from l2c_rt.policies import EveryN, Full

CPU = torch.device("cpu")


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


def test_offloading_of_a_whole_model_runs() -> None:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    model, hook = accelerate.cpu_offload_with_hook(FLUX.build(), CPU)
    check_composes(model)
    hook.offload()


def test_sequential_offloading_loads_only_the_modules_that_are_computed() -> None:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    model = accelerate.cpu_offload(FLUX.build(), execution_device=CPU)
    assert model.x_embedder.weight.is_meta
    check_composes(model)
    fast, loaded = compiled(model, EveryN(2)), []
    linear = model.transformer_blocks[0].attn.to_q
    before = linear._hf_hook.pre_forward
    linear._hf_hook.pre_forward = lambda *args, **kw: (loaded.append(1), before(*args, **kw))[1]
    flux_loop(fast)
    assert len(loaded) == 3
    assert model.x_embedder.weight.is_meta
    assert linear.weight.is_meta


def test_sequential_offloading_between_two_runs_is_used_by_the_second() -> None:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    model = FLUX.build()
    fast = compiled(model, EveryN(2))
    outputs = flux_loop(fast)
    accelerate.cpu_offload(model, execution_device=CPU)
    assert all_equal(flux_loop(fast), outputs)


def test_an_offloaded_model_with_an_adapter_runs_its_own_forward() -> None:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    family = IMAGE_FAMILIES["DiT"]
    model = accelerate.cpu_offload(family.build(), execution_device=CPU)
    with pytest.warns(rt.notices.L2CWarning, match="own forward runs, not fused kernels"):
        fast = rt.compile(model, Full(), steps=1)
    assert fast.backend.name == "own"
    with torch.no_grad():
        out, own = (first_tensor(each(**family.at(0))) for each in (fast, model))
    assert torch.equal(out, own)


@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
def test_group_offloading_runs(kind: str) -> None:
    model = FLUX.build()
    blocks = {"num_blocks_per_group": 1} if kind == "block_level" else {}
    model.enable_group_offload(
        onload_device=CPU, offload_device=CPU, offload_type=kind, **blocks
    )  # fmt: skip
    check_composes(model)


def test_group_offloading_with_a_stream_is_refused() -> None:
    model = FLUX.build()
    fast = compiled(model, EveryN(2))
    flux_loop(fast)
    model.enable_group_offload(onload_device=CPU, offload_device=CPU, offload_type="leaf_level")
    linear = model.transformer_blocks[0].attn.to_q
    # A stream needs a GPU: what there would stand here.
    linear._diffusers_hook.get_hook("group_offloading").group.stream = object()
    message = r"blocks.0.attn.to_q: GroupOffloadingHook .* with a stream.*use_stream=False"
    with pytest.raises(ValueError, match=message):
        compiled(model, EveryN(2))
    with pytest.raises(ValueError, match=message):
        flux_loop(fast)


def test_layerwise_casting_on_and_off_runs() -> None:
    model = FLUX.build()
    model.enable_layerwise_casting(
        storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32
    )  # fmt: skip
    assert model.transformer_blocks[0].attn.to_q.weight.dtype == torch.float8_e4m3fn
    check_composes(model)


def test_layerwise_casting_and_group_offloading_together_run() -> None:
    model = FLUX.build()
    model.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    model.enable_group_offload(
        onload_device=CPU, offload_device=CPU, offload_type="block_level", num_blocks_per_group=1
    )
    check_composes(model)
