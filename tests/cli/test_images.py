"""Images on disk: a grid of them as a PNG."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from l2c_rt.cli.images import save_grid


@pytest.mark.parametrize("channels", [1, 3])
def test_the_grid_has_every_pixel_where_it_belongs(channels: int, tmp_path: Path) -> None:
    images = np.linspace(-1.2, 1.2, 3 * channels * 64).reshape(3, channels, 8, 8)
    save_grid(images.astype(np.float32), tmp_path / "x.png", columns=2)
    pixels = decoded(tmp_path / "x.png")
    # Cells of 8 x 8 pixels, each enlarged 8 times, with gaps of 2.
    assert pixels.shape == (130, 130, channels)
    want = np.clip((images[1] + 1) * 127.5, 0, 255).round()
    assert (pixels[:64:8, 66::8].transpose(2, 0, 1) == want).all()
    assert (pixels[64:66] == 255).all()
    assert (pixels[66:, 66:] == 255).all()


def decoded(path: Path) -> Any:
    """The pixels of a PNG whose rows have no filter."""
    content = path.read_bytes()
    width, height, depth, colour = struct.unpack(">IIBB", content[16:26])
    channels = {0: 1, 2: 3}[colour]
    assert depth == 8
    at = content.index(b"IDAT")
    size = int.from_bytes(content[at - 4 : at], "big")
    rows = np.frombuffer(zlib.decompress(content[at + 4 : at + 4 + size]), np.uint8)
    rows = rows.reshape(height, 1 + width * channels)
    assert (rows[:, 0] == 0).all()
    return rows[:, 1:].reshape(height, width, channels)
