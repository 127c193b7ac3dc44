"""What may change about a model between runs, and what must not change because of them."""

from __future__ import annotations

import copy
import pickle
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_models import TwoStreamModel, all_equal, run_loop, times, two_stream_model
from torch import nn

import l2c_rt as rt
from l2c_rt.adapters.own.stage import Stage
from l2c_rt.policies import EveryN, Full

STEPS = 4


def scaled(net: TwoStreamModel) -> None:
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.1)


def another_child(net: TwoStreamModel) -> None:
    net.blocks[0].attn.proj = nn.Linear(8, 8)


def another_branch(net: TwoStreamModel) -> None:
    net.blocks[1].ff = nn.Sequential(nn.Linear(8, 8), nn.GELU())


def another_block(net: TwoStreamModel) -> None:
    net.single_blocks[2] = copy.deepcopy(net.single_blocks[0])


def an_attribute(net: TwoStreamModel) -> None:
    net.blocks[0].repeats = 3


def a_hook_on_a_block(net: TwoStreamModel) -> None:
    net.single_blocks[1].register_forward_hook(lambda module, args, out: out * 1.5)


def a_hook_on_a_branch(net: TwoStreamModel) -> None:
    net.blocks[1].ff.register_forward_hook(lambda module, args, out: out * 1.5)


def a_hook_on_the_model(net: TwoStreamModel) -> None:
    net.register_forward_pre_hook(
        lambda module, args, kwargs: (args, kwargs | {"text": 2 * kwargs["text"]}), with_kwargs=True
    )


CHANGES = (scaled, another_child, another_branch, another_block, an_attribute, a_hook_on_a_block,
           a_hook_on_a_branch, a_hook_on_the_model)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_between_runs_is_in_the_next_run(change: Callable[[Any], None]) -> None:
    net = two_stream_model()
    fast, full = (
        rt.compile(net, EveryN(2), steps=STEPS, timesteps=times(STEPS)),
        rt.compile(net, Full(), steps=STEPS, timesteps=times(STEPS)),
    )
    before = run_loop(fast, STEPS)
    run_loop(full, STEPS)
    change(net)
    assert all_equal(run_loop(full, STEPS), run_loop(net, STEPS))
    outputs = run_loop(fast, STEPS)
    assert all_equal(
        outputs, run_loop(rt.compile(net, EveryN(2), steps=STEPS, timesteps=times(STEPS)), STEPS)
    )
    assert not any(torch.equal(a, b) for a, b in zip(outputs, before, strict=True))


def test_a_model_that_lost_a_block_no_longer_fits() -> None:
    net = two_stream_model()
    fast = rt.compile(net, EveryN(2), steps=STEPS, timesteps=times(STEPS))
    run_loop(fast, STEPS)
    del net.single_blocks[2]
    with pytest.raises(ValueError, match="structure changed since compile"):
        run_loop(fast, STEPS)


def test_a_cast_model_takes_slots_of_the_other_dtype() -> None:
    net = two_stream_model()
    fast = rt.compile(net, EveryN(2), steps=STEPS, timesteps=times(STEPS))
    run_loop(fast, STEPS)
    net.to(torch.float64)
    inputs = {"hidden_states": torch.randn(2, 5, 8).double(), "text": torch.randn(2, 3, 8).double()}
    for step in range(STEPS):
        out = fast(**inputs, timestep=torch.full((2,), 900.0 - step).double())
        assert out.dtype == torch.float64


def test_the_stage_shares_every_tensor_and_every_module_but_those_on_the_way() -> None:
    net = two_stream_model()
    stage = Stage(net, ["blocks.0.attn", "single_blocks.1.proj_out"], lambda p, m, a, k: m(*a, **k))
    own, copied = dict(net.named_modules()), dict(stage.root.named_modules())
    assert list(own) == list(copied)
    others = [name for name in own if own[name] is not copied[name]]
    assert others == ["", "blocks", "blocks.0", "blocks.0.attn", "single_blocks",
                      "single_blocks.1", "single_blocks.1.proj_out"]  # fmt: skip
    for name in others:
        assert isinstance(copied[name], type(own[name]))
        assert type(copied[name]).__name__ == type(own[name]).__name__
    for a, b in zip(net.state_dict().values(), stage.root.state_dict().values(), strict=True):
        assert a.data_ptr() == b.data_ptr()


def test_cut_points_may_lie_inside_others() -> None:
    net, calls = two_stream_model(), []

    def visit(path: str, module: Any, args: Any, kwargs: Any) -> Any:
        calls.append(path)
        return module(*args, **kwargs)

    stage = Stage(net, ["blocks.0", "blocks.0.attn.proj", "blocks.0.attn"], visit)
    assert all_equal(run_loop(stage, 1), run_loop(net, 1))
    assert calls == ["blocks.0", "blocks.0.attn", "blocks.0.attn.proj"]
    with pytest.raises(ValueError, match=r"the model has no module 'blocks.7'"):
        Stage(net, ["blocks.7.attn"], visit)


def test_a_part_of_a_stage_is_neither_copied_nor_pickled() -> None:
    stage = Stage(two_stream_model(), ["blocks.0.attn"], lambda p, m, a, k: m(*a, **k))
    for action in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="not copied or pickled"):
            action(stage.root)


def test_a_model_of_twelve_billion_parameters_is_compiled_within_a_second() -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    with torch.device("meta"):
        model = diffusers.FluxTransformer2DModel(guidance_embeds=True).eval()
    began = time.process_time()
    fast = rt.compile(model, EveryN(2), steps=50)
    fast.backend.workspace(fast.plan)
    assert time.process_time() - began < 1
    assert fast.schedule.num_branches == 19 * 3 + 38
    assert all(parameter.is_meta for parameter in model.parameters())
