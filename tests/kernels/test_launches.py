"""What every kernel function launches, by the driver that records instead of launching."""

from __future__ import annotations

import dataclasses
import importlib
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from aot import read_back
from recording_driver import Launch, recorded_launches
from torch.utils._python_dispatch import TorchDispatchMode

from l2c_rt.doctor.kernel_calls import MODULES, OPS, arguments, kernel, truth
from l2c_rt.doctor.kernel_operands import Sizes
from l2c_rt.doctor.tensor_trees import cloned, poisoned_like, tensors
from l2c_rt.kernels._launch import AttentionTile, MatrixTile, RowTile

# Two images with and without label, a grid that is no square: no two sizes are equal.
SIZES = Sizes(torch.bfloat16, images=3, grid=(2, 4), width=80, count=2)
INDEX = {
    "slots_ptr",
    "gates_ptr",
    "rows_ptr",
    "counter_ptr",
    "weights_ptr",
    "columns_ptr",
    "index_ptr",
    "table_ptr",
}


class Allocations(TorchDispatchMode):
    """Counts tensors with memory of their own that are made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {t.untyped_storage().data_ptr() for _, t in tensors({"a": tuple(args)})}
        result = func(*args, **(kwargs or {}))
        after = result if isinstance(result, tuple) else (result,)
        for _, tensor in tensors(after):
            if tensor.untyped_storage().data_ptr() not in before:
                self.calls.append(str(func))
        return result


def launched(op: str, **more: Any) -> list[Launch]:
    with recorded_launches() as launches:
        kernel(op)(**arguments(op, SIZES) | more)
    return launches


@pytest.mark.parametrize("op", OPS)
def test_a_function_launches_the_one_kernel_that_its_docstring_names(op: str) -> None:
    named = re.findall(r"Launches: (\w+)\.", kernel(op).__doc__ or "")
    assert len(named) == 1
    assert [launch.kernel for launch in launched(op)] == named


@pytest.mark.parametrize("op", OPS)
def test_nothing_is_allocated_where_out_is_given(op: str) -> None:
    operands = arguments(op, SIZES)
    if op != "split_sum":
        operands["out"] = poisoned_like(truth(op)(**cloned(operands)))
    if op == "split_linear":
        operands["out"] = operands["out"].float()
    with recorded_launches() as launches, Allocations() as allocations:
        got = kernel(op)(**operands)
    assert allocations.calls == []
    assert [id(t) for _, t in tensors(got)] == [id(t) for _, t in tensors(operands["out"])]
    addresses = {t.data_ptr() for t in launches[0].tensors().values()}
    assert {t.data_ptr() for _, t in tensors(operands["out"])} <= addresses


@pytest.mark.parametrize("op", [op for op in OPS if op != "split_sum"])
def test_outputs_that_are_not_given_are_made_like_the_references(op: str) -> None:
    operands = arguments(op, SIZES)
    with recorded_launches():
        got = kernel(op)(**operands)
    expected = truth(op)(**cloned(operands))
    for (path, g), (_, w) in zip(tensors(got), tensors(expected), strict=True):
        assert g.shape == w.shape, path
        assert g.dtype == (torch.float32 if op == "split_linear" else w.dtype), path


@pytest.mark.parametrize("op", OPS)
def test_every_address_but_an_index_is_taken_as_a_multiple_of_16(op: str) -> None:
    # Without that the compiler reads two bytes at a time.
    (launch,) = launched(op)
    assert set(launch.tensors()) - launch.aligned <= INDEX


@pytest.mark.parametrize("op", OPS)
def test_every_tensor_reaches_the_kernel(op: str) -> None:
    operands = arguments(op, SIZES)
    with recorded_launches() as launches:
        kernel(op)(**operands)
    addresses = {t.data_ptr() for t in launches[0].tensors().values()}
    for path, tensor in tensors(operands):
        assert tensor.data_ptr() in addresses, path


@pytest.mark.parametrize("op", OPS)
def test_other_numbers_do_not_compile_another_kernel(op: str) -> None:
    # A compilation inside a capture would end it: every size that a run may change is read at run
    # time, without a special case for 1 or for multiples of 16.
    variants = [
        Sizes(torch.bfloat16, images=images, grid=grid, width=80, count=count)
        for images, grid, count in ((1, (1, 1), 0), (2, (4, 8), 1), (3, (2, 4), 16))
    ]
    if op == "guided_update" or op in MODULES["token_choice"]:
        # Reads planes in vectors where their size allows it, or all tokens of an image at once:
        # that is known at compile time.
        variants = [dataclasses.replace(sizes, grid=(2, 4)) for sizes in variants]
    with recorded_launches() as launches:
        for sizes in variants:
            kernel(op)(**arguments(op, sizes), **_tile(op))
    assert len({launch.cubin for launch in launches}) == 1


def _tile(op: str) -> dict[str, Any]:
    matrix = {"linear", "split_linear", "skip_linear"}
    if op.startswith("attention"):
        return {"tile": AttentionTile(64, 64, 4, 2)}
    return {"tile": MatrixTile(64, 64, 64, 4, 2) if op in matrix else RowTile(4, 2)}


ROWS = SIZES.batch * SIZES.tokens
GRIDS = {
    "reuse_run": ROWS,
    "gate_residual": ROWS,
    "split_sum": ROWS,
    "norm": ROWS,
    "mix": ROWS,
    "residual_norm": ROWS,
    "patch_embed": SIZES.batch * (SIZES.prefix_tokens + SIZES.tokens),
    "patch_embed_norm_modulate": ROWS,
    "final_update": SIZES.images * SIZES.tokens,
    "reuse_evaluation": SIZES.images * SIZES.tokens,
    "final_update_norm": SIZES.images * SIZES.tokens,
    "guided_update": SIZES.images * SIZES.channels,
    "attention": SIZES.batch * SIZES.heads,
    "attention_logs": SIZES.batch * SIZES.heads,
    "attention_received": SIZES.batch * SIZES.heads,
    "unit_scores": SIZES.batch,
    "choose_tokens": SIZES.batch,
    "linear": 1 * 4,
    "split_linear": 2 * 1 * 2,
    "skip_linear": 1 * 2,
}
"""Programs: one per row, per token with and without its label, per head and 64 queries, per
tile, per image."""


@pytest.mark.parametrize("op", GRIDS)
def test_the_grid_covers_the_work_once(op: str) -> None:
    (launch,) = launched(op)
    assert launch.grid == (GRIDS[op], 1, 1)


def test_a_list_of_reuses_changes_arguments_and_not_code() -> None:
    with recorded_launches() as launches:
        for count in (0, 1, 4, 56):
            sizes = Sizes(torch.bfloat16, grid=(1, 2), width=72, count=count)
            kernel("reuse_run")(**arguments("reuse_run", sizes))
    assert [launch.arguments["K"] for launch in launches] == [0, 1, 4, 56]
    assert len({launch.cubin for launch in launches}) == 1


def test_launches_are_recorded_in_order_and_only_inside() -> None:
    with recorded_launches() as first:
        kernel("norm")(**arguments("norm", SIZES))
        with recorded_launches(80) as inner:
            kernel("split_sum")(**arguments("split_sum", SIZES))
        kernel("gate_residual")(**arguments("gate_residual", SIZES))
    names = [launch.kernel for launch in first]
    assert names == ["_reuse_run_norm_kernel", "_gate_residual_kernel"]
    assert [launch.kernel for launch in inner] == ["_split_sum_kernel"]
    with pytest.raises(RuntimeError, match="active drivers"):
        kernel("norm")(**arguments("norm", SIZES))


def test_dependent_launch_is_asked_of_the_driver_and_compiled_in() -> None:
    (plain,) = launched("reuse_run")
    (dependent,) = launched("reuse_run", tile=RowTile(pdl=True))
    assert not plain.pdl
    assert dependent.pdl
    assert read_back(plain.cubin).count("ACQBULK|PREEXIT") == 0
    code = read_back(dependent.cubin)
    assert code.count("ACQBULK") == 1
    assert code.count("PREEXIT") == 1


B, T, D = SIZES.batch, SIZES.tokens, SIZES.width
N, PIXELS, E = SIZES.images, SIZES.channels * SIZES.patch**2, SIZES.prefix_tokens
MODELS = {
    "reuse_run": (B, T, D, 2, 2),
    "gate_residual_norm_modulate": (B, T, D, 2),
    "gate_residual": (B, T, D, 2),
    "split_gate_residual_norm_modulate": (B, T, D, 3, 2),
    "split_sum": (B * T, D, 3, 2),
    "reuse_run_norm": (B, T, D, 2, 2),
    "mix": (B, T, D, 2, 2, 2),
    "residual_norm": (B, T, D, 2),
    "split_residual_norm": (B, T, D, 3, 2),
    "patch_embed": (N, B, E + T, D, PIXELS, 1, 2),
    "patch_embed_norm_modulate": (N, B, T, D, PIXELS, 2),
    "final_update": (N, B, T, D, PIXELS, 2, 2),
    "reuse_evaluation": (N, B, T, D, PIXELS, 2, 2),
    "final_update_norm": (N, B, T, D, PIXELS, 2, 2),
    "guided_update": (N * T * PIXELS, 2, 2),
    "attention": (B, T, D, 2),
    "attention_logs": (B, T, SIZES.heads, D // SIZES.heads, 2),
    "attention_received": (B, T, SIZES.heads, D // SIZES.heads, 2),
    "unit_scores": (B, SIZES.heads, T),
    "choose_tokens": (B, T, 3),
    "linear": (B * T, 3 * D, D, 2),
    "split_linear": (B * T, D, D, 2, 2),
    "skip_linear": (B * T, D, D, 2),
}
"""What each byte model is asked for a launch at SIZES."""


@pytest.mark.parametrize("op", MODELS)
def test_a_launch_tells_a_profiler_its_name_bytes_and_flops(op: str) -> None:
    (launch,) = launched(op)
    name = next(module for module, ops in MODULES.items() if op in ops)
    module = importlib.import_module(f"l2c_rt.kernels.{name}")
    describe = getattr(module, launch.kernel).launch_metadata
    told = describe(launch.grid, SimpleNamespace(name=launch.kernel), launch.arguments)
    assert told["name"].startswith(launch.kernel)
    assert told["bytes"] == getattr(module, f"{op}_bytes")(*MODELS[op])
    assert next(told[key] for key in told if key.startswith("flops")) > 0
