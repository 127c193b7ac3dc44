"""What else goes into a U-Net's forward: ControlNet, T2I adapters, FreeU; and its cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.unets.unet_2d_blocks import CrossAttnUpBlock2D
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from unets import DeepCacheOracle, draw, inputs, rows, sd_like, shared

import l2c_rt as rt
from l2c_rt.policies import DeepCache

SKIPS = 9
DEPTHS = (None, 2, 8, None, 0, 5)
pytestmark = pytest.mark.usefixtures("shared_probes")
TIMESTEPS = [float(inputs(step)[1]) for step in range(len(DEPTHS))]


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def residuals(unet: Any, step: int) -> tuple[list[Tensor], Tensor]:
    """A ControlNet's: one per skip, and one after the middle block."""
    oracle = DeepCacheOracle(unet)
    oracle(None, *inputs(step))
    extra = [draw(50 * step + q, *skip.shape) for q, skip in enumerate(oracle.skips)]
    return extra, draw(50 * step + 49, *oracle.store[SKIPS].shape)


def call(fast: Any, step: int, **extra: Any) -> Tensor:
    x, t, text = inputs(step)
    out: Tensor = fast(x, t, encoder_hidden_states=text, return_dict=False, **extra)[0]
    return out


@pytest.mark.parametrize("where", ["always", "at some evaluations"])
def test_the_residuals_of_a_control_net_are_added_as_the_model_adds_them(where: str) -> None:
    unet = shared(sd_like)
    fast = rt.compile(unet, rows(DEPTHS, SKIPS), timesteps=TIMESTEPS)
    oracle = DeepCacheOracle(unet)
    for step, depth in enumerate(DEPTHS):
        extra = residuals(unet, step) if where == "always" or step % 2 else None
        given = {} if extra is None else {
            "down_block_additional_residuals": extra[0], "mid_block_additional_residual": extra[1]
        }  # fmt: skip
        assert torch.equal(call(fast, step, **given), oracle(depth, *inputs(step), extra)), step


def test_free_u_scales_a_copy_of_what_is_kept() -> None:
    unet = sd_like()
    unet.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    depths = (None, 5, 5, 2, 7, 7)
    fast = rt.compile(unet, rows(depths, SKIPS), timesteps=TIMESTEPS)
    oracle = DeepCacheOracle(unet)
    for step, depth in enumerate(depths):
        assert torch.equal(call(fast, step), oracle(depth, *inputs(step))), step


@pytest.mark.parametrize(
    "name", ["down_intrablock_additional_residuals", "down_block_additional_residuals"]
)
def test_a_t2i_adapter_is_refused_and_the_run_begins_anew(name: str) -> None:
    unet = shared(sd_like)
    fast = rt.compile(unet, DeepCache(3, 2), timesteps=TIMESTEPS)
    first = [call(fast, step) for step in range(len(DEPTHS))]
    call(fast, 0)
    with pytest.raises(ValueError, match=f"{name}: a T2I adapter adds to the outputs of down"):
        call(fast, 1, **{name: [draw(0, 2, 16, 8, 8)]})
    again = [call(fast, step) for step in range(len(DEPTHS))]
    assert all(map(torch.equal, first, again))


class Peeks(CrossAttnUpBlock2D):
    """Reads the skip of its first layer once more, after its last."""

    def forward(self, hidden_states: Tensor, res_hidden_states_tuple: Any, **rest: Any) -> Tensor:
        out: Tensor = super().forward(hidden_states, res_hidden_states_tuple, **rest)
        return out + res_hidden_states_tuple[-1].mean()


def test_code_that_reads_what_was_left_out_gives_nan_and_not_an_older_value() -> None:
    unet = sd_like()
    unet.up_blocks[2].__class__ = Peeks
    fast = rt.compile(unet, rows((None, 2, 1), SKIPS), timesteps=TIMESTEPS[:3])
    assert torch.equal(call(fast, 0), call(unet, 0))
    assert not call(fast, 1).isnan().any()
    assert call(fast, 2).isnan().all()


def with_attention_written_out() -> UNet2DConditionModel:
    """So that the counter sees the products with the attention matrix."""
    unet = sd_like()
    unet.set_attn_processor(AttnProcessor())
    return unet


@pytest.mark.parametrize("branch", [0, 2, 3, 8])
def test_the_expected_speed_up_is_that_of_the_counted_flops(branch: int) -> None:
    unet = shared(with_attention_written_out)
    fast = rt.compile(unet, DeepCache(2, branch), timesteps=TIMESTEPS[:2])
    for step in range(2):  # The probe of the first call has arithmetic of its own.
        call(fast, step)
    flops = []
    for step in range(2):
        with FlopCounterMode(display=False) as counter:
            call(fast, step)
        flops.append(counter.get_total_flops())
    assert fast.cost.speedup_limit == pytest.approx(2 * flops[0] / sum(flops), rel=0.005)


def test_the_map_and_the_summary_speak_of_shells() -> None:
    fast = rt.compile(sd_like(), DeepCache(3, 2), steps=6)
    lines = str(fast.schedule).splitlines()
    assert lines[1] == "DeepCache, 2 of 6 full, branch 2"
    assert [line.split()[1] for line in lines[3:9]] == ["##########", *2 * ["###......."]] * 2
    assert f"{2 * 10 + 4 * 3} of 60 branch calls computed" in repr(fast)
    assert (fast.summary().reused, fast.summary().slots) == (4 * 7, 1)
