"""compile(): what it takes, what it refuses, what it hands back."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn
from toys import call_inputs, drive, random_schedule, toy_dit, toy_uvit

import l2c_rt as rt
from l2c_rt import adapters
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


def test_a_model_without_adapter_is_refused_and_told_what_is_supported() -> None:
    with pytest.raises(TypeError, match=r"no adapter for Linear.*DiT.*U-ViT.*CONTRIBUTING"):
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
    rt.compile(model, Full(), steps=2)


def test_a_hooked_linear_is_not_fused_because_its_hook_would_not_run() -> None:
    model = toy_dit()
    model.blocks[0].mlp.fc1.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"blocks.0.mlp.fc1 has forward hooks"):
        rt.compile(model, Full(), steps=2, backend="fused")


def test_timesteps_must_be_one_per_evaluation() -> None:
    with pytest.raises(ValueError, match="got 3, but the schedule has 4 evaluations"):
        rt.compile(toy_dit(), Full(), steps=4, timesteps=[3, 2, 1])


def test_the_users_model_is_left_as_it_was() -> None:
    model = toy_dit()
    modules = {name: id(module) for name, module in model.named_modules()}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    fast = rt.compile(model, random_schedule(4, 6), backend="fused")
    drive(fast, 4)
    fast.sample(torch.randn(1, 4, 8, 8), [1])
    assert modules == {name: id(module) for name, module in model.named_modules()}
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_attributes_are_the_models_but_what_would_drop_the_cache_is_refused() -> None:
    fast = rt.compile(toy_dit(), Full(), steps=2)
    assert fast.in_channels == 4
    assert fast.eval() is fast
    assert fast.to(torch.float64) is fast
    with pytest.raises(AttributeError, match="has no half"):
        fast.half()
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = fast.no_such_thing


def test_guided_calls_are_the_models_own_bitwise() -> None:
    model = toy_dit()
    fast = rt.compile(model, Full(), steps=3)
    x, t, y = call_inputs(0, batch=4)
    with torch.no_grad():
        want = model.forward_with_cfg(x, t, y, 1.5)
    assert torch.equal(fast.forward_with_cfg(x, t, y, cfg_scale=1.5), want)
    with pytest.raises(AttributeError, match="UViT has no forward_with_cfg"):
        rt.compile(toy_uvit(), Full(), steps=2).forward_with_cfg(x, t, y, 1.5)


def test_results_carry_no_autograd_graph() -> None:
    assert not rt.compile(toy_dit(), Full(), steps=2)(*call_inputs(0)).requires_grad


def test_the_summary_tells_plan_memory_and_speed_up() -> None:
    fast = rt.compile(toy_dit(), random_schedule(6, 6, source="a test"))
    assert "measured not yet" in str(fast.summary())
    drive(fast, 6)
    summary = fast.summary()
    text = str(summary)
    assert summary.reused == int((~fast.schedule.compute).sum())
    assert summary.slot_bytes >= summary.slots * 2 * 16 * 32 * 4
    assert summary.measured_speedup is not None
    assert "DiT with a test" in text
    assert f"{summary.reused} of 36 branch calls" in text


@pytest.mark.parametrize(
    ("noise", "y", "match"),
    [
        (torch.zeros(2, 3, 8, 8), [1, 2], r"noise must be floating \[n, 4, H, W\]"),
        (torch.zeros(4, 8, 8), [1], r"noise must be"),
        (torch.zeros(1, 4, 8, 8).long(), [1], r"noise must be floating"),
        (torch.zeros(0, 4, 8, 8), [], r"noise must be floating"),
        (torch.zeros(2, 4, 8, 8), [1], "y must be 2 integer labels"),
        (torch.zeros(2, 4, 8, 8), [0.5, 1.0], "y must be 2 integer labels"),
    ],
)
def test_sample_refuses_noise_and_labels_that_do_not_fit(
    noise: torch.Tensor, y: list[int], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        rt.compile(toy_dit(), Full(), steps=2).sample(noise, y)


def test_sample_without_guidance_runs_one_label_per_image_and_needs_no_null_label() -> None:
    model = toy_dit(class_dropout_prob=0.0)
    fast = rt.compile(model, Full(), steps=2)
    noise = torch.randn(2, 4, 8, 8)
    assert fast.sample(noise, [1, 2], cfg_scale=1.0).shape == noise.shape
    with pytest.raises(ValueError, match="needs a null label"):
        fast.sample(noise, [1, 2], cfg_scale=4.0)


def test_latents_keep_their_dtype_where_the_model_is_narrower() -> None:
    fast = rt.compile(toy_dit().to(torch.bfloat16), Full(), steps=2)
    assert fast.sample(torch.randn(1, 4, 8, 8), [1]).dtype == torch.float32


def test_a_model_without_labels_samples_without_labels() -> None:
    model = toy_uvit(num_classes=-1)
    fast = rt.compile(model, random_schedule(4, 6))
    noise = torch.randn(2, 4, 8, 8)
    assert fast.sample(noise).shape == noise.shape
    with pytest.raises(ValueError, match="y must be 2 integer labels"):
        rt.compile(toy_uvit(), random_schedule(4, 6)).sample(noise)


def test_labels_of_any_integer_type_are_the_same_labels() -> None:
    fast = rt.compile(toy_dit(), Full(), steps=2)
    noise = torch.randn(2, 4, 8, 8)
    wide = fast.sample(noise, torch.tensor([1, 2]))
    assert torch.equal(fast.sample(noise, torch.tensor([1, 2], dtype=torch.int32)), wide)


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


def test_a_guided_call_of_a_subclass_is_its_own() -> None:
    class Half(type(toy_dit())):  # type: ignore[misc]
        def forward_with_cfg(self, x: torch.Tensor, t: object, y: object) -> torch.Tensor:
            return self.forward(x, t, y) / 2

    model = toy_dit()
    model.__class__ = Half
    x, t, y = call_inputs(0)
    with torch.no_grad():
        want = model(x, t, y) / 2
    assert torch.equal(rt.compile(model, Full(), steps=2).forward_with_cfg(x, t, y), want)


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
    fast = rt.compile(model, Full(), steps=2)
    assert "forward hooks on DiTBlock are not called" in str(fast.summary())
    with pytest.raises(ValueError, match="strict: forward hooks on DiTBlock"):
        rt.compile(model, Full(), steps=2, strict=True)


def test_a_model_wrapped_by_torch_compile_is_refused() -> None:
    with pytest.raises(TypeError, match="wrapped by torch.compile"):
        rt.compile(torch.compile(toy_dit()), Full(), steps=2)


def test_a_schedule_of_another_family_or_loop_is_refused() -> None:
    with pytest.raises(ValueError, match="for the family 'uvit', the model is 'dit'"):
        rt.compile(toy_dit(), random_schedule(4, 6, family="uvit"))
    fast = rt.compile(toy_dit(), random_schedule(4, 6, sampler="dpm-solver"))
    with pytest.raises(ValueError, match="made for dpm-solver, the model's published loop is ddim"):
        fast.sample(torch.randn(1, 4, 8, 8), [1])


def test_timesteps_that_are_not_the_published_loops_are_refused_by_sample() -> None:
    fast = rt.compile(toy_dit(), Full(), steps=3, timesteps=[990, 500, 3])
    with pytest.raises(ValueError, match="timestep 0 of the published loop is 999, but 990"):
        fast.sample(torch.randn(1, 4, 8, 8), [1])


@pytest.mark.parametrize("calls", [0, 2.5, "2", True])
def test_calls_per_step_are_a_whole_number_of_at_least_one(calls: object) -> None:
    with pytest.raises(ValueError, match="calls_per_step: got"):
        rt.compile(toy_uvit(), Full(), steps=2, calls_per_step=calls)  # type: ignore[arg-type]


def test_a_compiled_model_is_neither_copied_nor_pickled() -> None:
    fast = rt.compile(toy_dit(), Full(), steps=2)
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="compile a copy of the model"):
            attempt(fast)


def test_an_adapter_that_returns_something_else_is_refused() -> None:
    with pytest.raises(TypeError, match="wanted a BoundModel, got int"):
        rt.compile(toy_dit(), Full(), steps=2, adapter=lambda model: 3)  # type: ignore[arg-type]


def test_a_wrapped_linear_runs_on_the_reference_and_keeps_its_count() -> None:
    model, plain = toy_dit(), rt.compile(toy_dit(), Full(), steps=1)
    for block in model.blocks:
        block.mlp.fc1 = nn.Sequential(block.mlp.fc1)
    model.final_layer.linear = nn.Sequential(model.final_layer.linear)
    wrapped = rt.compile(model, Full(), steps=1)
    assert wrapped.cost == plain.cost
    assert torch.equal(wrapped(*call_inputs(0)), plain(*call_inputs(0)))


def test_a_run_of_another_shape_does_not_enter_the_measured_speed_up() -> None:
    fast = rt.compile(toy_dit(), random_schedule(4, 6))
    drive(fast, 4, batch=1)
    drive(fast, 4, batch=8)
    counts = fast.run.shared.counts
    samples = counts.times[counts.latest]
    assert sum(map(len, samples.values())) == 4
