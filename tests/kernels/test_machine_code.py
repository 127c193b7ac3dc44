"""Every kernel compiled for three generations of GPU, and what came out, read back.

The launches are real ones through the recording driver, so that what is read is what would run.
"""

from __future__ import annotations

import re

import pytest
import torch
from aot import ReadBack, read_back
from compiled_kernels import ARCHS, DIT_XL, TENSOR_CORES, compiled, fits
from recording_driver import SHARED_LIMIT, Launch, recorded_launches

from l2c_rt.doctor.kernel_calls import (
    END_OPS,
    MATRIX_OPS,
    MODULES,
    OPS,
    ROW_OPS,
    TOKEN_OPS,
    WEIGHTED_OPS,
    arguments,
)
from l2c_rt.doctor.kernel_operands import Sizes
from l2c_rt.doctor.placed_operands import PLACED_OPS
from l2c_rt.kernels import gate_residual_norm_modulate as module
from l2c_rt.kernels._launch import ATTENTION_TILES, LINEAR_TILES, embed_tile, options

SPLIT_OPS = ("split_sum", "split_gate_residual_norm_modulate")
FIRST_OPS = tuple(ops[0] for ops in MODULES.values()) + SPLIT_OPS
"""One function per kernel, and the split form with the most in registers."""
STREAMING = tuple(op for op in FIRST_OPS if op not in MATRIX_OPS + TOKEN_OPS)


def streams(code: ReadBack, label: str) -> None:
    """Rows move 16 bytes at a time; what is narrower is an index, a coefficient or a latent."""
    loads, stores = code.widths(r"LDG"), code.widths(r"STG")
    assert set(loads) <= {4, 8, 16}, (label, loads)
    assert set(stores) <= {4, 16}, (label, stores)
    assert loads[16] > 0, (label, loads)
    assert stores[16] > 0 or label in ONLY_LATENTS, (label, stores)


ONLY_LATENTS = {"final_update", "reuse_evaluation", "final_update_norm"}
"""Functions that write float32 latents, two columns of a patch at a time, and no row."""


@ARCHS
@pytest.mark.parametrize("op", STREAMING)
def test_streaming_kernels_move_16_bytes_and_spill_nothing(op: str, arch: int) -> None:
    launch, code = compiled(op, arch=arch)
    fits(launch, code, arch)
    streams(code, op)


@pytest.mark.parametrize("op", [op for op in ROW_OPS + END_OPS if op not in FIRST_OPS])
def test_the_other_forms_of_a_kernel_do_too(op: str) -> None:
    launch, code = compiled(op)
    fits(launch, code, 90)
    streams(code, op)


@ARCHS
@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("op", WEIGHTED_OPS)
def test_lists_with_weights_move_16_bytes_and_spill_nothing(
    op: str, lanes: int, arch: int
) -> None:  # fmt: skip
    sizes = Sizes(torch.bfloat16, grid=(16, 16), width=1152, empty=True, weighted=True, lanes=lanes)
    launch, code = compiled(op, sizes, arch=arch)
    fits(launch, code, arch)
    streams(code, op)


@ARCHS
@pytest.mark.parametrize("op", PLACED_OPS)
def test_slots_that_lie_apart_are_read_and_written_16_bytes_at_a_time(op: str, arch: int) -> None:
    launch, code = compiled(op, arch=arch, placed=True)
    streams(code, op)
    # To keep registers to a round number, the assembler for sm_100 puts a few bytes on the stack.
    if arch < 100:
        fits(launch, code, arch)
    accesses = [o[:3] for o in code.sequence if re.match(r"LDG|STG", o)]
    assert accesses == sorted(accesses)


@pytest.mark.parametrize("op", ROW_OPS + END_OPS)
def test_float32_moves_16_bytes_too(op: str) -> None:
    launch, code = compiled(op, Sizes(torch.float32, grid=(16, 16), width=1152, empty=True))
    fits(launch, code, 90)
    streams(code, op)


# One vector; half a warp of them; no power of two; the widest.
@pytest.mark.parametrize("width", [8, 40, 4096, 8192])
@pytest.mark.parametrize(
    "op",
    ["reuse_run", "gate_residual_norm_modulate", "residual_norm", "patch_embed", "final_update"],
)
def test_every_width_moves_16_bytes(op: str, width: int) -> None:
    launch, code = compiled(op, Sizes(torch.bfloat16, grid=(1, 2), width=width, empty=True))
    fits(launch, code, 90)
    streams(code, op)


@ARCHS
def test_tokens_that_share_the_embedding_spill_nothing(arch: int) -> None:
    tile = embed_tile(32768, 1152)
    assert tile.tokens == 4
    for op in ("patch_embed_norm", "patch_embed_norm_modulate"):
        launch, code = compiled(op, arch=arch, tile=tile)
        fits(launch, code, arch)
        streams(code, op)


@pytest.mark.parametrize(
    ("op", "with_reuses"), [("norm_modulate", "reuse_run"), ("norm", "reuse_run_norm")]
)
def test_a_norm_alone_is_compiled_without_the_list_of_reuses(op: str, with_reuses: str) -> None:
    _, code = compiled(op)
    _, longer = compiled(with_reuses)
    assert code.registers <= longer.registers
    # The counter and the row of the table; no slot and no gate.
    assert code.widths(r"LDG")[4] == {"norm_modulate": 2, "norm": 0}[op]


@ARCHS
@pytest.mark.parametrize(
    "op", [op for op in FIRST_OPS if op in ROW_OPS and op != "mix"] + ["patch_embed_norm_modulate"]
)
def test_everything_is_read_before_the_first_store(op: str, arch: int) -> None:
    # The compiler may move no load over a store, and so the wait for it would come on top.
    _, code = compiled(op, arch=arch)
    accesses = [o[:3] for o in code.sequence if re.match(r"LDG|STG", o)]
    assert accesses == sorted(accesses)


def uses_tensor_cores(op: str, launch: Launch, code: ReadBack, arch: int) -> None:
    fits(launch, code, arch)
    assert code.count(TENSOR_CORES[arch]) > 0, op
    # Operands go to shared memory behind the arithmetic's back, in vectors.
    assert set(code.widths(r"LDGSTS")) <= {8, 16}
    assert code.widths(r"LDGSTS")[16] > 0
    assert set(code.widths(r"STG")) == {16}


@ARCHS
@pytest.mark.parametrize("op", MATRIX_OPS)
def test_products_run_on_tensor_cores_from_vectors(op: str, arch: int) -> None:
    launch, code = compiled(op, arch=arch)
    uses_tensor_cores(op, launch, code, arch)


@pytest.mark.parametrize("op", MATRIX_OPS)
def test_float32_products_keep_float32(op: str) -> None:
    launch, code = compiled(op, Sizes(torch.float32, grid=(16, 16), width=1152, heads=16))
    fits(launch, code, 90)
    assert code.count(r"HGMMA|HMMA") == 0
    assert code.count("FFMA") > 100


def test_a_head_of_72_costs_no_more_than_64_and_16() -> None:
    _, code = compiled("attention")
    shapes = {op.split(".")[1] for op in code.opcodes if op.startswith("HGMMA")}
    assert shapes == {"64x64x16", "64x16x16"}


@pytest.mark.parametrize("tokens", [258, 1])
def test_tokens_that_fill_no_tile_spill_nothing(tokens: int) -> None:
    sizes = Sizes(torch.bfloat16, grid=(1, tokens), width=1152, heads=16, empty=True)
    launch, code = compiled("attention", sizes)
    uses_tensor_cores("attention", launch, code, 90)
    # U-ViT's two prefix tokens are multiplied as 32 keys and not as a block of 64.
    shapes = {op.split(".")[1] for op in code.opcodes if op.startswith("HGMMA")}
    assert "64x32x16" in shapes


@pytest.mark.slow
@pytest.mark.parametrize("head", [8, 24, 40, 56, 64, 80, 96, 104, 128])
def test_every_head_dimension_spills_nothing(head: int) -> None:
    sizes = Sizes(torch.bfloat16, grid=(16, 16), width=8 * head, heads=8, empty=True)
    for arch in SHARED_LIMIT:
        launch, code = compiled("attention", sizes, arch)
        uses_tensor_cores("attention", launch, code, arch)


@pytest.mark.slow
@ARCHS
def test_every_candidate_tile_of_attention_spills_nothing(arch: int) -> None:
    for tile in ATTENTION_TILES:
        launch, code = compiled("attention", arch=arch, tile=tile)
        uses_tensor_cores("attention", launch, code, arch)


@pytest.mark.slow
@ARCHS
@pytest.mark.parametrize("op", ["linear", "split_linear", "skip_linear"])
def test_every_candidate_tile_of_products_spills_nothing(op: str, arch: int) -> None:
    for tile in LINEAR_TILES:
        launch, code = compiled(op, arch=arch, tile=tile)
        uses_tensor_cores(op, launch, code, arch)
        operands = tile.stages * (tile.m + tile.n) * tile.k * 2
        assert launch.shared <= operands + 1024


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 100])
@pytest.mark.parametrize("op", [op for op in OPS if op not in FIRST_OPS + TOKEN_OPS])
def test_every_form_on_every_architecture(op: str, arch: int) -> None:
    launch, code = compiled(op, arch=arch)
    fits(launch, code, arch)
    streams(code, op)


def test_addresses_that_the_compiler_cannot_trust_would_be_read_two_bytes_at_a_time() -> None:
    # Why the checks refuse a misaligned tensor: the same kernel, one slot off by an element.
    operands = arguments("gate_residual", DIT_XL)
    x = operands["x"]
    off = torch.empty(x.numel() + 1, dtype=x.dtype)[1:].view_as(x)
    table = operands["modulation"].table
    with recorded_launches() as launches:
        module._gate_residual_kernel[(1,)](
            x, off, off, None, table, operands["modulation"].rows, operands["modulation"].counter,
            x, x, x, 256, 3, 8, 0, 0, 0, 0.0, D=1152, BLOCK=2048, SPLITS=0, WRITE_H=False,
            PDL=False,
            **options(4),
        )  # fmt: skip
    assert read_back(launches[0].cubin).widths(r"LDG")[2] > 0
