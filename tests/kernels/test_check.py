"""What a kernel function refuses before it launches or allocates anything."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from l2c_rt.doctor.kernel_calls import OPS, TOKEN_OPS, arguments, kernel
from l2c_rt.doctor.kernel_operands import Sizes
from l2c_rt.doctor.tensor_trees import tensors


def replaced(value: Any, path: str, tensor: torch.Tensor) -> Any:
    """The same arguments with the tensor at one path replaced."""
    head, *rest = [part for part in path.replace("]", "").replace("[", ".").split(".") if part]
    if rest:
        inner = value[head] if isinstance(value, dict) else getattr(value, head)
        tensor = replaced(inner, ".".join(rest), tensor)
    if isinstance(value, dict):
        return value | {head: tensor}
    return dataclasses.replace(value, **{head: tensor})


def spread(tensor: torch.Tensor) -> torch.Tensor:
    """Equal, but every other element of a larger tensor."""
    wide = torch.zeros((*tensor.shape, 2), dtype=tensor.dtype)
    wide[..., 0] = tensor
    return wide[..., 0]


def moved_by_one(tensor: torch.Tensor) -> torch.Tensor:
    space = torch.empty(tensor.stride(0) * len(tensor) + 1, dtype=tensor.dtype)
    return space.as_strided(tensor.shape, tensor.stride(), 1)


DAMAGES: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "not contiguous": (spread, "(contiguous|multiple of 8)"),
    "misaligned": (moved_by_one, "the address of .* 16 bytes.* pad its offset"),
    "of another dtype": (lambda tensor: tensor.double(), "is torch.float64, wanted .*convert"),
    "of another shape": (lambda tensor: tensor[..., None].contiguous(), ""),
    "on another device": (lambda tensor: tensor.to("meta"), ""),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("op", OPS)
def test_each_tensor_that_is_not_as_it_must_be_is_refused(op: str, damage: str) -> None:
    change, says = DAMAGES[damage]
    operands = arguments(op, Sizes(images=2) if damage == "of another shape" else Sizes())
    tried = 0
    for path, tensor in tensors(operands):
        if damage != "misaligned" or tensor.dtype != torch.int32:
            with pytest.raises(ValueError, match=rf"{op}: .*{says}"):
                kernel(op)(**replaced(operands, path, change(tensor)))
            tried += 1
    assert tried


NARROW = ("attention", "guided_update", *TOKEN_OPS)
"""Those that read no whole rows."""


@pytest.mark.parametrize("op", [op for op in OPS if op not in NARROW])
@pytest.mark.parametrize("width", [20, 8200])
def test_a_width_that_kernels_cannot_read_in_vectors_is_refused(op: str, width: int) -> None:
    if width > 20 and op in ("linear", "split_linear", "skip_linear"):
        return
    operands = arguments(op, Sizes(width=width, grid=(1, 1), count=0, empty=True))
    with pytest.raises(ValueError, match=rf"{op}: .*multiples? of 8"):
        kernel(op)(**operands)


def test_outputs_that_would_overwrite_what_is_still_read_are_refused() -> None:
    operands = arguments("gate_residual_norm_modulate", Sizes())
    x, y = operands["x"], torch.empty_like(operands["x"])
    for out in ((y, x), (y, y)):
        with pytest.raises(ValueError, match="must not share memory"):
            kernel("gate_residual_norm_modulate")(**operands, out=out)


def test_the_counter_of_a_run_must_be_one_tensor() -> None:
    operands = arguments("final_update", Sizes())
    solver = dataclasses.replace(operands["solver"], counter=torch.zeros(2, dtype=torch.int32))
    with pytest.raises(ValueError, match="must be one tensor"):
        kernel("final_update")(**operands | {"solver": solver})


@pytest.mark.parametrize(
    ("op", "changed", "says"),
    [
        ("reuse_run", {"shift": 8}, "chunk 8 is outside the table's 8"),
        ("gate_residual", {"gate": -1}, "chunk -1 is outside"),
        ("patch_embed", {"batch": 3}, "batch 3 is not a multiple of the 2 latents"),
        ("attention", {"heads": 7}, "for 7 heads"),
        ("attention", {"heads": 10}, "multiple of 8 up to 128"),
        ("attention_logs", {"heads": 7}, "for 7 heads"),
        ("choose_tokens", {"count": 0}, "0 of 7 tokens, 2 a side"),
        ("choose_tokens", {"side": 1}, "wanted 1..7, an even side"),
        ("linear", {"gelu": "erf"}, "gelu is 'erf', wanted \"tanh\""),
        ("split_linear", {"splits": 9}, "9 splits of 40 columns"),
        ("guided_update", {"guided": 5}, "5 guided channels"),
    ],
)
def test_a_number_out_of_range_is_refused(op: str, changed: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        kernel(op)(**arguments(op, Sizes(images=2)) | changed)
