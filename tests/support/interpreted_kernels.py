"""Row and end kernels in Triton's interpreter against float64, run by test_interpreter.py."""

from __future__ import annotations

import pytest
import torch
from float64_bound import DTYPES, WARNINGS, check, dtypes_in_turn

from l2c_rt.doctor.kernel_calls import (
    END_OPS,
    ROW_OPS,
    WEIGHTED_OPS,
    arguments,
    kernel,
    truth,
)
from l2c_rt.doctor.kernel_operands import Sizes
from l2c_rt.doctor.placed_operands import PLACED_OPS, placed_arguments
from l2c_rt.doctor.tensor_trees import cloned, float64
from l2c_rt.kernels._launch import RowTile
from l2c_rt.kernels.operands import Reuses

pytestmark = WARNINGS


# One row; a prime; U-ViT's 16 patches and 2 extras: tokens that fill no block.  Widths of one
# vector, of no power of two, of U-ViT's and DiT-XL's head and row.
@dtypes_in_turn("op, size", ROW_OPS, [(3, 1, 8, 0), (2, 7, 40, 1), (1, 18, 72, 3), (1, 7, 1152, 7)])
def test_row_kernels(op: str, size: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    batch, tokens, width, count = size
    check(op, arguments(op, Sizes(dtype, batch, 1, (1, tokens), width, count)))


@dtypes_in_turn("op, count, lanes", WEIGHTED_OPS, [0, 1, 5], [1, 2])
def test_lists_with_weights(op: str, count: int, lanes: int, dtype: torch.dtype) -> None:
    sizes = Sizes(dtype, images=2, grid=(1, 2), count=count, weighted=True, lanes=lanes)
    check(op, arguments(op, sizes))


@pytest.mark.parametrize("op", WEIGHTED_OPS)
def test_images_in_other_lanes_are_other_sums(op: str) -> None:
    operands = arguments(op, Sizes(weighted=True, lanes=2))
    first = kernel(op)(**cloned(operands))
    offsets = operands["reuses"].weights.offsets
    offsets.copy_(offsets.flip(0))
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(kernel(op)(**operands), first)


def test_a_mixture_may_be_written_over_one_of_its_slots() -> None:
    operands = arguments("mix", Sizes(count=3))
    expected = truth("mix")(**cloned(operands))
    slot = operands["reuses"].arena[operands["reuses"].slots[1]]
    kernel("mix")(**operands | {"out": slot.view_as(expected)})
    assert (slot.view_as(expected) - expected).abs().max() < 1e-5


@dtypes_in_turn("op, lanes", PLACED_OPS, [0, 1, 2])
def test_slots_of_samples_that_lie_apart(op: str, lanes: int, dtype: torch.dtype) -> None:
    """Without weights, with weights, and with weights of two lanes."""
    sizes = Sizes(dtype, images=2, weighted=lanes > 0, lanes=max(1, lanes))
    check(op, placed_arguments(op, sizes))


@pytest.mark.parametrize("op", ["split_gate_residual_norm_modulate", "split_residual_norm"])
def test_one_sum_in_the_slots_dtype_is_put_in_its_place_as_it_is(op: str) -> None:
    operands = placed_arguments(op, Sizes(torch.bfloat16))
    operands["partial_sums"] = operands["partial_sums"][:1].bfloat16()
    places = operands["places"][:, 0].long()
    results = kernel(op)(**operands)
    assert torch.equal(operands["y"][places].view(1, *operands["partial_sums"].shape[1:]),
                       operands["partial_sums"])  # fmt: skip
    # The very bits of a branch whose output lies in its order.
    plain = {k: v for k, v in operands.items() if k not in ("partial_sums", "places")}
    plain["y"] = operands["y"][places].clone()
    for a, b in zip(results, kernel(op.removeprefix("split_"))(**plain), strict=True):
        assert torch.equal(a, b)


@DTYPES
def test_a_mixture_without_an_operand(dtype: torch.dtype) -> None:
    check("mix", arguments("mix", Sizes(dtype)) | {"operand": None})


@DTYPES
@pytest.mark.parametrize("op", ["reuse_run", "gate_residual_norm_modulate", "residual_norm"])
def test_a_float32_stream_around_narrow_branches(op: str, dtype: torch.dtype) -> None:
    operands = arguments(op, Sizes(dtype))
    operands["x"] = operands["x"].float() * 1.001
    check(op, operands)


@pytest.mark.parametrize(
    "op", [op for op in ROW_OPS if op not in ("norm_modulate", "norm", "split_sum", "mix")]
)
def test_x_may_be_written_over_itself(op: str) -> None:
    operands = arguments(op, Sizes())
    expected = truth(op)(**cloned(operands))
    x = operands["x"]
    h = torch.full_like(x, float("nan"))
    got = kernel(op)(**operands, out=(x, h) if isinstance(expected, tuple) else x)
    for a, b in zip(got if isinstance(got, tuple) else (got,), expected, strict=False):
        assert (a - (b if isinstance(expected, tuple) else expected)).abs().max() < 1e-5


@DTYPES
@pytest.mark.parametrize("op", ["gate_residual_norm_modulate", "residual_norm"])
def test_the_split_form_adds_the_very_value_that_it_keeps(op: str, dtype: torch.dtype) -> None:
    operands = arguments(f"split_{op}", Sizes(dtype))
    split = kernel(f"split_{op}")(**operands)
    del operands["partial_sums"]
    for a, b in zip(split, kernel(op)(**operands), strict=True):
        assert torch.equal(a, b)


def test_a_slot_that_is_not_listed_is_not_read() -> None:
    operands = arguments("reuse_run", Sizes(count=3))
    listed = set(operands["reuses"].slots.tolist())
    for slot in range(len(operands["reuses"].arena)):
        if slot not in listed:
            operands["reuses"].arena[slot] = float("nan")
    x, h = kernel("reuse_run")(**operands)
    assert not x.isnan().any()
    assert not h.isnan().any()


def test_the_list_is_cut_to_its_length_whatever_lies_behind_it() -> None:
    operands = arguments("reuse_run", Sizes(count=3))
    many = operands["reuses"]
    slots = torch.cat([many.slots, torch.full((5,), 10**6, dtype=torch.int32)])[:3]
    reuses = Reuses(many.arena, slots, many.gates)
    check("reuse_run", operands | {"reuses": reuses})


@dtypes_in_turn("op, size, halves", END_OPS, [(2, 1, 8, 0), (1, 2, 72, 1)], [1, 2])
def test_end_kernels(
    op: str, size: tuple[int, int, int, int], halves: int, dtype: torch.dtype
) -> None:
    images, tokens, width, count = size
    check(op, arguments(op, Sizes(dtype, images, halves, (1, tokens), width, count)))


@pytest.mark.parametrize(("grid", "count"), [((1, 5), 7), ((3, 2), 3)])
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
    operands = arguments(op, Sizes())
    solver, latents = operands["solver"], operands["latents"]
    solver.counter.zero_()
    solver.anchor.fill_(float("nan"))
    expected = float64(operands)
    for step in range(2):
        assert solver.counter.tolist() == [step, 0]
        kernel(op)(**operands, out=latents)
        expected["latents"] = truth(op)(**expected)
    assert solver.counter.tolist() == [2, 0]
    assert (latents - expected["latents"]).abs().max() < 1e-5


def test_ddim_reads_and_writes_no_anchor() -> None:
    operands = arguments("final_update", Sizes())
    anchor = torch.full_like(operands["latents"], float("nan"))
    solver = operands["solver"]
    operands["solver"] = type(solver)(solver.coefficients, solver.counter, anchor)
    assert not kernel("final_update")(**operands).isnan().any()
    assert anchor.isnan().all()


def test_unguided_channels_ignore_the_half_without_label() -> None:
    operands = arguments("final_update", Sizes())
    free = operands["x"].clone()
    free[1:] = float("nan")
    moved = kernel("final_update")(**operands | {"x": free})
    assert moved[:, :3].isnan().all()
    assert not moved[:, 3:].isnan().any()
