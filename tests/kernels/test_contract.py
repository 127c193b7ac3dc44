"""What a kernel function promises before it runs: its signature, what it refuses, its bytes."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_calls import MODULES, OPS, Sizes, arguments, kernel, tensors, truth

from l2c_rt.kernels import _launch, reference
from l2c_rt.kernels._launch import ATTENTION_TILES, LINEAR_TILES
from l2c_rt.kernels.operands import dpm_solver_coefficients
from l2c_rt.plan.cost import launch_elements
from l2c_rt.plan.lowering import Sum, Term
from l2c_rt.plan.program import BlockProgram, attention_branch
from l2c_rt.sampling.solvers import dpm_solver

KERNELS = Path(__file__).parents[2] / "kernels"
SHARED = {
    "__init__",
    "_check",
    "check_timestep",
    "_launch",
    "_matrix_math",
    "_patch_math",
    "_row_math",
    "operands",
}


@pytest.mark.parametrize("op", OPS)
def test_a_kernel_has_the_signature_of_its_reference(op: str) -> None:
    ours, theirs = inspect.signature(kernel(op)), inspect.signature(truth(op))
    assert str(ours).replace("tuple[Tensor, Tensor]", "Pair") == str(theirs)


def test_every_file_of_kernels_and_every_public_function_is_covered() -> None:
    assert {path.stem for path in KERNELS.glob("*.py")} == SHARED | {"reference"} | set(MODULES)
    for module, ops in MODULES.items():
        tree = ast.parse((KERNELS / f"{module}.py").read_text())
        public = [f.name for f in tree.body if isinstance(f, ast.FunctionDef)]
        public = [name for name in public if not name.startswith("_")]
        assert [n for n in public if not n.endswith("_bytes")] == list(ops)
    written = [name for name, f in vars(reference).items() if inspect.isfunction(f)]
    assert {name for name in written if not name.startswith("_")} == set(OPS)


def test_the_references_work_where_triton_is_not() -> None:
    source = (
        "import sys; sys.modules['triton'] = None\n"
        "import l2c_rt.kernels.reference, l2c_rt.kernels._launch, l2c_rt.kernels.operands"
    )
    subprocess.run([sys.executable, "-c", source], check=True, timeout=120)


def test_importing_kernels_touches_no_gpu() -> None:
    names = ", ".join(f"l2c_rt.kernels.{module}" for module in MODULES)
    source = f"import torch, {names}; assert not torch.cuda.is_initialized()"
    subprocess.run([sys.executable, "-c", source], check=True, timeout=120)


def replaced(value: Any, path: str, tensor: torch.Tensor) -> Any:
    """The same arguments with the tensor at one path replaced."""
    head, *rest = [part for part in path.replace("]", "").replace("[", ".").split(".") if part]
    if rest:
        inner = value[head] if isinstance(value, dict) else getattr(value, head)
        tensor = replaced(inner, ".".join(rest), tensor)
    if isinstance(value, dict):
        return value | {head: tensor}
    return dataclasses.replace(value, **{head: tensor})


PATHS = [(op, path) for op in OPS for path, _ in tensors(arguments(op, Sizes()))]


def spread(tensor: torch.Tensor) -> torch.Tensor:
    """Equal, but every other element of a larger tensor."""
    wide = torch.zeros((*tensor.shape, 2), dtype=tensor.dtype)
    wide[..., 0] = tensor
    return wide[..., 0]


@pytest.mark.parametrize(("op", "path"), PATHS)
def test_a_tensor_that_is_not_contiguous_is_refused(op: str, path: str) -> None:
    given = arguments(op, Sizes())
    with pytest.raises(ValueError, match=rf"{op}: .*(contiguous|multiple of 8)"):
        kernel(op)(**replaced(given, path, spread(dict(tensors(given))[path])))


@pytest.mark.parametrize(
    ("op", "path"), [(op, path) for op, path in PATHS if path.split(".")[-1] not in
                     ("slots", "gates", "rows", "counter")]
)  # fmt: skip
def test_a_misaligned_tensor_is_refused(op: str, path: str) -> None:
    given = arguments(op, Sizes())
    tensor = dict(tensors(given))[path]
    space = torch.empty(tensor.stride(0) * len(tensor) + 1, dtype=tensor.dtype)
    moved = space.as_strided(tensor.shape, tensor.stride(), 1)
    with pytest.raises(ValueError, match=rf"{op}: the address of .* 16 bytes.* pad its offset"):
        kernel(op)(**replaced(given, path, moved))


@pytest.mark.parametrize(("op", "path"), PATHS)
def test_a_tensor_of_another_dtype_is_refused(op: str, path: str) -> None:
    given = arguments(op, Sizes())
    changed = dict(tensors(given))[path].to(torch.float64)
    with pytest.raises(ValueError, match=rf"{op}: .* is torch.float64, wanted .*convert"):
        kernel(op)(**replaced(given, path, changed))


@pytest.mark.parametrize(("op", "path"), PATHS)
def test_a_tensor_of_another_shape_is_refused(op: str, path: str) -> None:
    given = arguments(op, Sizes(images=2))
    tensor = dict(tensors(given))[path]
    with pytest.raises(ValueError, match=rf"{op}: "):
        kernel(op)(**replaced(given, path, tensor[..., None].contiguous()))


@pytest.mark.parametrize(("op", "path"), PATHS)
def test_a_tensor_on_another_device_is_refused(op: str, path: str) -> None:
    given = arguments(op, Sizes())
    moved = dict(tensors(given))[path].to("meta")
    with pytest.raises(ValueError, match=rf"{op}: "):
        kernel(op)(**replaced(given, path, moved))


@pytest.mark.parametrize("op", [op for op in OPS if op not in ("attention", "guided_update")])
@pytest.mark.parametrize("width", [20, 8200])
def test_a_width_that_kernels_cannot_read_in_vectors_is_refused(op: str, width: int) -> None:
    if width > 20 and op in ("linear", "split_linear", "skip_linear"):
        return
    given = arguments(op, Sizes(width=width, grid=(1, 1), count=0, empty=True))
    with pytest.raises(ValueError, match=rf"{op}: .*multiples? of 8"):
        kernel(op)(**given)


def test_outputs_that_would_overwrite_what_is_still_read_are_refused() -> None:
    given = arguments("gate_residual_norm_modulate", Sizes())
    x, y = given["x"], torch.empty_like(given["x"])
    for out in ((y, x), (y, y)):
        with pytest.raises(ValueError, match="must not share memory"):
            kernel("gate_residual_norm_modulate")(**given, out=out)


def test_the_counter_of_a_run_must_be_one_tensor() -> None:
    given = arguments("final_update", Sizes())
    solver = dataclasses.replace(given["solver"], counter=torch.zeros(2, dtype=torch.int32))
    with pytest.raises(ValueError, match="must be one tensor"):
        kernel("final_update")(**given | {"solver": solver})


@pytest.mark.parametrize(
    ("op", "changed", "says"),
    [
        ("reuse_run", {"shift": 8}, "chunk 8 is outside the table's 8"),
        ("gate_residual", {"gate": -1}, "chunk -1 is outside"),
        ("patch_embed", {"batch": 3}, "batch 3 is not a multiple of the 2 latents"),
        ("attention", {"heads": 7}, "for 7 heads"),
        ("attention", {"heads": 10}, "multiple of 8 up to 128"),
        ("linear", {"gelu": "erf"}, "gelu is 'erf', wanted \"tanh\""),
        ("split_linear", {"splits": 9}, "9 splits of 40 columns"),
        ("guided_update", {"guided": 5}, "5 guided channels"),
    ],
)
def test_a_number_out_of_range_is_refused(op: str, changed: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        kernel(op)(**arguments(op, Sizes(images=2)) | changed)


# Bytes, restated: tensors that cross the memory bus once each, at DiT-XL/2 and U-ViT-H/2.
B, T, D, ROW = 16, 256, 1152, 16 * 256 * 1152 * 2
BYTES = {
    ("reuse_run", (B, T, D, 4, 2)): 7 * ROW + 6 * B * D * 2,
    ("gate_residual_norm_modulate", (B, T, D, 2)): 4 * ROW + 3 * B * D * 2,
    ("gate_residual", (B, T, D, 2)): 3 * ROW + B * D * 2,
    ("split_gate_residual_norm_modulate", (B, T, D, 3, 2)): 10 * ROW + 3 * B * D * 2,
    ("split_sum", (B * T, D, 3, 2)): 7 * ROW,
    ("reuse_run_norm", (B, T, D, 4, 2)): 7 * ROW + 2 * D * 2,
    ("residual_norm", (B, T, D, 2)): 4 * ROW + 2 * D * 2,
    ("split_residual_norm", (B, T, D, 3, 2)): 10 * ROW + 2 * D * 2,
    ("patch_embed", (8, B, T, D, 16, 1, 2)): ROW + (17 + T) * D * 2 + 8 * 4 * 32 * 32 * 4,
    ("patch_embed_norm_modulate", (8, B, T, D, 16, 2)): (
        2 * ROW + (17 + T + 2 * B) * D * 2 + 8 * 4 * 32 * 32 * 4
    ),
    ("final_update", (8, B, T, D, 16, 0, 2)): (
        ROW + (2 * B + 16) * D * 2 + 2 * 8 * 4 * 32 * 32 * 4
    ),
    ("final_update_embed", (8, B, T, D, 16, 0, 2)): (
        2 * ROW + (2 * B + 16 + 17 + T) * D * 2 + 2 * 8 * 4 * 32 * 32 * 4
    ),
    ("reuse_evaluation", (8, B, T, D, 16, 56, 2)): (
        56 * ROW + (58 * B + 16 + 17 + T) * D * 2 + 2 * 8 * 4 * 32 * 32 * 4
    ),
    ("final_update_norm", (8, B, T, D, 16, 2, 2)): (
        3 * ROW + (2 + 16) * D * 2 + 2 * 8 * 4 * 32 * 32 * 4
    ),
    ("guided_update", (8 * 4 * 32 * 32, 2, 2)): 8 * 4 * 32 * 32 * (4 + 4 + 2 + 2),
    ("attention", (B, T, D, 2)): 4 * ROW,
    ("linear", (512, 4608, 1152, 2)): (512 * 1152 + 4608 * 1152 + 4608 + 512 * 4608) * 2,
    ("split_linear", (512, 1152, 4608, 3, 2)): (
        (512 * 4608 + 1152 * 4608 + 1152) * 2 + 3 * 512 * 1152 * 4
    ),
    ("skip_linear", (516, 1152, 1152, 2)): (516 * 3 * 1152 + 2304 * 1152 + 1152) * 2,
}


@pytest.mark.parametrize(("op", "sizes"), BYTES, ids=[op for op, _ in BYTES])
def test_the_byte_model_counts_every_tensor_once(op: str, sizes: tuple[int, ...]) -> None:
    module = next(name for name, ops in MODULES.items() if op in ops)
    model = getattr(importlib.import_module(f"l2c_rt.kernels.{module}"), f"{op}_bytes")
    assert model(*sizes) == BYTES[op, sizes]


def test_the_row_kernels_make_the_accesses_that_cost_counts() -> None:
    from l2c_rt.kernels.gate_residual_norm_modulate import gate_residual_norm_modulate_bytes
    from l2c_rt.kernels.reuse_run import reuse_run_bytes

    program = BlockProgram("dit", (attention_branch(0, T, D, gated=True),), T, D)
    for count in (1, 6):
        terms = tuple(Term("attn-0", slot) for slot in range(count))
        counted = launch_elements(Sum("x", "x", terms, "attn-0"), program) * B * 2
        assert counted == reuse_run_bytes(B, T, D, count, 2)
    one = launch_elements(Sum("x", "x", (Term("attn-0", 0),), "attn-0"), program)
    assert one * B * 2 == gate_residual_norm_modulate_bytes(B, T, D, 2)


def test_tiles_fit_the_rows_they_are_chosen_for() -> None:
    for width in (8, 40, 72, 1152, 4096, 8192):
        block = _launch.row_block(width)
        assert block >= width
        assert block & (block - 1) == 0
        per_thread = block // (32 * _launch.row_tile(width).warps)
        assert 8 <= per_thread <= 32, width
    for head in range(8, 129, 8):
        parts = _launch.head_parts(head)
        assert sum(parts) >= head
        assert all(part in (0, 16, 32, 64, 128) for part in parts)
    assert _launch.head_parts(72) == (64, 16)


def test_small_grids_get_small_tiles() -> None:
    assert _launch.linear_tile(512, 1152, 2) == LINEAR_TILES[0]
    assert _launch.linear_tile(512, 4608, 2) == LINEAR_TILES[3]
    assert _launch.linear_tile(16384, 4608, 2) == LINEAR_TILES[3]
    assert _launch.attention_tile(2 * 16, 256, 2).m == 64
    assert _launch.attention_tile(64 * 16, 256, 2).m == 128
    assert all(tile.shared_bytes(2) <= 166912 for tile in LINEAR_TILES)
    assert len(set(ATTENTION_TILES)) == len(ATTENTION_TILES)


def test_the_table_of_dpm_solver_walks_the_same_path() -> None:
    solver = dpm_solver(6)
    table = dpm_solver_coefficients(solver.alpha, solver.sigma, solver.keep, solver.weight, 1.4)
    x, eps = torch.tensor([0.3, -1.0]), torch.tensor([0.7, 0.2])
    ours, theirs, anchor, kept = x, x, x, x
    for e, (a, b, c, save, scale) in enumerate(table[:, :5].tolist()):
        assert scale == pytest.approx(1.4)
        if e % 2 == 0:
            anchor = theirs
        clean = (theirs - solver.sigma[e] * eps) / solver.alpha[e]
        theirs = solver.keep[e] * anchor + solver.weight[e] * clean
        before, kept = kept, ours if save else kept
        ours = a * ours + b * eps + c * before
        assert torch.allclose(ours, theirs.float(), atol=1e-5)
