"""enable and disable: what they accept, what they refuse, and how they undo themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers_pipelines import FAMILIES, PIPELINES, STEPS, draw

import l2c_rt as rt
from l2c_rt.notices import L2CWarning
from l2c_rt.policies import EveryN, Full

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

FLUX, WAN = PIPELINES["FluxPipeline"], PIPELINES["WanPipeline"]


def flux(**parts: Any) -> Any:
    return FLUX.build("FluxPipeline", **parts)


def enable(pipe: Any, method: Any = None, **options: Any) -> Any:
    method = EveryN(2) if method is None else method
    return rt.enable(pipe, method, **({"steps": STEPS} | options))


def test_enable_and_disable_without_a_with_block() -> None:
    pipe = flux()
    original, before = pipe.transformer, dict(vars(pipe))
    plain = draw(pipe, FLUX.inputs)
    fast = enable(pipe)
    cached = draw(pipe, FLUX.inputs)
    assert not torch.equal(cached, plain)
    assert "reuse" in str(fast.summary())
    rt.disable(pipe)
    assert pipe.transformer is original
    assert vars(pipe).keys() - before.keys() <= {name for name in vars(pipe) if name[0] == "_"}
    assert torch.equal(draw(pipe, FLUX.inputs), plain)
    summary = fast.summary().models["transformer"]
    assert (summary.runs, summary.slot_bytes > 0) == (1, True)
    with enable(pipe):
        assert torch.equal(draw(pipe, FLUX.inputs), cached)


def test_disable_without_enable_and_enable_twice_are_refused() -> None:
    pipe = flux()
    with pytest.raises(ValueError, match="nothing is enabled on this FluxPipeline"):
        rt.disable(pipe)
    with enable(pipe):
        with pytest.raises(ValueError, match=r"transformer of this FluxPipeline is enabled alrea"):
            enable(pipe)
        rt.disable(pipe)
    with pytest.raises(ValueError, match="nothing is enabled"):
        rt.disable(pipe)


def test_an_exception_in_the_block_undoes_it_and_a_model_put_there_meanwhile_stays() -> None:
    pipe = flux()
    original = pipe.transformer
    with pytest.raises(ZeroDivisionError), enable(pipe):
        1 / 0  # noqa: B018
    assert pipe.transformer is original
    other = FAMILIES["Flux"].build()
    with enable(pipe):
        pipe.transformer = other
    assert pipe.transformer is other


def test_a_loop_of_another_length_is_refused_before_its_first_evaluation() -> None:
    pipe = flux()
    with enable(pipe) as fast:
        first = draw(pipe, FLUX.inputs)
        with pytest.raises(ValueError, match="makes 8 evaluations, but transformer was enabled fo"):
            draw(pipe, FLUX.inputs, 8)
        assert fast.summary().models["transformer"].calls == STEPS
        assert torch.equal(draw(pipe, FLUX.inputs), first)


def test_a_run_that_was_given_up_leaves_nothing() -> None:
    pipe = flux()

    def stop(pipe: Any, step: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if step == 2:
            raise KeyboardInterrupt
        return {}

    with enable(pipe) as fast:
        first = draw(pipe, FLUX.inputs)
        with pytest.raises(KeyboardInterrupt):
            draw(pipe, FLUX.inputs, callback_on_step_end=stop)
        assert torch.equal(draw(pipe, FLUX.inputs), first)
        summary = fast.summary().models["transformer"]
        assert (summary.runs, summary.abandoned) == (2, 1)


def test_resolution_batch_and_scheduler_may_change_between_runs() -> None:
    pipe = flux()
    with enable(pipe):
        first = draw(pipe, FLUX.inputs)
        draw(pipe, FLUX.inputs | {"height": 32})
        draw(pipe, FLUX.inputs, num_images_per_prompt=2)
        before = pipe.scheduler
        pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
        draw(pipe, FLUX.inputs)
        pipe.scheduler = before
        assert torch.equal(draw(pipe, FLUX.inputs), first)


def test_guidance_may_be_switched_between_runs() -> None:
    pipe = WAN.build("WanPipeline")
    with enable(pipe) as fast:
        guided = draw(pipe, WAN.inputs)
        assert not torch.equal(draw(pipe, WAN.inputs, guidance_scale=1.0), guided)
        assert torch.equal(draw(pipe, WAN.inputs), guided)
        assert fast.summary().models["transformer"].calls == 5 * STEPS


def test_a_loop_that_starts_late_is_computed_in_full_with_a_warning() -> None:
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4,) * 4, norm_num_groups=2, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    tiny = PIPELINES["StableDiffusion3Pipeline"]
    pipe = tiny.build("StableDiffusion3Img2ImgPipeline", vae=vae.eval())
    inputs = tiny.inputs | {"image": torch.randn(1, 4, 8, 8)}
    late, whole = inputs | {"strength": 0.5}, inputs | {"strength": 1.0}
    plain = draw(pipe, late)
    with enable(pipe) as fast:
        with pytest.warns(L2CWarning, match="3 of the scheduler's 6 timesteps"):
            assert torch.equal(draw(pipe, late), plain)
        cached = draw(pipe, whole)
        assert fast.summary().models["transformer"].runs == 1
    assert not torch.equal(cached, draw(pipe, whole))


def experts(**config: Any) -> Any:
    second = FAMILIES["Wan"].build()
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.mul_(1.1)
    return WAN.build("WanPipeline", transformer_2=second, boundary_ratio=0.9, **config)


@pytest.mark.parametrize("steps", [STEPS, {"transformer": 2, "transformer_2": 4}])
def test_two_experts_get_the_steps_on_their_sides_of_the_boundary(steps: Any) -> None:
    pipe = experts()
    plain = draw(pipe, WAN.inputs)
    with enable(pipe, Full(), steps=steps) as fast:
        assert torch.equal(draw(pipe, WAN.inputs), plain)
        summary = fast.summary().models
        assert {name: s.steps for name, s in summary.items()} == {
            "transformer": 2,
            "transformer_2": 4,
        }
        assert [s.runs for s in summary.values()] == [1, 1]
        with pytest.raises(ValueError, match=r"8 (evaluations|of its)|of its 8 evaluations"):
            draw(pipe, WAN.inputs, 8)


def test_one_expert_alone_may_be_enabled_by_name() -> None:
    pipe = experts()
    first, second = pipe.transformer, pipe.transformer_2
    plain = draw(pipe, WAN.inputs)
    with enable(pipe, {"transformer_2": EveryN(2)}) as fast:
        assert pipe.transformer is first
        assert not torch.equal(draw(pipe, WAN.inputs), plain)
        assert list(fast.summary().models) == ["transformer_2"]
    assert pipe.transformer_2 is second


def test_a_unet_with_a_scheduler_that_repeats_a_timestep() -> None:
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), cross_attention_dim=8,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), attention_head_dim=4,
    ).eval()  # fmt: skip
    pipe = diffusers.StableDiffusionPipeline(
        None, None, None, unet, diffusers.PNDMScheduler(skip_prk_steps=True), None, None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    inputs = {"prompt_embeds": torch.randn(1, 5, 8), "negative_prompt_embeds": torch.zeros(1, 5, 8),
              "height": 16, "width": 16}  # fmt: skip
    plain = draw(pipe, inputs)
    with enable(pipe, Full(), steps=STEPS + 1):
        assert torch.equal(draw(pipe, inputs), plain)
    assert pipe.unet is unet


class Nothing:
    """Not a pipeline."""


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda pipe: rt.enable(Nothing(), Full(), steps=2), TypeError, "Nothing has neither"),
        (lambda pipe: rt.enable(type(pipe), Full(), steps=2), TypeError, "type has neither"),
        (lambda pipe: enable(pipe, steps={"unet": 2}), ValueError, "steps for unet, the pipeline"),
        (lambda pipe: enable(pipe, calls_per_step=2), TypeError, "the pipeline's loop decides it"),
        (lambda pipe: enable(pipe, {"unet": Full()}), ValueError, "for unet, the pipeline has tra"),
        (lambda pipe: enable(pipe, {}), ValueError, "for no model, the pipeline has transformer"),
        (lambda pipe: enable(pipe, steps=None), ValueError, "give steps="),
        (lambda pipe: enable(pipe, no_such_option=1), TypeError, "no_such_option"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_the_pipeline_stays(
    call: Callable[[Any], Any], error: type[Exception], message: str
) -> None:
    pipe = flux()
    original = pipe.transformer
    with pytest.raises(error, match=message):
        call(pipe)
    assert pipe.transformer is original


def test_the_enabled_model_may_be_offloaded_and_saved(tmp_path: Any) -> None:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    pipe = flux()
    original = pipe.transformer
    with enable(pipe):
        first = draw(pipe, FLUX.inputs)
        pipe.transformer, hook = accelerate.cpu_offload_with_hook(pipe.transformer, "cpu")
        assert torch.equal(draw(pipe, FLUX.inputs), first)
        hook.remove()
        assert "forward" not in vars(original)
        accelerate.cpu_offload(pipe.transformer, torch.device("cpu"))
        assert original.proj_out.weight.device.type == "meta"
        assert torch.equal(draw(pipe, FLUX.inputs), first)
        pipe.remove_all_hooks()
        pipe.transformer.save_pretrained(tmp_path)
    loaded = type(original).from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in original.state_dict().items())


def test_another_pipeline_made_from_an_enabled_one_runs_the_same() -> None:
    pipe = flux()
    original = pipe.transformer
    with enable(pipe):
        first = draw(pipe, FLUX.inputs)
        other = diffusers.FluxPipeline.from_pipe(pipe)
        other.set_progress_bar_config(disable=True)
        assert torch.equal(draw(other, FLUX.inputs), first)
        rt.disable(other)
        assert other.transformer is original
