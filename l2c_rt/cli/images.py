"""A PNG of a grid of images."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt

from l2c_rt.figures import require_pillow
from l2c_rt.untrusted.atomic_write import write_whole

CELL = 64
"""Small images are enlarged to about this many pixels."""
GAP = 2


def save_grid(images: npt.NDArray[np.float32], path: Path, columns: int) -> None:
    """Write images with values in [-1, 1], row by row.

    Shapes: images [n, 1 or 3, H, W].
    Raises: ImportError saying what to install where there is no Pillow.
    """
    require_pillow()
    from PIL import Image

    n, channels, height, width = images.shape
    if channels not in (1, 3):
        raise ValueError(f"a PNG takes 1 or 3 channels, these latents have {channels}")
    zoom = max(1, CELL // max(height, width))
    pixels = np.clip((images + 1) * 127.5, 0, 255).round().astype(np.uint8)
    pixels = pixels.repeat(zoom, axis=2).repeat(zoom, axis=3).transpose(0, 2, 3, 1)
    rows = -(-n // columns)
    grid = np.full(
        (rows * (height * zoom + GAP) - GAP, columns * (width * zoom + GAP) - GAP, channels),
        255,
        np.uint8,
    )
    for k, image in enumerate(pixels):
        top, left = (k // columns) * (height * zoom + GAP), (k % columns) * (width * zoom + GAP)
        grid[top : top + height * zoom, left : left + width * zoom] = image
    # Pillow takes grey images without a channel axis.
    buffer = io.BytesIO()
    Image.fromarray(grid if channels == 3 else grid[..., 0]).save(buffer, format="PNG")
    write_whole(path, buffer.getvalue())
