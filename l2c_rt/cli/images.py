"""A PNG of a grid of images, written with the standard library and numpy."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

CELL = 64
"""Small images are enlarged to about this many pixels."""
GAP = 2
COLOUR_TYPES = {1: 0, 3: 2}


def save_grid(images: npt.NDArray[np.float32], path: Path, columns: int) -> None:
    """Write images with values in [-1, 1], row by row.

    Shapes: images [n, 1 or 3, H, W].
    """
    n, channels, height, width = images.shape
    if channels not in COLOUR_TYPES:
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
    path.write_bytes(_png(grid))


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, COLOUR_TYPES[channels], 0, 0, 0)
    # Every row begins with a filter byte; 0 is no filter.
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _chunk(kind: bytes, body: bytes) -> bytes:
    check = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)
