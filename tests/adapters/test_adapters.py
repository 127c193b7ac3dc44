"""Models of other packages: recognised by structure, run bitwise as they run themselves."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from foreign_models import baofff_uvit, facebook_dit
from oracle import Oracle
from toys import call_inputs, drive, random_schedule, toy_dit, toy_uvit
from weights import fill_deterministic

from l2c_rt import adapters
from l2c_rt.api import compile
from l2c_rt.plan.build import build_plan
from l2c_rt.plan.cost import cost
from l2c_rt.policies import EveryN, Full
from l2c_rt.schedule.cache_schedule import CacheSchedule

diffusers = pytest.importorskip("diffusers", reason="the diffusers extra is not installed")


def foreign_dit() -> Any:
    model = facebook_dit.DiT(
        input_size=8, hidden_size=32, depth=3, num_heads=2, num_classes=10
    ).eval()
    fill_deterministic(model, 0)
    return model


def foreign_uvit() -> Any:
    model = baofff_uvit.UViT(
        img_size=8, patch_size=2, in_chans=4, embed_dim=32, depth=2, num_heads=2, num_classes=11
    ).eval()
    fill_deterministic(model, 0)
    return model


def foreign_diffusers(**options: Any) -> Any:
    settings = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 3}
    settings |= {"sample_size": 8, "in_channels": 4, "out_channels": 8}
    model = diffusers.DiTTransformer2DModel(**(settings | options)).eval()
    fill_deterministic(model, 0)
    return model


class Positional:
    """diffusers' DiT behind the calls (x, t, y) of the other two."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.model(x, timestep=t, class_labels=y).sample


def as_positional(model: Any, original: Any) -> Any:
    return Positional(model) if hasattr(original, "transformer_blocks") else model


MODELS = {"dit": foreign_dit, "uvit": foreign_uvit, "diffusers": foreign_diffusers}


@pytest.mark.parametrize("name", MODELS)
def test_computing_everything_is_bitwise_the_model(name: str) -> None:
    model = MODELS[name]()
    fast = as_positional(compile(model, Full(), steps=4, backend="reference"), model)
    wanted = drive(as_positional(model, model), 4)
    for got, want in zip(drive(fast, 4), wanted, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("name", ["dit", "diffusers"])
def test_a_reused_branch_contributes_its_old_output_with_the_new_gate(name: str) -> None:
    model = MODELS[name]()
    compute = [[True] * 6, [True, True, True, False, True, True]]
    fast = as_positional(
        compile(
            model, CacheSchedule(torch.tensor(compute).numpy()), check="off", backend="reference"
        ),
        model,
    )
    block = model.blocks[1] if name == "dit" else model.transformer_blocks[1]
    mlp = block.mlp if name == "dit" else block.ff
    outputs: list[torch.Tensor] = []
    handle = mlp.register_forward_hook(lambda _m, _i, out: outputs.append(out.clone()))
    got = drive(fast, 2)
    handle.remove()
    assert len(outputs) == 1
    x, t, y = call_inputs(1)
    handle = mlp.register_forward_hook(lambda *_: outputs[0])
    with torch.no_grad():
        want = as_positional(model, model)(x, t, y)
    handle.remove()
    assert torch.equal(got[1], want)


@pytest.mark.parametrize("name", ["dit", "uvit"])
def test_a_schedule_runs_bitwise_as_the_oracle_runs_it(name: str) -> None:
    model, schedule = MODELS[name](), random_schedule(6, 6, seed=4)
    ours: Any = toy_dit() if name == "dit" else toy_uvit()
    ours.load_state_dict(model.state_dict())
    oracle = Oracle(ours, schedule.compute)
    for got, want in zip(
        drive(compile(model, schedule, backend="reference"), 6), drive(oracle, 6), strict=True
    ):
        assert torch.allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_the_fused_backend_takes_the_model_apart_rightly(name: str) -> None:
    model, schedule = MODELS[name](), random_schedule(6, 6, seed=4)
    reference = as_positional(compile(model, schedule, backend="reference"), model)
    fused = as_positional(compile(model, schedule, backend="fused"), model)
    for got, want in zip(drive(fused, 6), drive(reference, 6), strict=True):
        assert torch.allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_every_fixed_node_and_branch_has_its_code(name: str) -> None:
    bound_model = adapters.bind(MODELS[name]())
    names = {node.name for node in bound_model.program.nodes}
    assert names == set(bound_model.fixed) | set(bound_model.branches)
    assert bound_model.program.branch_names == tuple(bound_model.branches)


@pytest.mark.parametrize("name", MODELS)
def test_the_macs_of_a_program_are_those_of_the_linears_that_run(name: str) -> None:
    model = MODELS[name]()
    macs: list[int] = []

    def count(module: Any, _inputs: Any, out: torch.Tensor) -> None:
        fan_in = module.weight[0].numel()
        macs.append(out.numel() * fan_in)

    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            module.register_forward_hook(count)
    x, t, y = call_inputs(0, batch=1)
    as_positional(model, model)(x, t, y)
    program = adapters.bind(model).program
    counted = cost(program, build_plan(program, Full().schedule(1, program.branch_names))).full_macs
    # U-ViT's last convolution and its time token are too small to be nodes of their own.
    assert counted == pytest.approx(sum(macs), rel=0.02 if name == "uvit" else 0)


def test_diffusers_returns_its_own_types() -> None:
    model = foreign_diffusers()
    fast = compile(model, Full(), steps=2)
    x, t, y = call_inputs(0)
    out = fast(x, timestep=t, class_labels=y)
    assert type(out) is type(model(x, timestep=t, class_labels=y))
    fast.reset()
    (plain,) = fast(x, timestep=t, class_labels=y, return_dict=False)
    assert torch.equal(plain, out.sample)


def test_diffusers_arguments_that_are_not_supported_are_refused() -> None:
    fast = compile(foreign_diffusers(), Full(), steps=2)
    x, t, y = call_inputs(0)
    with pytest.raises(TypeError, match="timestep= and class_labels= are needed"):
        fast(x)
    with pytest.raises(ValueError, match="cross_attention_kwargs"):
        fast(x, timestep=t, class_labels=y, cross_attention_kwargs={"scale": 0.5})


def test_a_diffusers_attention_processor_that_is_not_the_plain_one_is_not_fused() -> None:
    model = foreign_diffusers()

    class Other:
        def __call__(self, attn: Any, x: torch.Tensor, **_: Any) -> torch.Tensor:
            return x

    model.transformer_blocks[0].attn1.processor = Other()
    with pytest.raises(ValueError, match="attn1 runs Other"):
        compile(model, Full(), steps=2, backend="fused")


def tiny_pipeline() -> Any:
    """A DiTPipeline whose autoencoder is as small as its transformer."""
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=8,
        down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",),
    )  # fmt: skip
    transformer = foreign_diffusers(num_embeds_ada_norm=1000)
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    return diffusers.DiTPipeline(transformer, vae.eval(), scheduler)


@pytest.mark.parametrize(
    ("scheduler", "options"),
    [
        ("DDIMScheduler", {"clip_sample": False}),
        ("DPMSolverMultistepScheduler", {}),
        ("EulerDiscreteScheduler", {}),
    ],
)
def test_a_pipeline_runs_with_any_scheduler_and_twice_the_same(
    scheduler: str, options: dict[str, Any]
) -> None:
    pipe = tiny_pipeline()
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = getattr(diffusers, scheduler)(**options)

    def images(seed: int = 0) -> Any:
        generator = torch.Generator().manual_seed(seed)
        return pipe([3, 7], generator=generator, num_inference_steps=6, output_type="np").images

    plain, transformer = images(), pipe.transformer
    pipe.transformer = compile(transformer, Full(), steps=6, backend="reference")
    assert (images() == plain).all()
    pipe.transformer = compile(transformer, EveryN(2), steps=6)
    cached = images()
    assert (images() == cached).all()
    assert (cached != plain).any()
    assert pipe.transformer.summary().runs == 2


def test_a_pipeline_with_another_number_of_steps_is_refused() -> None:
    pipe = tiny_pipeline()
    pipe.set_progress_bar_config(disable=True)
    pipe.transformer = compile(pipe.transformer, EveryN(2), steps=6)
    pipe([3], num_inference_steps=6, output_type="np")
    with pytest.raises(ValueError, match="goes on after the 6 evaluations of the schedule"):
        pipe([3], num_inference_steps=7, output_type="np")


def test_a_copy_of_the_model_can_be_compiled_beside_it() -> None:
    model, schedule = foreign_dit(), random_schedule(4, 6)
    first, second = compile(model, schedule), compile(copy.deepcopy(model), schedule)
    for a, b in zip(drive(first, 4), drive(second, 4), strict=True):
        assert torch.equal(a, b)
