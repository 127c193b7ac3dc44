"""`--vae`: latents decoded by diffusers' AutoencoderKL, from a folder that the test writes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import done, run

from l2c_rt.cli.vae import VaeSource, find_vae, load_vae

diffusers = pytest.importorskip("diffusers", reason="the diffusers extra is not installed")
Image = pytest.importorskip("PIL.Image", reason="the plot extra is not installed")

SAMPLE = ("sample", "dit.safetensors", "--router", "schedule.json", "--labels", "0-2")
SCALE, SHIFT = 0.5, 0.25


@pytest.fixture
def vae(folder: Path) -> Path:
    """A tiny autoencoder: 4 latent channels, images twice as large as latents."""
    torch.manual_seed(0)
    model = diffusers.AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4,
        scaling_factor=SCALE, shift_factor=SHIFT, sample_size=16,
    )  # fmt: skip
    model.save_pretrained(folder / "vae")
    return folder / "vae"


def edit(vae: Path, **values: object) -> None:
    config = json.loads((vae / "config.json").read_text())
    (vae / "config.json").write_text(json.dumps(config | values))


def test_the_picture_is_that_of_the_decoded_latents(vae: Path) -> None:
    shown = done(*SAMPLE, "--vae", vae, "-o", "x.png", "-o", "x.npy")
    latents = torch.from_numpy(np.load("x.npy"))
    model = diffusers.AutoencoderKL.from_pretrained(vae)
    with torch.no_grad():
        image = model.decode(latents[1:2] / SCALE + SHIFT).sample[0]
    with Image.open("x.png") as picture:
        pixels = np.asarray(picture)
    # Cells of 16 x 16 pixels, each enlarged 4 times, with gaps of 2.
    assert pixels.shape == (64, 3 * 66 - 2, 3)
    expected = ((image + 1) * 127.5).clamp(0, 255).round().permute(1, 2, 0).numpy()
    # Decoded in a batch of one here too; a value may stand between two pixels.
    assert np.abs(pixels[::4, 66:130:4].astype(int) - expected).max() <= 1
    assert "x.png" in shown


def test_latents_are_scaled_and_shifted_as_the_configuration_says(vae: Path) -> None:
    # On the tensors: the norms of a decoder hide a wrong scale from eight bits.
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    model = diffusers.AutoencoderKL.from_pretrained(vae)
    with torch.no_grad():
        expected = model.decode(latents / SCALE + SHIFT).sample
    images = load_vae(find_vae(str(vae)), 4, "cpu")(latents)
    torch.testing.assert_close(images, expected, rtol=1e-5, atol=1e-6)


def test_the_folder_of_a_pipeline_has_it_under_vae(vae: Path) -> None:
    (vae.parent / "model_index.json").write_text("{}")
    assert find_vae(str(vae.parent)) == find_vae(str(vae))


def test_a_hub_id_may_name_a_folder_of_the_repository() -> None:
    assert find_vae("owner/name") == VaeSource("owner/name", "", local=False)
    assert find_vae("owner/name/vae") == VaeSource("owner/name", "vae", local=False)


def test_latents_of_other_channels_are_refused_before_the_run(vae: Path) -> None:
    diffusers.AutoencoderKL(latent_channels=3, block_out_channels=(8,), norm_num_groups=4).\
        save_pretrained(vae)  # fmt: skip
    result = run(*SAMPLE, "--vae", vae, "-o", "x.png")
    assert result.exit_code == 2
    assert "'--vae'" in result.stderr
    assert "latents of 3 channels, this model of 4" in result.stderr
    assert "evaluation" not in result.stderr
    assert not Path("x.png").exists()


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"_class_name": "VQModel"}, "describes a 'VQModel'"),
        ({"latent_channels": "4"}, "wanted an int"),
        ({"scaling_factor": 0}, "a positive number"),
        ({"scaling_factor": 1e400}, "finite"),
        ({"latent_channels": 8}, "size mismatch"),
        ({"norm_num_groups": 3}, "must be divisible"),
        ({"layers_per_block": 3}, "not the weights of its config.json"),
    ],
)
def test_a_folder_that_is_no_autoencoder_is_a_file_error(
    vae: Path, values: dict[str, object], reason: str
) -> None:
    edit(vae, **values)
    result = run(*SAMPLE, "--vae", vae, "-o", "x.png")
    assert result.exit_code == 3, result.output
    told = result.stderr.strip().splitlines()[-1]
    assert told.startswith("Error: ")
    assert str(vae) in told
    assert reason in told


def test_weights_that_are_cut_off_are_a_file_error(vae: Path) -> None:
    weights = vae / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    result = run(*SAMPLE, "--vae", vae, "-o", "x.png")
    assert result.exit_code == 3, result.output


def test_without_diffusers_the_error_says_what_to_install(
    vae: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    result = run(*SAMPLE, "--vae", vae, "-o", "x.png")
    assert result.exit_code == 1
    assert result.stderr == "Error: --vae needs diffusers: pip install diffusers\n"


def test_images_need_a_png_to_go_to(vae: Path) -> None:
    result = run(*SAMPLE, "--vae", vae, "-o", "x.npy")
    assert result.exit_code == 2
    assert "no --out is a .png" in result.stderr


def test_compare_gives_psnr_of_decoded_images(vae: Path) -> None:
    words = ("compare", "router.safetensors", "--weights", "dit.safetensors", "--images", "2")
    plain = json.loads(done(*words, "--json"))["rows"][1]
    decoded = json.loads(done(*words, "--json", "--vae", vae))["rows"][1]
    assert plain["seeds"][0]["psnr"] == []
    assert len(decoded["seeds"][0]["psnr"]) == 2
    assert decoded["error"] == plain["error"]
