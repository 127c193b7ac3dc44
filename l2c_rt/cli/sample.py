"""`l2c-rt sample`: the published loop of the family, from weights to latents or images."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from l2c_rt.cli.checks import (
    DIGITS,
    WEIGHTS_METAVAR,
    check_weights,
    check_writable,
    device_option,
)
from l2c_rt.cli.exits import fitting, refuse
from l2c_rt.cli.labels import check_labels, parse_labels
from l2c_rt.cli.models import Loaded, check_device, load, noise
from l2c_rt.cli.options import (
    SEED,
    backend_option,
    cfg_scale_option,
    cut_options,
    force_option,
    key_option,
    num_heads_option,
)
from l2c_rt.cli.sample_shards import SetOptions, check_set, local_device, sample_set, set_options
from l2c_rt.cli.sources import DIGITS_STEPS, METAVAR, Threshold, read_source
from l2c_rt.cli.vae import find_vae, load_vae, vae_option
from l2c_rt.families import family_named
from l2c_rt.figures import require_pillow
from l2c_rt.untrusted.atomic_write import write_whole

if TYPE_CHECKING:
    from torch import Tensor

    from l2c_rt.runtime.compiled import Compiled
    from l2c_rt.schedule.cache_schedule import CacheSchedule

SUFFIXES = (".npy", ".safetensors", ".png")

EXAMPLES = """\b
Examples:
  l2c-rt sample digits -o digits.png
  l2c-rt sample DiT-XL-2-256x256.pt --router l2c/dit-xl-2-256/ddim-50 \\
      --labels 207,360,387,974 --seed 0 --cfg-scale 4 -o latents.safetensors
  l2c-rt sample DiT-XL-2-256x256.pt --router l2c/dit-xl-2-256/ddim-20 \\
      --vae stabilityai/sd-vae-ft-ema -o images.png
  l2c-rt sample my-dit.safetensors --router full --steps 20 -o latents.npy
  torchrun --nproc-per-node 8 -m l2c_rt.cli sample DiT-XL-2-256x256.pt --device cuda \\
      --router l2c/dit-xl-2-256/ddim-50 --labels 0-999 --count 50000 -o shards
"""


@click.command("sample", epilog=EXAMPLES)
@click.argument("weights", metavar=WEIGHTS_METAVAR)
@click.option("--router", metavar=f"{METAVAR}|full", help="Cache schedule; full reuses nothing.")
@cut_options
@num_heads_option
@key_option
@click.option("--steps", type=click.IntRange(1, 1000), help="Evaluations of the run.")
@click.option("--labels", default="0-7", show_default=True, help="Classes, as in 0,3,5-9.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the noise.")
@cfg_scale_option
@backend_option
@device_option
@vae_option
@set_options
@click.option(
    "-o",
    "--out",
    "outs",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="File to write: .npy, .safetensors, or .png for images; may be repeated.  With --count, "
    "the folder.",
)
@force_option
def sample_command(
    weights: str,
    router: str | None,
    cut: Threshold,
    num_heads: int | None,
    key: str,
    steps: int | None,
    labels: str,
    seed: int,
    cfg_scale: float | None,
    backend: str,
    device: str,
    vae: str | None,
    sizes: SetOptions,
    outs: tuple[Path, ...],
    force: bool,
) -> None:
    """Sample with a cache schedule and say what was reused.

    WEIGHTS is a DiT or U-ViT file with the published parameter names, or "digits": the small
    model of handwritten digits that the package carries, with its routers.
    """
    check_set(sizes, outs, seed, force)
    pictures = sizes.count is None and _check_outs(outs, force)
    if vae is not None and not pictures:
        refuse("--vae", "gives images, and no --out is a .png")
    vae_source = None if vae is None else find_vae(vae)
    classes = parse_labels(labels)
    schedule = _schedule(weights, router, cut, steps)
    check_weights(weights)
    check_device(device := local_device(device))
    loaded = load(weights, "" if schedule is None else schedule.family, num_heads, key)
    if schedule is None and steps is not None:
        _check_steps(loaded, steps)
    channels = loaded.sampling.channels
    decode = None if vae_source is None else load_vae(vae_source, channels, device)
    if pictures and decode is None and channels not in (1, 3):
        refuse("--out", f"a .png has 1 or 3 channels, these latents {channels}; give --vae")
    check_labels(classes, loaded.sampling.classes)
    loaded.model.to(device)
    fast = _compiled(loaded, schedule, steps, backend)
    if sizes.count is not None:
        return sample_set(
            loaded, fast, outs[0], sizes, labels=classes, seed=seed, cfg_scale=cfg_scale
        )
    latents = _sample(fast, noise(loaded, len(classes), seed).to(device), classes, cfg_scale)
    # Latents first: decoding takes memory of its own, and may fail.
    for out in sorted(outs, key=lambda out: out.suffix == ".png"):
        values = decode(latents) if decode is not None and out.suffix == ".png" else latents
        _write(out, values.float().cpu(), classes, seed, fast)
        click.echo(str(out))
    click.echo(str(fast.summary()))


def _check_outs(outs: tuple[Path, ...], force: bool) -> bool:
    """Whether there is a picture among them."""
    for out in outs:
        if out.suffix not in SUFFIXES:
            refuse("--out", f"{out} ends in none of {', '.join(SUFFIXES)}")
        check_writable("--out", out, force)
    pictures = any(out.suffix == ".png" for out in outs)
    if pictures:
        require_pillow()
    return pictures


def _schedule(
    weights: str, router: str | None, cut: Threshold, steps: int | None
) -> CacheSchedule | None:
    """The schedule, or None for the full run."""
    if router == "full":
        if steps is None:
            refuse("--steps", "needed with --router full, which does not say how many")
        if cut.option:
            refuse(cut.option, "the full run reuses nothing")
        return None
    if router is None:
        if weights != DIGITS:
            refuse("--router", f"needed for {weights}: {METAVAR}, or full")
        if steps not in (None, *DIGITS_STEPS):
            refuse("--steps", f"the digits have routers for {DIGITS_STEPS} steps")
        router = f"{DIGITS}/ddim-{steps or DIGITS_STEPS[0]}"
    schedule = read_source(router).schedule(cut)
    if steps not in (None, schedule.steps):
        refuse("--steps", f"{steps}, and {router} is for {schedule.steps}; leave one out")
    return schedule


def _check_steps(loaded: Loaded, steps: int) -> None:
    """End with a usage error where the published loop has no run of so many evaluations."""
    family = family_named(loaded.bound_model.program.family)
    stages = family.evaluations_per_solver_step
    if steps % stages:
        name = family.sampler_display_name
        refuse("--steps", f"{name} takes {stages} evaluations per solver step, not {steps} in all")


def _compiled(
    loaded: Loaded, schedule: CacheSchedule | None, steps: int | None, backend: str
) -> Compiled:
    from l2c_rt.api import compile
    from l2c_rt.policies import Full

    router = Full() if schedule is None else schedule
    with fitting():
        return compile(loaded.model, router, steps=steps, backend=backend)


def _sample(fast: Compiled, start: Tensor, classes: list[int], cfg_scale: float | None) -> Tensor:
    import torch
    from tqdm import tqdm

    loop = fast.bound_model.sampling
    labelled = loop is not None and loop.classes > 0
    labels = torch.tensor(classes, device=start.device) if labelled else None
    with tqdm(total=fast.schedule.steps, desc="sample", unit="evaluation") as bar:

        def tell(step: int, latents: Any) -> None:
            bar.update()

        with fitting():
            return fast.sample(start, labels, cfg_scale, callback=tell)


def _write(out: Path, values: Tensor, classes: list[int], seed: int, fast: Compiled) -> None:
    import numpy as np

    array = values.numpy()
    if out.suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, array)
        write_whole(out, buffer.getvalue())
    elif out.suffix == ".png":
        from l2c_rt.cli.images import save_grid

        save_grid(array, out, columns=min(len(classes), 10))
    else:
        from safetensors.numpy import save

        schedule = fast.schedule
        header = {"seed": str(seed), "schedule": schedule.digest, "source": schedule.source}
        write_whole(out, save({"latents": array, "labels": np.array(classes)}, metadata=header))
