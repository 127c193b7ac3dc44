"""An x whose dtype or device the model refuses is refused before work, and no other."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from three_backends import STEPS, assert_same, compiled, every_backend, fresh
from torch import Tensor, nn
from toys import call_inputs, drive, random_schedule, toy_dit, toy_uvit

import l2c_rt as rt
from l2c_rt.policies import Full
from l2c_rt.sampling.inputs import check_dtype

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64)


def diffusers_dit() -> nn.Module:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    model: nn.Module = diffusers.DiTTransformer2DModel(
        sample_size=8, num_layers=2, patch_size=2, num_attention_heads=2, attention_head_dim=8,
        in_channels=4, out_channels=8, num_embeds_ada_norm=10, norm_type="ada_norm_zero",
        norm_elementwise_affine=False, attention_bias=True, activation_fn="gelu-approximate",
    )  # fmt: skip
    return model.eval()


MODELS = {"DiT": toy_dit, "U-ViT": toy_uvit, "diffusers": diffusers_dit}


def outcome(call: Any, x: Tensor, autocast: torch.dtype | None) -> Tensor | None:
    """The prediction, or None for a call that fails on x."""
    under = nullcontext() if autocast is None else torch.autocast("cpu", autocast)
    _, t, y = call_inputs(0)
    with torch.no_grad(), under:
        try:
            out = call(x, t, y)
            return out if isinstance(out, Tensor) else out.sample
        except (RuntimeError, ValueError):
            return None


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", MODELS)
def test_what_the_model_takes_is_taken_and_what_it_refuses_is_refused(
    name: str, weights: torch.dtype, autocast: torch.dtype | None
) -> None:
    model = MODELS[name]().to(weights)
    for dtype in DTYPES:
        x = call_inputs(0)[0].to(dtype)
        expected = outcome(model, x, autocast)
        got = outcome(rt.compile(model, Full(), steps=1, backend="reference"), x, autocast)
        assert (got is None) == (expected is None), dtype
        if got is not None and expected is not None:
            assert torch.equal(got, expected)


@every_backend
def test_the_message_says_what_to_pass_and_the_session_stays_usable(backend: str) -> None:
    fast = fresh(backend)
    x, t, y = call_inputs(0)
    with pytest.raises(ValueError, match=r"pass x\.to\('cpu', torch\.float32\)"):
        fast(x.half(), t, y)
    assert fast.summary().slot_bytes == 0
    assert_same(drive(fast, STEPS), drive(fresh(backend), STEPS))


class SameDevice(nn.Linear):
    """PyTorch's answer to an input on another device than the weights, which meta has none of."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device != self.weight.device:
            raise RuntimeError("Expected all tensors to be on the same device")
        return super().forward(x)


def test_an_x_on_another_device_is_refused_with_both_devices() -> None:
    with pytest.raises(ValueError, match=r"x is torch\.float32 on meta, .*float32 on cpu: pass"):
        check_dtype(torch.empty(1, 4, device="meta"), SameDevice(4, 4))


def test_a_first_layer_that_casts_takes_any_dtype() -> None:
    model = toy_dit()
    model.x_embedder.register_forward_pre_hook(lambda _, args: (args[0].float(),))
    x, t, y = call_inputs(0)
    schedule = random_schedule(2, 6)
    assert torch.equal(
        compiled("reference", model, schedule)(x.double(), t, y),
        compiled("reference", toy_dit(), schedule)(x, t, y),
    )
