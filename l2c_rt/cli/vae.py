"""`--vae`: the autoencoder of diffusers that turns latents into images."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from l2c_rt.cli.checks import require_package
from l2c_rt.cli.exits import BadInput, reading, refuse
from l2c_rt.untrusted.bounded_read import naming, parse_json, read_bounded

if TYPE_CHECKING:
    from torch import Tensor

KIND = "AutoencoderKL"
MAX_CONFIG_BYTES = 1 << 20

vae_option = click.option(
    "--vae", metavar="FOLDER|HUB_ID",
    help="diffusers' AutoencoderKL that decodes the latents, as in stabilityai/sd-vae-ft-ema.",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class VaeSource:
    """Where diffusers reads the autoencoder: a local folder or a repository of the hub."""

    place: str
    subfolder: str
    local: bool


@dataclass(frozen=True, slots=True)
class Decoder:
    """Latents to images, one by one: the decoder takes far more memory than the model."""

    vae: Any
    channels: int
    scale: float
    shift: float

    def __call__(self, latents: Tensor) -> Tensor:
        """Images in [-1, 1] on the host.  Shapes: latents [n, C, H, W] -> [n, 3, 8 H, 8 W]."""
        import torch

        with torch.no_grad():
            scaled = latents.to(self.vae.device, torch.float32) / self.scale + self.shift
            images = [self.vae.decode(one[None]).sample.float().cpu() for one in scaled]
            return torch.cat(images)


def find_vae(name: str) -> VaeSource:
    """Check `name` without torch: that diffusers is there, and of a folder its config.json.

    The folder of a whole pipeline has the autoencoder under vae/, and so may a hub id: ID/vae.
    """
    with reading():
        there = Path(name).exists()
    source = _local(Path(name)) if there else _on_the_hub(name)
    require_package("diffusers", "--vae", "diffusers")
    return source


def _on_the_hub(name: str) -> VaeSource:
    repository = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:/([\w.-]+))?", name)
    if repository is None:
        refuse("--vae", f"{name} is neither a folder nor an id of the hub such as owner/name")
    return VaeSource(repository[1], repository[2] or "", local=False)


def _local(folder: Path) -> VaeSource:
    if not (folder / "config.json").exists() and (folder / "model_index.json").exists():
        folder = folder / "vae"
    with reading(), naming(folder / "config.json"):
        content = read_bounded(folder / "config.json", MAX_CONFIG_BYTES, "config")
        _latents_of(parse_json(content))
    return VaeSource(str(folder), "", local=True)


def load_vae(source: VaeSource, channels: int, device: str) -> Decoder:
    """The autoencoder in float32 on a device; a usage error where it has other latents."""
    from diffusers import AutoencoderKL

    # It tells of every attempt at the network; what comes of them is told here.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        read: Callable[..., Any] = AutoencoderKL.from_pretrained
        vae, report = read(
            source.place, subfolder=source.subfolder or None, local_files_only=source.local,
            use_safetensors=True, low_cpu_mem_usage=False, output_loading_info=True,
        )  # fmt: skip
    # Of many kinds: no network, no such repository, no weights, a config of other types.
    except Exception as error:
        where = "" if source.local else "not had from the hub: "
        raise BadInput(ValueError(f"{source.place}: {where}{error}")) from error
    absent = [*report["missing_keys"], *report["mismatched_keys"]]
    with reading(), naming(source.place):
        if absent:
            raise ValueError(f"not the weights of its config.json: no {absent[0]!s:.80}")
        own, scale, shift = _latents_of({"_class_name": KIND, **vae.config})
    if own != channels:
        refuse("--vae", f"{source.place} has latents of {own} channels, this model of {channels}")
    return Decoder(vae.to(device).eval(), own, scale, shift)


def _latents_of(config: Any) -> tuple[int, float, float]:
    """Channels, scaling factor and shift of the latents."""
    if not isinstance(config, dict) or config.get("_class_name") != KIND:
        kind = config.get("_class_name") if isinstance(config, dict) else type(config).__name__
        raise ValueError(f"describes a {kind!r:.80}, wanted an {KIND}")
    # The values that the class has where a file leaves them out.
    channels = config.get("latent_channels", 4)
    scale, shift = config.get("scaling_factor", 0.18215), config.get("shift_factor") or 0.0
    numbers = all(type(n) in (int, float) and math.isfinite(n) for n in (scale, shift))
    if type(channels) is not int or not numbers or channels < 1 or scale <= 0:
        raise ValueError(
            f"latent_channels {channels!r:.40}, scaling_factor {scale!r:.40}, shift_factor "
            f"{shift!r:.40}; wanted an int, a positive number and a number"
        )
    return channels, float(scale), float(shift)
