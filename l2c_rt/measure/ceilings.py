"""What this machine can do at most: a copy and a matrix product, from a file or measured now."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from l2c_rt.measure.clocks import Clock, median_seconds
from l2c_rt.untrusted.bounded_read import naming, parse_json, read_bounded

if TYPE_CHECKING:
    import torch


MAX_FILE_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Multiply-accumulates and bytes per second, the bytes read plus written."""

    macs_per_second: float
    bytes_per_second: float


def read_ceilings(path: Path) -> Ceilings:
    """From JSON: an object with both fields, alone or under "ceilings" as in the suite's files.

    Raises ValueError or OSError where the file holds no such object.
    """
    with naming(path):
        content = parse_json(read_bounded(path, MAX_FILE_BYTES, "ceilings"))
    rates = content.get("ceilings", content) if isinstance(content, dict) else content
    names = ("macs_per_second", "bytes_per_second")
    if not isinstance(rates, dict) or not all(_positive(rates.get(name)) for name in names):
        raise ValueError(f"{path}: wanted positive numbers {' and '.join(names)}")
    return Ceilings(*(float(rates[name]) for name in names))


def _positive(value: object) -> bool:
    # Below what a float holds: JSON numbers can be larger.
    whole = isinstance(value, int | float) and not isinstance(value, bool)
    return whole and 0 < value < 1e300  # type: ignore[operator]


def copy_rate(clock: Clock, device: torch.device, moved: int) -> float:
    """Bytes per second of a copy on the device that moves `moved` bytes, read plus written."""
    import torch

    source = torch.randint(0, 255, (moved // 8,), dtype=torch.int32, device=device)
    target = torch.empty_like(source)
    if device.type == "cuda":
        # In a graph `copy_` is a memory node, which the copy engine carries out: on an H200 at
        # two thirds of the rate of a kernel.
        return 8 * source.numel() / clock(lambda: torch.neg(source, out=target))
    return 8 * source.numel() / clock(lambda: target.copy_(source))


def product_rate(clock: Clock, device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Multiply-accumulates per second of a product of random [size, size] matrices."""
    import torch

    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return size**3 / clock(lambda: torch.mm(a, b, out=out))


def quick_ceilings(clock: Clock, device: torch.device, dtype: torch.dtype) -> Ceilings:
    """Both, in about a second: sizes that fill a GPU, or the smaller ones for a CPU."""
    seconds = partial(median_seconds, clock)
    large = device.type == "cuda"
    product = product_rate(seconds, device, dtype, 8192 if large else 1024)
    return Ceilings(product, copy_rate(seconds, device, (8 if large else 1) << 30))
