from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from l2c_rt.cli.images import save_grid

Image = pytest.importorskip("PIL.Image", reason="the plot extra is not installed")


@pytest.mark.parametrize("channels", [1, 3])
def test_the_grid_has_every_pixel_where_it_belongs(channels: int, tmp_path: Path) -> None:
    images = np.linspace(-1.2, 1.2, 3 * channels * 64).reshape(3, channels, 8, 8)
    save_grid(images.astype(np.float32), tmp_path / "x.png", columns=2)
    with Image.open(tmp_path / "x.png") as picture:
        assert (picture.format, picture.mode) == ("PNG", "L" if channels == 1 else "RGB")
        pixels = np.asarray(picture).reshape(*picture.size[::-1], channels)
    # Cells of 8 x 8 pixels, each enlarged 8 times, with gaps of 2.
    assert pixels.shape == (130, 130, channels)
    expected = np.clip((images[1] + 1) * 127.5, 0, 255).round()
    assert (pixels[:64:8, 66::8].transpose(2, 0, 1) == expected).all()
    assert (pixels[64:66] == 255).all()
    assert (pixels[66:, 66:] == 255).all()


def test_latents_of_four_channels_are_not_a_picture(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 or 3 channels, these latents have 4"):
        save_grid(np.zeros((1, 4, 8, 8), np.float32), tmp_path / "x.png", columns=1)
