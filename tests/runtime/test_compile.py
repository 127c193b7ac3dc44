"""compile(): what it takes, what it refuses, what it hands back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from toys import call_inputs, drive, random_schedule, toy_dit

import l2c_rt as rt
from l2c_rt import adapters
from l2c_rt.notices import L2CWarning
from l2c_rt.policies import EveryN, Full


def test_a_schedule_a_policy_and_a_file_are_taken(tmp_path: Path) -> None:
    model = toy_dit()
    schedule = EveryN(2).schedule(4, tuple(rt.compile(model, Full(), steps=1).schedule.branches))
    schedule.save(tmp_path / "every-2.json")
    runs = [
        drive(rt.compile(model, given, **options), 4)
        for given, options in [
            (schedule, {}),
            (EveryN(2), {"steps": 4}),
            (tmp_path / "every-2.json", {}),
            (str(tmp_path / "every-2.json"), {}),
        ]
    ]
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


def test_a_preset_for_another_depth_is_refused_with_both_depths() -> None:
    with pytest.raises(ValueError, match="56 branches, the model has 6"):
        rt.compile(toy_dit(), "l2c/dit-xl-2-256/ddim-50")


def test_a_model_without_blocks_is_refused_and_told_what_was_looked_for() -> None:
    with pytest.raises(TypeError, match=r"Linear has no list of blocks .* seen: none"):
        rt.compile(nn.Linear(2, 2), Full(), steps=2)
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module, got str"):
        rt.compile("dit", Full(), steps=2)  # type: ignore[arg-type]


def test_a_model_that_drops_labels_at_random_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'y_embedder' drops at random; call model.eval"):
        rt.compile(toy_dit().train(), Full(), steps=2)
    rt.compile(toy_dit(class_dropout_prob=0.0).train(), Full(), steps=2)


def test_unknown_backends_are_refused_and_fused_says_what_stands_in_its_way() -> None:
    model = toy_dit()
    with pytest.raises(ValueError, match="'cuda', wanted one of 'auto', 'reference', 'fused'"):
        rt.compile(model, Full(), steps=2, backend="cuda")
    model.blocks[1].attn.qkv = nn.Sequential(model.blocks[1].attn.qkv)
    with pytest.raises(ValueError, match=r"blocks.1.attn.qkv is Sequential, not a plain nn.Linear"):
        rt.compile(model, Full(), steps=2, backend="fused")
    summary = rt.compile(model, Full(), steps=2).summary()
    assert summary.backend == "reference"
    assert summary.reasons[0].startswith("fused backend not used: blocks.1.attn.qkv is Sequential")


def test_a_hooked_linear_is_not_fused_because_its_hook_would_not_run() -> None:
    model = toy_dit()
    model.blocks[0].mlp.fc1.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"blocks.0.mlp.fc1 has forward hooks"):
        rt.compile(model, Full(), steps=2, backend="fused")


def test_timesteps_must_be_one_per_evaluation() -> None:
    with pytest.raises(ValueError, match="got 3, but the schedule has 4 evaluations"):
        rt.compile(toy_dit(), Full(), steps=4, timesteps=[3, 2, 1])


def test_an_adapter_of_ones_own_is_taken() -> None:
    model, schedule = toy_dit(), random_schedule(3, 6)
    seen = []

    def bind(given: object) -> object:
        seen.append(given)
        return adapters.bind(model)

    fast = rt.compile(model, schedule, adapter=bind)  # type: ignore[arg-type]
    assert seen == [model]
    assert all(
        torch.equal(a, b)
        for a, b in zip(drive(fast, 3), drive(rt.compile(model, schedule), 3), strict=True)
    )


def test_an_attention_of_the_same_names_but_another_forward_is_not_fused() -> None:
    model = toy_dit()
    kind = type(model.blocks[0].attn)

    class Doubled(kind):  # type: ignore[misc, valid-type]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    model.blocks[2].attn.__class__ = Doubled
    with pytest.raises(ValueError, match="attn-2: Doubled computes something else"):
        rt.compile(model, Full(), steps=2, backend="fused")


def test_a_forward_replaced_on_an_instance_is_refused_where_it_would_be_left_out() -> None:
    model = toy_dit()
    model.blocks[1].forward = lambda x, c: x
    with pytest.raises(ValueError, match=r"DiTBlock.forward was replaced on the instance"):
        rt.compile(model, Full(), steps=2)
    model = toy_dit()
    model.blocks[0].mlp.fc1.forward = lambda x: x
    with pytest.raises(ValueError, match=r"fc1.forward was replaced"):
        rt.compile(model, Full(), steps=2, backend="fused")


def test_hooks_that_are_not_called_are_noted_and_refused_under_strict() -> None:
    model = toy_dit()
    model.blocks[0].register_forward_hook(lambda *_: None)
    with pytest.warns(L2CWarning, match="forward hooks on DiTBlock are not called"):
        fast = rt.compile(model, Full(), steps=2)
    assert "forward hooks on DiTBlock are not called" in str(fast.summary())
    with pytest.raises(ValueError, match="strict: forward hooks on DiTBlock"):
        rt.compile(model, Full(), steps=2, strict=True)


def test_a_model_wrapped_by_torch_compile_is_refused() -> None:
    with pytest.raises(TypeError, match="wrapped by torch.compile"):
        rt.compile(torch.compile(toy_dit()), Full(), steps=2)


def test_a_schedule_of_another_family_is_refused() -> None:
    with pytest.raises(ValueError, match="for the family 'uvit', the model is 'dit'"):
        rt.compile(toy_dit(), random_schedule(4, 6, family="uvit"))


def test_an_adapter_that_returns_something_else_is_refused() -> None:
    with pytest.raises(TypeError, match="wanted a BoundModel, got int"):
        rt.compile(toy_dit(), Full(), steps=2, adapter=lambda model: 3)  # type: ignore[arg-type]


def test_a_wrapped_linear_runs_on_the_reference_and_keeps_its_count() -> None:
    model, plain = toy_dit(), rt.compile(toy_dit(), Full(), steps=1, backend="reference")
    for block in model.blocks:
        block.mlp.fc1 = nn.Sequential(block.mlp.fc1)
    model.final_layer.linear = nn.Sequential(model.final_layer.linear)
    wrapped = rt.compile(model, Full(), steps=1, backend="reference")
    assert wrapped.cost == plain.cost
    assert torch.equal(wrapped(*call_inputs(0)), plain(*call_inputs(0)))
