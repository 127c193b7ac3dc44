"""Every kernel in Triton's interpreter against float64, run by test_kernels_interpreter.py.

The bound is twice the error of eager PyTorch in the same dtype, plus a rounding: the interpreter
truncates where it stores bf16.  Outputs are poisoned first, and every argument that a call may
write (slots, anchor, counter) is compared as well.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kernel_calls import (
    END_OPS,
    ROW_OPS,
    SMALL_ATTENTION,
    SMALL_MATRIX,
    Arguments,
    Sizes,
    arguments,
    cloned,
    float64,
    kernel,
    poisoned_like,
    tensors,
    truth,
)
from torch import Tensor

from l2c_rt.kernels._launch import RowTile
from l2c_rt.kernels.check_timestep import check_timestep
from l2c_rt.kernels.operands import Reuses
from l2c_rt.runtime import timestep_check as timesteps

pytestmark = [
    # A sigmoid far out; it is 0 or 1 there, as it should be.
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),
    # Triton 3.6's interpreter takes loop bounds from arrays; it needs a numpy before 2.4.
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),
]

ROUNDING = {torch.float32: 2.0**-21, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}
DTYPES = pytest.mark.parametrize("dtype", ROUNDING, ids=["fp32", "fp16", "bf16"])


def check(op: str, given: Arguments, tile: Any = None) -> None:
    """Hold the kernel's results, and what it made of its arguments, to the bound."""
    eager, true, compiled = cloned(given), float64(given), cloned(given)
    eager["out"], true["out"] = truth(op)(**eager), truth(op)(**true)
    compiled["out"] = poisoned_like(eager["out"])
    got = kernel(op)(**compiled, tile=tile)
    assert [id(t) for _, t in tensors(got)] == [id(t) for _, t in tensors(compiled["out"])]
    for (path, g), (_, e), (_, t) in zip(
        tensors(compiled), tensors(eager), tensors(true), strict=True
    ):
        close(op + path, g, e, t)


def close(label: str, got: Tensor, eager: Tensor, true: Tensor) -> None:
    assert got.shape == true.shape, label
    assert got.dtype == eager.dtype, label
    if not got.is_floating_point():
        assert torch.equal(got, true), label
        return
    assert not got.isnan().any(), f"{label}: not written everywhere"
    if not got.numel():
        return
    error = (got.double() - true).abs().max().item()
    yardstick = (eager.double() - true).abs().max().item()
    rounding = ROUNDING[got.dtype] * max(1.0, true.abs().max().item())
    assert error <= 2 * yardstick + rounding, f"{label}: {error:.3g} against {yardstick:.3g}"


# One row; a prime; U-ViT's 16 patches and 2 extras: tokens that fill no block.  Widths of one
# vector, of no power of two, of U-ViT's and DiT-XL's head and row.
@DTYPES
@pytest.mark.parametrize(
    ("batch", "tokens", "width", "count"),
    [(3, 1, 8, 0), (2, 7, 40, 1), (1, 18, 72, 3), (1, 7, 1152, 7)],
)
@pytest.mark.parametrize("op", ROW_OPS)
def test_row_kernels(
    op: str, batch: int, tokens: int, width: int, count: int, dtype: torch.dtype
) -> None:
    check(op, arguments(op, Sizes(dtype, batch, 1, (1, tokens), width, count)))


@DTYPES
@pytest.mark.parametrize("op", ["reuse_run", "gate_residual_norm_modulate", "residual_norm"])
def test_a_float32_stream_around_narrow_branches(op: str, dtype: torch.dtype) -> None:
    given = arguments(op, Sizes(dtype))
    given["x"] = given["x"].float() * 1.001
    check(op, given)


@pytest.mark.parametrize(
    "op", [op for op in ROW_OPS if op not in ("norm_modulate", "norm", "split_sum")]
)
def test_x_may_be_written_over_itself(op: str) -> None:
    given = arguments(op, Sizes())
    wanted = truth(op)(**cloned(given))
    x = given["x"]
    h = torch.full_like(x, float("nan"))
    got = kernel(op)(**given, out=(x, h) if isinstance(wanted, tuple) else x)
    for a, b in zip(got if isinstance(got, tuple) else (got,), wanted, strict=False):
        assert (a - (b if isinstance(wanted, tuple) else wanted)).abs().max() < 1e-5


def test_a_slot_that_is_not_listed_is_not_read() -> None:
    given = arguments("reuse_run", Sizes(count=3))
    listed = set(given["reuses"].slots.tolist())
    for slot in range(len(given["reuses"].arena)):
        if slot not in listed:
            given["reuses"].arena[slot] = float("nan")
    x, h = kernel("reuse_run")(**given)
    assert not x.isnan().any()
    assert not h.isnan().any()


def test_the_list_is_cut_to_its_length_whatever_lies_behind_it() -> None:
    given = arguments("reuse_run", Sizes(count=3))
    many = given["reuses"]
    slots = torch.cat([many.slots, torch.full((5,), 10**6, dtype=torch.int32)])[:3]
    reuses = Reuses(many.arena, slots, many.gates)
    check("reuse_run", given | {"reuses": reuses})


@DTYPES
@pytest.mark.parametrize("halves", [1, 2])
@pytest.mark.parametrize(
    ("images", "grid", "width", "count"), [(2, (1, 1), 8, 0), (1, (1, 4), 72, 1)]
)
@pytest.mark.parametrize("op", END_OPS)
def test_end_kernels(
    op: str,
    images: int,
    grid: tuple[int, int],
    width: int,
    count: int,
    halves: int,
    dtype: torch.dtype,
) -> None:
    check(op, arguments(op, Sizes(dtype, images, halves, grid, width, count)))


@pytest.mark.parametrize(("grid", "count"), [((1, 7), 7), ((3, 6), 3)])
@pytest.mark.parametrize("op", END_OPS)
def test_end_kernels_over_a_grid_that_is_no_square(
    op: str, grid: tuple[int, int], count: int
) -> None:
    check(op, arguments(op, Sizes(grid=grid, count=count)))


@pytest.mark.parametrize("op", END_OPS)
def test_end_kernels_at_the_width_of_dit_xl(op: str) -> None:
    check(op, arguments(op, Sizes(torch.bfloat16, grid=(1, 1), width=1152, count=7)))


@pytest.mark.parametrize("op", END_OPS)
@pytest.mark.parametrize(("channels", "patch"), [(3, 1), (1, 4), (16, 2)])
def test_end_kernels_with_other_patches_and_channels(op: str, channels: int, patch: int) -> None:
    sizes = Sizes(grid=(2, 1), width=24, count=1, channels=channels, patch=patch, prefix_tokens=1)
    check(op, arguments(op, sizes))


@pytest.mark.parametrize("op", ["patch_embed", "patch_embed_norm", "patch_embed_norm_modulate"])
def test_tokens_may_share_a_program_that_they_do_not_fill(op: str) -> None:
    check(op, arguments(op, Sizes(grid=(3, 3))), tile=RowTile(tokens=4))


def test_patches_without_prefix_tokens() -> None:
    check("patch_embed", arguments("patch_embed", Sizes(prefix_tokens=0)))


@pytest.mark.parametrize("op", ["final_update_norm", "guided_update"])
def test_a_pair_of_dpm_solver_evaluations(op: str) -> None:
    # The first keeps its latents as anchor, the second reads them; both count.
    given = arguments(op, Sizes())
    solver, latents = given["solver"], given["latents"]
    solver.counter.zero_()
    solver.anchor.fill_(float("nan"))
    wanted = float64(given)
    for step in range(2):
        assert solver.counter.tolist() == [step, 0]
        kernel(op)(**given, out=latents)
        wanted["latents"] = truth(op)(**wanted)
    assert solver.counter.tolist() == [2, 0]
    assert (latents - wanted["latents"]).abs().max() < 1e-5


def test_ddim_reads_and_writes_no_anchor() -> None:
    given = arguments("final_update", Sizes())
    anchor = torch.full_like(given["latents"], float("nan"))
    solver = given["solver"]
    given["solver"] = type(solver)(solver.coefficients, solver.counter, anchor)
    assert not kernel("final_update")(**given).isnan().any()
    assert anchor.isnan().all()


def test_latents_and_x_may_be_written_over_themselves() -> None:
    given = arguments("final_update_embed", Sizes(images=2))
    wanted = truth("final_update_embed")(**cloned(given))
    got = kernel("final_update_embed")(**given, out=(given["latents"], given["x"]))
    for a, b in zip(got, wanted, strict=True):
        assert (a - b).abs().max() < 1e-5


def test_unguided_channels_ignore_the_half_without_label() -> None:
    given = arguments("final_update", Sizes())
    free = given["x"].clone()
    free[1:] = float("nan")
    moved = kernel("final_update")(**given | {"x": free})
    assert moved[:, :3].isnan().all()
    assert not moved[:, 3:].isnan().any()


@DTYPES
@pytest.mark.parametrize("tokens", [1, 7, 18, 32])
@pytest.mark.parametrize("head", [8, 24, 40, 64, 72, 104, 128])
def test_attention(tokens: int, head: int, dtype: torch.dtype) -> None:
    sizes = Sizes(dtype, halves=1, grid=(1, tokens), width=2 * head, heads=2)
    check("attention", arguments("attention", sizes), tile=SMALL_ATTENTION)


def test_attention_with_a_scale_of_its_own_and_scores_that_would_overflow() -> None:
    given = arguments("attention", Sizes(grid=(1, 18), width=80)) | {"scale": 40.0}
    check("attention", given, tile=SMALL_ATTENTION)


@DTYPES
@pytest.mark.parametrize(("grid", "width"), [((1, 1), 8), ((1, 7), 40), ((3, 6), 72)])
@pytest.mark.parametrize("op", ["linear", "skip_linear"])
def test_products(op: str, grid: tuple[int, int], width: int, dtype: torch.dtype) -> None:
    check(op, arguments(op, Sizes(dtype, grid=grid, width=width)), tile=SMALL_MATRIX)


@pytest.mark.parametrize("gelu", [None, "tanh", "none"])
@pytest.mark.parametrize("bias", [True, False])
def test_epilogues(gelu: str | None, bias: bool) -> None:
    given = arguments("linear", Sizes()) | {"gelu": gelu}
    # Far out, where tanh and erf saturate.
    given["x"] = given["x"] * 20
    check("linear", given if bias else given | {"bias": None}, tile=SMALL_MATRIX)


@DTYPES
@pytest.mark.parametrize("splits", [1, 2, 3, 5])
def test_split_products_sum_to_the_product(splits: int, dtype: torch.dtype) -> None:
    # Five blocks of 16: three splits leave the last one short, and every cut is covered once.
    given = arguments("split_linear", Sizes(dtype, width=72)) | {"splits": splits}
    rows = given["x"].shape[0] * given["x"].shape[1]
    parts = torch.full((splits, rows, 72), float("nan"))
    kernel("split_linear")(**given, out=parts, tile=SMALL_MATRIX)
    true = truth("linear")(*float64((given["x"], given["weight"], given["bias"])))
    assert (parts.double().sum(0) - true.flatten(0, 1)).abs().max() < 1e-5


def test_split_products_go_through_the_kernel_that_adds_them() -> None:
    sizes = Sizes(width=72)
    given = arguments("split_gate_residual_norm_modulate", sizes)
    product = arguments("split_linear", sizes) | {"splits": 3}
    given["parts"] = kernel("split_linear")(**product, tile=SMALL_MATRIX)
    x, h = kernel("split_gate_residual_norm_modulate")(**given)
    product.pop("splits")
    whole = arguments("gate_residual_norm_modulate", sizes)
    whole["y"] = truth("linear")(**product)
    for a, b in zip((x, h), truth("gate_residual_norm_modulate")(**whole), strict=True):
        assert (a - b).abs().max() < 1e-5


def runs() -> list[list[list[float]]]:
    """Timesteps [steps][batch]: falling, repeated early, rising, differing within a batch."""
    return [
        [[990.0] * 3, [500.0] * 3, [10.0] * 3],
        [[990.0] * 3, [990.0] * 3, [10.0] * 3],
        [[990.0] * 3, [500.0] * 3, [500.0] * 3],
        [[500.0] * 3, [10.0] * 3, [990.0] * 3],
        [[990.0] * 3, [500.0, 500.0, 400.0], [10.0] * 3],
        [[990.0] * 3, [600.0] * 3, [700.0] * 3],
    ]


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32, torch.float64])
def test_a_timestep_is_judged_as_pytorch_judges_it(dtype: torch.dtype, known: bool) -> None:
    wanted = torch.tensor([990.0, 500.0, 10.0], dtype=torch.float64) if known else None
    verdicts = set()
    for run in runs():
        state = [(torch.zeros(3).double(), torch.full((3,), -1.0).double()) for _ in range(2)]
        for step, values in enumerate(run):
            t = torch.tensor(values).to(dtype)
            for check, kept in zip((timesteps.check_timestep, check_timestep), state, strict=True):
                check(t, step, wanted, *kept)
            for a, b in zip(*state, strict=True):
                assert torch.equal(a, b), (run, step)
        verdicts.add(tuple(state[0][1].tolist()))
    assert len(verdicts) >= 3
