"""The 1,797 handwritten digits that scikit-learn ships: 8 x 8 pixels in [-1, 1], ten classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

NUM_CLASSES = 10
SIZE = 8
PIXEL_MAX = 16.0
# Width of [-1, 1], the range that the model was trained on: the peak in every PSNR of the demo.
PIXEL_RANGE = 2.0


@dataclass(frozen=True, slots=True)
class Digits:
    """Images and their labels.

    Shapes: images [N, 1, 8, 8] float32 in [-1, 1]; labels [N] int64.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: Tensor) -> Digits:
        """The digits at `rows`, in that order."""
        return Digits(self.images[rows], self.labels[rows])


def load_digits() -> Digits:
    """All digits in the data set's own order; read from scikit-learn's package, not downloaded."""
    try:
        from sklearn.datasets import load_digits as read
    except ImportError as error:
        raise ImportError(
            "the digits come with scikit-learn, which is not installed: pip install 'l2c-rt[demo]'"
        ) from error
    bunch = read()
    pixels = np.asarray(bunch.images, dtype=np.float32)
    images = torch.from_numpy(pixels / (PIXEL_MAX / 2) - 1.0).reshape(-1, 1, SIZE, SIZE)
    return Digits(images, torch.from_numpy(np.asarray(bunch.target, dtype=np.int64)))


def split_digits(digits: Digits, held_out: float, seed: int) -> tuple[Digits, Digits]:
    """Shuffle by `seed` and split into (kept, held out)."""
    if not 0.0 < held_out < 1.0:
        raise ValueError(f"split_digits: held_out must lie between 0 and 1, got {held_out}")
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(seed))
    cut = len(digits) - round(held_out * len(digits))
    return digits.select(order[:cut]), digits.select(order[cut:])


def even_labels(count: int) -> Tensor:
    """`count` labels that go round the ten classes: 0, 1, ..., 9, 0, 1, ..."""
    return torch.arange(count) % NUM_CLASSES
