"""What `precision="fp8"` needs, against float64."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from l2c_rt.doctor.finding import Finding

NAME = "fp8"
NEEDED = (8, 9)
"""Compute capability of the first GPUs that multiply e4m3."""
TOLERANCE = 0.05
"""A product of normal numbers in e4m3 is 0.037 off, relative to its norm."""


def eight_bits(device: torch.device) -> Iterator[Finding]:
    """One finding: the rows in 8 bits and PyTorch's product of them, or why they do not run."""
    if device.type != "cuda":
        yield Finding(NAME, "WARN", "rows and products in 8 bits not run: no GPU")
        return
    capability = torch.cuda.get_device_capability(device)
    if capability < NEEDED:
        text = f'precision="fp8" is refused on sm_{capability[0]}{capability[1]}: wanted sm_89'
        yield Finding(NAME, "OK", text)
        return
    from l2c_rt.kernels import quantize_rows, scaled_linear

    yield judged(product_error(device, quantize_rows, scaled_linear))


def judged(error: float) -> Finding:
    """The finding for a product's error."""
    text = f"a product of rows in 8 bits differs from float64 by {error:.1%}"
    if error <= TOLERANCE:
        return Finding(NAME, "OK", text)
    remedy = 'compile without precision="fp8"; report this line'
    return Finding(NAME, "FAIL", text, remedy)


def product_error(device: torch.device, rows: Any, product: Any) -> float:
    """Of a product with erf GELU before it, relative to its norm; `rows` and `product` are modules
    with the functions of `kernels.quantize_rows` and `kernels.scaled_linear`."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (
        torch.randn(shape, generator=generator).to(device, torch.bfloat16)
        for shape in ((2, 21, 144), (48, 144))
    )
    bias = torch.randn(48, generator=generator).to(device, torch.bfloat16)
    out = x.new_full((2, 21, 48), float("nan"))
    product.scaled_linear(rows.quantize_rows(x, "none"), rows.quantize_rows(weight), bias, out=out)
    activated = torch.nn.functional.gelu(x.double())
    exact = torch.nn.functional.linear(activated, weight.double(), bias.double())
    return float(((out.double() - exact).norm() / exact.norm()).nan_to_num(torch.inf))
