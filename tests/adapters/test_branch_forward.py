"""The walk that learning is made of, against a naive one that shares no code with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from oracle import Oracle
from soft_oracle import SoftOracle
from toys import call_inputs, toy_dit, toy_uvit
from weights import fill_deterministic

from l2c_rt import adapters
from l2c_rt.adapters.branch_forward import frozen, full_pass, mixed_pass, recording_pass

MODELS = [toy_dit, toy_uvit]


def inputs(step: int, dtype: torch.dtype = torch.float32) -> tuple[Any, Any, Any]:
    x, t, y = call_inputs(step)
    return x.to(dtype), t, y


@pytest.mark.parametrize("toy", MODELS)
def test_the_mixed_pass_is_the_naive_one(toy: Any) -> None:
    model = toy()
    bound_model, oracle = adapters.bind(model), SoftOracle(model)
    weights = torch.rand(
        len(bound_model.program.branches), generator=torch.Generator().manual_seed(3)
    )
    with torch.no_grad():
        recorded = oracle.record(*inputs(0))
        out, kept = recording_pass(bound_model, *inputs(0))
        assert torch.equal(out, recorded)
        for got, wanted in zip(kept, oracle.kept, strict=True):
            assert torch.equal(got, wanted)
        mixed = mixed_pass(bound_model, kept, weights, *inputs(1))
        torch.testing.assert_close(mixed, oracle.mixed(*inputs(1), weights), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("toy", MODELS)
def test_all_weights_one_is_the_model_and_all_zero_reuses_everything(toy: Any) -> None:
    model = toy()
    bound_model = adapters.bind(model)
    branches = len(bound_model.program.branches)
    hard = Oracle(model, np.array([[True] * branches, [False] * branches]))
    with torch.no_grad():
        hard(*inputs(0))
        reused = hard(*inputs(1))
        _, kept = recording_pass(bound_model, *inputs(0))
        assert torch.equal(full_pass(bound_model, *inputs(1)), model(*inputs(1)))
        assert torch.equal(mixed_pass(bound_model, kept, torch.ones(branches), *inputs(1)),
                           model(*inputs(1)))  # fmt: skip
        assert torch.equal(mixed_pass(bound_model, kept, torch.zeros(branches), *inputs(1)), reused)


def test_the_walk_takes_diffusers_dit() -> None:
    diffusers = pytest.importorskip("diffusers", reason="the diffusers extra is not installed")
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, num_layers=2, sample_size=8, in_channels=4,
        out_channels=8,
    ).eval()  # fmt: skip
    fill_deterministic(model, 0)
    bound_model = adapters.bind(model)
    x, t, y = inputs(1)
    with torch.no_grad():
        wanted = model(x, timestep=t, class_labels=y).sample
        _, kept = recording_pass(bound_model, *inputs(0))
        assert torch.equal(full_pass(bound_model, x, t, y), wanted)
        half = mixed_pass(bound_model, kept, torch.full((4,), 0.5), x, t, y)
    assert 0 < (half - wanted).abs().max() < 10


@pytest.mark.parametrize("toy", MODELS)
def test_slopes_go_through_every_later_branch(toy: Any) -> None:
    model = toy().double()
    bound_model = adapters.bind(model)
    _, kept = recording_pass(bound_model, *inputs(0, torch.float64))
    branches = len(kept)

    def loss(weights: torch.Tensor) -> torch.Tensor:
        out = mixed_pass(bound_model, kept, weights, *inputs(1, torch.float64))
        return out.square().mean()

    with frozen(model):
        at = torch.linspace(0.2, 0.8, branches, dtype=torch.float64)
        assert torch.autograd.gradcheck(loss, at.requires_grad_(), eps=1e-5, atol=1e-6)


def test_freezing_is_undone_even_after_an_error() -> None:
    model = toy_dit()
    model.train()
    model.blocks[0].eval()
    model.blocks[1].attn.qkv.weight.requires_grad_(False)
    flags = [p.requires_grad for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    during: list[bool] = []

    def fail() -> None:
        during.extend(p.requires_grad for p in model.parameters())
        during.extend(m.training for m in model.modules())
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), frozen(model):
        fail()
    assert not any(during)
    assert flags == [p.requires_grad for p in model.parameters()]
    assert modes == [m.training for m in model.modules()]


def test_the_student_leaves_no_gradient_in_the_model() -> None:
    model = toy_dit()
    bound_model = adapters.bind(model)
    _, kept = recording_pass(bound_model, *inputs(0))
    with frozen(model):
        weights = torch.full((6,), 0.5, requires_grad=True)
        mixed_pass(bound_model, kept, weights, *inputs(1)).square().sum().backward()
    assert weights.grad is not None
    assert all(p.grad is None for p in model.parameters())
    assert not any(tensor.requires_grad for tensor in kept)
