"""A batch of two halves, conditional and unconditional, of which one is run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from l2c_rt.schedule.halves import HalfSchedule

FRAME = 5
"""A disc of a fifth of the shorter side holds the low frequencies of a frame."""


def conditional(rows: int, halves: HalfSchedule) -> slice:
    """The rows of the conditional half.  Raises ValueError for an odd number."""
    if rows % 2:
        raise ValueError(
            f"the batch has {rows} rows, wanted two halves, conditional and unconditional; where "
            "there is no guidance, or cond and uncond are separate calls, use a method that does "
            "not halve the batch (FasterCache: is_guidance_distilled=True)"
        )
    return slice(rows // 2, rows) if halves.uncond_first else slice(0, rows // 2)


def conditional_arguments(
    rows: int, halves: HalfSchedule, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a forward with the conditional rows alone."""
    half = conditional(rows, halves)

    def of(value: Any) -> Any:
        has_rows = isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == rows
        return value[half] if has_rows else value

    named = {k: tree_map(of, v) if k in halves.names else v for k, v in kwargs.items()}
    return tuple(tree_map(of, value) for value in args), named


def check_halves_alike(x: Tensor, halves: HalfSchedule) -> None:
    """Raise ValueError where the two halves are not of the same latents."""
    conditional(len(x), halves)
    if x.is_cuda and torch.cuda.is_current_stream_capturing():
        return
    first, second = x.chunk(2)
    if not torch.equal(first, second):
        raise ValueError(
            "the two halves of the batch are of different latents, so they are not the conditional "
            "and the unconditional half of one; without guidance use a method that does not halve "
            "the batch (FasterCache: is_guidance_distilled=True)"
        )


def check_frames(sample: Tensor, halves: HalfSchedule) -> None:
    """Raise ValueError where an output is not made of frames, rows and columns last."""
    if halves.dims not in (None, sample.dim()):
        raise ValueError(
            f"the output has shape {list(sample.shape)}, wanted {halves.dims} dimensions, height "
            "and width last: spectra are taken frame by frame; say what there is (tensor_format), "
            "or use a method without spectra, such as GuidanceInterval"
        )


def sample_of(out: Any) -> Tensor:
    """The prediction in a model's return value: itself, or the first part of it."""
    sample: Tensor = out if isinstance(out, Tensor) else out[0]
    return sample


def with_sample(out: Any, sample: Tensor) -> Any:
    """The return value with another prediction."""
    if isinstance(out, Tensor):
        return sample
    if isinstance(out, tuple):
        return (sample, *out[1:])
    if isinstance(out, list):
        return [sample, *out[1:]]
    out[next(iter(out.keys()))] = sample
    return out


def band_difference(sample: Tensor, halves: HalfSchedule) -> Tensor:
    """Spectrum of the unconditional half less that of the conditional, frame by frame.

    Shapes: [2 B, ..., H, W] -> float32 [B, ..., H, W, 2], real and imaginary parts last.
    """
    first, second = torch.fft.fft2(sample.float()).chunk(2)
    difference = first - second if halves.uncond_first else second - first
    return torch.view_as_real(difference)


def recovered(sample: Tensor, difference: Tensor, low: float, high: float) -> Tensor:
    """The unconditional half, from the conditional one and the difference of their spectra.

    Shapes: sample [B, ..., H, W]; difference [B, ..., H, W, 2].
    """
    spectrum = torch.fft.fft2(sample.float())
    weights = torch.where(low_frequencies(sample), low, high)
    spectrum = spectrum + torch.view_as_complex(difference) * weights
    uncond: Tensor = torch.fft.ifft2(spectrum).real.to(sample.dtype)
    return uncond


def low_frequencies(sample: Tensor) -> Tensor:
    """Which frequencies of a frame are low, in the order of fft2.  Shapes: bool [H, W]."""
    height, width = sample.shape[-2:]
    radius = min(height, width) // FRAME
    rows = torch.arange(height, device=sample.device)[:, None] - height // 2
    columns = torch.arange(width, device=sample.device)[None] - width // 2
    low: Tensor = torch.fft.ifftshift(rows**2 + columns**2 <= radius**2)
    return low


def joined(cond: Tensor, uncond: Tensor, halves: HalfSchedule) -> Tensor:
    """Both halves in the order of the batch."""
    return torch.cat([uncond, cond] if halves.uncond_first else [cond, uncond])
