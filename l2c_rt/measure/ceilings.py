"""What this machine can do at most: a copy and a matrix product, from a file or measured now."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Seconds = Callable[[Callable[[], object]], float]
"""How long one call takes."""


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Multiply-accumulates and bytes per second, the bytes read plus written."""

    macs_per_second: float
    bytes_per_second: float


def read_ceilings(path: Path) -> Ceilings:
    """From JSON: an object with both fields, alone or under "ceilings" as in the suite's files.

    Raises ValueError or OSError where the file holds no such object.
    """
    found = json.loads(path.read_text())
    found = found.get("ceilings", found) if isinstance(found, dict) else found
    names = ("macs_per_second", "bytes_per_second")
    if not isinstance(found, dict) or not all(_positive(found.get(name)) for name in names):
        raise ValueError(f"{path}: wanted positive numbers {' and '.join(names)}")
    return Ceilings(*(float(found[name]) for name in names))


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def copy_rate(seconds: Seconds, device: torch.device, moved: int) -> float:
    """Bytes per second of a copy on the device that moves `moved` bytes, read plus written."""
    import torch

    source = torch.randint(0, 255, (moved // 2,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / seconds(lambda: target.copy_(source))


def product_rate(seconds: Seconds, device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Multiply-accumulates per second of a product of random [size, size] matrices."""
    import torch

    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return size**3 / seconds(lambda: torch.mm(a, b, out=out))


def quick_ceilings(seconds: Seconds, device: torch.device, dtype: torch.dtype) -> Ceilings:
    """Both, in about a second: sizes that fill a GPU, or the smaller ones for a CPU."""
    large = device.type == "cuda"
    product = product_rate(seconds, device, dtype, 8192 if large else 1024)
    return Ceilings(product, copy_rate(seconds, device, (8 if large else 1) << 30))
