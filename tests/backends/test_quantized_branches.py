"""`precision="fp8"` on tapes, where PyTorch emulates the products: what is computed, and how near
it is to bfloat16."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from taped_graphs import TapedKernels, compile_taped
from three_backends import assert_same
from toys import count_branches, drive, noise, random_schedule, timesteps, toy_dit, toy_uvit

import l2c_rt as rt
from l2c_rt.adapters import describe
from l2c_rt.backends.cuda import support
from l2c_rt.backends.cuda.checking.checked_file import CheckedShapes
from l2c_rt.backends.cuda.quantized_weights import why_not_these_weights
from l2c_rt.demo.metrics import psnr_per_image
from l2c_rt.demo.shipped import load_demo_model, load_demo_router
from l2c_rt.device.graphs import Eager
from l2c_rt.kernels import reference
from l2c_rt.methods import ToCa
from l2c_rt.policies import Full
from l2c_rt.runtime.compiled import Compiled

STEPS = 8
MODELS = pytest.mark.parametrize("make", [toy_dit, toy_uvit])


def fresh(model: Any, **options: Any) -> Compiled:
    """A model on tapes, by a schedule of STEPS steps."""
    schedule = random_schedule(STEPS, count_branches(model), seed=3)
    return compile_taped(model, schedule, **options)


def product(x: torch.Tensor, linear: torch.nn.Linear, gelu: str | None = None) -> torch.Tensor:
    """gelu(x) weight^T + bias, with rows and output channels in e4m3 with a scale each."""
    rows, weight = reference.quantize_rows(x, gelu), reference.quantize_rows(linear.weight.detach())
    out = x.new_empty(*x.shape[:-1], linear.out_features)
    return reference.scaled_linear(rows, weight, linear.bias, out=out)


@MODELS
def test_a_branch_is_its_two_products_in_quantised_arithmetic_bit_for_bit(make: Any) -> None:
    model = make().bfloat16()
    options: Any = {"recorder": Eager, "graph": "off", "timesteps": timesteps(STEPS)}
    fast = fresh(model, precision="fp8", **options)
    drive_narrow(fast)
    (lane,) = fast.run.lanes.all()
    (program,) = lane.workspace.programs
    names = fast.bound_model.program.branch_names
    block = next(module for module in model.modules() if hasattr(module, "attn"))
    h, slot = program.buffers.h.normal_(), program.buffers.memory.slots[0]
    with torch.no_grad():
        program.branches.take_embedded()
        program.branches.run(names[0], 0)
        mixed = reference.attention(product(h, block.attn.qkv), 2)
        assert torch.equal(slot, product(mixed, block.attn.proj))
        program.branches.run(names[1], 0)
        hidden = product(h, block.mlp.fc1)
        assert torch.equal(slot, product(hidden, block.mlp.fc2, block.mlp.act.approximate))


@MODELS
def test_a_run_in_fp8_is_near_the_one_in_bfloat16(make: Any) -> None:
    narrow = fresh(make().bfloat16(), precision="fp8").sample(noise(), [1, 2])
    wide = fresh(make().bfloat16()).sample(noise(), [1, 2])
    error = (narrow.double() - wide.double()).norm() / wide.double().norm()
    assert 1e-3 < error < 5e-2
    assert 20 * torch.log10(wide.abs().max() / (narrow - wide).square().mean().sqrt()) > 35


@MODELS
def test_replayed_graphs_are_bitwise_the_launches_one_by_one(make: Any) -> None:
    eager = fresh(make().bfloat16(), recorder=Eager, graph="off", precision="fp8")
    replayed = fresh(make().bfloat16(), precision="fp8")
    for seed in range(2):
        replayed.poison()
        want = eager.sample(noise(seed), [1, 2])
        assert not want.isnan().any()
        assert torch.equal(replayed.sample(noise(seed), [1, 2]), want)


def test_weights_that_were_written_to_are_quantised_anew_at_the_next_run() -> None:
    model = toy_dit().bfloat16()
    fast = fresh(model, precision="fp8", timesteps=timesteps(STEPS))
    drive_narrow(fast)
    model.blocks[1].mlp.fc1.weight.data.mul_(1.5)
    assert_same(drive_narrow(fast), drive_narrow(fresh(model, precision="fp8")))


def drive_narrow(fast: Any) -> list[torch.Tensor]:
    """The outputs of a loop that the model's dtype goes through."""
    return drive(lambda x, t, y: fast(x.bfloat16(), t, y), STEPS)


@MODELS
def test_all_four_products_are_quantised_and_no_other(make: Any) -> None:
    kernels = TapedKernels()
    fast = fresh(make().bfloat16(), precision="fp8", kernels=kernels, recorder=Eager, graph="off")
    fast.sample(noise(), [1, 2])
    ran = Counter(name for name, _, _ in kernels.log)
    assert ran["scaled_linear"] > 0
    assert ran["linear"] == ran["split_linear"] == 0
    assert "float8_e4m3fn" in str(fast.summary())


def test_kernels_that_quantise_are_counted() -> None:
    nodes = []
    for options in ({}, {"precision": "fp8"}):
        fast = compile_taped(toy_dit().bfloat16(), Full(), steps=1, **options)
        fast.sample(noise(), [1, 2])
        nodes.append(fast.summary().graphs.nodes)
    # One for each branch, and one for the input of the first.
    assert nodes[1] - nodes[0] == 6 + 1


def test_programs_of_several_shapes_share_the_quantised_weights() -> None:
    kernels = TapedKernels()
    fast = fresh(toy_dit().bfloat16(), precision="fp8", kernels=kernels)
    for images in (1, 2):
        fast.sample(noise(images=images), list(range(images)))
    weights = {
        kwargs["out"][0].data_ptr()
        for name, args, kwargs in kernels.log
        if name == "quantize_rows" and args[0].dim() == 2
    }
    assert len(weights) == 2 * len(fast.bound_model.program.branch_names)


def test_the_first_run_check_holds_these_kernels_to_their_meaning_too() -> None:
    kernels: Any = TapedKernels()
    fast = fresh(toy_dit().bfloat16(), precision="fp8", kernels=kernels,
                 checked=CheckedShapes("this one", None))  # fmt: skip
    plain = fresh(toy_dit().bfloat16(), precision="fp8")
    assert torch.equal(fast.sample(noise(), [1, 2]), plain.sample(noise(), [1, 2]))

    class Doubled(TapedKernels):
        def scaled_linear(self, *args: Any, **kwargs: Any) -> Any:
            return reference.scaled_linear(*args, **kwargs).mul_(2)

    wrong = fresh(toy_dit().bfloat16(), precision="fp8", kernels=Doubled(),
                  checked=CheckedShapes("this one", None))  # fmt: skip
    with pytest.raises(RuntimeError, match="the kernel scaled_linear computes something else"):
        wrong.sample(noise(), [1, 2])


def test_digits_in_fp8_are_those_in_bfloat16_to_27_db() -> None:
    model, labels = load_demo_model().bfloat16(), list(range(4))
    start = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    schedule = load_demo_router(20).schedule()
    wide, narrow = (
        compile_taped(model, schedule, **options).sample(start, labels)
        for options in ({}, {"precision": "fp8"})
    )
    assert float(psnr_per_image(narrow.float(), wide.float()).min()) > 27


def test_a_cpu_is_refused_with_a_remedy() -> None:
    with pytest.raises(ValueError, match=r'precision="fp8": .* on cpu, .*; leave precision= out'):
        rt.compile(toy_dit().bfloat16(), Full(), steps=2, precision="fp8")


def test_gpus_and_models_that_have_no_such_products_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    described = describe(toy_dit().bfloat16())
    monkeypatch.setattr(type(described), "device", torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    assert "capability 8.6, wanted 8.9" in support.why_not_quantized(described)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    assert support.why_not_quantized(described) == ""


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (toy_dit(), "the model is float32, wanted bfloat16, as in model.to"),
        (toy_dit(hidden_size=40).bfloat16(), "attn-0: a product of 40 columns to 120, wanted"),
    ],
)
def test_other_dtypes_and_widths_are_refused(model: Any, reason: str) -> None:
    fusable = describe(model).fusable
    assert fusable is not None
    assert reason in why_not_these_weights(fusable)


def test_methods_that_choose_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match='precision="fp8": the schedule computes some tokens'):
        compile_taped(
            toy_dit().bfloat16(), ToCa(), steps=STEPS, precision="fp8"
        ).sample(noise(), [1, 2])  # fmt: skip
