"""The inputs of calls and of `sample`, checked before any work; nothing here waits for a device."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from l2c_rt.adapters.bound_model import PublishedLoop


def check_noise(noise: Any, loop: PublishedLoop, device: torch.device) -> None:
    """Raise TypeError or ValueError where a run cannot start from `noise` [n, C, H, W]."""
    if not isinstance(noise, Tensor):
        raise TypeError(f"sample: noise must be a floating tensor, got {type(noise).__name__}")
    if not noise.is_floating_point():
        raise ValueError(f"sample: noise must be floating, got {noise.dtype}")
    if noise.device != device:
        raise ValueError(
            f"sample: noise is on {noise.device}, the model on {device}: pass noise.to({device})"
        )
    if noise.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            "sample: noise requires grad, but a run has no gradients; pass noise.detach(), or call "
            "under torch.no_grad()"
        )
    check_images("sample: noise", noise, loop)


def check_scale(cfg_scale: float | None, loop: PublishedLoop) -> float:
    """The guidance as a finite number, the family's own for None."""
    if cfg_scale is None:
        return loop.cfg_scale
    try:
        scale = float(cfg_scale)
    except (TypeError, ValueError) as error:
        raise TypeError(f"sample: cfg_scale must be a number, got {cfg_scale!r:.80}") from error
    if not math.isfinite(scale):
        raise ValueError(f"sample: cfg_scale must be finite, got {scale}")
    return scale


def check_labels(y: Any, noise: Tensor, loop: PublishedLoop) -> Tensor | None:
    """The labels as int64 beside the noise; None for a model without labels.

    Values on a GPU are not read.  Raises ValueError where they do not fit.
    """
    labels = _as_labels(y)
    if labels is None and loop.classes == 0:
        return None
    if loop.classes == 0:
        raise ValueError("sample: the model was made without labels; leave y out")
    if labels is None or not is_whole(labels) or labels.shape != noise.shape[:1]:
        got = "None" if labels is None else f"{labels.dtype} {tuple(labels.shape)}"
        raise ValueError(f"sample: y must be {len(noise)} integer labels, got {got}")
    check_range("sample: y", labels, loop)
    labels = labels.long()
    if labels.device == noise.device:
        return labels
    # From pinned memory, or the copy would wait for what the device still has to do.
    pinned = labels.pin_memory() if noise.is_cuda and not labels.is_cuda else labels
    return pinned.to(noise.device, non_blocking=True)


def _as_labels(y: Any) -> Tensor | None:
    if y is None or isinstance(y, Tensor):
        return y
    try:
        # On the host whatever the default device: there they can be read.
        return torch.as_tensor(y, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"sample: y must be integer labels, got {y!r:.80}") from error


def is_whole(labels: Tensor) -> bool:
    """Whether the dtype is that of labels: neither floating nor complex nor bool."""
    return not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)


def check_range(what: str, labels: Tensor, loop: PublishedLoop) -> None:
    """Raise ValueError for a label that the model has not; those on a device are not read."""
    if labels.device.type != "cpu":
        return
    last = loop.classes - 1 if loop.null_label is None else loop.null_label
    values = labels.reshape(-1).tolist()
    if values and not 0 <= min(values) <= max(values) <= last:
        wrong = next(value for value in values if not 0 <= value <= last)
        null = "" if loop.null_label is None else f", and {loop.null_label} for no class"
        raise ValueError(
            f"{what} has the label {wrong}; this model has 0 to {loop.classes - 1}{null}"
        )


def check_images(what: str, x: Tensor, loop: PublishedLoop) -> None:
    """Raise ValueError where [n, C, H, W] is empty or not of a size that the model takes."""
    sides = tuple(x.shape[2:])
    patch = loop.patch
    fits = len(sides) == 2 and all(side > 0 and side % patch == 0 for side in sides)
    if fits and loop.tokens is not None:
        fits = (sides[0] // patch) * (sides[1] // patch) == loop.tokens
    if fits and len(x) > 0 and x.shape[1] == loop.channels:
        return
    size = "H, W" if loop.tokens is None else f"{loop.size}, {loop.size}"
    raise ValueError(
        f"{what} must be [n, {loop.channels}, {size}] with n of at least 1, got {list(x.shape)}"
    )


def check_batch(shape: tuple[int, ...], t: Any) -> None:
    """Raise ValueError for a call without images, or with another number of timesteps.

    `shape` is that of x [B, ...].  Shapes: t [B], [1] or a number.
    """
    if not shape or shape[0] == 0:
        raise ValueError(f"x is empty: {list(shape)}; wanted at least one image")
    if isinstance(t, Tensor) and t.numel() not in (1, shape[0]):
        raise ValueError(f"t has {t.numel()} timesteps for {shape[0]} images; wanted 1 or as many")


def check_dtype(x: Tensor, first_layer: nn.Module | None) -> None:
    """Raise ValueError where the model would fail on the dtype or device of x.

    What casts or moves x is not ours: hooks, autocast, a layer of the user's.  So where x is unlike
    the weights the layer itself is asked, with one image.
    """
    weight = None if first_layer is None else next(first_layer.parameters(), None)
    if weight is None or (x.dtype, x.device) == (weight.dtype, weight.device):
        return
    assert first_layer is not None
    try:
        first_layer(x[:1])
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"x is {x.dtype} on {x.device}, but the model takes {weight.dtype} on {weight.device}: "
            f"pass x.to({str(weight.device)!r}, {weight.dtype}), or cast the model"
        ) from error


class LabelCheck:
    """The labels of calls.  The values of a label tensor are read once, until it is written to."""

    def __init__(self) -> None:
        self._seen: Tensor | None = None
        self._known = (-1, 0)

    def check(self, y: Any, rows: int, loop: PublishedLoop) -> None:
        """Raise ValueError where y [B] are not labels of `rows` images."""
        seen = self._seen
        if seen is not None and y is seen and (seen._version, rows) == self._known:
            return
        if not isinstance(y, Tensor) or loop.classes == 0:
            if (y is None) != (loop.classes == 0):
                raise ValueError(
                    "y is missing: the model was made with labels" if y is None
                    else "y was given, but the model was made without labels"
                )  # fmt: skip
            return
        if y.dim() > 1 or y.numel() not in (1, rows) or not is_whole(y):
            raise ValueError(
                f"y must be {rows} integer labels, as many as images, got {y.dtype} "
                f"{tuple(y.shape)}"
            )
        check_range("y", y, loop)
        if not y.is_inference():  # Those keep no count of writes.
            self._seen, self._known = y, (y._version, rows)
